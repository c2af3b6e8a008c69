"""Nyström's approximation against the closed form (H + ρI)⁻¹ b and its bound."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.oracles import HessianOperator

DIM = 24


class HalfSquare(eqx.Module):
    """½ yᵀAy over the raveled y, A an array leaf: another A compiles nothing."""

    A: jax.Array

    def __call__(self, x, y, _):
        flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(y)])
        return 0.5 * flat @ (self.A @ flat)


def nystrom(A, b, rank, damping, key):
    return _nystrom(A, b, rank, np.asarray(damping), key)


@eqx.filter_jit
def _nystrom(A, b, rank, damping, key):
    level = bl.Level(HalfSquare(A))
    return bl.Nystrom(rank, damping).solve(HessianOperator(level, jnp.zeros(()), b, level.all_rows()), b, b, key=key)


def spectrum(eigenvalues, dtype=np.float64, seed=0):
    """A matrix with these eigenvalues, and a right-hand side."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    return jnp.asarray(Q * eigenvalues @ Q.T, dtype), jnp.asarray(rng.normal(size=len(eigenvalues)), dtype)


def damped(A, b, damping):
    A = np.asarray(A, np.float64)
    return np.linalg.solve(A + damping * np.eye(len(A)), np.asarray(b, np.float64))


def errors(A, b, rank, damping, seeds=8):
    keys = [jax.random.key(seed) for seed in range(seeds)]
    exact = damped(A, b, damping)
    return np.array([np.linalg.norm(nystrom(A, b, rank, damping, key).v - exact) for key in keys])


FEW_LARGE = np.concatenate([[100.0, 50.0, 20.0, 10.0], 1e-3 * np.linspace(0.1, 1, DIM - 4)])


@pytest.mark.parametrize("rank", [DIM, DIM + 5])
def test_exact_from_full_rank_on(x64, rank):
    A, b = spectrum(np.linspace(0.5, 4.0, DIM))
    assert errors(A, b, rank, 0.3).max() < 1e-12
    found = nystrom(A, b, rank, 1e-9, jax.random.key(0))
    np.testing.assert_allclose(found.v, np.linalg.solve(A, b), rtol=1e-6)
    assert bool(found.convex)
    assert found.products == DIM


@pytest.mark.parametrize("rank", [4, 9])
def test_exact_from_the_rank_of_the_hessian_on(x64, rank):
    """W is then singular but for rounding."""
    A, b = spectrum(np.where(FEW_LARGE < 1, 0.0, FEW_LARGE))
    assert errors(A, b, rank, 0.01).max() < 1e-9 * np.linalg.norm(damped(A, b, 0.01))


def test_the_error_falls_with_the_rank_and_keeps_its_bound(x64):
    """‖v − (H + ρI)⁻¹b‖ ≤ ‖b‖ e / (ρ (e + ρ)), e = ‖H − H_k‖, for every sketch."""
    A, b = spectrum(FEW_LARGE)
    rho, means = 0.1, []
    for rank in (2, 4, 12):
        means.append(errors(A, b, rank, rho).mean())
        for seed in range(3):
            key = jax.random.key(seed)
            omega = np.linalg.qr(jax.random.normal(key, (DIM, rank)))[0]
            C = np.asarray(A) @ omega
            e = np.linalg.norm(A - C @ np.linalg.solve(omega.T @ C, C.T), 2)
            error = np.linalg.norm(nystrom(A, b, rank, rho, key).v - damped(A, b, rho))
            assert error <= e / (rho * (e + rho)) * np.linalg.norm(b) * (1 + 1e-9)
    assert all(later < sooner for sooner, later in itertools.pairwise(means))
    assert means[1] < means[0] / 10  # from rank 4 on it holds the four large eigenvalues


def test_the_papers_formula(x64):
    """b/ρ − C (W + CᵀC/ρ)⁻¹ Cᵀb / ρ² (Hataya & Yamada), with the same Ω."""
    A, b = spectrum(FEW_LARGE)
    key, rho = jax.random.key(3), 0.5
    omega = np.linalg.qr(jax.random.normal(key, (DIM, 6)))[0]
    C = np.asarray(A) @ omega
    W = omega.T @ C
    expected = b / rho - C @ np.linalg.solve(W + C.T @ C / rho, C.T @ np.asarray(b)) / rho**2
    np.testing.assert_allclose(nystrom(A, b, 6, rho, key).v, expected, rtol=1e-9)


def test_another_key_is_another_sketch(x64):
    A, b = spectrum(FEW_LARGE)
    first, same, other = (nystrom(A, b, 3, 0.1, jax.random.key(seed)).v for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_float32_with_a_damping_far_below_the_hessian():
    """Woodbury's formula has no correct digit left here."""
    A, b = spectrum(np.geomspace(1.0, 1e3, DIM), np.float32)
    rho = 1e-6
    found = nystrom(A, b, DIM, rho, jax.random.key(0)).v
    assert found.dtype == np.float32
    exact = damped(A, b, rho)
    assert np.linalg.norm(found - exact) < 1e-3 * np.linalg.norm(exact)
    rho, few = 1e-4, spectrum(np.where(FEW_LARGE < 1, 0.0, FEW_LARGE), np.float32)
    exact = damped(*few, rho)
    assert np.linalg.norm(nystrom(*few, 8, rho, jax.random.key(0)).v - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtypes", [("float32",) * 3, ("bfloat16",) * 3, ("float32", "bfloat16", "float32")])
def test_a_tree(dtypes):
    """In the tree's structure, shapes and dtypes."""
    A, b = spectrum(np.linspace(1.0, 2.0, 7), np.float32)
    parts = (b[:4].reshape(2, 2), b[4], b[5:])
    tree = dict(zip("bcd", (part.astype(dtype) for part, dtype in zip(parts, dtypes, strict=True)), strict=True))
    found = nystrom(A, tree, 7, 0.5, jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), found.v) == jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    flat = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(found.v)])
    np.testing.assert_allclose(flat, damped(A, b, 0.5), atol=0.05 if "bfloat16" in dtypes else 1e-5)
    assert found.products == 7


def test_counts_one_product_of_the_batch_for_each_rank():
    level = bl.Level(lambda x, y, a: 0.5 * jnp.mean(a @ y**2), data=np.ones((12, 5), np.float32), batch_size=3)
    y = jnp.ones(5)
    batch = level.draw(jax.random.key(0))
    method, key = bl.Nystrom(4, 0.1), jax.random.key(1)
    found = eqx.filter_eval_shape(lambda: method.solve(HessianOperator(level, jnp.zeros(()), y, batch), y, y, key=key))
    assert found.products == 4 * 3


def test_a_curvature_below_minus_the_damping_is_flagged(x64):
    eigenvalues = np.array([-0.2, 1.0, 2.0])
    A, b = spectrum(eigenvalues)
    assert not bool(nystrom(A, b, 3, 0.1, jax.random.key(0)).convex)
    within = nystrom(A, b, 3, 0.5, jax.random.key(0))
    assert bool(within.convex)  # and −0.2 counts as zero
    w, V = np.linalg.eigh(A)
    np.testing.assert_allclose(within.v, V @ (V.T @ np.asarray(b) / (np.maximum(w, 0) + 0.5)), rtol=1e-9)
    assert bool(nystrom(A * np.nan, b, 3, 0.5, jax.random.key(0)).convex)  # that is non-finite, not indefinite


def test_hypergradient_with_it(x64, quadratic):
    q = quadratic()
    h = bl.hypergradient(q.problem, q.x, q.y_star(q.x), method=bl.Nystrom(q.dim, 1e-10))
    np.testing.assert_allclose(h, q.hypergradient(q.x), rtol=1e-8)


def test_another_damping_compiles_nothing_and_a_grid_of_them_runs(x64, quadratic, compiled):
    q = quadratic()
    arguments = (q.problem, jnp.asarray(q.x), jnp.asarray(q.y_star(q.x)))
    bl.hypergradient(*arguments, method=bl.Nystrom(3, 0.1))
    compiled.clear()
    second = bl.hypergradient(*arguments, method=bl.Nystrom(3, 0.2))
    assert not compiled
    grid = jax.vmap(lambda rho: bl.hypergradient(*arguments, method=bl.Nystrom(3, rho)))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(grid[1], second, rtol=1e-10)
