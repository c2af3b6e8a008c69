"""What theorems prescribe: their numbers by hand, and their bounds on a quadratic whose constants are exact."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

NU, SPREAD = 0.5, 0.01
B = 0.5 * np.array([[0.6, -0.8], [0.8, 0.6]])  # half a rotation
TARGET = np.array([0.3, -0.2])
X, Y = np.array([1.0, -1.0]), np.array([0.5, 0.0])
ONES = bl.Bounds(mu=1.0, L=1.0, M=1.0)


@pytest.fixture(autouse=True)
def _in_float64(x64):
    pass


def upper_loss(x, y, batch):
    return 0.5 * y @ y - y @ jnp.mean(batch, 0) + 0.5 * NU * x @ x


def lower_loss(x, y, batch):
    return 0.5 * y @ y - y @ (jnp.asarray(B) @ x + jnp.mean(batch, 0))


def problem(batches=(1, 1)):
    """H = I and J = −Bᵀ; each row's gradients differ from their mean, zero, by a vector of length SPREAD."""
    angles = 2 * np.pi * np.arange(8) / 8
    noise = SPREAD * np.tile(np.stack([np.cos(angles), np.sin(angles)], 1), (1024, 1))
    return bl.Problem(
        bl.Level(upper_loss, data=jnp.asarray(TARGET + noise), batch_size=batches[0]),
        bl.Level(lower_loss, data=jnp.asarray(noise), batch_size=batches[1]),
    )


def bounds(**changes):
    """∇²g = (0, −Bᵀ; −B, I) has the norm (1 + √2)/2, ∇²f has the norm 1, and ∇f stays below 1 in the runs."""
    return bl.Bounds(**{"mu": 1.0, "L": (1 + math.sqrt(2)) / 2, "M": 1.0, **changes})


def value(x):
    y = x @ B.T
    return 0.5 * (y * y).sum(-1) - y @ TARGET + 0.5 * NU * (x * x).sum(-1)


def slope(x):
    return NU * x + (x @ B.T - TARGET) @ B


BEST = np.linalg.solve(NU * np.eye(2) + B.T @ B, B.T @ TARGET)
GAP = float(value(X) - value(BEST))
LOWER = float(np.sum((Y - B @ X) ** 2))
ADJOINT = float(np.sum((B @ X - TARGET) ** 2))


def run(prescribed, levels, steps=None, seed=0):
    """The iterates x_0, …, x_K and y_0, …, y_K."""
    solver, key = prescribed.solver, jax.random.key(seed)
    state, _ = solver.init(levels, jnp.asarray(X), jnp.asarray(Y), key=key)

    def step(state, t):
        new, _ = solver.step(levels, state, t, key=jax.random.fold_in(key, t))
        return new, (state.x, state.y)

    state, points = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps or prescribed.steps)))(state)
    x, y = (np.concatenate([found, last[None]]) for found, last in zip(points, (state.x, state.y), strict=True))
    return x, y


def mean_square(x):
    with np.errstate(all="ignore"):
        return np.mean(np.sum(slope(x[:-1]) ** 2, 1))


def test_the_smoothness_of_the_upper_level():
    curved = bl.Bounds(mu=2.0, L=4.0, M=3.0, tau=5.0, rho=7.0)
    assert curved.smoothness == 4 + (32 + 45) / 2 + (84 + 64 + 60) / 4 + 7 * 16 * 3 / 8
    assert curved.bias == 4 + 16 / 2 + 15 / 2 + 84 / 4
    assert np.linalg.eigvalsh(NU * np.eye(2) + B.T @ B)[-1] <= bounds().smoothness


@pytest.mark.parametrize("made", [bl.AIDBiO, bl.ITDBiO])
def test_deterministic_bounds(made):
    amounts = {"accuracy": 0.02, "gap": GAP, "distance": LOWER + ADJOINT}
    found = made.from_theorem(bounds(), **amounts)
    x, _ = run(found, problem((None, None)))
    assert 0 < mean_square(x) <= found.bound == 0.02
    assert np.sum(slope(x[-1]) ** 2) < 1e-6 * np.sum(slope(X) ** 2)
    # constants that are not true
    wrong = made.from_theorem(bl.Bounds(mu=0.01, L=0.1, M=0.1), **amounts)
    assert not mean_square(run(wrong, problem((None, None)), steps=2000)[0]) <= found.bound


def test_deterministic_numbers():
    aid = bl.AIDBiO.from_theorem(bl.Bounds(mu=1.0, L=4.0, M=1.0), accuracy=0.5, gap=2.0, distance=3.0)
    smoothness = 4 + 32 + 64
    assert float(aid.solver.upper_step.rate(0)) == 1 / (8 * smoothness)
    assert (aid.solver.inner_steps, aid.solver.adjoint.steps) == (4, 2)
    assert aid.steps == (64 * smoothness * 2 + 15) / 0.5
    itd = bl.ITDBiO.from_theorem(bl.Bounds(mu=1.0, L=4.0, M=1.0, rho=1.0), accuracy=0.5, gap=2.0, distance=3.0)
    assert float(itd.solver.upper_step.rate(0)) == 1 / (4 * (4 + 32 + 4 + 64 + 16))
    largest = max(12.0, 27 * 16 * 25, 36 * 3 * 16 / 0.75)
    assert itd.solver.inner_steps == math.ceil(math.log(9 * largest) / math.log(4 / 3))
    assert itd.steps == 16 * 120 * 2 * 3 / 0.5


def test_stochastic_bounds():
    constants = bounds(sigma_f=SPREAD, sigma_g=SPREAD)
    found = bl.StocBiO.from_theorem(constants, accuracy=0.5, gap=GAP, distance=LOWER)
    levels = problem((found.upper_batch, found.lower_batch))
    x, y = run(found, levels)
    assert found.bound < 0.6 * np.sum(slope(X) ** 2)
    assert mean_square(x) <= found.bound
    assert NU**2 * np.max(np.sum(x**2, 1)) + np.max(np.sum((y - TARGET) ** 2, 1)) < (1 - SPREAD) ** 2  # M
    wrong = bl.StocBiO.from_theorem(bl.Bounds(mu=0.01, L=0.02, M=0.01), accuracy=0.5, gap=GAP, distance=LOWER)
    assert not mean_square(run(wrong, levels, steps=500)[0]) <= found.bound


def test_the_six_terms_of_stocbio():
    constants = bl.Bounds(mu=1.0, L=2.0, M=1.0, sigma_g=0.5)
    found = bl.StocBiO.from_theorem(constants, accuracy=6.0, gap=1.0, distance=2.0)
    solver, smoothness, C = found.solver, 2 + 8 + 8, 2 + 4
    Q, sizes = solver.neumann_order, solver.hessian_batch_sizes
    assert 52 * 4 * 0.75 ** (2 * Q) <= 1 < 52 * 4 * 0.75 ** (2 * Q - 2)
    assert found.steps == 32 * smoothness * 6
    assert (found.lower_batch, solver.cross_batch_size, found.upper_batch) == (40 * C**2 / 8, 88, 96)
    assert sizes[0] == 176 * Q and sizes[1] == math.ceil(176 * Q * 0.75)
    assert (float(solver.lower_step.rate(0)), float(solver.neumann_step(0))) == (2 / 3, 0.25)
    beta = 1 / (4 * smoothness)
    most = max(math.log(12 + 48 * beta**2 * 4 * C**2) / (2 * math.log(3)), math.log(beta**0.5 * C) / math.log(3))
    assert solver.inner_steps == math.ceil(most)


def test_the_constants_of_29():
    found = bl.SUSTAIN.from_theorem(ONES, steps=100, gap=1.0, distance=2.0)
    c_g = 1 / 12 + 8 * 1152 + 136 * 1152  # the largest of the six in w
    solver, w = found.solver, c_g**1.5
    assert solver.neumann_order == 5  # log 100
    assert float(solver.upper_step.rate(8)) == pytest.approx((w + 8) ** (-1 / 3))
    assert float(solver.lower_step.rate(8)) == pytest.approx(24 * math.sqrt(2) * (w + 8) ** (-1 / 3))
    assert float(solver.lower_storm_weight(9)) == pytest.approx(c_g * (w + 8) ** (-2 / 3))
    assert float(solver.upper_storm_weight(9)) == pytest.approx((1 / 12 + 36864) * (w + 8) ** (-2 / 3))
    assert float(solver.lower_storm_weight(0)) == float(solver.upper_storm_weight(0)) == 1
    last = (w + 100) ** (1 / 3)
    expected = (2 + 4 * 2 / (3 * math.sqrt(2)) * 2) * last / 100
    expected += 4 * last / 100 * sum((w + t) ** (-1 / 3) for t in range(101)) / 100**2
    assert found.bound == pytest.approx(expected)


def test_noise_in_the_bound_of_sustain():
    noisy = bl.Bounds(mu=1.0, L=1.0, M=1.0, sigma_f=0.1, sigma_g=0.2)
    clean, found = (bl.SUSTAIN.from_theorem(b, steps=100, gap=1.0, distance=2.0) for b in (ONES, noisy))
    c_f, c_g, bar_f, bar_g = 1 / 12 + 36864, 1 / 12 + 144 * 1152, 36864, 1152
    w = c_g**1.5
    log = 4 * math.log(101)
    added = (2 * w ** (1 / 3) + log * c_f**2) * 0.01 / bar_f + (2 * w ** (1 / 3) + log * c_g**2) * 0.04 / bar_g
    assert found.bound - clean.bound == pytest.approx(added * (w + 100) ** (1 / 3) / 100)


def test_the_bound_of_sustain():
    constants = bounds(sigma_f=0.2, sigma_g=SPREAD)  # a sample of the hypergradient differs by its k, too
    found = bl.SUSTAIN.from_theorem(constants, steps=2000, gap=GAP, distance=LOWER)
    x, _ = run(found, problem())
    assert mean_square(x) <= found.bound
    convex = bl.SUSTAIN.from_convex_theorem(constants, steps=2000, gap=GAP, distance=LOWER, convexity=0.75)
    x, _ = run(convex, problem())
    assert 0 < value(x[-1]) - value(BEST) <= convex.bound
    assert value(x[-1]) < value(X)


def test_the_constants_of_sustain_on_a_convex_problem():
    found = bl.SUSTAIN.from_convex_theorem(ONES, steps=100, gap=1.0, distance=2.0, convexity=0.5)
    c, L_K = 8 + 32 + 1, 32  # L = 2, L_f = 4; L_K squared
    alpha = min(1 / 1.5, 1 / (2 * c), 1 / c, 1 / (8 * L_K + 4), (4 + 2) / (4 * L_K * c**2))
    solver = found.solver
    assert float(solver.upper_step.rate(0)) == pytest.approx(alpha)
    assert float(solver.lower_step.rate(0)) == pytest.approx(c * alpha)
    assert float(solver.upper_storm_weight(1)) == pytest.approx(1.5 * alpha)
    assert found.bound == pytest.approx((1 - 0.5 * alpha) ** 100 * 3 + 2 / 100 / 0.5)


def test_the_constants_of_fsla():
    found = bl.FSLA.from_theorem(ONES, steps=100, gap=1.0, distance=2.0, adjoint_distance=3.0)
    c_tau = (2 * 128 * 2 * 16 + 2 * 128 * 2 + 4 * 770**2) / (128 * 2)  # γ_v = 128, γ_ω = 16, L_f = 4
    terms = (
        1 / 16,
        4 * 770 / (24 * 128**2 + 32 * 770**2),
        4 * 17 / (2 * (2 * c_tau**2 + 4 * 770**2 * 6) + 4),
        1 / 2,
        1 / 770,
        1 / c_tau,
        1 / c_tau,
    )
    delta = 0.99 * min(terms)
    rates = [float(rule.rate(3)) for rule in (found.solver.upper_step, found.solver.lower_step)]
    assert rates == pytest.approx([delta / 2, c_tau * delta / 2])
    assert float(found.solver.adjoint_step.rate(3)) == pytest.approx(770 * delta / 2)
    assert float(found.solver.storm_weight(3)) == pytest.approx(2 * delta / 2)
    assert found.bound == pytest.approx(2 * (1 + 2 * 2 + 4 * 3) / (delta * 10))
    noisy = bl.Bounds(mu=1.0, L=1.0, M=1.0, sigma_h=0.1)
    noisy = bl.FSLA.from_theorem(noisy, steps=100, gap=1.0, distance=2.0, adjoint_distance=3.0)
    C = 2 * (2 * c_tau**2 + 8 * 770**2 + 2 * 4) / 2 + 8 * 770**2 + 2 * c_tau**2
    added = 2 * 0.02 / 2 / delta + 2 * delta * C * 0.01 * math.log(101)
    assert noisy.bound - found.bound == pytest.approx(added / 10, rel=1e-6)


def test_the_bound_of_fsla():
    constants = bounds(sigma_f=SPREAD, sigma_g=SPREAD)
    found = bl.FSLA.from_theorem(constants, steps=2000, gap=GAP, distance=LOWER, adjoint_distance=ADJOINT)
    x, _ = run(found, problem())
    assert mean_square(x) <= found.bound and value(x[-1]) < value(X)


BOREP = {"accuracy": 0.5, "failure": 0.1, "gap": GAP, "slope": float(np.linalg.norm(slope(X)))}


def test_the_lower_level_of_borep():
    """Lemma D.3, on which the theorem rests: ‖y_k − y*(x_k)‖ ≤ ε/(4K_0) here for k < 40."""
    constants = bounds(sigma_f=3.5, sigma_g=SPREAD)
    found = bl.BOREP.from_theorem(constants, **BOREP, lower_gap=LOWER / 2, adjoint_distance=ADJOINT)
    x, y = run(found, problem(), steps=40)
    errors = np.linalg.norm(y[:-1] - x[:-1] @ B.T, axis=1)
    assert errors.max() <= float(found.solver.radius(0))
    assert np.linalg.norm(slope(x[:-1]), axis=1).mean() <= found.bound
    careless = bl.BOREP(found.solver.upper_step.rate(0), 1e-4, found.solver.adjoint_step.rate(0), inner_steps=1)
    x, y = run(bl.Prescribed(solver=careless, steps=40, bound=0.0), problem())
    assert np.linalg.norm(y - x @ B.T, axis=1).max() > float(found.solver.radius(0))


def test_the_numbers_of_borep():
    constants = bl.Bounds(mu=1.0, L=1.0, M=1.0, sigma_f=4.0, sigma_g=2.0, sigma_h=1.0)
    K_0 = 2 * math.sqrt(2)
    amounts = {"failure": 0.1, "gap": 1.0, "slope": 2.0, "lower_gap": 3.0, "adjoint_distance": 4.0}
    found = bl.BOREP.from_theorem(constants, accuracy=0.5, **amounts)
    fresh, period = 0.25 / 18 / 32, 128  # σ_f² + 2M²σ_h²/μ² = 18; (2 K_0/0.5)²
    eta = min(min(0.5 / K_0, 1 / 2, 0.5 / 4) * fresh / 8, 0.5 / (8 * K_0 * period))
    steps = math.ceil(4 / (eta * 0.5))
    log = math.log(2 * steps / (0.1 * period))
    lam = max(math.sqrt(3 * log), log)
    solver = found.solver
    assert (solver.update_period, found.steps, found.bound) == (period, steps, 15)
    assert float(solver.upper_step.rate(0)) == pytest.approx(eta)
    assert float(solver.adjoint_step.rate(0)) == pytest.approx(fresh) == pytest.approx(1 - float(solver.momentum(0)))
    assert float(solver.radius(0)) == pytest.approx(0.5 / (4 * K_0))
    gamma = 0.25 / (512 * 8 * 4 * math.sqrt(lam + 1) * (lam + math.sqrt(lam + 1)))
    assert float(solver.lower_step.rate(0)) == pytest.approx(gamma)
    assert solver.inner_steps == math.ceil(64**2 * 4 * 8 * (lam + math.sqrt(lam + 1)) ** 2 / 0.25)
    assert len(solver.initial.lengths) == math.ceil(math.log2(128 * 3 * 8 / 0.25))
    relaxed = bl.BOREP.from_theorem(constants, accuracy=0.5, relaxed=1.0, **amounts).solver
    K_0, K_1 = math.sqrt(2) * 4, math.sqrt(2)
    assert float(relaxed.radius(0)) == pytest.approx(0.5 / (4 * K_0))
    fresh = 0.25 / 18 / 32
    period = round((2 * K_0 / 0.5) ** 2)
    eta = min(min(0.5 / K_0, 1 / K_1, 0.5, 0.125) * fresh / 8, 1 / math.sqrt(8), 0.5 / (8 * K_0 * period))
    assert float(relaxed.upper_step.rate(0)) == pytest.approx(eta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bl.Bounds(mu=2.0, L=1.0, M=1.0), r"L: got 1.0 with mu=2.0"),
        (lambda: bl.Bounds(mu=0.0, L=1.0, M=1.0), "mu: got 0.0"),
        (lambda: bl.Bounds(mu=1.0, L=1.0, M=1.0, tau=-1.0), "tau: got -1.0"),
        (lambda: bl.AIDBiO.from_theorem(ONES, accuracy=0.0, gap=1.0, distance=1.0), "accuracy: got 0.0"),
        (lambda: bl.SUSTAIN.from_theorem(ONES, steps=0, gap=1.0, distance=1.0), "steps: got 0"),
        (
            lambda: bl.BOREP.from_theorem(ONES, **BOREP, lower_gap=1.0, adjoint_distance=1.0),
            "bounds.sigma_g: got 0.0",
        ),
        (
            lambda: bl.BOREP.from_theorem(bounds(sigma_g=1.0), **BOREP, lower_gap=1.0, adjoint_distance=1.0),
            "accuracy: got 0.5, but the theorem takes at most 0",
        ),
        (
            lambda: bl.ITDBiO.from_theorem(
                bl.Bounds(mu=1.0, L=1.0, M=1.0, rho=1.0), accuracy=0.1, gap=1.0, distance=1.0
            ),
            "bounds: L = mu",
        ),
    ],
)
def test_what_cannot_be_prescribed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
