"""FSLA's figure 1: against a NumPy transcription in the paper's own units, against the public functions, and the
statistics on planted tables."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.experiments import estimators
from bilevel.experiments.estimators import MOVING, curve, decay, estimator_errors, final_ratio, reached, slope
from bilevel.tasks.estimation import estimation

SEEDS, ROWS, LAST, SEQUENCE = (0, 3), 200, 40, 2_000
BETA = 0.2 / ROWS  # of the sums


@pytest.fixture(scope="module")
def table():
    return estimator_errors(SEEDS, iterations=LAST, sequence_iterations=SEQUENCE, rows=ROWS)


def squared_errors(table, estimator, seed, a=None):
    chosen = (row for row in table if (row["estimator"], row["seed"], row["a"]) == (estimator, seed, a))
    return {row["k"]: row["squared error"] for row in chosen}


class Sums:
    """The paper's problem, sums of squares, its derivatives and Lemma 2's recursions: nothing of the package."""

    def __init__(self, seed):
        task = estimation(rows=ROWS, seed=seed)
        self.A, self.b, self.C, self.D, self.e = task.A, task.b, task.C, task.D, task.e
        self.H = 2 * self.D.T @ self.D
        self.J = 2 * self.C.T @ self.D

    def F_y(self, y):
        return 2 * self.A.T @ (self.A @ y - self.b)

    def G_y(self, x, y):
        return 2 * self.D.T @ (self.C @ x + self.D @ y - self.e)

    def answer(self, x):
        """∇ₓ‖A y*(x) − b‖² = (dy*/dx)ᵀ F_y, with dy*/dx = −D⁺C."""
        inverse = np.linalg.pinv(self.D)
        return -(inverse @ self.C).T @ self.F_y(inverse @ (self.e - self.C @ x))

    def descent(self, x, k):
        ys = [np.zeros(5)]
        for _ in range(k):
            ys.append(ys[-1] - BETA * self.G_y(x, ys[-1]))
        return ys

    def backward(self, ys):
        u, total = self.F_y(ys[-1]), np.zeros(5)
        for _ in ys[:-1]:
            total += BETA * self.J @ u
            u = u - BETA * self.H @ u
        return -total

    def forward(self, ys):
        v = np.zeros(5)
        for y in ys[:-1]:
            v = v - BETA * self.H @ v + BETA * self.F_y(y)
        return -self.J @ v

    def conjugate_gradient(self, y, steps):
        v, r = np.zeros(5), self.F_y(y)
        p, least = r, 1e-15 * np.linalg.norm(r)
        for _ in range(steps):
            if np.linalg.norm(r) < least:
                break
            alpha = (r @ r) / (p @ self.H @ p)
            v, old = v + alpha * p, r
            r = r - alpha * self.H @ p
            p = r + (r @ r) / (old @ old) * p
        return -self.J @ v

    def fsla(self, k):
        """Algorithm 1 with x moving and one step β for all three; x_k and the direction there."""
        x, y, v = np.zeros(5), np.zeros(5), np.zeros(5)
        d = -self.J @ v
        for _ in range(k):
            x = x - BETA * d
            y, v = y - BETA * self.G_y(x, y), BETA * self.F_y(y) + v - BETA * self.H @ v
            d = -self.J @ v
        return x, d


@pytest.mark.parametrize("seed", SEEDS)
def test_against_the_papers_sums_in_numpy(table, seed):
    sums, x = Sums(seed), np.zeros(5)
    for k in (1, 2, 3, 5, 8, 20, LAST):
        ys = sums.descent(x, k)
        ways = {
            "BP": sums.backward(ys),
            "NS": sums.backward([ys[-1]] * (k + 1)),
            "CG": sums.conjugate_gradient(ys[-1], k),
            "FSLA": sums.forward(ys),
        }
        for name, h in ways.items():
            expected = np.sum((h - sums.answer(x)) ** 2)
            np.testing.assert_allclose(squared_errors(table, name, seed)[k], expected, rtol=1e-6, err_msg=f"{name} {k}")
        x_k, d = sums.fsla(k)
        expected = np.sum((d - sums.answer(x_k)) ** 2)
        np.testing.assert_allclose(squared_errors(table, MOVING, seed)[k], expected, rtol=1e-6)
        assert np.linalg.norm(x_k) > 0 or k == 1  # d_0 is zero


@pytest.mark.parametrize("a", [2.0, 0.25])
def test_the_sequences_in_numpy(table, a):
    sums, x = Sums(3), np.zeros(5)
    y_star = np.linalg.lstsq(sums.D, sums.e)[0]
    offset = np.random.default_rng((3, 1)).uniform(size=5)
    found = {mode: squared_errors(table, mode, 3, a) for mode in ("forward", "backward")}
    for k in sorted(found["forward"])[:30:4]:
        ys = [y_star + offset / max(i, 1) ** a for i in range(k + 1)]
        for mode in found:
            expected = np.sum((getattr(sums, mode)(ys) - sums.answer(x)) ** 2)
            np.testing.assert_allclose(found[mode][k], expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_against_the_public_functions_on_all_rows(table):
    task, beta = estimation(rows=ROWS, seed=0), 0.2
    problem, x, y = task.problem, task.x, task.y
    answer = task.hypergradient(x)
    k, ys = 17, [y]
    for _ in range(k):
        ys.append(ys[-1] - beta * jax.grad(problem.lower.loss, 1)(x, ys[-1], problem.lower.data.arrays))
    betas = np.full(k, beta)
    solver = bl.FSLA(beta, beta, beta, storm_weight=0.3)
    solution = bl.solve(problem, solver, x, y, steps=k, key=jax.random.key(0))
    ways = {
        "BP": bl.unrolled_hypergradient(problem, x, y, steps=k, lower_step=beta) - answer,
        "NS": bl.hypergradient(problem, x, ys[-1], method=bl.Neumann(order=k - 1, step=beta)) - answer,
        "CG": bl.hypergradient(problem, x, ys[-1], method=bl.ConjugateGradient(steps=k)) - answer,
        "FSLA": bl.general_hypergradient(problem, x, jnp.stack(ys), betas, mode="forward") - answer,
        MOVING: solution.state.d - task.hypergradient(solution.x),
    }
    for name, difference in ways.items():
        expected = ROWS**2 * np.sum(np.asarray(difference) ** 2)
        np.testing.assert_allclose(squared_errors(table, name, 0)[k], expected, rtol=1e-6, err_msg=name)


def test_rows_of_the_table(table):
    for estimator in ("BP", "NS", "CG", "FSLA", MOVING):
        for seed in SEEDS:
            assert list(squared_errors(table, estimator, seed)) == list(range(1, LAST + 1))
    scale = np.sum(Sums(3).answer(np.zeros(5)) ** 2)
    for row in table:
        if row["seed"] == 3:
            np.testing.assert_allclose(row["relative"], row["squared error"] / scale, rtol=1e-9)
    assert {row["panel"] for row in table} == {"descent", "sequence"}
    first, second = (squared_errors(table, "FSLA", seed) for seed in SEEDS)
    assert first != second


# the claims, on what was run


def test_slopes_are_those_of_the_lemma(table):
    for a in estimators.POWERS:
        for mode, tolerance in (("backward", 1e-3), ("forward", 0.05)):
            for value in slope(table, mode, a, between=(500, SEQUENCE)).values():
                assert abs(value + 2 * a) < tolerance


def test_on_a_quadratic_back_propagation_is_neumann_and_fsla_is_behind(table):
    for seed, value in final_ratio(table, "BP", "NS").items():
        np.testing.assert_allclose(value, 1, rtol=1e-6)
        assert final_ratio(table, "FSLA", "NS")[seed] > 1.1


# the statistics, on planted tables


def planted(estimator, errors, seed=0, a=None, ks=None):
    ks = range(1, len(errors) + 1) if ks is None else ks
    base = {"panel": "", "estimator": estimator, "seed": seed, "a": a, "squared error": math.nan}
    return [base | {"k": int(k), "relative": float(e)} for k, e in zip(ks, errors, strict=True)]


def test_slope_and_decay_of_planted_curves():
    ks = np.unique(np.geomspace(1, 10_000, 40).round())
    bent = np.where(ks < 100, 1.0, 0.0)  # outside the range that is fitted
    rows = planted("forward", 7 * ks**-1.3 + bent, a=2.0, ks=ks) + planted("forward", ks**-0.5, 4, 2.0, ks)
    rows += planted("forward", ks**-9.0, a=1.0, ks=ks)
    found = slope(rows, "forward", 2.0, between=(100, 10_000))
    np.testing.assert_allclose([found[0], found[4]], [-1.3, -0.5], rtol=1e-9)
    assert slope(rows, "forward", 2.0, between=(1, 10_000))[0] != pytest.approx(-1.3, abs=0.01)
    geometric = planted("CG", 3 * 0.9 ** np.arange(1, 101))
    np.testing.assert_allclose(decay(geometric, "CG", between=(20, 100))[0], math.log(0.9), rtol=1e-9)
    with pytest.raises(ValueError, match=r"between: got \(99, 99\), which holds 1"):
        decay(geometric, "CG", between=(99, 99))


def test_final_ratio_and_reached_of_planted_curves():
    rows = planted("FSLA", [4.0, 0.1, 2.0, 0.3, 0.2]) + planted("CG", [4.0, 0.5, 0.5, 0.5, 0.05])
    assert final_ratio(rows, "FSLA", "CG") == {0: pytest.approx(4)}
    assert reached(rows, "FSLA", 0.3) == {0: 4}  # not 2: it rises again
    assert reached(rows, "FSLA", 5.0) == {0: 1}
    assert reached(rows, "FSLA", 0.1) == {0: math.inf}
    assert reached(planted("NS", [math.nan, 1.0]), "NS", 2.0) == {0: 2}
    with pytest.raises(ValueError, match="estimator: no rows of 'NS' with a = None"):
        curve(rows, "NS")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"iterations": 1}, ValueError, "iterations: got 1"),
        ({"sequence_iterations": 2.0}, TypeError, "sequence_iterations: got 2.0"),
        ({"step": 0.0}, ValueError, "step: got 0.0"),
        ({"step": 0.5, "rows": 100}, ValueError, "step: got 0.5; it must be at most 1/L, here 0.3"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        estimator_errors([0], **arguments)


def test_figure(table):
    left, right = estimators.figure(table).axes
    assert left.get_yscale() == right.get_yscale() == right.get_xscale() == "log"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["BP", "NS", "CG", "FSLA", MOVING]
    drawn = {line.get_label(): line.get_ydata() for line in left.lines}
    expected = np.sqrt(np.prod([errors for _, errors in curve(table, "CG").values()], axis=0))
    np.testing.assert_allclose(drawn["CG"], expected)
    assert "slope −2a" in [text.get_text() for text in right.get_legend().get_texts()]
