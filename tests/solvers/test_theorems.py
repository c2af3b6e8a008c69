"""What theorems prescribe: their numbers by hand, and what they prove on quadratics whose constants are exact."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

NU = 0.5
TARGET = np.array([0.3, -0.2])
X, Y = np.array([1.0, -1.0]), np.array([0.5, 0.0])
ONES = bl.Bounds(mu=1.0, L=1.0, M=1.0)


@pytest.fixture(autouse=True)
def _in_float64(x64):
    pass


@dataclass(frozen=True)
class Quadratic:
    """f = ½‖y − target‖² + ½ν‖x‖² and g = ½yᵀHy − yᵀBx, with H of these curvatures and B a scaled rotation.

    Each row's gradients differ from their mean in y by a vector of length `spread`.
    """

    curvatures: tuple[float, float] = (1.0, 1.0)
    coupling: float = 0.5
    spread: float = 0.01

    @property
    def H(self):
        return np.diag(self.curvatures)

    @property
    def B(self):
        return self.coupling * np.array([[0.6, -0.8], [0.8, 0.6]])

    @property
    def map(self):
        """y*(x) = `map` x."""
        return np.linalg.solve(self.H, self.B)

    def upper_loss(self, x, y, batch):
        return 0.5 * y @ y - y @ jnp.mean(batch, 0) + 0.5 * NU * x @ x

    def lower_loss(self, x, y, batch):
        return 0.5 * y @ jnp.asarray(self.H) @ y - y @ (jnp.asarray(self.B) @ x + jnp.mean(batch, 0))

    def problem(self, batches=(1, 1)):
        angles = 2 * np.pi * np.arange(8) / 8
        noise = self.spread * np.tile(np.stack([np.cos(angles), np.sin(angles)], 1), (1024, 1))
        return bl.Problem(
            bl.Level(self.upper_loss, data=jnp.asarray(TARGET + noise), batch_size=batches[0]),
            bl.Level(self.lower_loss, data=jnp.asarray(noise), batch_size=batches[1]),
        )

    def bounds(self, **changes):
        """∇²f has the norm 1, and ∇f stays below 1 in the runs."""
        curvature = np.block([[np.zeros((2, 2)), -self.B.T], [-self.B, self.H]])
        L = max(1.0, np.abs(np.linalg.eigvalsh(curvature)).max())
        return bl.Bounds(**{"mu": min(self.curvatures), "L": L, "M": 1.0, **changes})

    def value(self, x):
        y = x @ self.map.T
        return 0.5 * (y * y).sum(-1) - y @ TARGET + 0.5 * NU * (x * x).sum(-1)

    def slope(self, x):
        return NU * x + (x @ self.map.T - TARGET) @ self.map

    def squares(self, x):
        """The mean of ‖∇Φ‖² over x_0, …, x_{K−1}."""
        with np.errstate(all="ignore"):
            return np.mean(np.sum(self.slope(x[:-1]) ** 2, 1))

    def adjoint(self, x):
        return np.linalg.solve(self.H, (x @ self.map.T - TARGET).T).T

    @functools.cached_property
    def lowest(self):
        A = self.map
        return float(self.value(np.linalg.solve(NU * np.eye(2) + A.T @ A, A.T @ TARGET)))

    @property
    def start(self):
        """‖∇Φ(x_0)‖²: a bound that is not below it says nothing."""
        return float(np.sum(self.slope(X) ** 2))

    @property
    def gap(self):
        return float(self.value(X)) - self.lowest

    @property
    def distance(self):
        return float(np.sum((Y - X @ self.map.T) ** 2))

    @property
    def adjoint_distance(self):
        return float(np.sum(self.adjoint(X) ** 2))


PLAIN, CURVED = Quadratic(), Quadratic((1.0, 4.0))
GAP, LOWER, ADJOINT = PLAIN.gap, PLAIN.distance, PLAIN.adjoint_distance


def run(prescribed, levels, steps=None, seed=0, of=("x", "y")):
    """The iterates x_0, …, x_K and y_0, …, y_K, or other parts of the state."""
    solver, key = prescribed.solver, jax.random.key(seed)
    state, _ = solver.init(levels, jnp.asarray(X), jnp.asarray(Y), key=key)

    def parts(state):
        return tuple(getattr(state, name) for name in of)

    def step(state, t):
        new, _ = solver.step(levels, state, t, key=jax.random.fold_in(key, t))
        return new, parts(state)

    state, points = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps or prescribed.steps)))(state)
    return [np.concatenate([found, last[None]]) for found, last in zip(points, parts(state), strict=True)]


def test_the_smoothness_of_the_upper_level():
    curved = bl.Bounds(mu=2.0, L=4.0, M=3.0, tau=5.0, rho=7.0)
    assert curved.smoothness == 4 + (32 + 45) / 2 + (84 + 64 + 60) / 4 + 7 * 16 * 3 / 8
    assert curved.bias == 4 + 16 / 2 + 15 / 2 + 84 / 4
    for q in (PLAIN, CURVED):
        assert np.linalg.eigvalsh(NU * np.eye(2) + q.map.T @ q.map)[-1] <= q.bounds().smoothness


@pytest.mark.parametrize("made", [bl.AIDBiO, bl.ITDBiO])
def test_deterministic_bounds(made):
    """With κ = 4, so that the lower loop does not end at y*."""
    amounts = {"accuracy": CURVED.start / 4, "gap": CURVED.gap, "distance": CURVED.distance + CURVED.adjoint_distance}
    found = made.from_theorem(CURVED.bounds(), **amounts)
    levels = CURVED.problem((None, None))
    x, y = run(found, levels)
    assert 0 < CURVED.squares(x) <= found.bound < CURVED.start
    assert np.sum(CURVED.slope(x[-1]) ** 2) < 1e-6 * CURVED.start
    assert np.sum((y[1] - x[0] @ CURVED.map.T) ** 2) > 1e-12
    # constants that are not true
    wrong = made.from_theorem(bl.Bounds(mu=0.01, L=0.1, M=0.1), **amounts)
    assert not CURVED.squares(run(wrong, levels, steps=2000)[0]) <= found.bound


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
    constants = PLAIN.bounds(sigma_f=PLAIN.spread, sigma_g=PLAIN.spread)
    found = bl.StocBiO.from_theorem(constants, accuracy=0.5, gap=GAP, distance=LOWER)
    levels = PLAIN.problem((found.upper_batch, found.lower_batch))
    x, y = run(found, levels)
    assert PLAIN.squares(x) <= found.bound < 0.6 * PLAIN.start
    assert NU**2 * np.max(np.sum(x**2, 1)) + np.max(np.sum((y - TARGET) ** 2, 1)) < (1 - PLAIN.spread) ** 2  # M
    wrong = bl.StocBiO.from_theorem(bl.Bounds(mu=0.01, L=0.02, M=0.01), accuracy=0.5, gap=GAP, distance=LOWER)
    assert not PLAIN.squares(run(wrong, levels, steps=500)[0]) <= found.bound


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


WEAK = Quadratic(coupling=1e-4, spread=1e-4)
"""A sample of the hypergradient differs by its k, by √K ‖B‖ ‖F_y‖ or so, and the bound grows with c² times its square:
it is below the start only where the levels hardly depend on each other."""


def test_the_bound_of_sustain():
    constants = WEAK.bounds(sigma_f=3e-4, sigma_g=WEAK.spread)
    amounts = {"steps": 100_000, "gap": WEAK.gap, "distance": WEAK.distance}
    found = bl.SUSTAIN.from_theorem(constants, **amounts)
    assert found.bound < WEAK.start
    x, y = run(found, WEAK.problem())
    largest = np.linalg.norm(y - TARGET, axis=1).max()  # of F_y
    samples = math.sqrt(found.solver.neumann_order) * WEAK.coupling * largest
    assert samples + WEAK.spread <= constants.sigma_f
    assert 0 < WEAK.squares(x) <= found.bound
    late = bl.SUSTAIN.from_paper(offset=1e15, c_beta=1.0, c_upper=1.0, c_lower=1.0, neumann_order=1, neumann_step=0.5)
    x, _ = run(bl.Prescribed(solver=late, steps=found.steps, bound=0.0), WEAK.problem())
    assert not WEAK.squares(x) <= found.bound


def test_the_bound_of_sustain_on_a_convex_problem():
    constants = PLAIN.bounds(sigma_f=0.2, sigma_g=PLAIN.spread)
    amounts = {"steps": 300_000, "gap": GAP, "distance": LOWER}
    convex = bl.SUSTAIN.from_convex_theorem(constants, **amounts, convexity=0.75)
    assert convex.bound < 0.75 * GAP
    x, _ = run(convex, PLAIN.problem())
    assert 0 < PLAIN.value(x[-1]) - PLAIN.lowest <= convex.bound
    assert PLAIN.value(x[convex.steps // 10]) - PLAIN.lowest > convex.bound


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


def test_the_descent_of_fsla():
    """(29), on which the theorem rests, in each step. The bound itself says nothing, here or for all constants 1."""
    q, constants, amounts = PLAIN, PLAIN.bounds(), {"gap": GAP, "distance": LOWER, "adjoint_distance": ADJOINT}
    found = bl.FSLA.from_theorem(constants, steps=2 * 10**9, **amounts)
    assert found.bound > bl.FSLA.from_theorem(ONES, steps=2 * 10**9, **amounts).bound > 100

    def fall(factor):
        """How much more the potential falls in each step than (29) says, with `factor` times the theorem's α."""

        def alpha(k):
            return factor * found.solver.upper_step.rate(k)

        rates = (rule.rate for rule in (found.solver.lower_step, found.solver.adjoint_step))
        solver = bl.FSLA(alpha, *rates, storm_weight=found.solver.storm_weight)
        x, y, v, d = run(bl.Prescribed(solver=solver, steps=500, bound=0.0), q.problem((None, None)), of="xyvd")
        one = constants.L**2  # Γ_1², of which Γ_2² is twice
        terms = 2 * one * (y - x @ q.map.T) ** 2 + 4 * one * (v - q.adjoint(x)) ** 2
        C = (NU * x + v @ q.B - d) ** 2
        potential = q.value(x) + terms.sum(1) + C.sum(1) * constants.smoothness / (8 * one)
        expected = np.array([float(alpha(k)) / 2 for k in range(500)]) * np.sum(q.slope(x[:-1]) ** 2, 1)
        return -np.diff(potential) - expected

    assert (fall(1.0) > 0).all()
    assert (fall(1e7) < 0).any()


BOREP = {"accuracy": 0.5, "failure": 0.1, "gap": GAP, "slope": PLAIN.start**0.5}


def test_the_lower_level_of_borep():
    """Lemma D.3, on which the theorem rests: ‖y_k − y*(x_k)‖ ≤ ε/(4K_0) here for k < 40."""
    constants = PLAIN.bounds(sigma_f=3.5, sigma_g=PLAIN.spread)
    found = bl.BOREP.from_theorem(constants, **BOREP, lower_gap=LOWER / 2, adjoint_distance=ADJOINT)
    x, y = run(found, PLAIN.problem(), steps=40)
    errors = np.linalg.norm(y[:-1] - x[:-1] @ PLAIN.map.T, axis=1)
    assert errors.max() <= float(found.solver.radius(0))
    careless = bl.BOREP(found.solver.upper_step.rate(0), 1e-4, found.solver.adjoint_step.rate(0), inner_steps=1)
    x, y = run(bl.Prescribed(solver=careless, steps=40, bound=0.0), PLAIN.problem())
    assert np.linalg.norm(y - x @ PLAIN.map.T, axis=1).max() > float(found.solver.radius(0))


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
            lambda: bl.BOREP.from_theorem(PLAIN.bounds(sigma_g=1.0), **BOREP, lower_gap=1.0, adjoint_distance=1.0),
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
