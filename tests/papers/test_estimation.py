"""FSLA's quadratic: the closed forms against the package's derivatives and against differences, and what is drawn."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles
from bilevel.papers._estimation import DIM, quadratic


@pytest.fixture
def task(x64):
    return quadratic(60, seed=2)


@pytest.fixture
def x(x64):
    return np.random.default_rng(1).normal(size=DIM)


def close(actual, desired, tolerance=1e-11):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("which", ["problem", "reduced"])
def test_closed_forms_against_the_package(task, x, which):
    problem = getattr(task, which)
    y, v = jnp.asarray(task.y_star(x)), jnp.asarray(task.v_star(x))
    everything = problem.lower.all_rows()
    G_y, Hv, _ = oracles.lower_products(problem.lower, jnp.asarray(x), y, v, everything)
    close(G_y, np.zeros(DIM))
    close(Hv, oracles.gradient_y(problem.upper, jnp.asarray(x), y, problem.upper.all_rows()))
    close(task.H, oracles.dense_hessian(problem.lower, jnp.asarray(x), y, everything)[0])
    close(bl.hypergradient(problem, x, y, method=bl.Direct()), task.hypergradient(x))
    assert np.linalg.norm(task.hypergradient(x)) > 0.1


def test_hypergradient_against_differences(task, x):
    """Of Φ(x) = mean (a·y*(x) − b)², whose difference quotients are exact but for rounding: it is a quadratic."""

    def value(x):
        y = np.linalg.lstsq(task.D, task.e - task.C @ x)[0]
        return np.mean((task.A @ y - task.b) ** 2)

    differences = [(value(x + h) - value(x - h)) / 2e-3 for h in 1e-3 * np.eye(DIM)]
    close(task.hypergradient(x), differences, 1e-9)


def test_the_reduced_problem_is_the_same_function(task, x):
    """Its values included, from 5 + 5 + 1 and 5 + 1 rows."""
    assert (task.reduced.lower.length, task.reduced.upper.length) == (11, 6)
    y = jnp.asarray(np.random.default_rng(3).normal(size=DIM))
    for full, reduced in (
        (task.problem.lower, task.reduced.lower),
        (task.problem.upper, task.reduced.upper),
    ):
        values = [oracles.loss(level, jnp.asarray(x), y, level.all_rows()) for level in (full, reduced)]
        close(values[1], values[0])
        assert values[0] > 0.1


def test_at_the_papers_size():
    """Uniform entries, noise of VARIANCE 0.1, and a step of 2e-5 on the sums that is at most 1/L."""
    for seed in range(3):
        task = quadratic(seed=seed)
        for matrix in (task.A, task.C, task.D):
            assert matrix.shape == (10_000, 5) and matrix.min() >= 0 and matrix.max() <= 1
            assert abs(matrix.mean() - 0.5) < 0.01 and abs(matrix.var() - 1 / 12) < 0.002
        for design, target in ((task.A, task.b), (np.column_stack([task.C, task.D]), task.e)):
            planted, residual = np.linalg.lstsq(design, target)[:2]
            assert abs(residual[0] / 10_000 - 0.1) < 0.006  # four standard errors
            assert planted.min() > -0.05 and planted.max() < 1.05
        L_of_the_sum = 2 * np.linalg.norm(task.D, 2) ** 2
        assert 2e-5 <= 1 / L_of_the_sum < 4e-5
        np.testing.assert_allclose(np.linalg.eigvalsh(task.H)[[-1, 0]], [8 / 3, 1 / 6], rtol=0.06)
        np.testing.assert_allclose(10_000 * task.L, L_of_the_sum, rtol=1e-12)


def test_seeds_draw_anew():
    found = [quadratic(20, seed=seed) for seed in (0, 1, 0)]
    assert np.array_equal(found[0].e, found[2].e) and not np.array_equal(found[0].e, found[1].e)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rows": 1.5}, TypeError, "rows: got 1.5"),
        ({"rows": 4}, ValueError, "rows: got 4"),
        ({"seed": None}, ValueError, "seed: got None"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        quadratic(**arguments)
