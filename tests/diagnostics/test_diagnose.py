"""`diagnose`: its numbers against closed forms, and each finding on a problem with only that fault, with its remedy."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.diagnostics import findings, reference
from bilevel.diagnostics.constants import on_all_rows

KEY = jax.random.key(0)
DIM_X, DIM_Y, ROWS = 3, 6, 40
CG = bl.ConjugateGradient(steps=20)


def lower_loss(x, y, batch):
    """½ yᵀA y − yᵀ(B x + c) + quartic · Σ y⁴/4 + coupling · Σ exp(x_j) ‖y‖²/2, all linear in the data."""
    A, B, c, quartic, coupling = (jnp.mean(batch[name], axis=0) for name in ("A", "B", "c", "quartic", "coupling"))
    plain = 0.5 * y @ (A @ y) - y @ (B @ x + c)
    return plain + quartic * jnp.sum(y**4) / 4 + coupling * jnp.sum(jnp.exp(x)) * (y @ y) / 2


def upper_loss(x, y, batch):
    """weight · (½‖y‖² − y · target) + ½‖x‖²."""
    weight, target = (jnp.mean(batch[name], axis=0) for name in ("weight", "target"))
    return weight * (0.5 * y @ y - y @ target) + 0.5 * x @ x


class Case:
    """One structure of problems, so that all of the tests share their programs; the diseases are in the data."""

    def __init__(
        self, mu=0.5, L=5.0, *, seed=0, quartic=0.0, coupling=0.0, cross=1.0, weight=1.0, noise=0.0, batch_size=None
    ):
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.normal(size=(DIM_Y, DIM_Y)))[0]
        magnitude = np.geomspace(abs(mu), L, DIM_Y) if mu else np.linspace(0, L, DIM_Y)
        magnitude[0] = mu
        self.A = basis * magnitude @ basis.T
        self.B, self.c = cross * rng.normal(size=(DIM_Y, DIM_X)), rng.normal(size=DIM_Y)
        self.target, self.x = rng.normal(size=DIM_Y), rng.normal(size=DIM_X).astype(np.float32)
        spread = noise * rng.normal(size=(ROWS, DIM_Y))
        spread -= spread.mean(axis=0)
        ones = np.ones(ROWS)
        lower = {
            "A": np.broadcast_to(self.A, (ROWS, DIM_Y, DIM_Y)),
            "B": np.broadcast_to(self.B, (ROWS, DIM_Y, DIM_X)),
            "c": np.broadcast_to(self.c, (ROWS, DIM_Y)),
            "quartic": quartic * ones,
            "coupling": coupling * ones,
        }
        upper = {"target": self.target + spread, "weight": weight * ones}
        self.lower = {name: value.astype(np.float32) for name, value in lower.items()}
        self.upper = {name: value.astype(np.float32) for name, value in upper.items()}
        self.batch_size, self.rng = batch_size, rng

    @property
    def problem(self):
        upper = bl.Level(upper_loss, data=self.upper, batch_size=self.batch_size)
        return bl.Problem(upper, bl.Level(lower_loss, data=self.lower))

    @property
    def y(self):
        """y*(x): to rounding."""
        level = on_all_rows(self.problem, KEY).lower
        solved = reference.lower_solution(level, jnp.asarray(self.x), jnp.zeros(DIM_Y), bl.Direct())
        assert bool(solved.converged)
        return np.asarray(solved.y)

    def off(self, distance):
        """y*(x) and an error of that relative size."""
        y, error = self.y, self.rng.normal(size=DIM_Y)
        return (y + distance * np.linalg.norm(y) * error / np.linalg.norm(error)).astype(np.float32)

    def regularized(self, c):
        other = object.__new__(Case)
        ridge = {"A": self.lower["A"] + c * np.broadcast_to(np.eye(DIM_Y, dtype=np.float32), self.lower["A"].shape)}
        other.__dict__ |= self.__dict__ | {"lower": self.lower | ridge}
        return other

    def diagnose(self, y=None, method=CG, draws=64):
        return bl.diagnose(self.problem, self.x, self.y if y is None else y, method=method, draws=draws, key=KEY)


def names(report):
    return [finding.name for finding in report.findings]


def advised(report, before, name=None):
    """The number that stands after these words in the text of the only finding, or of the named one."""
    (finding,) = (finding for finding in report.findings if name is None or finding.name == name)
    return float(re.search(before + r" ?([-+e.\d]*\d)", finding.text).group(1))


# the numbers


def test_numbers_against_closed_forms():
    case = Case(noise=1.0)
    y, method = case.off(0.2), bl.Neumann(order=4, step=0.1)
    report = case.diagnose(y, method)
    y_star = np.linalg.solve(case.A, case.B @ case.x + case.c)
    F_y = y - case.target
    v = sum(0.1 * np.linalg.matrix_power(np.eye(6) - 0.1 * case.A, n) @ F_y for n in range(5))
    v_exact = np.linalg.solve(case.A, F_y)
    h = case.x + case.B.T @ v
    truth = case.x + case.B.T @ np.linalg.solve(case.A, y_star - case.target)
    norm = np.linalg.norm
    expected = {
        "distance": norm(y - y_star),
        "adjoint_residual": norm(case.A @ v - F_y) / norm(F_y),
        "adjoint_error": norm(v - v_exact) / norm(v_exact),
        "norm": norm(truth),
        "error": norm(h - truth) / norm(truth),
        "error_estimate": norm(h - truth) / norm(truth),
        "bias": norm(h - truth) / norm(truth),
        "scale": norm(case.x) + norm(truth - case.x),
        "part_from_adjoint": norm(case.B.T @ (v - v_exact)) / (norm(case.x) + norm(truth - case.x)),
        "part_from_y": norm(case.B.T @ np.linalg.solve(case.A, y - y_star)) / (norm(case.x) + norm(truth - case.x)),
    }
    assert {name: getattr(report, name) for name in expected} == pytest.approx(expected, rel=1e-3)
    assert report.distance_bound == pytest.approx(norm(case.A @ (y - y_star)) / 0.5, rel=1e-3)
    assert report.distance_bound > report.distance
    assert report.spread == 0.0 and report.draws == 1
    assert report.reference == "the direct solve"
    assert report.reference_difference_error < 1e-3
    assert report.difference_error == pytest.approx(report.error, rel=0.75)  # 8 directions


def test_bias_and_spread_of_a_random_method():
    case, K, eta = Case(), 12, 0.2
    report = case.diagnose(method=bl.RandomNeumann(order=K, step=eta), draws=2000)
    F_y = case.y - case.target
    powers = (np.linalg.matrix_power(np.eye(DIM_Y) - eta * case.A, k) for k in range(K))
    samples = [case.x + K * eta * case.B.T @ power @ F_y for power in powers]
    truth = case.x + case.B.T @ np.linalg.solve(case.A, F_y)
    spread = np.sqrt(np.mean(np.sum((samples - np.mean(samples, axis=0)) ** 2, axis=1)))
    assert report.method_spread == pytest.approx(spread, rel=0.05)
    assert report.spread == pytest.approx(spread / np.linalg.norm(truth), rel=0.05)
    bias = np.linalg.norm(np.mean(samples, axis=0) - truth) / np.linalg.norm(truth)
    assert report.bias == pytest.approx(bias, abs=3 * report.bias_error)
    assert report.error == pytest.approx(bias, rel=1e-3)  # on all rows it is taken in its mean
    assert report.noise_spread == 0.0


def test_spread_of_batches():
    case = Case(noise=2.0, batch_size=5)
    report = case.diagnose(draws=2000)
    rows = np.linalg.solve(case.A, (case.upper["target"] - case.target).T).T @ case.B
    assert report.noise_spread == pytest.approx(np.sqrt(np.mean(np.sum(rows**2, axis=1)) / 5), rel=0.05)
    assert report.method_spread == 0.0
    assert report.bias < 4 * report.bias_error
    assert report.bias_error == pytest.approx(report.spread / np.sqrt(2000), rel=1e-6)


def test_the_bias_of_an_unbiased_estimator_is_zero_within_its_error():
    """Less its sampling error, ‖mean − h*‖² is negative for about half of the keys, and counts as zero."""
    case = Case(noise=2.0, batch_size=5)
    reports = [bl.diagnose(case.problem, case.x, case.y, method=CG, key=jax.random.key(seed)) for seed in range(8)]
    assert 1 <= sum(report.bias == 0 for report in reports) <= 7
    assert all(report.bias < 2 * report.bias_error for report in reports)


def test_newton_halves_steps_that_overshoot():
    """log cosh is nearly linear at 4, where Newton's first step ends near −700 and the next one farther."""
    level = bl.Level(lambda x, y, _: jnp.sum(jnp.logaddexp(y - x, x - y)))
    solved = reference.lower_solution(level, jnp.asarray(0.3), jnp.asarray([4.0, -1.0]), bl.Direct())
    assert bool(solved.converged)
    np.testing.assert_allclose(solved.y, 0.3, atol=1e-5)


@pytest.mark.parametrize("quartic", [0.0, 1.0], ids=["quadratic", "quartic"])
def test_the_estimate_is_within_a_factor_of_two(quartic):
    """60 random problems: y up to half its length off, the adjoint well and badly solved."""
    rng = np.random.default_rng(0)
    methods = (bl.ConjugateGradient(steps=3), CG)
    ratios, errors = [], []
    for seed in range(30):
        L = 10 ** rng.uniform(0.5, 1.5)
        mu = L / 10 ** rng.uniform(0.5, 2.5)
        case = Case(mu, L, seed=seed, quartic=quartic * rng.uniform(0.1, 1), coupling=0.1 * quartic)
        report = case.diagnose(case.off(10 ** rng.uniform(-2, np.log10(0.5))), methods[seed % 2])
        ratios.append(report.error_estimate / report.error)
        errors.append(report.error)
    assert np.max(np.abs(np.log2(ratios))) < 1
    assert min(errors) < 0.02 and max(errors) > 0.5
    if quartic:
        assert np.max(np.abs(np.log2(ratios))) > 0.05  # an estimate, and not the error itself
    else:
        np.testing.assert_allclose(ratios, 1, rtol=1e-2)


def test_conjugate_gradient_and_the_direct_solve_agree(monkeypatch):
    case = Case(quartic=1.0, coupling=0.1)
    y = case.off(0.3)
    direct = case.diagnose(y)
    monkeypatch.setattr(reference, "_MOST_DIM", 1)
    by_cg = case.diagnose(y)
    assert by_cg.reference == "conjugate gradient"
    for name in ("error", "error_estimate", "distance", "norm"):
        assert getattr(by_cg, name) == pytest.approx(getattr(direct, name), rel=1e-3)


# the findings


@pytest.mark.parametrize("seed", range(6))
def test_healthy_problems_have_none(seed):
    case = Case(5.0 / (3, 10, 30)[seed % 3], seed=seed, quartic=0.5 * (seed % 2), noise=1.0)
    report = case.diagnose()
    assert names(report) == [] and report.notes == ()
    assert "No findings." in str(report)


def test_healthy_with_batches():
    report = Case(noise=1.0, batch_size=5).diagnose()
    assert report.spread > 0.02
    assert names(report) == []


def test_a_minimizer_of_phi_is_healthy():
    """∇Φ vanishes there, and no relative error is small."""
    case = Case()
    slope = np.linalg.solve(case.A, case.B)
    offset = np.linalg.solve(case.A, case.c) - case.target
    case.x = np.linalg.solve(np.eye(3) + slope.T @ slope, -slope.T @ offset).astype(np.float32)
    report = case.diagnose()
    assert report.norm < 1e-5
    assert names(report) == []


@pytest.mark.parametrize("mu", [-3e-4, -0.5, 0.0])
def test_not_strongly_convex(mu):
    case = Case(mu, L=4.0)
    y = np.ones(DIM_Y, np.float32)
    report = case.diagnose(y)
    assert names(report) == ["not strongly convex"]
    assert f"smallest curvature {report.constants.mu:.3g}" in report.findings[0].text
    assert report.constants.mu == pytest.approx(mu, abs=1e-6)
    assert np.isnan([report.error, report.error_estimate, report.distance, report.bias]).all()
    c = advised(report, "at least c =")
    assert c >= -mu
    cured = case.regularized(c)
    assert "not strongly convex" not in names(cured.diagnose(cured.y))


def test_rounding():
    case = Case(mu=2e-6, L=4.0)
    y = case.regularized(1e-2).y
    report = case.diagnose(y)
    assert "rounding" in names(report) and "not strongly convex" not in names(report)
    assert report.constants.kappa == pytest.approx(2e6, rel=0.5)
    c = advised(report, "at least c =", "rounding")
    assert "rounding" not in names(case.regularized(c).diagnose(y))


def test_lower_level_not_solved():
    case = Case()
    slow = np.linalg.eigh(case.A)[1][:, 0]  # the direction for which the advice must reckon
    y = (case.y + 5 * slow).astype(np.float32)
    report = case.diagnose(y)
    assert names(report) == ["lower level not solved"]
    steps, size = int(advised(report, "take about")), advised(report, "1/L =")
    assert size == pytest.approx(0.2, rel=1e-2)
    for _ in range(steps):
        y = y - size * (case.A @ y - case.B @ case.x - case.c)
    cured = case.diagnose(y.astype(np.float32))
    assert names(cured) == []
    assert 0.04 < cured.part_from_y < 0.06  # what the advice aims at, and no more steps than are needed


def test_adjoint_not_solved():
    case = Case()
    report = case.diagnose(method=bl.Neumann(order=10, step=0.02))
    assert names(report) == ["adjoint not solved"]
    assert f"leaves {100 * report.adjoint_error:.0f} % of the adjoint" in report.findings[0].text
    for cure in (
        bl.ConjugateGradient(steps=int(advised(report, "steps="))),
        bl.Neumann(order=int(advised(report, "or order")), step=0.02),
        bl.Neumann(order=int(advised(report, "with order")), step=advised(report, "1/L =")),
    ):
        assert names(case.diagnose(method=cure)) == []


def test_conjugate_gradient_with_too_few_steps():
    case = Case(mu=0.05)
    report = case.diagnose(method=bl.ConjugateGradient(steps=1))
    assert names(report) == ["adjoint not solved"]
    cure = bl.ConjugateGradient(steps=int(advised(report, "steps=")))
    assert names(case.diagnose(method=cure)) == []


def test_ill_conditioned():
    case = Case(mu=2e-4, L=4.0)
    report = case.diagnose(method=bl.FixedPoint(steps=100, step=0.25))
    assert names(report) == ["ill-conditioned"]
    assert "κ = 2e+04" in report.findings[0].text
    cured = case.regularized(advised(report, "at least c ="))
    assert cured.diagnose(cured.y, method=CG).constants.kappa == pytest.approx(1000, rel=0.05)
    assert names(cured.diagnose(cured.y, method=CG)) == []


@pytest.mark.parametrize("order", [3, 400], ids=["short", "infinite"])
def test_adjoint_diverges(order):
    case = Case(mu=4.0, L=5.0)
    report = case.diagnose(method=bl.Neumann(order=order, step=0.5))
    assert names(report) == ["adjoint diverges"]
    cure = bl.Neumann(order=20, step=advised(report, "1/L ="))
    assert names(case.diagnose(method=cure)) == []
    assert str(report)


def test_gradient_noise():
    case = Case(noise=200.0, batch_size=5)
    report = case.diagnose()
    assert names(report) == ["gradient noise"]
    case.batch_size = int(advised(report, "batch_size="))
    assert 5 < case.batch_size < 40
    assert names(case.diagnose()) == []


def test_random_method():
    case = Case(mu=2.5)
    report = case.diagnose(method=bl.RandomNeumann(order=1000, step=0.2))
    assert names(report) == ["random method"]
    order, step = re.search(r"bl.Neumann\(order=(\d+), step=([\d.]+)\)", report.findings[0].text).groups()
    assert names(case.diagnose(method=bl.Neumann(order=int(order), step=float(step)))) == []


@pytest.mark.parametrize(("setting", "name"), [("weight", "no dependence on y"), ("cross", "no dependence on x")])
def test_no_dependence(setting, name):
    case = Case(**{setting: 0.0})
    report = case.diagnose()
    assert names(report) == [name]
    assert report.error < 1e-6
    np.testing.assert_allclose(report.norm, np.linalg.norm(case.x), rtol=1e-5)


def test_a_cross_product_that_is_zero_only_here_is_no_finding():
    case = Case(cross=0.0, coupling=0.1)
    case.lower["c"] = np.zeros_like(case.lower["c"])  # y* = 0, where J = coupling · exp(x) y vanishes
    report = case.diagnose()
    assert report.constants.J_norm < 1e-6
    assert names(report) == []


def test_every_finding_has_a_name_of_the_list():
    source = pathlib.Path(__file__).read_text()
    assert [name for name in findings.NAMES if f'"{name}"' not in source] == []


def weighted_loss(x, y, batch):
    errors = jax.nn.softplus(-batch["t"] * (batch["u"] @ y))
    return jnp.mean(jax.nn.sigmoid(x) * errors) + 0.05 * jnp.sum(y**2)


def trusted_loss(x, y, batch):
    return jnp.mean(jax.nn.softplus(-batch["t"] * (batch["u"] @ y)))


def test_healthy_cleaning():
    """One weight a row: a batch's hypergradient has only its rows, which is no disease."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(1000, 4)).astype(np.float32)
    t = np.sign(u @ np.array([1, -1, 0.5, 0]) + rng.normal(size=1000)).astype(np.float32)
    problem = bl.Problem(
        bl.Level(trusted_loss, data={"u": u[:100], "t": t[:100]}),
        bl.Level(weighted_loss, data={"u": u[100:], "t": t[100:]}, batch_size=1, per_row=True),
    )
    x = jnp.zeros(900)
    y = reference.lower_solution(on_all_rows(problem, KEY).lower, x, jnp.zeros(4), bl.Direct()).y
    report = bl.diagnose(problem, x, y, key=KEY)
    assert report.spread > findings.NOISE  # which would be a finding for an x without rows
    assert names(report) == []


# what it looks like


def test_table_and_figure(tmp_path):
    report = Case(noise=1.0, batch_size=5).diagnose(method=bl.Neumann(order=10, step=0.02))
    table = str(report)
    assert re.search(r"^μ +0\.5 ", table, re.M) and re.search(r"^κ +10 ", table, re.M)
    assert "! adjoint not solved: Neumann of order 10 with step 0.02 leaves" in table
    assert f"{report.error:.3g}" in table and f"{report.bias:.3g}" in table
    figure = report.plot()
    assert len(figure.axes) == 4
    assert "adjoint not solved" in figure.get_suptitle()
    labels = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    assert {"estimated", "actual", "bias of the mean draw", "spread of one draw"} <= set(labels)
    figure.savefig(tmp_path / "report.png")
    for case in (Case(-0.1), Case(0.5)):  # nothing to show in some of the panels
        case.diagnose(np.ones(DIM_Y, np.float32)).plot().savefig(tmp_path / "report.png")


def test_another_problem_compiles_nothing(compiled):
    Case().diagnose()
    count = len(compiled)
    Case(seed=1, quartic=1.0).diagnose()
    assert len(compiled) == count


def test_half_precision_is_measured_in_single():
    case = Case()
    x, y = (jnp.asarray(value, jnp.bfloat16) for value in (case.x, case.y))
    report = bl.diagnose(case.problem, x, y, method=CG, key=KEY)
    assert report.dtype == "bfloat16"
    assert report.constants.kappa == pytest.approx(10, rel=1e-3)
    assert report.notes == ("Measured in float32: these numbers do not include the rounding of bfloat16.",)


def test_errors_name_the_argument():
    case = Case()
    with pytest.raises(TypeError, match="method: got 'cg'"):
        case.diagnose(np.ones(6), method="cg")
    with pytest.raises(ValueError, match="draws: got 1"):
        case.diagnose(np.ones(6), draws=1)
    with pytest.raises(ValueError, match="key: missing"):
        bl.diagnose(case.problem, case.x, np.ones(6), key=None)


@pytest.mark.parametrize("scale", [1e25, 1e20, 1e-30])
def test_numbers_that_leave_the_range_are_a_finding_and_no_crash(scale):
    """Squares of 1e20 overflow in float32; of 1e-30 they underflow, and nothing is divided by them."""
    upper = bl.Level(lambda x, y, _: 0.5 * scale * (y - 1.0) ** 2)
    for lower in (bl.Level(lambda x, y, _: 0.5 * (y - x) ** 2), bl.Level(lambda x, y, _: 0.5 * scale * (y - x) ** 2)):
        text = str(bl.diagnose(bl.Problem(upper, lower), 2.0, 3.0, key=jax.random.key(0)))
        assert "findings" in text or "! " in text
    nan = bl.Level(lambda x, y, _: 0.5 * (y - jnp.log(x)) ** 2)
    report = bl.diagnose(bl.Problem(upper, nan), -1.0, 3.0, key=jax.random.key(0))
    assert "not finite" in [finding.name for finding in report.findings]
