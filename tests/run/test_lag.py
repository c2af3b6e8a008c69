"""Rows that lag: the numbers are those of dense steps, and a step touches few rows."""

import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel import _lagged

ROWS, WIDTH, SIZE, STEPS = 64, 3, 4, 1500
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
DATA = {"a": RNG.normal(size=(ROWS, WIDTH)), "b": RNG.normal(size=(ROWS, 2))}
DECAY = bl.inverse_power(1.0, 2 / 3)  # weights from 1 on
SOLVERS = {
    "masoba": bl.MASOBA(0.5, 0.1, 0.1, 0.3),
    "masoba decaying": bl.MASOBA(bl.inverse_power(0.5, 0.5), 0.1, 0.1, DECAY),
    "masoba at once": bl.MASOBA(0.5, 0.1, 0.1, 1.0),
    "fsla": bl.FSLA(0.5, 0.1, 0.1, 0.3),
    "fsla paper": bl.FSLA.from_paper(0.5, 0.2, 0.2, 1.0),
    "fsla spider": bl.FSLA(0.01, 0.1, 0.1, 0.0),
    "borep": bl.BOREP(0.1, 0.1, 0.1),
    "sustain": bl.SUSTAIN(0.5, 0.1, 5, 0.1, 0.3, 0.3),
    "sustain decaying": bl.SUSTAIN(bl.inverse_power(0.5, 1 / 3), 0.1, 5, 0.1, DECAY, DECAY),
    "mrbo": bl.MRBO(0.5, 0.1, 3, 0.1, 0.3, 0.3),
    "saba": bl.SABA(0.1, 0.05, 0.05),
    "saba from zero": bl.SABA(bl.inverse_power(0.1, 0.5), 0.05, 0.05, full_pass=False),
    "recursive": bl.RecursiveMomentum(bl.StocBiO(0.5, 0.1, 2, 2, 0.1), 0.3),
}
SOURCES = {"rows": bl.Rows, "blocks": bl.Blocks, "shuffled": bl.Shuffled, "shuffled blocks": bl.ShuffledBlocks}


def upper_loss(x, y, batch):
    return jnp.mean((batch["a"] @ y["w"] - batch["b"][:, 0]) ** 2) + y["c"] ** 2


def lower_loss(x, y, batch):
    """x has a weight and two shifts per row, and a penalty for all."""
    residual = batch["a"] @ y["w"] - batch["b"] @ jnp.ones(2) - jnp.sum(x["shift"], axis=1)
    return jnp.mean(jax.nn.sigmoid(x["weight"]) * residual**2) + jnp.sum(y["w"] ** 2) + (y["c"] - x["all"]) ** 2


def make_problem(source, **options):
    data = source(jax.tree.map(jnp.asarray, DATA))
    per_row = {"weight": True, "shift": True, "all": False, "nothing": None}
    return bl.Problem(bl.Level(upper_loss, data, SIZE), bl.Level(lower_loss, data, SIZE, per_row), **options)


def start():
    x = {"weight": jnp.zeros(ROWS), "shift": 0.1 * jnp.ones((ROWS, 2)), "all": jnp.ones(()), "nothing": None}
    return x, {"w": jnp.zeros(WIDTH), "c": jnp.zeros(())}


def final(solver, problem, monkeypatch, least, block=100, steps=STEPS):
    monkeypatch.setattr(_lagged, "LEAST", least)
    monkeypatch.setattr(_lagged, "BLOCK", block)
    state, _ = eqx.filter_jit(lambda *args: bl.initial_state(*args))(solver, problem, *start(), KEY)
    return eqx.filter_jit(lambda *args: bl.advance(*args))(
        solver, problem, state, KEY, jnp.asarray(0), jnp.asarray(steps)
    )


# each solver on one source or more, and each source with several solvers; SABA needs blocks
SOURCES_OF = dict(zip(SOLVERS, itertools.cycle(("rows", "blocks", "shuffled")), strict=False))
SOURCES_OF |= {"fsla": "rows", "saba": "blocks", "saba from zero": "shuffled blocks"}
CASES = [*SOURCES_OF.items(), *(("fsla", source) for source in ("blocks", "shuffled")), ("saba", "shuffled blocks")]


@pytest.mark.parametrize(("name", "source"), CASES)
def test_numbers_are_those_of_dense_steps(name, source, monkeypatch, x64):
    problem = make_problem(SOURCES[source])
    (dense, cost), (lagged, spent) = (final(SOLVERS[name], problem, monkeypatch, least) for least in (10**9, 0))
    assert cost.to_dict() == spent.to_dict()
    assert eqx.tree_equal(dense, lagged) is not True  # it was another program
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), dense, lagged)
    moved = jax.tree.leaves(getattr(dense, "inside", dense).x)
    assert all(jnp.abs(a - b).max() > 1e-3 for a, b in zip(moved, jax.tree.leaves(start()[0]), strict=True))


def test_blocks_of_steps_change_nothing(monkeypatch, x64):
    problem = make_problem(bl.Rows)
    found = [final(SOLVERS["fsla"], problem, monkeypatch, 0, block, 500)[0] for block in (1, 7, 1000)]
    for state in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), found[0], state)


@pytest.mark.parametrize("name", ["fsla", "borep"])
def test_runs_side_by_side(name, monkeypatch):
    """As a sweep steps them, in one program."""
    monkeypatch.setattr(_lagged, "LEAST", 0)
    problem, step = make_problem(bl.Rows), {"fsla": 0.5, "borep": 0.1}[name]
    make = {"fsla": lambda step: bl.FSLA(step, 0.1, 0.1, 0.3), "borep": lambda step: bl.BOREP(step, 0.1, 0.1)}[name]
    both = jax.vmap(lambda step: alone(problem, make(step)))(jnp.array([step, 2 * step]))
    for i, rate in enumerate((step, 2 * step)):
        one = alone(problem, make(jnp.asarray(rate)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), both, one)  # noqa: B023


def alone(problem, solver):
    state, _ = bl.initial_state(solver, problem, *start(), KEY)
    return bl.advance(solver, problem, state, KEY, jnp.asarray(0), jnp.asarray(60))[0]


STAY_DENSE = {
    "an adaptive rule": (bl.FSLA(bl.Rule(optax.adam, 0.01), 0.1, 0.1, 0.3), {}),
    "a projection": (SOLVERS["fsla"], {"project": lambda x: jax.tree.map(lambda leaf: jnp.clip(leaf, -1, 1), x)}),
    "matrices over x": (bl.SVRB(0.1, 0.1, 0.3, 0.1), {}),
}


@pytest.mark.parametrize("case", STAY_DENSE)
def test_what_is_not_linear_stays_dense(case, monkeypatch, x64):
    solver, options = STAY_DENSE[case]
    dense, lagged = (
        final(solver, make_problem(bl.Rows, **options), monkeypatch, least, steps=50) for least in (10**9, 0)
    )
    assert eqx.tree_equal(dense, lagged)


def test_an_upper_loss_of_all_rows_stays_dense(monkeypatch, x64):
    problem = make_problem(bl.Rows)
    upper = bl.Level(lambda x, y, batch: upper_loss(x, y, batch) + jnp.mean(x["weight"] ** 2), problem.upper.data, SIZE)
    problem = bl.Problem(upper, problem.lower)
    dense, lagged = (final(SOLVERS["masoba"], problem, monkeypatch, least, steps=50) for least in (10**9, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), dense, lagged)


def test_a_solver_that_reads_what_it_wrote_stays_dense(monkeypatch, x64):
    class Thrice(bl.MASOBA):
        def step(self, problem, state, t, *, key):
            for _ in range(2):
                state, _ = super().step(problem, state, t, key=key)
            return super().step(problem, state, t, key=key)

    solver, problem = Thrice(0.5, 0.1, 0.1, 0.3), make_problem(bl.Rows)
    dense, lagged = (final(solver, problem, monkeypatch, least, steps=9) for least in (10**9, 0))
    assert eqx.tree_equal(dense, lagged)


@pytest.mark.parametrize("source", ["rows", "blocks"])
@pytest.mark.parametrize("name", ["masoba", "fsla", "borep", "sustain", "mrbo", "recursive", "saba"])
def test_the_loop_over_steps_copies_no_tall_array(name, source):
    rows, solver = 2**16, SOLVERS[name]
    source = "blocks" if name == "saba" else source
    data = SOURCES[source]({"a": jnp.zeros((rows, WIDTH)), "b": jnp.zeros((rows, 2))})

    def lower(x, y, batch):
        return jnp.mean(jax.nn.sigmoid(x) * (batch["a"] @ y) ** 2) + jnp.sum(y**2)

    upper = bl.Level(lambda x, y, batch: jnp.mean((batch["a"] @ y - 1) ** 2), data, SIZE)
    problem = bl.Problem(upper, bl.Level(lower, data, SIZE, per_row=True))
    state, _ = eqx.filter_jit(bl.initial_state)(solver, problem, jnp.zeros(rows), jnp.zeros(WIDTH), KEY)
    text = eqx.filter_jit(bl.advance).lower(solver, problem, state, KEY, 0, 5).compile().compiled.as_text()
    bodies = {
        found: text[text.index(f"%{found} (") :].split("\n}")[0] for found in re.findall(r"body=%?([\w.\-]+)", text)
    }
    inner = min((body for body in bodies.values() if f"f32[{rows}]" in body), key=lambda body: body.count(" while("))
    assert not re.findall(rf"[fu]\d+\[{rows}\]\S* copy\(", inner)


def test_the_parts_of_a_chunk_end_where_rows_are_up_to_date(monkeypatch):
    monkeypatch.setattr(_lagged, "LEAST", 0)
    monkeypatch.setattr(_lagged, "BLOCK", 100)
    problem, ends = make_problem(bl.Rows), []
    for patience in (0.0, 1e9):
        monkeypatch.setattr("bilevel.run._single._PATIENCE", patience)
        options = dict(steps=450, every=450, key=KEY, progress=False, signs=False)
        ends.append(bl.solve(problem, SOLVERS["masoba"], *start(), **options).state)
    jax.tree.map(np.testing.assert_array_equal, *ends)
