"""DARTS's estimator against the exact gradient through one lower step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles, trees
from bilevel.oracles import HessianOperator


def g(x, y, _):
    """A lower loss that is cubic and more in y, x a tree of which one leaf is not used."""
    return jnp.sum(jnp.cosh(y["a"] - x["p"])) + 0.5 * jnp.sum(y["b"] ** 2) + x["p"][0] * jnp.sum(jnp.exp(y["b"])) / 4


def f(x, y, _):
    return jnp.sum((y["a"] - 1.0) ** 2) + jnp.sum(jnp.sin(y["b"])) + jnp.sum(x["p"] ** 2)


PROBLEM = bl.Problem(bl.Level(f), bl.Level(g))
X = {"p": np.array([0.3, -0.5]), "unused": np.ones(2)}
Y = {"a": np.array([1.2, 0.4]), "b": np.array([[0.7, -0.2]])}


def points(dtype=float):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (X, Y))


def one_step(x, y, xi):
    return jax.tree.map(lambda y, d: y - xi * d, y, jax.grad(g, argnums=1)(x, y, None))


@eqx.filter_jit
def darts(x, y, xi, radius):
    """Eqs. (7) and (8), of the package's parts: F after the step, the difference before it."""
    after, lower = one_step(x, y, xi), PROBLEM.lower
    method, batch = bl.FiniteDifference(xi, radius), lower.all_rows()
    F_x, F_y = oracles.upper_gradients(PROBLEM.upper, x, after, batch)
    v = method.solve(HessianOperator(lower, x, y, batch), F_y, None, key=jax.random.key(0)).v
    return trees.dense(trees.sub(F_x, method.difference(lower, x, y, v, batch)), x)["p"]


@jax.jit
def written_out(x, y, xi, radius):
    """Eqs. (7) and (8) as the paper writes them, ε = radius/‖F_y‖."""
    after = one_step(x, y, xi)
    F_x, F_y = jax.grad(f, argnums=(0, 1))(x, after, None)
    epsilon = radius / jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(F_y)))
    ahead, behind = (
        jax.grad(g)(x, jax.tree.map(lambda y, d, s=sign: y + s * epsilon * d, y, F_y), None) for sign in (1, -1)
    )
    return F_x["p"] - xi * (ahead["p"] - behind["p"]) / (2 * epsilon)


def test_it_is_the_papers_formula(x64):
    x, y = points()
    for xi, radius in ((0.1, 0.01), (0.4, 0.3)):
        np.testing.assert_allclose(darts(x, y, xi, radius), written_out(x, y, xi, radius), rtol=1e-9)


def test_the_error_about_the_exact_unrolled_gradient_is_of_second_order_in_the_radius(x64):
    x, y = points()
    exact = bl.unrolled_hypergradient(PROBLEM, x, y, steps=1, lower_step=0.3)["p"]
    coarse, fine, paper = (np.linalg.norm(darts(x, y, 0.3, radius) - exact) for radius in (0.2, 0.1, 0.01))
    assert coarse / fine == pytest.approx(4, rel=0.02)
    assert fine / paper == pytest.approx(100, rel=0.02)
    assert 0 < paper < 1e-4 * np.linalg.norm(exact)


def test_hypergradient_after_the_step_differs_by_second_order_in_the_step(x64):
    """It takes J after the step too, as documented."""
    x, y = points()
    differences = []
    for xi in (0.02, 0.01):
        h = bl.hypergradient(PROBLEM, x, one_step(x, y, xi), method=bl.FiniteDifference(xi))
        np.testing.assert_array_equal(h["unused"], np.zeros(2))
        differences.append(np.linalg.norm(h["p"] - darts(x, y, xi, 0.01)))
    assert differences[0] / differences[1] == pytest.approx(4, rel=0.1)


def test_where_the_cross_product_does_not_depend_on_y_it_is_one_unrolled_step(x64, quadratic):
    q = quadratic()
    y = jnp.asarray(q.b)
    after = y - 0.2 * (q.A @ y - q.B @ q.x)
    exact = bl.unrolled_hypergradient(q.problem, q.x, y, steps=1, lower_step=0.2)
    for radius in (0.01, 10.0):
        h = bl.hypergradient(q.problem, q.x, after, method=bl.FiniteDifference(0.2, radius))
        np.testing.assert_allclose(h, exact, rtol=1e-8)


def test_no_hessian_product_is_counted_and_a_schedule_sees_t():
    x, y = points(jnp.float32)
    method = bl.FiniteDifference(bl.inverse_power(0.4, 1.0))
    found = method.solve(
        HessianOperator(PROBLEM.lower, x, y, PROBLEM.lower.all_rows()), y, y, key=jax.random.key(0), t=3
    )
    assert found.products == 0
    np.testing.assert_allclose(found.v["a"], 0.1 * y["a"], rtol=1e-6)


def test_float32_and_vectors_that_are_tiny_or_zero(quadratic):
    q = quadratic()
    x, y, v = (jnp.asarray(a, jnp.float32) for a in (q.x, q.b, q.c))
    lower = q.problem.lower
    for size in (1.0, 1e-30):
        Jv = bl.FiniteDifference(0.1).difference(lower, x, y, size * v, lower.all_rows())
        assert Jv.dtype == np.float32
        np.testing.assert_allclose(Jv / size, -q.B.T @ q.c, rtol=2e-3)
    zero = bl.FiniteDifference(0.1).difference(lower, x, y, 0 * v, lower.all_rows())
    np.testing.assert_array_equal(zero, np.zeros(3))


def test_a_per_row_variable_keeps_its_sparse_rows():
    rows = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    lower = bl.Level(lambda x, y, a: jnp.mean(jnp.exp(x) * (a @ y - 1.0) ** 2) + jnp.sum(y**2), rows, 3, per_row=True)
    x, y, v = jnp.zeros(30), jnp.ones(2), jnp.array([1.0, -1.0])
    batch = lower.draw(jax.random.key(0))
    Jv = bl.FiniteDifference(0.1).difference(lower, x, y, v, batch)
    assert isinstance(Jv, trees.SparseRows)
    exact = oracles.cross_product(lower, x, y, v, batch)
    np.testing.assert_allclose(Jv.dense(x.dtype), exact.dense(x.dtype), rtol=1e-3, atol=1e-4)
