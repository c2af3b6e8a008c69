"""FSLA's figure 1: against a NumPy transcription in the paper's own units, against the public functions, and what it
counts and times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.papers._estimation import quadratic
from bilevel.papers.fsla_figure1 import ESTIMATORS, POWERS, estimator_errors

SEEDS, ROWS, LAST, SEQUENCE = (0, 3), 200, 40, 2_000
BETA = 0.2 / ROWS  # of the sums


@pytest.fixture(scope="module")
def tables():
    """The rows by estimator and seed."""
    found = {
        (name, seed): estimator_errors(name, seed, iterations=LAST, rows=ROWS) for name in ESTIMATORS for seed in SEEDS
    }
    return found | {(name, 3): estimator_errors(name, 3, iterations=SEQUENCE, rows=ROWS) for name in POWERS}


def errors(tables, name, seed):
    return {row["step"]: row["relative error"] for row in tables[name, seed]}


class Sums:
    """The paper's problem, sums of squares, its derivatives and Lemma 2's recursions: nothing of the package."""

    def __init__(self, seed):
        task = quadratic(ROWS, seed=seed)
        self.A, self.b, self.C, self.D, self.e = task.A, task.b, task.C, task.D, task.e
        self.H = 2 * self.D.T @ self.D
        self.J = 2 * self.C.T @ self.D

    def F_y(self, y):
        return 2 * self.A.T @ (self.A @ y - self.b)

    def G_y(self, x, y):
        return 2 * self.D.T @ (self.C @ x + self.D @ y - self.e)

    def relative(self, h):
        """‖h − ∇Φ(0)‖²/‖∇Φ(0)‖², with ∇ₓ‖A y*(x) − b‖² = (dy*/dx)ᵀ F_y and dy*/dx = −D⁺C."""
        inverse = np.linalg.pinv(self.D)
        answer = -(inverse @ self.C).T @ self.F_y(inverse @ self.e)
        return np.sum((h - answer) ** 2) / np.sum(answer**2)

    def descent(self, k):
        ys = [np.zeros(5)]
        for _ in range(k):
            ys.append(ys[-1] - BETA * self.G_y(np.zeros(5), ys[-1]))
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


@pytest.mark.parametrize("seed", SEEDS)
def test_against_the_papers_sums_in_numpy(tables, seed):
    sums = Sums(seed)
    for k in (1, 2, 3, 5, 8, 20, LAST):
        ys = sums.descent(k)
        ways = {
            "BP": sums.backward(ys),
            "NS": sums.backward([ys[-1]] * (k + 1)),
            "CG": sums.conjugate_gradient(ys[-1], k),
            "FSLA": sums.forward(ys),
        }
        for name, h in ways.items():
            found = errors(tables, name, seed)[k]
            np.testing.assert_allclose(found, sums.relative(h), rtol=1e-6, err_msg=f"{name} {k}")


@pytest.mark.parametrize("a", [2.0, 0.25])
def test_the_sequences_in_numpy(tables, a):
    sums, found = Sums(3), errors(tables, f"a = {a:g}", 3)
    y_star = np.linalg.lstsq(sums.D, sums.e)[0]
    offset = np.random.default_rng((3, 1)).uniform(size=5)
    for k in sorted(found)[:35:4]:
        h = sums.backward([y_star + offset / k**a] * (k + 1))
        np.testing.assert_allclose(found[k], sums.relative(h), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_against_the_public_functions_on_all_rows(tables):
    task, beta = quadratic(ROWS, seed=0), 0.2
    problem, x, y = task.problem, jnp.zeros(5), jnp.zeros(5)
    answer = task.hypergradient(x)
    k, ys = 17, [y]
    for _ in range(k):
        ys.append(ys[-1] - beta * jax.grad(problem.lower.loss, 1)(x, ys[-1], problem.lower.data.arrays))
    ways = {
        "BP": bl.unrolled_hypergradient(problem, x, y, steps=k, lower_step=beta),
        "NS": bl.hypergradient(problem, x, ys[-1], method=bl.Neumann(order=k - 1, step=beta)),
        "CG": bl.hypergradient(problem, x, ys[-1], method=bl.ConjugateGradient(steps=k)),
        "FSLA": bl.general_hypergradient(problem, x, jnp.stack(ys), np.full(k, beta), mode="forward"),
    }
    for name, h in ways.items():
        expected = np.sum((np.asarray(h) - answer) ** 2) / np.sum(answer**2)
        np.testing.assert_allclose(errors(tables, name, 0)[k], expected, rtol=1e-6, err_msg=name)


def test_products_are_those_of_an_estimate_at_each_iteration(tables):
    ends = {name: tables[name, 0][-1] for name in ESTIMATORS}
    pairs = LAST * (LAST - 1) // 2
    assert {name: (row["H"], row["J"]) for name, row in ends.items() if name != "CG"} == {
        "FSLA": (LAST, LAST),
        "NS": (pairs, LAST),
        "BP": (pairs, pairs + LAST),
    }
    assert ends["CG"]["J"] == LAST
    assert 5 * LAST - 10 <= ends["CG"]["H"] <= 10 * LAST  # rounding is reached after 5 steps or a few more


def test_rows_of_the_tables(tables):
    for name in ESTIMATORS:
        for seed in SEEDS:
            assert [row["step"] for row in tables[name, seed]] == list(range(1, LAST + 1))
            seconds = [row["seconds"] for row in tables[name, seed]]
            assert seconds[0] > 0 and np.all(np.diff(seconds) > 0)
    for row in tables["NS", 3]:
        np.testing.assert_allclose(row["digits"], -np.log10(row["relative error"]))
    assert errors(tables, "FSLA", 0) != errors(tables, "FSLA", 3)


def test_rows_are_chunks_of_the_iterations(tables):
    rows = estimator_errors("FSLA", 0, iterations=120, rows=ROWS)
    assert [row["step"] for row in rows] == list(range(3, 121, 3))
    assert rows[4]["H"] == 15
    np.testing.assert_allclose(rows[4]["relative error"], errors(tables, "FSLA", 0)[15], rtol=1e-9)


# the claims, on what was run


def test_slopes_are_those_of_the_corollary(tables):
    for name, a in POWERS.items():
        pairs = [(k, e) for k, e in errors(tables, name, 3).items() if k >= 500]
        slope = np.polyfit(*np.log(pairs).T, 1)[0]
        assert abs(slope + 2 * a) < 1e-2


def test_on_a_quadratic_back_propagation_is_neumann_and_fsla_is_behind(tables):
    for seed in SEEDS:
        ends = {name: errors(tables, name, seed)[LAST] for name in ("BP", "NS", "FSLA")}
        np.testing.assert_allclose(ends["BP"], ends["NS"], rtol=1e-6)
        assert ends["FSLA"] > 1.1 * ends["NS"]


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("LS", {}, ValueError, "estimator: 'LS' is unknown"),
        ("NS", {"iterations": 1}, ValueError, "iterations: got 1"),
        ("NS", {"iterations": 2.0}, TypeError, "iterations: got 2.0"),
        ("NS", {"step": 0.0}, ValueError, "step: got 0.0"),
        ("NS", {"step": 0.5, "rows": 100}, ValueError, "step: got 0.5; it must be at most 1/L, here 0.3"),
    ],
)
def test_bad_arguments(name, arguments, error, message):
    with pytest.raises(error, match=message):
        estimator_errors(name, 0, **arguments)
