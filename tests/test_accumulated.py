"""A loss in parts of a batch, against the same loss on the whole batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles, trees
from bilevel.diagnostics.constants import on_all_rows
from bilevel.trees import SparseRows

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, D = 24, 5
DATA = {"features": RNG.normal(size=(N, D)), "targets": RNG.normal(size=N), "source": RNG.integers(0, 3, N)}
Y = {"first": RNG.normal(size=(D, 4)), "second": RNG.normal(size=4)}
V = {"first": RNG.normal(size=(D, 4)), "second": RNG.normal(size=4)}
X_ROWS, X = ({"rows": RNG.normal(size=n), "penalty": RNG.normal(), "again": RNG.normal(size=(n, 2))} for n in (N, 3))


def squares(y, batch):
    return (jnp.tanh(batch["features"] @ y["first"]) @ y["second"] - batch["targets"]) ** 2


def weighted(x, y, batch):
    weights = jax.nn.sigmoid(x["rows"]) * jnp.cos(x["again"]).sum(1)
    return jnp.mean(weights * squares(y, batch)) + jnp.exp(x["penalty"]) * sum(jnp.sum(w**2) for w in y.values())


def by_source(x, y, batch):
    return weighted(jax.tree.map(lambda leaf: leaf[batch["source"]] if leaf.ndim else leaf, x), y, batch)


def plain(x, y, batch):
    return jnp.mean(squares(y, batch))


PER_ROW = {"rows": True, "penalty": False, "again": True}


def levels(loss, k, data, size, per_row):
    return [bl.Level(f, data, batch_size=size, per_row=per_row) for f in (loss, bl.accumulated(loss, k))]


@eqx.filter_jit
def everything(level, x, y, batch):
    u = jax.tree.map(jnp.cos, x)
    found = (
        oracles.loss(level, x, y, batch),
        *oracles.loss_and_gradient_y(level, x, y, batch),
        *oracles.upper_gradients(level, x, y, batch),
        *oracles.lower_products(level, x, y, V, batch),
        oracles.transposed_cross_product(level, x, y, u, batch),
        oracles.dense_hessian(level, x, y, batch)[0],
    )
    return [trees.dense(part, x) if jax.tree.structure(part, is_leaf=_sparse) == jax.tree.structure(x) else part
            for part in found]  # fmt: skip


def _sparse(leaf):
    return isinstance(leaf, SparseRows)


def same(found, wanted, rtol=1e-12):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("loss", "k", "source"),
    [
        (weighted, 3, bl.Rows),
        (weighted, 2, lambda data: bl.Rows(data, strata=3)),
        (by_source, 4, bl.Shuffled),
    ],
    ids=["rows", "strata", "no row of x"],
)
def test_values_and_all_products_are_those_of_the_whole_batch(loss, k, source, x64):
    per_row, x = (PER_ROW, X_ROWS) if loss is weighted else (False, X)
    x, y = jax.tree.map(jnp.asarray, (x, Y))
    whole, parted = levels(loss, k, source(DATA), 12, per_row)
    batch = whole.draw(KEY)
    same(everything(parted, x, y, batch), everything(whole, x, y, batch))


def test_other_numbers_of_rows_have_parts_as_large_and_a_smaller_last_one(x64):
    whole, parted = levels(weighted, 3, DATA, 12, PER_ROW)  # parts of 4
    x, y = jax.tree.map(jnp.asarray, (X_ROWS, Y))
    batch = whole.draw_rows(KEY, 11)
    same(everything(parted, x, y, batch), everything(whole, x, y, batch))
    lengths = set()

    def loss(x, y, batch):
        lengths.add(len(batch["targets"]))
        return weighted(x, y, batch)

    level = bl.Level(bl.accumulated(loss, 3), DATA, 12, PER_ROW)
    for size, wanted in ((1, {1}), (3, {3}), (11, {4, 3}), (24, {4})):
        batch = whole.draw_rows(KEY, size)
        lengths.clear()
        same(oracles.loss(level, x, y, batch), oracles.loss(whole, x, y, batch))
        assert lengths == wanted


def test_memory_of_a_step_falls_with_the_number_of_parts():
    n, d = 1024, 32
    data = {"features": np.ones((n, d), np.float32), "targets": np.ones(n, np.float32)}
    y = {"first": jnp.ones((d, 64)), "second": jnp.ones(64)}
    solver = bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)

    def bytes_of(k):
        lower, upper = (bl.accumulated(loss, k) for loss in (lambda x, y, b: x * plain(x, y, b), plain))
        problem = bl.Problem(bl.Level(upper, data, n // 2), bl.Level(lower, data, n // 2))
        state, _ = bl.initial_state(solver, problem, jnp.ones(()), y, KEY)
        arrays, rest = eqx.partition((problem, state), eqx.is_array)
        step = jax.jit(lambda arrays: bl.advance(solver, *eqx.combine(arrays, rest), KEY, 0, 1)[0])
        return step.lower(arrays).compile().memory_analysis().temp_size_in_bytes

    one, two, eight = (bytes_of(k) for k in (1, 2, 8))
    batches = 2 * 4 * (d + 1) * n // 2  # they are there as a whole
    assert eight < two < one
    assert eight - batches < 0.3 * (one - batches)


def test_a_run_is_that_of_the_loss_on_the_whole_batch():
    """With a model whose leaves are not all arrays, a per-row x, and an upper loss that does not read x."""
    model = eqx.nn.MLP(D, "scalar", 4, 1, key=KEY)

    def error(y, batch):
        return (jax.vmap(y)(batch["features"]) - batch["targets"]) ** 2

    def lower(x, y, batch):
        return jnp.mean(jax.nn.sigmoid(x) * error(y, batch))

    def upper(x, y, batch):
        return jnp.mean(error(y, batch))

    def run(k):
        of_upper, of_lower = (loss if k == 1 else bl.accumulated(loss, k) for loss in (upper, lower))
        problem = bl.Problem(bl.Level(of_upper, DATA, 8), bl.Level(of_lower, DATA, 8, per_row=True))
        solver = bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)
        x = jnp.zeros(N)
        solution = bl.solve(problem, solver, x, model, steps=20, key=KEY, signs=False)
        return eqx.filter((solution.x, solution.y), eqx.is_array), problem, x

    (whole, _, _), (parted, problem, x) = run(1), run(4)
    same(parted, whole, 1e-5)
    assert isinstance(oracles.gradient_x(problem.upper, x, model, problem.upper.draw(KEY)), SparseRows)


def test_measurements_read_all_rows_in_parts_as_large(x64):
    def lower(x, y, batch):
        assert len(batch["targets"]) <= 4
        return jnp.mean(x * squares(y, batch))

    problem = bl.Problem(bl.Level(plain, DATA, 8), bl.Level(bl.accumulated(lower, 2), DATA, 8, per_row=True))
    x, y = jax.tree.map(jnp.asarray, (X_ROWS["rows"], Y))
    whole = on_all_rows(problem, KEY, most=19).lower  # a subset of the rows
    rows = whole.data.indices
    assert oracles.loss(whole, x, y, whole.all_rows()) == pytest.approx(float(jnp.mean((x * squares(y, DATA))[rows])))


def test_what_cannot_be_divided_is_refused_by_name():
    loss = bl.accumulated(plain, 5)
    with pytest.raises(ValueError, match=r"batch_size: 12 rows do not divide into the 5 parts .* use 10 or 15 rows"):
        bl.Level(loss, DATA, 12)
    with pytest.raises(ValueError, match=r"data: 24 rows do not divide into the 5 parts"):
        bl.Level(loss, DATA)
    with pytest.raises(ValueError, match=r"loss: got bl.accumulated for a level without data"):
        bl.Level(loss)
    with pytest.raises(ValueError, match="k: got 0"):
        bl.accumulated(plain, 0)
    with pytest.raises(TypeError, match="already in parts"):
        bl.accumulated(loss, 2)
    with pytest.raises(TypeError, match="loss: it cannot be called"):
        bl.Level(bl.accumulated(lambda x, y: 0.0, 2), DATA)


def test_by_itself_it_is_a_loss_of_an_x_without_rows(x64):
    loss, x, y = bl.accumulated(by_source, 4), *jax.tree.map(jnp.asarray, (X, Y))
    same(loss(x, y, DATA), by_source(x, y, DATA))
    with pytest.raises(ValueError, match="x: a leaf has the shape"):
        bl.accumulated(weighted, 4)(jax.tree.map(jnp.asarray, X_ROWS), y, DATA)
    with pytest.raises(ValueError, match="batch: 24 rows do not divide into the 7 parts"):
        bl.accumulated(by_source, 7)(x, y, DATA)
    with pytest.raises(ValueError, match="there are none"):
        loss(x, y, None)
