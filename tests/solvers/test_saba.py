"""SABA's tables: what they hold, where they are written, and what they cost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles

SOLVER = bl.SABA(0.1, 0.1, 0.1)
WIDTH, SIZE, KEY = 16, 4, jax.random.key(0)


def lower_loss(x, y, batch):
    return jnp.mean(jax.nn.sigmoid(x) * (batch @ y - 1) ** 2) + 0.1 * y @ y


def upper_loss(x, y, batch):
    return jnp.mean((batch @ y - 1) ** 2)


def make_problem(rows, per_row=True):
    data = bl.Blocks(np.random.default_rng(0).normal(size=(rows, WIDTH)).astype(np.float32))
    lower = lower_loss if per_row else lambda x, y, batch: lower_loss(x[:1], y, batch)
    return bl.Problem(bl.Level(upper_loss, data, SIZE), bl.Level(lower, data, SIZE, per_row=per_row))


def begin(problem, rows):
    return SOLVER.init(problem, jnp.zeros(rows), jnp.ones(WIDTH), key=KEY)[0]


def test_the_tables_hold_the_last_product_of_each_block(x64):
    """Each entry is its product at the point of its time, and each mean the mean of the entries."""
    rows = 24
    problem = make_problem(rows)
    state = begin(problem, rows)
    blocks = [problem.lower.take(jnp.asarray(start)) for start in range(0, rows, SIZE)]
    expected = [
        [oracles.gradient_y(problem.lower, state.x, state.y, b), jnp.zeros(WIDTH), jnp.zeros(SIZE)] for b in blocks
    ]
    for t in range(9):
        key = jax.random.fold_in(KEY, t)
        lower_key, _ = jax.random.split(key)
        batch = problem.lower.draw(lower_key)
        i = int(batch.indices) // SIZE
        G_y, Hv, Jv = oracles.lower_products(problem.lower, state.x, state.y, state.v, batch)
        expected[i] = [G_y, Hv, Jv.parts[0][1]]
        state, _ = eqx.filter_jit(SOLVER.step)(problem, state, t, key=key)
    table, (*dense, rows) = state.lower_table, zip(*expected, strict=True)
    for entries, last, wanted in zip(table.entries[:2], table.last[:2], dense, strict=True):
        held = entries.at[table.block].set(last)  # the last one is written when the next comes
        np.testing.assert_allclose(held, jnp.stack(wanted), atol=1e-5)
    np.testing.assert_allclose(state.J_rows, jnp.concatenate(rows), atol=1e-5)
    for mean, wanted in zip(table.mean, zip(*expected, strict=True), strict=True):
        if mean is not None:
            np.testing.assert_allclose(mean, jnp.stack(wanted).mean(axis=0), atol=1e-5)


def test_a_per_row_variable_is_stored_once():
    state = begin(make_problem(24), 24)
    entries = state.lower_table.entries
    assert [entries[0].shape, entries[1].shape, entries[2], state.J_rows.shape] == [(6, WIDTH), (6, WIDTH), None, (24,)]
    assert state.upper_table.entries[0] is None and state.F_rows is None  # the upper loss does not see x
    dense = begin(make_problem(24, per_row=False), 24)
    assert dense.lower_table.entries[2].shape == (6, 24) and dense.J_rows is None


@pytest.mark.parametrize("per_row", [True, False])
def test_a_step_copies_no_table(per_row):
    def temporaries(blocks):
        rows = blocks * SIZE
        problem = make_problem(rows, per_row)
        x, y = jnp.zeros(rows if per_row else 3), jnp.ones(WIDTH)
        state, _ = SOLVER.init(problem, x, y, key=KEY)
        program = eqx.filter_jit(bl.advance).lower(SOLVER, problem, state, KEY, 0, 5).compile().compiled
        return program.memory_analysis().temp_size_in_bytes, x.nbytes

    (few, x_few), (many, x_many) = temporaries(64), temporaries(1024)
    table = (1024 - 64) * WIDTH * 4  # what one copy of the smallest table would add; x itself may be copied
    assert many - few < table / 2 + 4 * (x_many - x_few)


def test_rows_drawn_singly_are_refused():
    data = np.ones((8, WIDTH), np.float32)
    problem = bl.Problem(bl.Level(upper_loss, bl.Blocks(data), SIZE), bl.Level(lower_loss, data, SIZE, True))
    with pytest.raises(ValueError, match=r"lower.data: SABA keeps a table entry .* drawn by Rows; pass .*bl.Blocks"):
        bl.solve(problem, SOLVER, jnp.zeros(8), jnp.ones(WIDTH), steps=1, key=KEY)


def test_variance_vanishes_at_the_solution():
    """With constant steps SOBA keeps jittering; SABA's direction tends to zero."""
    rows, x, y = 40, jnp.zeros(3), jnp.ones(WIDTH)
    data = bl.Blocks(np.random.default_rng(1).normal(size=(rows, WIDTH)).astype(np.float32))

    def lower(x, y, batch):
        return 0.5 * jnp.mean((batch @ y - 1) ** 2) + 0.5 * jnp.sum((y[:3] - x) ** 2) + 0.5 * y @ y

    def upper(x, y, batch):
        return 0.5 * jnp.mean((batch @ y + 1) ** 2) + 0.5 * x @ x

    problem = bl.Problem(bl.Level(upper, data, SIZE), bl.Level(lower, data, SIZE))
    moved = {}
    for solver in (bl.SABA(0.02, 0.02, 0.02), bl.SOBA(0.02, 0.02, 0.02)):
        a = bl.solve(problem, solver, x, y, steps=6000, every=6000, key=KEY)
        b = bl.solve(problem, solver, a, steps=50)
        moved[type(solver)] = float(jnp.linalg.norm(a.y - b.y))
    assert moved[bl.SABA] < 1e-3 * moved[bl.SOBA]
