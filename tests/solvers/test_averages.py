"""Averages over iterations against their theory, on streams whose errors are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.solvers.averages import at_both, moving_average, storm

DIM, SEEDS, STEPS, WEIGHT = 4, 2000, 40, 0.2


def between(estimate, old, new, weight):
    """`storm` of a sample that gives the point itself."""
    return storm(estimate, lambda z: z, (new,), (old,), weight)


def test_formulas():
    e, old, new = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([0.5, -1.0])}, {"a": jnp.array([3.0, 4.0])}
    np.testing.assert_allclose(between(e, old, new, 0.25)["a"], [3 + 0.75 * 0.5, 4 + 0.75 * 3])
    np.testing.assert_allclose(moving_average(e, new, 0.25)["a"], [0.75 + 0.75, 1.5 + 1.0])
    for average in (lambda w: between(e, old, new, w), lambda w: moving_average(e, new, w)):
        np.testing.assert_array_equal(average(1.0)["a"], new["a"])  # the weight is the fresh sample's
        np.testing.assert_array_equal(average(2.5)["a"], new["a"])  # and clipped


def test_at_both_sees_the_same_draws():
    key = jax.random.key(0)
    calls = []

    def sample(x, y):
        calls.append(1)
        noise = jax.random.normal(key, x["a"].shape)
        k = jax.random.randint(key, (), 1, 5)
        return {"g": x["a"] * y + noise}, k

    new, old = ({"a": jnp.ones(3)}, jnp.array(2.0)), ({"a": jnp.arange(3.0)}, jnp.array(-1.0))
    (at_new, k_new), (at_old, k_old) = at_both(sample, new, old)
    assert len(calls) == 1  # one batched pass
    np.testing.assert_array_equal(at_new["g"], sample(*new)[0]["g"])
    np.testing.assert_array_equal(at_old["g"], sample(*old)[0]["g"])
    _, ks = storm(at_old, sample, new, old, 0.3, has_aux=True)
    assert ks == (k_new, k_old)
    np.testing.assert_allclose(at_new["g"] - at_old["g"], 2.0 + np.arange(3), atol=1e-6)
    assert k_new == k_old


def stream(drift, gradient_noise):
    """Squared errors (method, step, seed) about the gradient A x_t of x_t = t · drift.

    A sample at x is (A + gradient_noise · D) x + n with fresh diagonal D and n of unit variance.
    """
    A = jnp.diag(jnp.linspace(0.5, 2.0, DIM))
    direction = jnp.ones(DIM) / 2.0

    def run(key):
        def body(carry, t):
            ema, d, previous = carry
            x = drift * t * direction

            def sample(x):
                noise = jax.random.normal(jax.random.fold_in(key, t), (2, DIM))
                return A @ x + gradient_noise * noise[0] * x + noise[1]

            weight = jnp.where(t == 0, 1.0, WEIGHT)
            new = sample(x)
            ema, d = moving_average(ema, new, weight), storm(d, sample, (x,), (previous,), weight)
            errors = jnp.stack([jnp.sum((g - A @ x) ** 2) for g in (new, ema, d)])
            return (ema, d, x), errors

        start = (jnp.zeros(DIM), jnp.zeros(DIM), jnp.zeros(DIM))
        return jax.lax.scan(body, start, jnp.arange(STEPS))[1]

    errors = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), SEEDS))
    return np.asarray(errors).transpose(2, 1, 0)


def within(samples, expected):
    """Means over seeds equal to what is expected within five standard errors."""
    error = samples.std(-1) / np.sqrt(samples.shape[-1])
    np.testing.assert_array_less(abs(samples.mean(-1) - expected), 5 * error + 1e-6)


def test_errors_of_a_drifting_point_are_the_theorys():
    """Additive noise: STORM's error forgets the drift and is that of a geometric average of the noise.

    e_t = (1 − η) e_{t−1} + η n_t, so E‖e_t‖² falls from d to the plateau d η/(2 − η). A moving average adds
    to the same variance the square of its lag, A Δ (1 − η)/η (1 − (1 − η)^t).
    """
    drift = 0.5
    plain, ema, recursive = stream(drift, gradient_noise=0.0)
    decay = (1 - WEIGHT) ** np.arange(STEPS)
    variance = DIM * (decay**2 + (1 - decay**2) * WEIGHT / (2 - WEIGHT))
    lag = np.linalg.norm(np.linspace(0.5, 2.0, DIM) * drift / 2) * (1 - WEIGHT) / WEIGHT * (1 - decay)
    within(plain, DIM)
    within(recursive, variance)
    within(ema, variance + lag**2)
    assert recursive.mean(-1)[-1] < plain.mean(-1)[-1] / 8
    assert recursive.mean(-1)[-1] < ema.mean(-1)[-1] / 10


def test_storm_is_within_its_recursive_bound():
    """E‖e_t‖² ≤ (1 − η)² E‖e_{t−1}‖² + 2η² σ_t² + 2(1 − η)² L² ‖Δ‖² with multiplicative noise as well."""
    drift, noise = 0.1, 0.3
    _, _, recursive = stream(drift, noise)
    error, spread = recursive.mean(-1), recursive.std(-1) / np.sqrt(SEEDS)
    t = np.arange(1, STEPS)
    sigma = DIM + noise**2 * (drift * t) ** 2
    bound = (1 - WEIGHT) ** 2 * error[:-1] + 2 * WEIGHT**2 * sigma + 2 * (1 - WEIGHT) ** 2 * noise**2 * drift**2
    assert (error[1:] <= bound + 4 * spread[1:]).all()
    assert error[-1] < DIM / 4


def test_weights_are_clipped():
    old, new = jnp.ones(2), 3 * jnp.ones(2)
    for weight, same in ((1.7, 1.0), (-0.3, 0.0)):
        assert (between(old, old, new, weight) == between(old, old, new, same)).all()
        assert (moving_average(old, new, weight) == moving_average(old, new, same)).all()
