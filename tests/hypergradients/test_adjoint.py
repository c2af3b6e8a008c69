"""Each method for H v = b against its lemma, on quadratics with known spectrum, in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles
from bilevel.oracles import HessianOperator

pytestmark = pytest.mark.usefixtures("x64")
SEEDS = 20_000


@eqx.filter_jit
def _solve(method, level, y, rhs, start, key, t):
    return method.solve(HessianOperator(level, jnp.zeros(()), y, level.draw(key)), rhs, start, key=key, t=t)


def solve(method, A, rhs, start=None, t=0):
    """The method on H = A, deterministic."""
    rhs = jnp.asarray(rhs)
    start = jnp.zeros_like(rhs) if start is None else jnp.asarray(start)
    return _solve(method, level_of(jnp.asarray(A)), jnp.zeros_like(rhs), rhs, start, jax.random.key(0), t)


class HalfSquare(eqx.Module):
    """½ yᵀAy, A an array leaf: another A compiles nothing."""

    A: jax.Array

    def __call__(self, x, y, _):
        return 0.5 * y @ (self.A @ y)


def level_of(A):
    return bl.Level(HalfSquare(A))


def series(A, b, eta, terms):
    """η Σ_{i<terms} (I − ηA)^i b."""
    total, r = np.zeros_like(b), b
    for _ in range(terms):
        total, r = total + r, r - eta * A @ r
    return eta * total


def samples(*products):
    """What `products` of an Adjoint means, as an integer."""
    return [int(p[0]) * int(p[1]) if isinstance(p, tuple) else int(p) for p in products]


# Neumann


@pytest.mark.parametrize("order", [0, 1, 7])
def test_neumann_bias(quadratic, order):
    q = quadratic(mu=0.5, L=4.0)
    eta = 1 / q.L
    method = bl.Neumann(order=order, step=eta)
    bound = (1 - eta * q.mu) ** (order + 1) / q.mu
    for b in (q.b, q.eigenvectors[:, 3], q.eigenvectors[:, 0]):
        error = np.linalg.norm(solve(method, q.A, b).v - np.linalg.solve(q.A, b))
        assert error <= bound * np.linalg.norm(b) * (1 + 1e-12)
    assert error == pytest.approx(bound, rel=1e-10)  # the last b belongs to the smallest eigenvalue


@pytest.mark.parametrize("order", [0, 1, 7])
def test_neumann_has_q_factors_and_q_plus_one_terms(quadratic, order):
    q = quadratic()
    method = bl.Neumann(order=order, step=0.2)
    adjoint = solve(method, q.A, q.b)
    np.testing.assert_allclose(adjoint.v, series(q.A, q.b, 0.2, order + 1), rtol=1e-12)
    assert samples(adjoint.products) == [order]
    zero = solve(method, 0 * q.A, q.b).v  # without curvature each term is ηb
    np.testing.assert_allclose(zero, 0.2 * (order + 1) * q.b, rtol=1e-12)


def test_a_step_may_be_a_schedule(quadratic):
    q = quadratic()
    for make in (lambda s: bl.Neumann(2, s), lambda s: bl.FixedPoint(3, s)):
        at = solve(make(bl.inverse_power(0.4, 1.0)), q.A, q.b, t=jnp.asarray(3)).v
        np.testing.assert_allclose(at, series(q.A, q.b, 0.1, 3), rtol=1e-12)


# stochastic methods: H(B) is the mean of diagonal rows


class Diagonal(eqx.Module):
    """½ mean_i Σ_j h_ij y_j², which knows no other x than a scalar."""

    def __call__(self, x, y, h):
        return 0.5 * jnp.mean(h, 0) @ y**2


def diagonal_level(h, batch_size):
    return bl.Level(Diagonal(), data=np.asarray(h), batch_size=batch_size)


@eqx.filter_jit
def many(method, level, b, keys):
    """v and the number of products for each key."""
    zero = jnp.zeros_like(b)

    def one(key):
        adjoint = method.solve(HessianOperator(level, jnp.zeros(()), zero, level.all_rows()), b, zero, key=key)
        return adjoint.v, jnp.asarray(adjoint.products[0] if isinstance(adjoint.products, tuple) else adjoint.products)

    return jax.vmap(one)(keys)


def within(v, expected):
    error = v.std(0) / np.sqrt(len(v))
    np.testing.assert_array_less(abs(v.mean(0) - expected), 4.5 * error + 1e-12)


def noisy_rows(n=40, dim=3, mu=0.5, L=2.0, spread=0.4, seed=0):
    """Rows whose mean runs from mu to L, every entry in (0, L + spread)."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(-spread, spread, size=(n, dim))
    return np.linspace(mu, L, dim) + noise - noise.mean(0)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_mean_of_random_neumann_is_the_series(noisy):
    """E v = η Σ_{n<K} (I − ηH)ⁿ b, with independent ζ_i too; bias ≤ (1 − ημ)^K ‖b‖/μ (SUSTAIN, Lemma 2.1)."""
    h, K, eta = noisy_rows(), 4, 0.45
    b = np.array([1.0, -2.0, 0.5])
    level = diagonal_level(h, 1 if noisy else None)
    keys = jax.random.split(jax.random.key(5), SEEDS)
    v, k = (np.asarray(out) for out in many(bl.RandomNeumann(K, eta), level, jnp.asarray(b), keys))
    H = np.diag(h.mean(0))
    within(v, series(H, b, eta, K))
    bias = np.linalg.norm(v.mean(0) - np.linalg.solve(H, b))
    assert bias <= (1 - eta * 0.5) ** K * np.linalg.norm(b) / 0.5 + 4.5 * np.linalg.norm(v.std(0)) / np.sqrt(SEEDS)
    counts = np.bincount(k, minlength=K)
    assert len(counts) == K  # k runs over 0..K−1, uniformly
    np.testing.assert_allclose(counts / SEEDS, 1 / K, atol=4.5 * np.sqrt(0.25 * 0.75 / SEEDS))


def test_each_random_neumann_draw_is_one_scaled_term():
    h, K, eta = noisy_rows(), 4, 0.45
    b = np.array([1.0, -2.0, 0.5])
    v, k = many(
        bl.RandomNeumann(K, eta), diagonal_level(h, None), jnp.asarray(b), jax.random.split(jax.random.key(1), 50)
    )
    expected = K * eta * (1 - eta * h.mean(0)) ** np.asarray(k)[:, None] * b
    np.testing.assert_allclose(v, expected, rtol=1e-10)


def second_moment(h, sizes, eta, b):
    """E v² entry by entry, v = η Σ_q Π_{i≤q} f_i b with independent f_i = 1 − η · (mean of sizes[i] rows)."""
    m = 1 - eta * h.mean(0)
    squares = [m**2 + eta**2 * h.var(0) / size for size in sizes]
    Q = len(sizes)
    total = 0
    for p in range(Q + 1):
        for q in range(Q + 1):
            low, high = min(p, q), max(p, q)
            total = total + np.prod([*squares[:low], np.ones_like(m)], axis=0) * m ** (high - low)
    return eta**2 * b**2 * total


def test_neumann_of_independent_batches_has_the_moments_of_independence():
    """The first factor of a batch repeated, or sizes in another order, would give another mean or variance."""
    h, eta, sizes = noisy_rows(spread=0.5), 0.5, (6, 2, 1)
    b = np.array([1.0, -2.0, 0.5])
    level = diagonal_level(h, 1)
    keys = jax.random.split(jax.random.key(2), SEEDS)
    v = np.asarray(many(bl.Neumann(3, eta, sizes), level, jnp.asarray(b), keys)[0])
    within(v, series(np.diag(h.mean(0)), b, eta, 4))
    within(v**2, second_moment(h, sizes, eta, b))


def test_stocbio_proposition_3():
    """E‖v − H⁻¹F_y‖² ≤ 4η²L²M²/(μ²B) + 4(1 − ημ)^{2Q+2}M²/μ² + 2M²/(μ²D_f), |B_{Q+1−j}| = BQ(1 − ημ)^{j−1}."""
    mu, B, Q, D_f = 0.5, 2, 3, 4
    h = noisy_rows(mu=mu, L=2.0, spread=0.4)
    h, L = np.maximum(h, mu), 2.4 + 0.1  # each row is mu-convex and L-smooth
    assert h.max() <= L
    rng = np.random.default_rng(1)
    c = rng.normal(size=(30, 3)) + 1.0
    M, eta = np.linalg.norm(c, axis=1).max(), 1 / L
    sizes = bl.neumann_batch_sizes(B, Q, eta, mu)
    level = diagonal_level(h, B)
    upper = bl.Level(lambda x, y, c: jnp.mean(c @ y), data=c, batch_size=D_f)
    method, zero = bl.Neumann(Q, eta, sizes), jnp.zeros(3)

    @jax.jit
    @jax.vmap
    def sample(key):
        upper_key, key = jax.random.split(key)
        F_y = oracles.gradient_y(upper, jnp.zeros(()), zero, upper.draw(upper_key))

        def solve(b):
            return method.solve(HessianOperator(level, jnp.zeros(()), zero, level.all_rows()), b, zero, key=key).v

        return jax.vmap(solve)(jnp.stack([F_y, jnp.asarray(c.mean(0))]))

    v, v_exact = sample(jax.random.split(jax.random.key(0), 4000)).swapaxes(0, 1)
    truth = c.mean(0) / h.mean(0)
    hessian = 2 * eta**2 * L**2 * M**2 / (mu**2 * B) + 2 * (1 - eta * mu) ** (2 * Q + 2) * M**2 / mu**2
    error, error_exact = (np.mean(np.sum((np.asarray(a) - truth) ** 2, 1)) for a in (v, v_exact))
    assert error <= 2 * hessian + 2 * M**2 / (mu**2 * D_f)
    assert error_exact <= hessian  # the part of the proof without the noise of F_y
    added = second_moment(h, sizes, eta, np.sqrt(c.var(0) / D_f)).sum()  # by the noise of F_y
    assert error == pytest.approx(error_exact + added, rel=0.05)


def test_neumann_draws_a_batch_of_its_own_for_each_factor(recorder):
    h = np.tile(noisy_rows(), (25, 1))
    rhs = jnp.ones(3)
    for method, sizes in ((bl.Neumann(4, 0.3), [5] * 4), (bl.Neumann(3, 0.3, (9, 4, 2)), [9, 4, 2])):
        source = recorder(h)
        level = bl.Level(Diagonal(), data=source, batch_size=5)
        with jax.disable_jit():
            adjoint = method.solve(
                HessianOperator(level, jnp.zeros(()), rhs, level.all_rows()), rhs, rhs, key=jax.random.key(0)
            )
        assert [len(d) for d in source.draws] == sizes
        assert len({tuple(d[:2]) for d in source.draws}) == len(sizes)
        assert samples(adjoint.products) == [sum(sizes)]
        v = r = np.ones(3)
        for d in source.draws:  # the first batch acts first
            r = r - 0.3 * h[d].mean(0) * r
            v = v + r
        np.testing.assert_allclose(adjoint.v, 0.3 * v, rtol=1e-12)


def test_random_neumann_draws_a_batch_of_its_own_for_each_factor(recorder):
    h, rhs, lengths = np.tile(noisy_rows(), (25, 1)), jnp.ones(3), []
    for seed in range(5):
        source = recorder(h)
        level = bl.Level(Diagonal(), data=source, batch_size=5)
        with jax.disable_jit():
            H = HessianOperator(level, jnp.zeros(()), rhs, level.all_rows())
            adjoint = bl.RandomNeumann(4, 0.3).solve(H, rhs, rhs, key=jax.random.key(seed))
        assert len({tuple(d) for d in source.draws}) == len(source.draws)
        assert samples(adjoint.products) == [5 * len(source.draws)]
        expected = 4 * 0.3 * np.prod([np.ones(3), *(1 - 0.3 * h[d].mean(0) for d in source.draws)], axis=0)
        np.testing.assert_allclose(adjoint.v, expected, rtol=1e-12)
        lengths.append(len(source.draws))
    assert len(set(lengths)) > 1


# conjugate gradient


def test_conjugate_gradient_is_exact_in_dim_steps(quadratic):
    q = quadratic(dim=6)
    exact = np.linalg.solve(q.A, q.b)
    for start in (None, 10 * q.eigenvectors[:, 1] + 1.0):
        adjoint = solve(bl.ConjugateGradient(steps=6), q.A, q.b, start)
        np.testing.assert_allclose(adjoint.v, exact, rtol=1e-9)
        assert bool(adjoint.convex)
    error = np.linalg.norm(solve(bl.ConjugateGradient(steps=5), q.A, q.b).v - exact)
    assert error > 1e-6  # and not before


def test_conjugate_gradient_error_decays_with_the_root_of_the_condition(quadratic):
    """‖e_n‖_A ≤ 2 ((√κ − 1)/(√κ + 1))ⁿ ‖e_0‖_A."""
    q = quadratic(mu=0.02, L=4.0, dim=30)
    exact, root = np.linalg.solve(q.A, q.b), np.sqrt(q.L / q.mu)
    for n in (5, 15):
        e = solve(bl.ConjugateGradient(steps=n), q.A, q.b).v - exact
        assert np.sqrt(e @ q.A @ e) <= 2 * ((root - 1) / (root + 1)) ** n * np.sqrt(exact @ q.A @ exact)


def test_conjugate_gradient_from_a_warm_start(quadratic):
    method = bl.ConjugateGradient(steps=2)
    there = solve(method, np.diag([1.0, 2.0, 4.0]), np.array([3.0, 2.0, 4.0]), np.array([3.0, 1.0, 1.0]))  # no rounding
    np.testing.assert_array_equal(there.v, [3.0, 1.0, 1.0])
    assert samples(there.products) == [1]  # the residual alone

    q = quadratic()
    exact = np.linalg.solve(q.A, q.b)
    near = exact + 1e-3 * q.b
    warm, cold = (np.linalg.norm(solve(method, q.A, q.b, start).v - exact) for start in (near, None))
    assert warm < 1e-2 * cold


def test_conjugate_gradient_counts_its_products(quadratic):
    q = quadratic()
    for steps in (1, 4):
        assert samples(solve(bl.ConjugateGradient(steps=steps), q.A, q.b).products) == [steps + 1]


def _growing(t):
    return t + 1


def test_conjugate_gradient_may_take_more_steps_as_t_grows(quadratic):
    q = quadratic(mu=1.0, L=50.0)
    method = bl.ConjugateGradient(steps=_growing)
    for t in (0, 2):
        found, fixed = solve(method, q.A, q.b, t=t), solve(bl.ConjugateGradient(steps=t + 1), q.A, q.b)
        np.testing.assert_array_equal(found.v, fixed.v)
        assert samples(found.products) == samples(fixed.products) == [t + 2]  # one for the residual of the start


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_conjugate_gradient_stops_at_its_tolerance(quadratic, tolerance):
    q = quadratic(mu=0.02, L=4.0, dim=30)

    def residual(steps, tolerance):
        adjoint = solve(bl.ConjugateGradient(steps, tolerance), q.A, q.b)
        return np.linalg.norm(q.b - q.A @ adjoint.v) / np.linalg.norm(q.b), samples(adjoint.products)[0] - 1

    reached, taken = residual(60, tolerance)
    assert reached <= tolerance * (1 + 1e-8)
    assert taken < residual(60, tolerance / 10)[1] < 60
    assert residual(taken - 1, 0.0)[0] > tolerance  # not a step too many


def test_conjugate_gradient_of_zero_is_zero(quadratic):
    q = quadratic()
    adjoint = solve(bl.ConjugateGradient(steps=5), q.A, 0 * q.b)
    np.testing.assert_array_equal(adjoint.v, 0 * q.b)
    assert bool(adjoint.convex)
    np.testing.assert_allclose(solve(bl.ConjugateGradient(steps=6), q.A, 0 * q.b, q.b).v, 0, atol=1e-12)


@pytest.mark.parametrize("eigenvalue", [-1.0, 0.0])
def test_conjugate_gradient_flags_a_curvature_that_is_not_positive(eigenvalue):
    A = np.diag([eigenvalue, 1.0, 2.0])
    adjoint = solve(bl.ConjugateGradient(steps=5), A, np.array([1.0, 0.0, 0.0]))
    assert not bool(adjoint.convex)
    assert bool(jnp.isfinite(adjoint.v).all())
    late = solve(bl.ConjugateGradient(steps=5), np.diag([-0.1, 1.0, 2.0]), np.ones(3))
    assert not bool(late.convex)


def singular(rank=3, dim=8):
    """A singular H, a b in its range, and the shortest v with H v = b."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(rank, dim))
    v = half.T @ rng.normal(size=rank)
    return half.T @ half, half.T @ (half @ v), v


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_conjugate_gradient_knows_a_flat_direction_from_rounding(dtype, scale):
    """Rounding leaves a curvature of ± ε in it, along which a step is of any length."""
    A, b, v = singular()
    A, b, flat = (jnp.asarray(a, dtype) for a in (scale * A, scale * b, scale * np.ones(8)))
    for steps in (4, 8, 50):
        found = solve(bl.ConjugateGradient(steps), A, b)
        assert bool(found.convex)  # b has no part in the flat directions
        np.testing.assert_allclose(found.v, v, rtol=1e-3 if dtype == "float32" else 1e-9)
        assert not bool(solve(bl.ConjugateGradient(steps), A, flat).convex)
    late = jnp.asarray(scale * np.diag([1.0, 2.0, 3.0, 4.0, 0.0]), dtype)
    assert not bool(solve(bl.ConjugateGradient(20), late, jnp.asarray([1, 1, 1, 1, 0.01], dtype)).convex)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_conjugate_gradient_with_a_preconditioner(quadratic, power):
    """M = A^(−power): the steps of the plain method on M½ A M½, and for M = A⁻¹ one step."""
    q = quadratic(mu=1e-3, L=1e3, dim=8)
    M = jnp.asarray(q.eigenvectors * q.eigenvalues**-power @ q.eigenvectors.T)
    root = q.eigenvectors * q.eigenvalues ** (-power / 2) @ q.eigenvectors.T
    for steps in (1, 2, 3):
        found = solve(bl.ConjugateGradient(steps, preconditioner=lambda x, y, v: M @ v), q.A, q.b)
        plain = solve(bl.ConjugateGradient(steps), root @ q.A @ root, root @ q.b)
        np.testing.assert_allclose(found.v, root @ plain.v, rtol=1e-6)
        if power == 1:
            np.testing.assert_allclose(found.v, np.linalg.solve(q.A, q.b), rtol=1e-8)
    with pytest.raises(TypeError, match="preconditioner: got 3; pass a function"):
        bl.ConjugateGradient(3, preconditioner=3)


SERIES = (lambda step: bl.Neumann(30, step), lambda step: bl.FixedPoint(30, step))


@pytest.mark.parametrize("make", [*SERIES, lambda step: bl.RandomNeumann(30, step)])
def test_a_series_that_grows_is_told(quadratic, make):
    q = quadratic()
    for A, step, grows in (
        (q.A, 1.9, False),
        (q.A, 2.5, True),
        (q.A - 1.0 * np.eye(6), 1.0, True),
        (0 * q.A, 1, False),
    ):
        assert bool(solve(make(step / q.L), A, q.b).grew) == grows
    noisy = diagonal_level(noisy_rows(), 1)  # a batch may grow where their mean does not
    key, b = jax.random.key(0), jnp.ones(3)
    assert not bool(_solve(make(2.5), noisy, b, b, None, key, 0).grew)


def test_hypergradient_raises_on_a_curvature_that_is_not_positive():
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, _: jnp.sum(y)), lower=bl.Level(lambda x, y, _: x * jnp.sum(y) - jnp.sum(y**2))
    )
    with pytest.raises(ValueError, match=r"method: it found that .* curvature is not positive"):
        bl.hypergradient(problem, 1.0, jnp.zeros(2))


INDEFINITE = np.diag([4.0, 1.0, -2.0])


def test_conjugate_gradient_goes_on_through_negative_curvature_if_asked():
    b = np.array([1.0, 2.0, 3.0])
    assert not solve(bl.ConjugateGradient(steps=3), INDEFINITE, b).convex
    found = solve(bl.ConjugateGradient(steps=3, indefinite=True), INDEFINITE, b)
    assert found.convex
    assert samples(found.products) == [4]  # one for the start
    np.testing.assert_allclose(found.v, np.linalg.solve(INDEFINITE, b), rtol=1e-10)


def test_what_indefinite_computes_is_stationary_on_the_krylov_space():
    b, start = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 0.2])
    v = solve(bl.ConjugateGradient(steps=2, indefinite=True), INDEFINITE, b, start).v
    r = b - INDEFINITE @ start
    K = np.column_stack([r, INDEFINITE @ r])
    np.testing.assert_allclose(K.T @ (b - INDEFINITE @ v), 0, atol=1e-10)
    np.testing.assert_allclose(np.linalg.lstsq(K, v - start)[0] @ K.T, v - start, atol=1e-10)


def test_indefinite_stops_where_no_step_exists():
    found = solve(bl.ConjugateGradient(steps=5, indefinite=True), np.diag([1.0, -1.0]), np.ones(2))
    assert not found.convex
    np.testing.assert_array_equal(found.v, 0)


def test_indefinite_changes_nothing_where_H_is_positive():
    A = np.diag([4.0, 1.0, 0.5])
    b = np.array([1.0, 2.0, 3.0])
    plain, other = (solve(bl.ConjugateGradient(steps=2, indefinite=flag), A, b) for flag in (False, True))
    np.testing.assert_array_equal(plain.v, other.v)


def test_conjugate_gradient_of_nan_is_not_called_indefinite(quadratic):
    q = quadratic()
    adjoint = solve(bl.ConjugateGradient(steps=3), q.A, q.b * np.nan)
    assert bool(adjoint.convex)


def test_conjugate_gradient_of_a_tiny_right_hand_side():
    """The system is linear: its curvature does not depend on how small b is."""
    scale = 1e-18
    A, b = jnp.diag(jnp.array([1e-3, 2e-3, 5e-3], jnp.float32)), scale * jnp.array([1.0, 2.0, 3.0], jnp.float32)
    zero = jnp.zeros(3, jnp.float32)
    adjoint = _solve(bl.ConjugateGradient(steps=6), level_of(A), zero, b, zero, jax.random.key(0), 0)
    assert bool(adjoint.convex)
    np.testing.assert_allclose(adjoint.v / scale, np.array([1.0, 2.0, 3.0]) / np.diag(A), rtol=1e-4)


# the others


@pytest.mark.parametrize("steps", [1, 6])
def test_fixed_point_from_zero_is_the_series_and_from_elsewhere_contracts(quadratic, steps):
    q = quadratic()
    method = bl.FixedPoint(steps=steps, step=0.2)
    adjoint = solve(method, q.A, q.b)
    np.testing.assert_allclose(adjoint.v, series(q.A, q.b, 0.2, steps), rtol=1e-12)
    assert samples(adjoint.products) == [steps]
    start = q.eigenvectors[:, 2]
    shift = np.linalg.matrix_power(np.eye(q.dim) - 0.2 * q.A, steps) @ start
    np.testing.assert_allclose(solve(method, q.A, q.b, start).v, adjoint.v + shift, rtol=1e-10, atol=1e-12)


def test_direct_is_exact_on_a_tree(quadratic):
    q = quadratic(mu=1e-4, L=4.0)
    np.testing.assert_allclose(solve(bl.Direct(), q.A, q.b).v, np.linalg.solve(q.A, q.b), rtol=1e-8)

    A = jnp.asarray(q.A)

    def loss(x, y, _):
        flat = jnp.concatenate([y["a"], y["b"].ravel()])
        return 0.5 * flat @ (A @ flat)

    level = bl.Level(loss)
    b = {"a": jnp.asarray(q.b[:2]), "b": jnp.asarray(q.b[2:]).reshape(2, 2)}
    adjoint = _solve(bl.Direct(), level, b, b, b, jax.random.key(0), 0)
    exact = np.linalg.solve(q.A, q.b)
    np.testing.assert_allclose(adjoint.v["a"], exact[:2], rtol=1e-8)
    np.testing.assert_allclose(adjoint.v["b"].ravel(), exact[2:], rtol=1e-8)
    assert samples(adjoint.products) == [q.dim]


def test_direct_says_when_the_matrix_would_not_fit(quadratic):
    q = quadratic(dim=6)
    with pytest.raises(ValueError, match=r"Direct: y has 6 entries.*use bl.ConjugateGradient, or raise max_bytes"):
        solve(bl.Direct(max_bytes=6 * 6 * 8 - 1), q.A, q.b)
    solve(bl.Direct(max_bytes=6 * 6 * 8), q.A, q.b)


def test_batch_sizes_of_proposition_3():
    assert bl.neumann_batch_sizes(50, 3, 0.5, 0.2) == (150, 135, 122)
    assert bl.neumann_batch_sizes(10, 2, 0.5, 1.0) == (20, 10)  # whole sizes are not rounded up
    with pytest.raises(ValueError, match=r"step: got 2\.0 with strong_convexity 0.5"):
        bl.neumann_batch_sizes(10, 2, 2.0, 0.5)


def test_a_warm_start_survives_a_right_hand_side_that_vanishes():
    level = bl.Level(lambda x, y, _: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * y**2))
    start = jnp.ones(3)
    for size in (1e-30, 1e-25, 1e-5):
        rhs = size * jnp.array([1.0, 2.0, 3.0])
        found = bl.ConjugateGradient(steps=5).solve(
            HessianOperator(level, jnp.zeros(()), start, level.all_rows()), rhs, start, key=jax.random.key(0)
        )
        assert bool(found.convex)
        np.testing.assert_allclose(found.v, rhs / jnp.array([2.0, 4.0, 6.0]), atol=1e-6)
