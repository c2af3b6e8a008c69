"""The closed forms against the package's own derivatives, and against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles, tasks

NOISY = {"noise": 0.3, "rows": 50, "batch_size": 5}


@pytest.fixture
def x(x64):
    return np.random.default_rng(1).normal(size=3)


def close(actual, desired, tolerance=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def full_batch(task):
    """The same problem, every batch of which is all rows."""
    levels = (bl.Level(level.loss, level.data) for level in (task.problem.upper, task.problem.lower))
    return bl.Problem(*levels)


def upper_value(task, x):
    """Φ(x), by its definition."""
    level = full_batch(task).upper
    return float(oracles.loss(level, jnp.asarray(x), jnp.asarray(task.y_star(x)), level.all_rows()))


@pytest.mark.parametrize("noise", [{}, NOISY])
def test_closed_forms_against_the_package(x, noise):
    task = tasks.quadratic(3, 4, seed=2, **noise)
    lower, upper = full_batch(task).lower, full_batch(task).upper
    y, v = jnp.asarray(task.y_star(x)), jnp.asarray(task.v_star(x))
    everything = lower.all_rows()
    G_y, Hv, _ = oracles.lower_products(lower, jnp.asarray(x), y, v, everything)
    F_y = oracles.gradient_y(upper, jnp.asarray(x), y, upper.all_rows())
    close(G_y, np.zeros(4))
    close(Hv, F_y)
    close(bl.hypergradient(full_batch(task), x, y, method=bl.Direct()), task.hypergradient(x))
    assert np.linalg.norm(task.hypergradient(x)) > 0.1


def test_hypergradient_against_differences(x):
    task = tasks.quadratic(3, 4, seed=2, **NOISY)
    numerical = [(upper_value(task, x + e) - upper_value(task, x - e)) / 2e-4 for e in 1e-4 * np.eye(3)]
    close(numerical, task.hypergradient(x), 1e-8)


def test_x_star_is_the_minimizer(x):
    task = tasks.quadratic(3, 4, seed=2)
    close(task.hypergradient(task.x_star), np.zeros(3))
    assert upper_value(task, task.x_star) < upper_value(task, task.x_star + 0.01 * x)
    assert np.linalg.norm(task.x_star) > 0.1


def test_upper_smoothness_is_that_of_the_hypergradient(x):
    task = tasks.quadratic(3, 4, seed=2)
    hessian = np.stack([task.hypergradient(x + e) - task.hypergradient(x) for e in np.eye(3)])
    close(task.upper_smoothness, np.linalg.eigvalsh(hessian).max())
    assert np.linalg.eigvalsh(hessian).min() > 0.4  # Φ is strongly convex


@pytest.mark.parametrize(("mu", "L", "dim_y"), [(0.1, 40.0, 6), (2.0, 2.0, 3), (0.5, 0.5, 1)])
def test_eigenvalues_are_as_asked(x64, mu, L, dim_y):
    task = tasks.quadratic(2, dim_y, mu=mu, L=L, noise=0.5, rows=20, seed=3)
    level = task.problem.lower
    hessian, _ = oracles.dense_hessian(level, task.x, task.y, level.all_rows())
    ratio = (L / mu) ** (1 / max(dim_y - 1, 1))
    close(np.linalg.eigvalsh(hessian), mu * ratio ** np.arange(dim_y))
    assert (task.mu, task.L) == (mu, L)


def test_the_eigenvectors_are_rotated():
    A = tasks.quadratic().A
    assert np.abs(A - np.diag(np.diag(A))).max() > 0.5


def test_the_full_batch_is_the_noiseless_problem(x):
    noiseless, noisy = tasks.quadratic(3, 4, seed=5), tasks.quadratic(3, 4, seed=5, noise=0.7, rows=30)
    x, y = jnp.asarray(x), jnp.linspace(-1.0, 2.0, 4)
    for name in ("upper", "lower"):
        a, b = getattr(noiseless.problem, name), getattr(noisy.problem, name)
        everywhere = [
            (
                oracles.loss(level, x, y, batch),
                oracles.gradient_x(level, x, y, batch),
                oracles.gradient_y(level, x, y, batch),
            )
            for level, batch in ((a, a.all_rows()), (b, b.all_rows()))
        ]
        jax.tree.map(close, *everywhere)
    close(noisy.x_star, noiseless.x_star)


def test_every_derivative_is_noisy_and_of_the_deviation_asked(x64):
    noise, rows = 0.3, 2000
    task = tasks.quadratic(3, 4, noise=noise, rows=rows, batch_size=1)
    lower, upper = task.problem.lower.data.arrays, task.problem.upper.data.arrays
    for name, array in {**lower, **upper}.items():
        assert array.shape == (rows, *getattr(task, name).shape)
        close(array.mean(0), getattr(task, name))
        deviation = np.asarray(array).std(axis=0)
        assert (np.abs(deviation / noise - 1) < 6 / np.sqrt(2 * rows)).all(), name
    close(lower["A"], np.swapaxes(lower["A"], 1, 2))


def test_without_noise_every_batch_is_the_problem():
    task = tasks.quadratic(rows=40, batch_size=4)
    batch = task.problem.lower.draw(jax.random.key(0))
    assert batch.size == 4
    np.testing.assert_allclose(batch.rows["A"], np.broadcast_to(task.A, (4, 5, 5)), rtol=1e-6)
    assert tasks.quadratic().problem.lower.length == 1


def test_blocks_of_rows_that_divide():
    rows, blocks = (tasks.quadratic(3, 4, **(NOISY | {"batch_size": 12}), source=name) for name in ("rows", "blocks"))
    for mine, other in ((blocks.problem.lower, rows.problem.lower), (blocks.problem.upper, rows.problem.upper)):
        assert type(mine.data) is bl.Blocks
        assert (mine.batch_size, other.batch_size) == (10, 12)
        jax.tree.map(np.testing.assert_array_equal, mine.data.arrays, other.data.arrays)
    assert tasks.quadratic(source="blocks").problem.lower.batch_size is None


def test_metrics():
    task = tasks.quadratic(3, 4)
    start = task.metrics(task.x, task.y)
    assert start["correct digits"] == 0
    x, y = task.x_star + np.array([0.0, 3e-4, 4e-4]), np.ones(4)
    measured = task.metrics(x, y)
    close(measured["distance"], 5e-4)
    close(measured["correct digits"], -np.log10(5e-4 / np.linalg.norm(task.x_star)))
    close(measured["lower distance"], np.linalg.norm(y - task.y_star(x)))
    close(measured["hypergradient norm"], np.linalg.norm(task.hypergradient(x)))
    assert task.metrics(task.x_star, y)["correct digits"] == 16
    assert task.score in measured


def test_same_seed_same_task():
    a, b, other = (tasks.quadratic(noise=0.1, rows=10, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, a.problem.lower.data, b.problem.lower.data)
    assert not np.allclose(a.A, other.A)


def test_a_solver_finds_the_answer_and_seeds_share_a_program(compiled):
    solver = bl.AIDBiO(upper_step=0.4, lower_step=0.1, inner_steps=20)
    for seed in (0, 1):
        task = tasks.quadratic(seed=seed)
        before = len(compiled)
        solution = bl.solve(
            task.problem, solver, task.x, task.y, steps=100, key=jax.random.key(0), metrics=task.metrics
        )
        assert solution.history["correct digits"][-1] > 5
        assert solution.x.dtype == jnp.float32
    assert before > 0
    assert len(compiled) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim_x": 0}, "dim_x: got 0"),
        ({"dim_y": 2.0}, "dim_y: got 2.0"),
        ({"mu": 0.0}, "mu: got 0.0"),
        ({"mu": 3.0, "L": 2.0}, "L: got 2.0 with mu=3.0"),
        ({"L": np.inf}, "L: got inf"),
        ({"noise": -1.0}, "noise: got -1.0"),
        ({"noise": np.nan}, "noise: got nan"),
        ({"noise": 0.1, "rows": 1}, "rows: got 1 with noise"),
        ({"rows": 0}, "rows: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 0, "source": "blocks"}, "batch_size: got 0"),
        ({"source": "block"}, "source: 'block' is unknown; did you mean blocks"),
        ({"rows": 5, "batch_size": 6}, "batch_size: got 6"),
        ({"seed": None}, "seed: got None"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tasks.quadratic(**settings)


def test_tasks_by_name():
    assert tasks.get_task("quadratic") is tasks.quadratic
    with pytest.raises(ValueError, match="task: 'clean' is unknown; did you mean cleaning"):
        tasks.get_task("clean")
