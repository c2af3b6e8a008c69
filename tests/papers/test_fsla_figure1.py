"""FSLA's figure 1: against a NumPy transcription in the paper's own units, against the public functions, and the
statistics on planted tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.papers import fsla_figure1 as estimators
from bilevel.papers._estimation import estimation
from bilevel.papers.fsla_figure1 import MOVING, estimator_errors

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
            for seed in SEEDS:
                pairs = [(k, e) for k, e in squared_errors(table, mode, seed, a).items() if k >= 500]
                slope = np.polyfit(*np.log(pairs).T, 1)[0]
                assert abs(slope + 2 * a) < tolerance


def test_on_a_quadratic_back_propagation_is_neumann_and_fsla_is_behind(table):
    for seed in SEEDS:
        ends = {name: squared_errors(table, name, seed)[LAST] for name in ("BP", "NS", "FSLA")}
        np.testing.assert_allclose(ends["BP"], ends["NS"], rtol=1e-6)
        assert ends["FSLA"] > 1.1 * ends["NS"]


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
