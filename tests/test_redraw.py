"""Problems that redraw their tasks: the driver against a loop by hand, and what it asks of `start` and `redraw`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as bl
from bilevel.problem import prepare

KEY = jax.random.key(3)
POOL = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
ALPHA, BETA = 0.1, 0.3


def upper_loss(x, y, tasks):
    return 0.5 * jnp.mean(jnp.sum((y - tasks[:, None, 0]) ** 2, axis=1)) + 0.1 * jnp.sum(x**2)


def lower_loss(x, y, tasks):
    return jnp.sum(0.5 * (y[:, 0] - tasks[:, 1] * x[0]) ** 2 + 0.5 * tasks[:, 2] ** 2 * (y[:, 1] - x[1]) ** 2)


class Tasks(eqx.Module):
    """Three tasks of the pool, each a row; y has two entries for each."""

    pool: jax.Array

    def __call__(self, key):
        drawn = jax.random.choice(key, self.pool, (3,), replace=False)
        return bl.Problem(bl.Level(upper_loss, drawn), bl.Level(lower_loss, drawn))


def start(x):
    return jnp.stack([x, x, x])


def make_problem(start=start, redraw=None, **options):
    first = Tasks(jnp.asarray(POOL))(KEY)
    redraw = Tasks(jnp.asarray(POOL)) if redraw is None else redraw
    return bl.Problem(first.upper, first.lower, start=start, redraw=redraw, **options)


PROBLEM = make_problem()
X = np.array([1.0, -0.5], np.float32)
Y = np.ones((3, 2), np.float32)
ITD = bl.ITDBiO(BETA, ALPHA, 4)
SUSTAIN = bl.SUSTAIN(0.05, ALPHA, 3, 0.2, 0.4, 0.6)


def solve(solver=ITD, problem=PROBLEM, x=X, y=Y, steps=6, **options):
    return bl.solve(problem, solver, x, y, steps=steps, key=KEY, **options)


def identical(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(np.asarray(u), np.asarray(v)), a, b)


def tasks_of_step(t):
    tasks_key, *_ = jax.random.split(jax.random.fold_in(KEY, t), 3)
    return np.asarray(jax.random.choice(tasks_key, jnp.asarray(POOL), (3,), replace=False))


def by_hand(steps, restarts=True, through_start=False):
    """ITD-BiO, or MAML, by NumPy, the lower loss and its start differentiated by hand."""
    x, y, path = X.copy(), Y.copy(), []
    for t in range(steps):
        tasks = tasks_of_step(t)
        y = np.stack([x] * 3) if restarts else y
        slope = np.zeros((3, 2), np.float32) + (1.0 if through_start else 0.0)  # of y in x, each entry in its own
        curvature = np.stack([np.ones(3), tasks[:, 2] ** 2], axis=1)
        towards = np.stack([tasks[:, 1], np.ones(3)], axis=1)
        for _ in range(4):
            y = y - ALPHA * curvature * (y - towards * x)
            slope = slope - ALPHA * curvature * (slope - towards)
        h = np.mean((y - tasks[:, :1]) * slope, axis=0) + 0.2 * x
        x = x - BETA * h
        path.append((x, y))
    return path


@pytest.mark.parametrize("restarts", [True, False], ids=["start", "no start"])
def test_each_step_has_tasks_of_its_own(restarts):
    """And y starts anew on them if the problem says where; else it goes on."""
    seen = []
    problem = make_problem(start=start if restarts else None)
    solution = solve(problem=problem, every=1, callbacks=[lambda s: seen.append((s.x, s.y)) and None])
    expected = by_hand(6, restarts)
    for (x, y), (x_hand, y_hand) in zip(seen, expected, strict=True):
        np.testing.assert_allclose(x, x_hand, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(y, y_hand, rtol=1e-5, atol=1e-6)
    assert solution.stats["F"] == 6 * 3


def test_maml_differentiates_through_the_start():
    solution = solve(bl.MAML(BETA, ALPHA, 4), y=None)
    np.testing.assert_allclose(solution.x, by_hand(6, through_start=True)[-1][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "restarts"), [(bl.FSLA(0.05, ALPHA, ALPHA, 0.5), True), (SUSTAIN, False)], ids=["start", "no start"]
)
def test_the_trajectory_depends_on_neither_chunks_nor_interruptions(solver, restarts):
    problem = make_problem(start=start if restarts else None)
    whole = solve(solver, problem, steps=11)
    identical(whole.state, solve(solver, problem, steps=11, every=3).state)
    part = solve(solver, problem, steps=4, every=4)
    identical(whole.state, bl.solve(problem, solver, part, steps=7).state)
    assert whole.stats["G"] == solve(solver, problem, steps=11, every=3).stats["G"]


def test_sustain_by_hand():
    """The lower direction is the plain one; the upper recursion compares the same tasks from the same start."""
    solver = bl.SUSTAIN(0.05, ALPHA, 1, 1.0, 0.4, 0.6)  # K = 1: h = F_x − J[F_y] without a draw
    x, x_old, hf = X, X, np.zeros(2)
    for t in range(4):
        tasks = tasks_of_step(t)
        curvature = np.stack([np.ones(3), tasks[:, 2] ** 2], axis=1)
        towards = np.stack([tasks[:, 1], np.ones(3)], axis=1)

        def h(x, tasks=tasks, curvature=curvature, towards=towards):
            F_y = (np.stack([x] * 3) - tasks[:, :1]) / 3
            return 0.2 * x + np.sum(curvature * towards * F_y, axis=0)  # J = −curvature · towards

        y = np.stack([x] * 3) - ALPHA * curvature * (np.stack([x] * 3) - towards * x)
        hf = h(x) + (0.0 if t == 0 else 0.6) * (hf - h(x_old))
        x, x_old = x - 0.05 * hf, x
    state = solve(solver, steps=4).state
    np.testing.assert_allclose(state.x, x, rtol=1e-5)
    np.testing.assert_allclose(state.y, y, rtol=1e-5, atol=1e-6)


def test_ordinary_problems_run_the_program_that_they_ran():
    """No draw, no key and no branch more than a step under `fold_in`."""
    ordinary = bl.Problem(PROBLEM.upper, PROBLEM.lower)
    x, y = jnp.asarray(X), jnp.asarray(Y)

    def plain(state, key, t0, n):
        def body(t, state):
            return SUSTAIN.step(ordinary, state, t, key=jax.random.fold_in(key, t))

        return jax.lax.fori_loop(t0, t0 + n, body, state)

    state = SUSTAIN.init(ordinary, x, y, key=jax.random.fold_in(KEY, 2**31))
    identical(state, bl.begin(SUSTAIN, ordinary, x, y, KEY))
    expected = jax.make_jaxpr(plain)(state, KEY, 0, 5)
    for problem in (ordinary, bl.Problem(PROBLEM.upper, PROBLEM.lower, start=start)):
        found = jax.make_jaxpr(lambda *args, problem=problem: bl.advance(SUSTAIN, problem, *args))(state, KEY, 0, 5)
        assert str(found) == str(expected)
    ends = jax.jit(plain)(state, KEY, 0, 6), solve(SUSTAIN, ordinary).state
    identical(*(eqx.tree_at(lambda state: state.tally, end, None) for end in ends))


def test_vmap_over_seeds_and_their_data():
    pools = jnp.stack([jnp.asarray(POOL), jnp.asarray(POOL[::-1]) * 0.9])
    keys = jax.random.split(KEY, 2)
    problems = eqx.tree_at(lambda p: p.redraw.pool, PROBLEM, pools)
    axes = jax.tree.map(lambda _: None, eqx.filter(PROBLEM, eqx.is_array))
    axes = eqx.tree_at(lambda p: p.redraw.pool, axes, 0, is_leaf=lambda leaf: leaf is None)

    def final(problem, key):
        state = bl.begin(SUSTAIN, problem, jnp.asarray(X), jnp.asarray(Y), key)
        return bl.advance(SUSTAIN, problem, state, key, 0, 5).x

    together = eqx.filter_jit(eqx.filter_vmap(final, in_axes=(axes, 0)))(problems, keys)
    for i in range(2):
        problem = eqx.tree_at(lambda p: p.redraw.pool, PROBLEM, pools[i])
        alone = bl.solve(problem, SUSTAIN, X, Y, steps=5, key=keys[i]).x
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0], together[1], rtol=1e-2)


class Model(eqx.Module):
    """An x with a leaf that is no array."""

    weights: jax.Array
    activation: object

    def __call__(self, z):
        return self.activation(self.weights * z)


def test_models_with_other_leaves():
    """`start`, `redraw` and `project` see the whole model, before and after `with_batch_size`."""

    def upper(x, y, tasks):
        return jnp.mean((x(y.weights) - jnp.mean(tasks, axis=0)) ** 2)

    def lower(x, y, tasks):
        return jnp.sum((y(y.weights) - jnp.mean(tasks, axis=0)) ** 2) + 0.1 * jnp.sum(x.activation(y.weights) ** 2)

    class Drawn(eqx.Module):
        pool: jax.Array

        def __call__(self, key):
            drawn = jax.random.choice(key, self.pool, (3, 2))
            return bl.Problem(bl.Level(upper, drawn, 2), bl.Level(lower, drawn, 2))

    def begins(x):
        return Model(x(jnp.ones(2)), jnp.tanh)

    def project(x):
        return Model(x.activation(x.weights), x.activation)

    redraw, x = Drawn(jnp.asarray(POOL[:, 0])), Model(jnp.ones(2), jnp.sin)
    first = redraw(KEY)
    problem = bl.Problem(first.upper, first.lower, project, begins, redraw)
    arrays, x_arrays, *_ = prepare(problem, x, begins(x))
    np.testing.assert_allclose(arrays.start(x_arrays).weights, np.sin(np.ones(2)), rtol=1e-6)
    solution = bl.solve(problem, bl.MAML(0.1, 0.1, 2), x, steps=3, key=KEY)
    assert solution.x.activation is jnp.sin
    assert solution.y.activation is jnp.tanh
    resized = arrays.with_batch_size(1)
    assert resized.resample(KEY).lower.batch_size == resized.upper.batch_size == 1
    assert resized.restarts
    tasks, direct = resized.resample(KEY), redraw(KEY)
    np.testing.assert_array_equal(tasks.upper.everything().rows, direct.upper.everything().rows)
    assert ravel_pytree(tasks.project(x_arrays))[0] == pytest.approx(np.sin(np.ones(2)), rel=1e-6)
    assert tasks.redraw is None


def test_hypergradients_draw_once():
    tasks_key, rest = jax.random.split(KEY)
    tasks = PROBLEM.resample(tasks_key)
    for call in (
        lambda problem, key: bl.hypergradient(problem, X, Y, key=key),
        lambda problem, key: bl.unrolled_hypergradient(problem, X, Y, steps=2, lower_step=0.1, key=key),
    ):
        identical(call(PROBLEM, KEY), call(tasks, rest))
        with pytest.raises(ValueError, match="key: missing"):
            call(PROBLEM, None)
        assert call(tasks, None).shape == (2,)


def test_a_diagnosis_draws_once(monkeypatch):
    """The rest of it has the tasks that were drawn, and a key of its own."""

    class MeasureError(Exception):
        pass

    def measure(problem, x, y, *, key):
        raise MeasureError(problem, key)

    monkeypatch.setattr(bl.diagnostics, "measure", measure)
    problems = []
    tasks_key, rest = jax.random.split(KEY)
    for problem, key in ((PROBLEM, KEY), (PROBLEM.resample(tasks_key), rest)):
        with pytest.raises(MeasureError) as caught:
            bl.diagnose(problem, X, Y, key=key)
        problems.append((*caught.value.args,))
    (found, found_key), (expected, expected_key) = problems
    identical(found.upper.data, expected.upper.data)
    assert found.redraw is None
    assert found_key == expected_key


def wrong_shape(key):
    return bl.Problem(bl.Level(upper_loss, POOL[:2]), bl.Level(lower_loss, POOL[:3]))


LARGE = np.ones((600, 600), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": 3}, TypeError, "start: got 3; pass a function x -> y, or None"),
        ({"redraw": 3}, TypeError, "redraw: got 3; pass a function key -> bl.Problem, or None"),
        ({"start": lambda x: x}, ValueError, "start: its output has another structure, shape or dtype than y"),
        ({"redraw": lambda key: 3}, TypeError, "redraw: returned int; return bl.Problem"),
        ({"redraw": wrong_shape}, ValueError, "redraw: its upper level has 2 rows and batch_size=None, that of the"),
    ],
)
def test_bad_problems(options, error, message, compiled):
    with pytest.raises(error, match=message):
        solve(problem=make_problem(**options))
    assert "jit(advance)" not in compiled


def test_other_mistakes():
    with pytest.raises(ValueError, match="start: the problem has none"):
        solve(bl.MAML(0.1, 0.1, 2), make_problem(start=None))
    with pytest.raises(ValueError, match="diagnose_every: the problem redraws its tasks"):
        solve(every=2, diagnose_every=2)
    with pytest.raises(TypeError, match="y: "):
        solve(problem=make_problem(start=None), y=None)

    def closing_over(key):
        return Tasks(jnp.asarray(POOL) * jnp.mean(LARGE))(key)

    with pytest.warns(UserWarning, match="redraw closes over 1 MB of arrays, which are compiled"):
        solve(problem=make_problem(redraw=closing_over), steps=1)
