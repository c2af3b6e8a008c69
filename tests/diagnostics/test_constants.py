"""`measure_constants` against closed forms and sample moments."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import tasks

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def noisy():
    task = tasks.quadratic(dim_x=4, dim_y=6, mu=0.2, L=5.0, noise=0.3, rows=200, batch_size=10)
    x, y = np.linspace(-1, 1, 4, dtype=np.float32), np.linspace(2, -1, 6, dtype=np.float32)
    return task, x, y, bl.measure_constants(task.problem, x, y, key=KEY)


def test_curvature_and_norms(noisy):
    task, x, y, constants = noisy
    assert (constants.mu, constants.L) == pytest.approx((0.2, 5.0), rel=1e-4)
    assert constants.kappa == pytest.approx(25.0, rel=1e-4)
    assert max(constants.mu_residual, constants.L_residual) < 1e-4
    assert constants.J_norm == pytest.approx(np.linalg.norm(task.B, 2), rel=1e-4)
    assert constants.F_x_norm == pytest.approx(np.linalg.norm(0.5 * x), rel=1e-5)
    assert constants.F_y_norm == pytest.approx(np.linalg.norm(y - task.target), rel=1e-5)
    assert constants.G_y_norm == pytest.approx(np.linalg.norm(task.A @ y - task.B @ x - task.c), rel=1e-5)
    assert (constants.upper_rows, constants.lower_rows) == (200, 200)
    assert all(isinstance(value, float) for value in (constants.mu, constants.kappa, constants.J_norm))


def test_noise_is_that_of_the_rows(noisy):
    task, x, y, constants = noisy
    lower, upper = (level.data.arrays for level in (task.problem.lower, task.problem.upper))
    A, B, c = (np.asarray(lower[name]) for name in "ABc")
    G = A @ y - B @ x - c
    expected = {"F_x": 0.0, "F_y": _spread(y - np.asarray(upper["target"])), "G_y": _spread(G)}
    assert constants.sigma == pytest.approx(expected, rel=0.1)
    for name in ("F_y", "G_y"):
        sizes, noise = zip(*constants.noise_measured[name], strict=True)
        assert sizes == (1, 10, 16)
        np.testing.assert_allclose(noise, [expected[name] / math.sqrt(b) for b in sizes], rtol=0.25)
    assert constants.noise("G_y", 25) == constants.sigma["G_y"] / 5


def _spread(gradients):
    return np.sqrt(np.mean(np.sum((gradients - gradients.mean(axis=0)) ** 2, axis=1)))


def test_blocks_are_measured_at_sizes_that_divide_the_rows():
    rows = np.random.default_rng(0).normal(size=960).astype(np.float32)
    level = bl.Level(lambda x, y, batch: jnp.mean((y - batch) ** 2), data=bl.Blocks(rows), batch_size=12)
    problem = bl.Problem(bl.Level(lambda x, y, _: y**2), level)
    constants = bl.measure_constants(problem, 1.0, 0.5, key=KEY)
    assert [size for size, _ in constants.noise_measured["G_y"]] == [1, 12, 16]
    assert constants.sigma["G_y"] == pytest.approx(2 * rows.std(), rel=0.2)
    assert constants.sigma["F_y"] == 0.0 and constants.noise_measured["F_y"] == []
    assert (constants.mu, constants.L) == (2.0, 2.0)


def test_a_flat_or_concave_level_has_infinite_kappa():
    for curvature in (0.0, -1e-3):
        level = bl.Level(lambda x, y, batch: 0.5 * jnp.mean(batch) * y[0] ** 2 + y[1] ** 2, data=np.full(3, curvature))
        problem = bl.Problem(bl.Level(lambda x, y, _: y.sum()), level)
        constants = bl.measure_constants(problem, 1.0, jnp.ones(2), key=KEY)
        assert constants.mu == pytest.approx(curvature, abs=1e-6)
        assert constants.kappa == math.inf


def test_large_data_are_subsampled():
    rows = np.random.default_rng(0).normal(size=60_000).astype(np.float32)
    level = bl.Level(lambda x, y, batch: jnp.mean(x * (y - batch) ** 2), data=rows, per_row=True, batch_size=100)
    problem = bl.Problem(bl.Level(lambda x, y, _: y**2), level)
    constants = bl.measure_constants(problem, np.full(60_000, 0.5, np.float32), 0.0, key=KEY)
    assert constants.lower_rows == 50_000
    assert constants.mu == pytest.approx(1.0)
    assert constants.J_norm == pytest.approx(2 * np.sqrt(np.mean(rows**2) / 50_000), rel=0.05)


def test_another_point_and_other_data_compile_nothing(noisy, compiled):
    _, x, y, _ = noisy
    other = tasks.quadratic(dim_x=4, dim_y=6, mu=0.1, L=9.0, noise=0.1, rows=200, batch_size=10, seed=1)
    count = len(compiled)
    assert bl.measure_constants(other.problem, 2 * x, y, key=jax.random.key(1)).mu == pytest.approx(0.1, rel=1e-3)
    assert len(compiled) == count


def test_errors_name_the_argument(noisy):
    task, x, y, constants = noisy
    with pytest.raises(ValueError, match="key: missing"):
        bl.measure_constants(task.problem, x, y, key=None)
    with pytest.raises(ValueError, match="oracle: 'H' is unknown"):
        constants.noise("H", 3)
    with pytest.raises(ValueError, match="batch: got 0"):
        constants.noise("G_y", 0)
