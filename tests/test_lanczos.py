"""Lanczos on products with H and J, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as bl
from bilevel import _lanczos, oracles, trees
from bilevel._lanczos import CrossGram, Hessian, first_basis, lanczos

KEY = jax.random.key(0)


def matrix_loss(x, y, batch):
    """½ yᵀA y + yᵀB x for the one matrix A and B of the data."""
    return 0.5 * y @ (batch["A"][0] @ y) + y @ (batch["B"][0] @ x)


def hessian_of(A):
    A = jnp.asarray(A, float)
    level = bl.Level(matrix_loss, data={"A": A[None], "B": jnp.zeros((1, len(A), 1))})
    return Hessian.at(level, jnp.zeros(1), jnp.zeros(len(A)))


def rotated(eigenvalues, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=2 * (len(eigenvalues),)))[0]
    return basis * np.asarray(eigenvalues) @ basis.T


def test_extreme_eigenvalues_and_residuals(x64):
    spectrum = lanczos(hessian_of(rotated(np.linspace(-0.3, 7.0, 30))), key=KEY, tolerance=1e-12)
    assert spectrum.least == pytest.approx(-0.3, abs=1e-10)
    assert spectrum.largest == pytest.approx(7.0, abs=1e-10)
    assert spectrum.least_residual < 1e-7 and spectrum.largest_residual < 1e-7


def test_too_few_steps_overestimate_mu_and_the_residual_says_so(x64):
    eigenvalues = np.geomspace(1e-3, 10.0, 200)
    spectrum = lanczos(hessian_of(rotated(eigenvalues)), key=KEY, most=20)
    assert spectrum.products == 22
    assert 1e-3 < spectrum.least > 1.5e-3
    assert spectrum.least_residual > 0.1 * spectrum.least
    assert np.abs(eigenvalues - spectrum.least).min() <= spectrum.least_residual
    assert spectrum.largest <= 10.0 + 1e-9
    settled = lanczos(hessian_of(rotated(eigenvalues)), key=KEY)
    assert settled.least == pytest.approx(1e-3, rel=1e-2)
    assert settled.least_residual <= 1e-2 * settled.least


@pytest.mark.parametrize("eigenvalues", [[3.0] * 30, [1.0, 2.0] * 15, [5.0], [0.0] * 4], ids=str)
def test_an_exhausted_space_adds_no_eigenvalues(eigenvalues):
    spectrum = lanczos(hessian_of(rotated(eigenvalues)), key=KEY)
    assert spectrum.least == pytest.approx(min(eigenvalues), abs=1e-5)
    assert spectrum.largest == pytest.approx(max(eigenvalues), abs=1e-5)


def without_a_basis(operator, monkeypatch, **settings):
    """As if not even 20 vectors did fit."""
    monkeypatch.setattr(_lanczos, "_MOST_BYTES", 1)
    return lanczos(operator, key=KEY, **settings)


def test_without_a_stored_basis_the_extremes_are_found_and_the_residuals_hold(x64, monkeypatch):
    eigenvalues = np.concatenate([[-0.5], np.linspace(0.2, 3.0, 200), [7.0]])
    spectrum = without_a_basis(hessian_of(rotated(eigenvalues)), monkeypatch)
    assert spectrum.largest == pytest.approx(7.0, rel=1e-6)
    assert spectrum.least == pytest.approx(-0.5, rel=1e-2)
    assert spectrum.products == len(spectrum.ritz) <= 60
    assert np.abs(eigenvalues - spectrum.least).min() <= spectrum.least_residual
    monkeypatch.undo()
    whole = lanczos(hessian_of(rotated(eigenvalues)), key=KEY)
    np.testing.assert_allclose(spectrum.ritz[[0, -1]], whole.ritz[[0, -1]], rtol=1e-6)
    assert spectrum.least_residual == pytest.approx(whole.least_residual, rel=1e-3)


def test_without_a_stored_basis_the_least_may_be_unsettled_and_the_residual_says_so(x64, monkeypatch):
    eigenvalues = np.geomspace(1e-4, 10.0, 300)
    spectrum = without_a_basis(hessian_of(rotated(eigenvalues)), monkeypatch)
    assert spectrum.products == 60 and spectrum.largest == pytest.approx(10.0, rel=1e-2)
    assert spectrum.least_residual > 0.1 * spectrum.least > 1e-5


def test_without_a_stored_basis_a_few_vectors_are_in_memory():
    """Beside what a product takes."""
    n = 100_000
    operator = Hessian.at(bl.Level(lambda x, y, _: x * jnp.sum(y**4)), jnp.ones(()), jnp.ones(n))

    def vectors(stored):
        arguments = (operator, jnp.asarray(0), jnp.asarray(60)), first_basis(jnp.ones(n), 60, stored)
        memory = _lanczos._extend.lower(*arguments).compile().compiled.memory_analysis()
        return (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / (4 * n)

    few, all_of_them = vectors(False), vectors(True)
    assert few < 9 < 60 < all_of_them


def test_largest_only_does_not_wait_for_the_least(x64):
    operator = hessian_of(rotated(np.geomspace(1e-6, 10.0, 200)))
    both, one = (lanczos(operator, key=KEY, largest_only=only) for only in (False, True))
    assert one.products < both.products
    assert one.largest == pytest.approx(10.0, rel=1e-4)


def test_a_hessian_that_is_not_finite_gives_nan():
    level = bl.Level(lambda x, y, _: jnp.sum(1e30 * y**4))
    spectrum = lanczos(Hessian.at(level, jnp.zeros(1), jnp.full(3, 1e5)), key=KEY)
    assert np.isnan([spectrum.least, spectrum.largest, spectrum.least_residual]).all()


def tree_loss(x, y, batch):
    """Nested x (one leaf per row) and y; J depends on both."""
    z = jnp.tanh(batch @ y["w"]) + y["b"]
    return jnp.mean(jnp.exp(x["rows"]) * z**2) + jnp.sum(jnp.sin(x["m"]) @ y["w"]) + jnp.sum(y["w"] ** 2)


def tree_problem(rows, size):
    rng = np.random.default_rng(0)
    level = bl.Level(tree_loss, data=rng.normal(size=(rows, 3)), batch_size=size, per_row={"rows": True, "m": False})
    x = {"rows": jnp.asarray(rng.normal(size=rows)), "m": jnp.asarray(rng.normal(size=(2, 3)))}
    return level, x, {"w": jnp.asarray(rng.normal(size=3)), "b": jnp.asarray(0.3)}


def dense_cross(level, x, y):
    """∂²g/∂x∂y over the raveled x and y, on all rows."""
    (x_flat, x_tree), (y_flat, y_tree) = ravel_pytree(x), ravel_pytree(y)
    rows = level.all_rows().rows
    return jax.jacobian(jax.grad(lambda u, w: level.loss(x_tree(u), y_tree(w), rows), 0), 1)(x_flat, y_flat)


def test_norm_of_the_cross_product(x64):
    level, x, y = tree_problem(12, None)
    expected = np.linalg.norm(dense_cross(level, x, y), 2)
    operator = CrossGram(level, x, y, level.all_rows())
    assert operator.like is operator.y
    gram = lanczos(operator, key=KEY, largest_only=True)
    np.testing.assert_allclose(np.sqrt(gram.largest), expected, rtol=1e-6)


def test_norm_of_the_cross_product_where_x_is_shorter(x64):
    B = np.random.default_rng(0).normal(size=(9, 2))
    level = bl.Level(matrix_loss, data={"A": np.eye(9)[None], "B": B[None]})
    operator = CrossGram(level, jnp.ones(2), jnp.ones(9), level.all_rows())
    assert operator.like is operator.x
    gram = lanczos(operator, key=KEY, largest_only=True)
    np.testing.assert_allclose(np.sqrt(gram.largest), np.linalg.norm(B, 2), rtol=1e-6)


def test_the_transposed_cross_product_is_the_transpose(x64):
    level, x, y = tree_problem(12, None)
    J = np.asarray(dense_cross(level, x, y))
    u = jax.tree.map(lambda leaf: jnp.cos(1.0 + leaf), x)
    transposed = oracles.transposed_cross_product(level, x, y, u, level.all_rows())
    np.testing.assert_allclose(ravel_pytree(transposed)[0], J.T @ ravel_pytree(u)[0], rtol=1e-10)
    level, x, y = tree_problem(12, 5)  # on a batch, whose J is in a few rows
    batch, v = level.draw(KEY), jax.tree.map(jnp.cos, y)
    Jv = trees.dense(oracles.cross_product(level, x, y, v, batch), x)
    transposed = oracles.transposed_cross_product(level, x, y, u, batch)
    np.testing.assert_allclose(trees.dot(u, Jv), trees.dot(transposed, v), rtol=1e-10)


def test_another_matrix_compiles_nothing(compiled):
    first, second = (hessian_of(rotated(np.linspace(1, 2, 25), seed)) for seed in (0, 1))
    lanczos(first, key=KEY)
    count = len(compiled)
    lanczos(second, key=jax.random.key(1))
    assert len(compiled) == count
