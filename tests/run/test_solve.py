"""The driver: chunks, history, ways to stop, failures, and models with leaves that are not arrays."""

import os
import signal
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.run import _programs as programs

KEY = jax.random.key(0)


def upper_loss(x, y, batch):
    return 0.5 * (y - 1.0) ** 2


def lower_loss(x, y, batch):
    return 0.5 * (y - 3.0 * x) ** 2


def concave_lower_loss(x, y, batch):
    return 0.5 * (y[0] - x) ** 2 - 0.01 * y[1] ** 2 + y[1] * x


PROBLEM = bl.Problem(bl.Level(upper_loss), bl.Level(lower_loss))
SOBA = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)


def solve(solver=SOBA, problem=PROBLEM, x=1.0, y=0.0, steps=30, **options):
    return bl.solve(problem, solver, x, y, steps=steps, key=KEY, **options)


def metrics(x, y):
    return {"gap": abs(float(y) - 3 * float(x)), "x": x}


def test_history_has_a_row_for_the_start_and_each_chunk():
    solution = solve(every=12, metrics=metrics)
    history = solution.history
    assert history.columns == ["step", "seconds", "F", "G", "H", "J", "gap", "x"]
    assert history["step"].tolist() == [0, 12, 24, 30]
    assert history["F"].tolist() == [0, 12, 24, 30]
    assert history["x"][0] == 1.0
    assert history["x"][-1] == pytest.approx(float(solution.x), abs=0)
    assert (np.diff(history["seconds"]) > 0).all()
    assert history.to_pandas().shape == (4, 8)
    assert solution.stats["steps"] == 30
    assert solution.stats["run_seconds"] == history["seconds"][-1]
    assert solution.result == bl.RESULTS.successful


def test_the_clock_holds_no_metrics_and_no_compilation(clock):
    def slow(x, y):
        clock.now += 10.0
        return {}

    def traced(*args):  # once for each program, while it is compiled
        clock.now += 100.0
        return upper_loss(*args)

    solution = solve(problem=bl.Problem(bl.Level(traced), bl.Level(lower_loss)), every=10, metrics=slow)
    assert 0 < solution.stats["run_seconds"] < 1
    assert solution.stats["compile_seconds"] >= 100
    assert clock.now > 4 * 10 + solution.stats["compile_seconds"]


def test_target_ends_the_run_at_the_first_chunk_that_reaches_it():
    free = solve(steps=500, every=10, metrics=metrics)
    target = bl.Target("x", at_most=0.5)
    solution = solve(steps=500, every=10, metrics=metrics, callbacks=[target])
    first = next(step for step, x in zip(free.history["step"], free.history["x"], strict=True) if x <= 0.5)
    assert solution.stats["steps"] == first
    assert solution.result == bl.RESULTS.target_reached
    at_start = solve(metrics=metrics, callbacks=[bl.Target("x", at_least=0.9)])
    assert at_start.stats["steps"] == 0
    with pytest.raises(ValueError, match="target: 'y' is unknown"):
        solve(metrics=metrics, callbacks=[bl.Target("y", at_least=0)])
    with pytest.raises(ValueError, match="Target: pass one of"):
        bl.Target("x")
    for value, error in (("0.5", TypeError), ([1], TypeError), (True, TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match="^at_least: got"):
            bl.Target("x", at_least=value)
    with pytest.raises(TypeError, match="^metric: got 3"):
        bl.Target(3, at_most=1.0)


def test_callbacks_see_each_chunk_and_can_stop():
    seen = []

    def stop(solution):
        return bl.RESULTS.stopped if len(seen) == 3 else None

    solution = solve(every=10, callbacks=[lambda s: seen.append(s.stats["steps"]), stop])
    assert seen == [0, 10, 20]
    assert solution.stats["steps"] == 20
    assert solution.result == bl.RESULTS.stopped


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_computed_survives_an_exception(error):
    def failing(solution):
        if solution.stats["steps"] == 20:
            raise error

    with pytest.raises(error) as info:
        solve(every=10, callbacks=[failing])
    solution = info.value.solution
    assert solution.result == bl.RESULTS.interrupted
    assert solution.history["step"].tolist() == [0, 10, 20]
    finished = bl.solve(PROBLEM, SOBA, solution, steps=10)
    assert float(finished.x) == float(solve().x)
    assert finished.result == bl.RESULTS.successful


def test_ctrl_c_is_heard_within_a_chunk(monkeypatch):
    """The chunk would take half a minute."""
    monkeypatch.setattr("bilevel.run._single._PATIENCE", 0.1)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    alarm = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))

    def metrics(x, y):
        alarm.start()
        return {}

    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            solve(steps=10**9, every=10**9, metrics=metrics)
    finally:
        signal.signal(signal.SIGINT, ours)
    solution = caught.value.solution
    assert solution.result == bl.RESULTS.interrupted and solution.stats["steps"] == 0 and float(solution.x) == 1.0


@pytest.mark.parametrize("patience", [0.0, 1e-3])
def test_the_parts_of_a_chunk_change_no_number(patience, monkeypatch):
    monkeypatch.setattr("bilevel.run._single._PATIENCE", patience)
    parts, wild = solve(steps=100, every=100), exploding(throw=False)
    monkeypatch.setattr("bilevel.run._single._PATIENCE", 1e9)
    for part, whole in ((parts, solve(steps=100, every=100)), (wild, exploding(throw=False))):
        np.testing.assert_array_equal(part.x, whole.x)
        assert part.result == whole.result
        assert [part.stats[name] for name in ("steps", *"FGHJ")] == [whole.stats[name] for name in ("steps", *"FGHJ")]


def exploding(steps=400, **options):
    return solve(bl.SOBA(upper_step=0.01, lower_step=3.0, adjoint_step=0.5), steps=steps, **options)


def test_nonfinite_iterates_stop_at_the_last_finite_state():
    with pytest.raises(bl.SolveError, match="NaN or infinite.*Reduce the step sizes") as info:
        exploding(every=100)
    solution = info.value.solution
    assert solution.result == bl.RESULTS.nonfinite
    assert np.isfinite([float(solution.x), float(solution.y)]).all()
    last = solution.stats["steps"]
    assert solution.history["step"][-1] == last
    # it is the very last one: one more step is not finite, and runs cut elsewhere end at the same step
    returned = exploding(every=37, throw=False)
    assert returned.result == bl.RESULTS.nonfinite
    assert returned.stats["steps"] == last
    assert returned.stats["F"] == last
    assert float(returned.y) == float(solution.y)
    assert exploding(steps=last, signs=False).result == bl.RESULTS.successful
    assert exploding(steps=last + 1, throw=False).result == bl.RESULTS.nonfinite


def test_a_run_that_is_looked_at_late_goes_back_to_its_last_finite_state(monkeypatch):
    seen = exploding(every=10, metrics=lambda x, y: {}, throw=False)
    assert seen.stats["steps"] > 30
    monkeypatch.setattr("bilevel.run._single._LOOKING", 1e9)  # at the end alone
    late = exploding(every=10, throw=False)
    assert late.result == seen.result == bl.RESULTS.nonfinite
    assert (float(late.x), float(late.y)) == (float(seen.x), float(seen.y))
    for column in ("step", "F", "G", "H", "J"):
        assert late.history[column].tolist() == seen.history[column].tolist()
    assert {kind: late.stats[kind] for kind in ("steps", *"FGHJ")} == {k: seen.stats[k] for k in ("steps", *"FGHJ")}
    assert np.all(np.diff(late.history["seconds"]) >= 0)


def test_an_interrupted_run_that_is_looked_at_late_keeps_a_state_and_its_history(monkeypatch):
    class Interrupting(programs.Programs):
        def advance(self, state, t0, n):
            if t0 >= 40:
                jax.tree.map(lambda leaf: leaf.delete(), state)  # as in the middle of a chunk
                raise KeyboardInterrupt
            return super().advance(state, t0, n)

    monkeypatch.setattr("bilevel.run._single._LOOKING", 1e9)
    monkeypatch.setattr("bilevel.run._solve.Programs", Interrupting)
    with pytest.raises(KeyboardInterrupt) as info:
        solve(every=10, steps=60)
    solution = info.value.solution
    assert solution.history["step"].tolist() == [0]
    assert solution.stats["steps"] == solution.stats["F"] == 0
    monkeypatch.undo()
    assert float(bl.solve(PROBLEM, SOBA, solution, steps=30).x) == float(solve().x)


def test_no_array_that_the_user_holds_is_overwritten():
    seen = []
    first = solve(callbacks=[lambda solution: seen.append(solution)])
    x, y, state = float(first.x), float(first.y), jax.tree.map(float, first.state)
    bl.solve(PROBLEM, SOBA, first, steps=100, every=10)
    assert (float(first.x), float(first.y), jax.tree.map(float, first.state)) == (x, y, state)
    assert len({float(solution.x) for solution in seen}) == len(seen)
    a, b = jnp.asarray(1.0), jnp.asarray(3.0)
    bl.solve(PROBLEM, SOBA, a, b, steps=100, every=10, key=KEY)
    assert (float(a), float(b)) == (1.0, 3.0)


def test_conjugate_gradient_says_that_the_lower_level_is_not_convex():
    problem = bl.Problem(bl.Level(lambda x, y, _: jnp.sum((y - 1.0) ** 2)), bl.Level(concave_lower_loss))
    solver = bl.AIDBiO(upper_step=0.01, lower_step=0.1, inner_steps=2)
    x, y = jnp.ones(()), jnp.zeros(2)
    with pytest.raises(bl.SolveError, match="curvature is not positive") as info:
        bl.solve(problem, solver, x, y, steps=5, key=KEY)
    assert info.value.solution.result == bl.RESULTS.not_convex
    assert info.value.solution.stats["steps"] == 0
    returned = bl.solve(problem, solver, x, y, steps=5, key=KEY, throw=False)
    assert returned.result == bl.RESULTS.not_convex
    with pytest.raises(ValueError, match="curvature is not positive"):
        bl.hypergradient(problem, x, y)


def test_continuing_takes_everything_from_the_solution():
    first = solve(steps=10)
    with pytest.raises(ValueError, match="omit y and key"):
        bl.solve(PROBLEM, SOBA, first, steps=10, key=KEY)
    with pytest.raises(TypeError, match="steps: got 2.5"):
        bl.solve(PROBLEM, SOBA, first, steps=2.5)
    with pytest.raises(TypeError, match="solver: got"):
        bl.solve(PROBLEM, bl.SOBA, first, steps=2)
    for other in (bl.AIDBiO(0.1, 0.1, 2), bl.SOBA(bl.Rule(optax.adam, 0.1), 0.5, 0.5)):
        with pytest.raises(ValueError, match="x: the Solution holds a SOBAState"):
            bl.solve(PROBLEM, other, first, steps=2)


def test_a_model_with_other_leaves_is_partitioned_and_given_back():
    model = eqx.nn.MLP(2, "scalar", 4, depth=1, key=KEY)
    inputs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)

    def loss(x, y, batch):
        assert callable(y.activation)
        return jnp.mean((jax.vmap(y)(batch) - jnp.sin(batch[:, 0])) ** 2) + jnp.exp(x["log"]) * 1e-3

    problem = bl.Problem(bl.Level(loss, inputs), bl.Level(loss, inputs))
    solver = bl.SOBA(0.01, 0.1, 0.01)
    solution = bl.solve(problem, solver, {"log": 0.0, "name": "a setting"}, model, steps=5, key=KEY, signs=False)
    assert isinstance(solution.y, eqx.nn.MLP)
    assert solution.y.activation is model.activation
    assert solution.x["name"] == "a setting"
    assert not np.array_equal(solution.y.layers[0].weight, model.layers[0].weight)
    assert jax.vmap(solution.y)(inputs).shape == (20,)
    assert bl.hypergradient(problem, solution.x, solution.y, method=bl.FixedPoint(3, 0.1))["log"].shape == ()
    again = bl.solve(problem, solver, solution, steps=5, signs=False)
    assert isinstance(again.y, eqx.nn.MLP)


def test_counts_exceed_32_bits_within_a_chunk():
    """Full batches of 2·10⁵ rows, 300 inner steps, 50 steps: 3·10⁹ gradients."""
    data = np.ones(200_000, np.float32)
    problem = bl.Problem(
        bl.Level(lambda x, y, batch: (y - 1) ** 2),
        bl.Level(lambda x, y, batch: (y - x) ** 2 + 0.0 * batch[0], data),
    )
    solution = solve(bl.AIDBiO(0.1, 0.1, 300, bl.FixedPoint(1, 0.1)), problem, steps=50, signs=False)
    assert solution.stats["G"] == 50 * 300 * 200_000
    assert solution.stats["J"] == 50 * 200_000


def test_progress_is_shown_when_asked_for(capsys):
    solve(every=10, metrics=metrics, progress=True)
    assert "solve" in capsys.readouterr().err
    solve(every=10, metrics=metrics)  # not a terminal here
    assert capsys.readouterr().err == ""


def test_projection_follows_each_step():
    problem = bl.Problem(bl.Level(upper_loss), bl.Level(lower_loss), project=lambda x: jnp.clip(x, 0.5, 2.0))
    assert float(solve(problem=problem, steps=300).x) == 0.5
    with pytest.raises(ValueError, match="project: its output"):
        solve(problem=bl.Problem(bl.Level(upper_loss), bl.Level(lower_loss), project=lambda x: x[None]))


@pytest.mark.parametrize("answer", [True, False, np.True_, jnp.array(True), 1, "no"])
def test_a_callback_answers_with_a_result_or_not_at_all(answer):
    with pytest.raises(TypeError, match=r"callbacks: one returned .*; return bl\.RESULTS\.stopped"):
        solve(every=10, callbacks=[lambda solution: answer])
    assert solve(every=10, callbacks=[lambda solution: None]).stats["steps"] == 30


@pytest.mark.parametrize("name", [1, None, ("a", "b")])
def test_a_name_of_a_metric_is_a_string(name):
    with pytest.raises(TypeError, match="metrics: got the name .*; name each number by a string"):
        solve(metrics=lambda x, y: {name: 1.0})


def test_recorders_add_columns_and_may_not_take_others():
    history = solve(every=10, recorders=[lambda s: {"v": float(s.state.v)}], metrics=metrics).history
    assert history.columns == ["step", "seconds", "F", "G", "H", "J", "v", "gap", "x"]
    assert history["v"][0] == 0 != history["v"][-1]
    with pytest.raises(ValueError, match="metrics: 'x' is a column of the history already"):
        solve(recorders=[lambda s: {"x": 1.0}], metrics=metrics)
    with pytest.raises(TypeError, match="recorder function: returned int; return a dict"):
        solve(recorders=[lambda s: 3])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(metrics={}), TypeError, "metrics: got {}"),
        (dict(metrics=lambda x: {}), TypeError, r"metrics: it cannot be called as \(x, y\) -> "),
        (dict(metrics=lambda x, y: {1: 2.0}), TypeError, "metrics: got the name 1"),
        (dict(metrics=lambda x, y: 1.0), TypeError, "metrics: returned float"),
        (dict(metrics=lambda x, y: {"a": None}), TypeError, "metrics: 'a' is None"),
        (dict(metrics=lambda x, y: {"a": np.ones(2)}), TypeError, "metrics: 'a' is array"),
        (dict(metrics=lambda x, y: {"F": 1.0}), ValueError, "metrics: 'F' is a column"),
        (dict(metrics=lambda x, y: {"step": 1.0}), ValueError, "metrics: 'step' is a column"),
        (dict(recorders="x"), TypeError, "recorders: got 'x'"),
        (dict(callbacks=print), TypeError, "callbacks: got <built-in"),
        (dict(callbacks=[1]), TypeError, r"callbacks: got \[1\]"),
        (dict(progress="no"), TypeError, "progress: got 'no'"),
        (dict(steps=2**31), ValueError, "steps: got 2147483648"),
        (dict(every=0), ValueError, "every: got 0"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        solve(**options)


def test_inside_a_transformation_it_names_advance():
    for transform in (jax.jit, jax.vmap, jax.grad):
        with pytest.raises(TypeError, match=r"use bl\.advance"):
            transform(lambda x: solve(x=x).x)(jnp.ones(3) if transform is jax.vmap else 1.0)


def test_without_rich_there_is_no_bar(monkeypatch):
    import importlib.util
    import sys

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert solve().result == bl.RESULTS.successful
    with pytest.raises(ValueError, match="progress: rich"):
        solve(progress=True)


def test_nan_in_the_adjoint_is_not_taken_for_an_answer():
    """At the kink of a norm F_y is NaN: neither 0 nor success."""
    kink = bl.Level(lambda x, y, _: jnp.sqrt(jnp.sum((y - 3.0) ** 2)))
    problem = bl.Problem(kink, bl.Level(lower_loss))
    with pytest.raises(ValueError, match=r"upper\.loss: its gradient at \(x, y\) is not finite"):
        bl.hypergradient(problem, 1.0, 3.0)
    solver = bl.AIDBiO(upper_step=0.1, lower_step=0.5, inner_steps=1)
    assert solve(solver, problem, 1.0, 3.0, throw=False).result == bl.RESULTS.nonfinite


def test_what_a_start_computes_is_stepping_time_and_runs_once():
    """BO-REP's first stage: its gradients count, and a second run compiles nothing and still takes the time."""
    data = np.random.default_rng(0).normal(size=(2_000, 300)).astype(np.float32)
    level = bl.Level(lambda x, y, rows: jnp.mean((rows @ y - x) ** 2), data)
    problem = bl.Problem(bl.Level(lambda x, y, _: jnp.sum(y**2)), level)
    solver = bl.BOREP(0.1, 0.01, 0.01, initial=bl.EpochSGD.plain(steps=500, rate=0.001))
    for _ in range(2):
        solution = solve(solver, problem, 1.0, np.zeros(300, np.float32), steps=1)
    assert solution.stats["G"] == 500 * 2_000
    assert solution.history["seconds"][0] > 5 * (solution.history["seconds"][1] - solution.history["seconds"][0])


def test_a_loop_of_ones_own_compiles_once_from_weak_types(compiled):
    solver, key = bl.SOBA(0.1, 0.1, 0.1), jax.random.key(0)
    begin, advance = eqx.filter_jit(bl.initial_state), eqx.filter_jit(bl.advance)
    x, y = jnp.full(2, -2.0), jnp.zeros(2)
    assert x.weak_type
    problem = bl.Problem(
        bl.Level(lambda x, y, _: jnp.sum((y - 1) ** 2)), bl.Level(lambda x, y, _: jnp.sum((y - x) ** 2))
    )
    state, _ = begin(solver, problem, x, y, key)
    for t in (0, 5):
        state, _ = advance(solver, problem, state, key, jnp.asarray(t), jnp.asarray(5))
    assert sum("advance" in name for name in compiled) == 1
