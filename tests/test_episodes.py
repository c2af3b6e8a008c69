"""Episodes: the driver against a hand-written loop, solvers that reach a closed-form optimum, and refused solvers."""

import collections
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import identical
from solvers import test_properties as properties

import bilevel as bl
from bilevel import _random
from bilevel._prepare import prepare
from bilevel.cost import Total
from bilevel.diagnostics import _diagnose
from bilevel.solvers.registry import SOLVERS, on_episodes

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
    return bl.Episodes(Tasks(jnp.asarray(POOL)) if redraw is None else redraw, start, **options)


PROBLEM = make_problem()
X = np.array([1.0, -0.5], np.float32)
Y = np.ones((3, 2), np.float32)
ITD = bl.ITDBiO(BETA, ALPHA, 4)
SUSTAIN = bl.SUSTAIN(0.05, ALPHA, 3, 0.2, 0.4, 0.6)
STOCBIO = bl.StocBiO(bl.Rule(optax.adam, 0.05), bl.Rule(optax.adam, ALPHA), 3, 3, 0.2)


def solve(solver=ITD, problem=PROBLEM, x=X, y=Y, steps=6, **options):
    return bl.solve(problem, solver, x, y, steps=steps, key=KEY, **options)


def tasks_of_step(t):
    tasks_key, *_ = jax.random.split(_random.at(KEY, t), 3)
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
    solution = solve(problem=problem, every=1, callbacks=[lambda s: seen.append((s.x, s.y))])
    expected = by_hand(6, restarts)
    for (x, y), (x_hand, y_hand) in zip(seen[1:], expected, strict=True):
        np.testing.assert_allclose(x, x_hand, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(y, y_hand, rtol=1e-5, atol=1e-6)
    assert solution.stats["F"] == 6 * 3


def test_maml_differentiates_through_the_start():
    solution = solve(bl.MAML(BETA, ALPHA, 4), y=None)
    np.testing.assert_allclose(solution.x, by_hand(6, through_start=True)[-1][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("solver", "restarts"), [(STOCBIO, True), (SUSTAIN, False)], ids=["start", "no start"])
def test_the_trajectory_depends_on_neither_chunks_nor_interruptions(solver, restarts):
    problem = make_problem(start=start if restarts else None)
    whole = solve(solver, problem, steps=11)
    identical(whole.state, solve(solver, problem, steps=11, every=3).state)
    part = solve(solver, problem, steps=4, every=4)
    identical(whole.state, bl.solve(problem, solver, part, steps=7).state)
    assert whole.stats["G"] == solve(solver, problem, steps=11, every=3).stats["G"]


def test_ordinary_problems_run_no_more_than_their_steps():
    """No draw, no key and no branch beside a step with the key of its iteration."""
    ordinary = PROBLEM.draw(KEY)
    ordinary = bl.Problem(ordinary.upper, ordinary.lower)

    def plain(state, key, t0, n):
        key = _random.light(key)

        def body(t, carry):
            state, total = carry
            state, cost = SUSTAIN.step(ordinary, state, t, key=_random.at(key, t))
            return state, total + cost

        return jax.lax.fori_loop(t0, t0 + n, body, (state, Total.zero()))

    state, _ = SUSTAIN.init(ordinary, jnp.asarray(X), jnp.asarray(Y), key=jax.random.fold_in(_random.light(KEY), 2**31))
    identical(state, bl.initial_state(SUSTAIN, ordinary, jnp.asarray(X), jnp.asarray(Y), KEY)[0])
    expected = operations(plain, state)
    assert operations(lambda *args: bl.advance(SUSTAIN, ordinary, *args), state) == expected
    assert sum(expected.values()) > 100


def operations(function, state):
    """How many of each there are in the compiled program."""
    text = jax.jit(function).lower(state, KEY, 0, 5).compile().as_text()
    return collections.Counter(re.findall(r" ([a-z-]+)\(", text))


def test_vmap_over_seeds_and_their_data():
    pools = jnp.stack([jnp.asarray(POOL), jnp.asarray(POOL[::-1]) * 0.9])
    keys = jax.random.split(KEY, 2)
    problems = eqx.tree_at(lambda p: p.redraw.pool, PROBLEM, pools)
    axes = jax.tree.map(lambda _: None, eqx.filter(PROBLEM, eqx.is_array))
    axes = eqx.tree_at(lambda p: p.redraw.pool, axes, 0, is_leaf=lambda leaf: leaf is None)

    def final(problem, key):
        state, _ = bl.initial_state(STOCBIO, problem, jnp.asarray(X), jnp.asarray(Y), key)
        return bl.advance(STOCBIO, problem, state, key, 0, 5)[0].x

    together = eqx.filter_jit(eqx.filter_vmap(final, in_axes=(axes, 0)))(problems, keys)
    for i in range(2):
        problem = eqx.tree_at(lambda p: p.redraw.pool, PROBLEM, pools[i])
        alone = bl.solve(problem, STOCBIO, X, Y, steps=5, key=keys[i]).x
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
    problem = bl.Episodes(redraw, begins, project)
    prepared = prepare(problem, x, begins(x))
    arrays, x_arrays = prepared.problem, prepared.x
    np.testing.assert_allclose(arrays.start(x_arrays).weights, np.sin(np.ones(2)), rtol=1e-6)
    solution = bl.solve(problem, bl.MAML(0.1, 0.1, 2), x, steps=3, key=KEY)
    assert solution.x.activation is jnp.sin
    assert solution.y.activation is jnp.tanh
    resized = arrays.with_batch_size(1)
    assert resized.draw(KEY).lower.batch_size == resized.draw(KEY).upper.batch_size == 1
    tasks, direct = resized.draw(KEY), redraw(KEY)
    np.testing.assert_array_equal(tasks.upper.all_rows().rows, direct.upper.all_rows().rows)
    assert ravel_pytree(tasks.project(x_arrays))[0] == pytest.approx(np.sin(np.ones(2)), rel=1e-6)


def test_hypergradients_draw_once():
    tasks_key, rest = jax.random.split(KEY)
    tasks = PROBLEM.draw(tasks_key)
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

    monkeypatch.setattr(_diagnose, "measure", measure)
    problems = []
    tasks_key, rest = jax.random.split(KEY)
    for problem, key in ((PROBLEM, KEY), (PROBLEM.draw(tasks_key), rest)):
        with pytest.raises(MeasureError) as caught:
            bl.diagnose(problem, X, Y, key=key)
        problems.append((*caught.value.args,))
    (found, found_key), (expected, expected_key) = problems
    identical(found.upper.data, expected.upper.data)
    assert isinstance(found, bl.Problem)
    assert found_key == expected_key


LARGE = np.ones((600, 600), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": 3}, TypeError, "start: got 3; pass a function x -> y"),
        ({"redraw": 3}, TypeError, "redraw: got 3; pass a function key -> bl.Problem"),
        ({"start": lambda x: x}, ValueError, "start: its output has another structure, shape or dtype than y"),
        ({"redraw": lambda key: 3}, TypeError, "redraw: returned int; return bl.Problem"),
    ],
)
def test_bad_problems(options, error, message, compiled):
    with pytest.raises(error, match=message):
        solve(problem=make_problem(**options))
    assert "jit(_advance)" not in compiled


def test_other_mistakes():
    for problem in (make_problem(start=None), PROBLEM.redraw(KEY)):
        with pytest.raises(ValueError, match="problem: MAML learns where y begins; pass bl.Episodes"):
            solve(bl.MAML(0.1, 0.1, 2), problem)
    with pytest.raises(ValueError, match="problem: got Episodes, whose tasks change in each step; use bl.diagnose"):
        bl.Watch(PROBLEM)
    with pytest.raises(TypeError, match="problem: got Episodes, but candidates are judged on all rows of one problem"):
        bl.suggest(PROBLEM, X, Y, key=KEY)
    with pytest.raises(TypeError, match="redraw: got None"):
        bl.Episodes(None)
    with pytest.raises(TypeError, match="y: "):
        solve(problem=make_problem(start=None), y=None)

    def closing_over(key):
        return Tasks(jnp.asarray(POOL) * jnp.mean(LARGE))(key)

    with pytest.warns(UserWarning, match="redraw closes over 1 MB of arrays, which are compiled"):
        solve(problem=make_problem(redraw=closing_over), steps=1)


# --- a closed-form optimum: min over x of E ½ (y_i*(x) − c_i)², y_i*(x) = 3x, E c = 1, so x* = 1/3 ---

CENTERS = np.linspace(0.7, 1.3, 30, dtype=np.float32)


class Centers(eqx.Module):
    """Four tasks, with curvatures of their own."""

    pool: jax.Array

    def __call__(self, key):
        c_key, d_key = jax.random.split(key)
        curvatures = jax.random.uniform(d_key, (4,), minval=0.8, maxval=1.2)
        centers = jax.random.choice(c_key, self.pool, (4,))
        return bl.Problem(
            bl.Level(lambda x, y, c: 0.5 * jnp.mean((y - c) ** 2), centers),
            bl.Level(lambda x, y, d: 0.5 * jnp.sum(d * (y - 3 * x) ** 2), curvatures),
        )


ON_CENTERS = bl.Episodes(Centers(jnp.asarray(CENTERS)), start=lambda x: jnp.zeros(4))


def episode_solvers():
    """Each solver that is a method on episodes, with a lower loop that is long enough from a cold start."""
    step, small = bl.inverse_power(0.3, 0.6, 10.0), bl.inverse_power(0.1, 0.6, 10.0)
    return {
        "itd": bl.ITDBiO(step, 0.8, 12),
        "aid": bl.AIDBiO(step, 0.8, 12, bl.ConjugateGradient(5)),
        "stocbio": bl.StocBiO(step, 0.8, 12, 12, 0.8),
        "ba": bl.BA(step, 0.8, inner_steps=12),
        "bsa": bl.BSA(small, 0.8, 5, 0.8, inner_steps=12),
        "alset": bl.ALSET(small, 0.8, 12, 5, 0.8),
        "amigo": bl.AmIGO(step, 0.8, 0.8, 12, 12),
        "f2sa": bl.F2SA(step, 0.01, 0.8, multiplier=50.0, inner_steps=40),
        "hoag": bl.HOAG(step, 0.8, strong_convexity=0.8),
        "pzobo": bl.PZOBO(small, 0.8, 12),
        "maml": bl.MAML(step, 0.8, 12),
        "reverse": bl.reverse(step, 0.8, 12, truncation=8),
        "aid-fp": bl.aid_fp(step, 0.8, 12, 12),
        "aid-cg": bl.aid_cg(step, 0.8, 12, 5),
        "recursive momentum": bl.RecursiveMomentum(bl.ITDBiO(step, 0.8, 12), 0.5),
    }


@pytest.mark.parametrize("name", episode_solvers())
def test_methods_on_episodes_reach_the_optimum(name):
    solution = bl.solve(ON_CENTERS, episode_solvers()[name], 1.0, steps=2000, key=KEY)
    assert solution.result == bl.RESULTS.successful
    assert float(solution.x) == pytest.approx(1 / 3, abs=0.02)


REFUSED = [name for name in SOLVERS if name not in episode_solvers()]


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_before_compiling(name, compiled):
    solver = properties.make_solvers()[name]
    with pytest.raises(ValueError, match=rf"^solver: {type(solver).__name__} moves x with a y or an .* ITDBiO, "):
        bl.solve(ON_CENTERS, solver, 1.0, steps=3, key=KEY)
    with pytest.raises(ValueError, match="moves x with a y or an adjoint"):
        bl.sweep(lambda: solver, [{}], ON_CENTERS, 1.0, steps=3, key=KEY)
    assert not [program for program in compiled if "begin" in program or "advance" in program or "start" in program]


def test_the_error_names_those_that_work():
    classes = {type(solver).__name__ for name, solver in episode_solvers().items() if name in SOLVERS}
    assert classes == set(on_episodes())
    assert set(REFUSED) == {
        "sustain", "fsla", "borep", "soba", "saba", "masoba", "ttsa", "stable", "svrb", "mrbo", "vrbo", "srba",
        "bome",
    }  # fmt: skip


class SomeRows(eqx.Module):
    """Rows of the noise of `test_properties`: samples of one lower problem."""

    noise: jax.Array

    def __call__(self, key):
        upper, lower = jax.random.choice(key, self.noise, (2, 8))
        return bl.Problem(bl.Level(properties.upper_loss, upper), bl.Level(properties.lower_loss, lower))


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "maml"])
def test_samples_of_one_lower_problem_suit_every_solver(name):
    """Without a `start` all goes on: y, the adjoint, the momenta."""
    episodes = bl.Episodes(SomeRows(jnp.asarray(np.float32(properties.NOISE))))
    solution = bl.solve(episodes, properties.make_solvers()[name], *properties.start(), steps=3000, key=KEY)
    np.testing.assert_allclose(solution.x["x"][0], properties.X_STAR, atol=0.05)


class SomeConcave(eqx.Module):
    """A lower level that is concave in one draw of four."""

    signs: jax.Array

    def __call__(self, key):
        sign = jax.random.choice(key, self.signs)
        return bl.Problem(
            bl.Level(lambda x, y, _: 0.5 * (y - 1) ** 2),
            bl.Level(lambda x, y, sign: 0.5 * jnp.mean(sign) * (y - x) ** 2, jnp.reshape(sign, (1,))),
        )


@pytest.mark.parametrize(
    "solver", [bl.AIDBiO(0.1, 0.1, 2), bl.HOAG(0.1, 0.1, 1.0, inner_steps=5), bl.BA(0.1, 0.1, inner_steps=2)]
)
def test_a_concave_draw_is_not_forgotten(solver):
    """Whatever the draws after it, within the chunk."""
    episodes = bl.Episodes(SomeConcave(jnp.array([1.0, 1.0, 1.0, -1.0])), start=lambda x: 0.5 * x)
    keys = [jax.random.split(_random.at(KEY, t), 3)[0] for t in range(12)]
    signs = [float(episodes.draw(key).lower.data.arrays[0]) for key in keys]
    steps = max(t + 1 for t in range(12) if signs[t] > 0)
    assert -1 in signs[: steps - 1]
    solution = bl.solve(episodes, solver, 1.0, steps=steps, every=steps, key=KEY, throw=False)
    assert solution.result == bl.RESULTS.not_convex
    assert solution.stats["steps"] == signs.index(-1)


def test_the_cost_of_starting_anew_counts():
    """AID's solves on fresh tasks, and none of a start."""
    solver = bl.AIDBiO(0.1, 0.5, 3, bl.ConjugateGradient(2))
    stats = bl.solve(ON_CENTERS, solver, 1.0, steps=5, key=KEY).stats
    assert (stats["F"], stats["G"], stats["J"]) == (5 * 4, 5 * 3 * 4, 5 * 4)


def test_a_sweep_on_episodes_is_its_runs():
    swept = bl.sweep(
        lambda rate: bl.ITDBiO(rate, 0.8, 6), {"rate": [0.1, 0.2]}, ON_CENTERS, 1.0, steps=20, seeds=2, key=KEY
    )
    for run in swept.runs:
        alone = bl.solve(
            ON_CENTERS, bl.ITDBiO(run.setting["rate"], 0.8, 6), 1.0, steps=20, key=jax.random.fold_in(KEY, run.seed)
        )
        np.testing.assert_allclose(run.x, alone.x, rtol=1e-5)
