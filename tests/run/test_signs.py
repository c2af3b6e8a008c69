"""The look at the end of a run: no broken problem ends successful and wrong, and healthy ones are not warned of."""

import importlib.util
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import _random
from bilevel.run import _signs
from bilevel.solvers.registry import SOLVERS

KEY = jax.random.key(0)
SPEC = importlib.util.spec_from_file_location("build_broken", Path(__file__).parents[2] / "docs" / "build_broken.py")
broken = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(broken)
PAGE = broken.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", broken.solvers())
def test_no_broken_problem_ends_successful_and_wrong(name):
    cells = broken.row(name)
    wrong = {title: cell for title, cell in cells.items() if "successful" in cell}
    assert not wrong
    assert cells["healthy"] == "right"
    assert broken.lines(name, cells) in PAGE, "run `make tables`"


def test_the_table_holds_every_solver():
    assert {*broken.solvers(), "maml"} == set(SOLVERS)  # MAML takes fresh tasks alone


def smooth(x, y, _):
    return 0.5 * jnp.sum((y - 1.0) ** 2)


def near(x, y, _):
    return 0.5 * jnp.sum((y - x) ** 2)


def solve(upper=smooth, lower=near, solver=None, steps=50, x=2.0, y=(0.0, 0.0), **options):
    solver = bl.SOBA(0.1, 0.5, 0.5) if solver is None else solver
    problem = bl.Problem(bl.Level(upper), bl.Level(lower), options.pop("project", None))
    return bl.solve(problem, solver, x, np.float32(y), steps=steps, key=KEY, **options)


def test_a_run_that_is_continued_from_its_optimum_gives_no_sign():
    problem = bl.Problem(
        bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2 + 0.5 * x**2), bl.Level(lambda x, y, _: 0.5 * (y - x) ** 2)
    )
    solver = bl.SOBA(0.2, 0.8, 0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = bl.solve(problem, solver, 0.0, 0.0, steps=400, key=jax.random.key(0))
        again = bl.solve(problem, solver, done, steps=50)
    assert float(again.x) == float(done.x) == pytest.approx(0.5)


def warnings_of(run, *args, **options):
    """The warnings of a run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(*args, **options)
    assert all(w.category is bl.DiagnosisWarning for w in caught)
    return [str(w.message) for w in caught]


def names(texts):
    return [text.split(":")[0] for text in texts]


def signs(*args, **options):
    """The names of the warnings of a run."""
    return names(warnings_of(solve, *args, **options))


def test_a_loss_that_is_not_finite_with_finite_gradients():
    def upper(x, y, _):
        return smooth(x, y, _) + jax.lax.stop_gradient(jnp.log(-1.0 + 0 * x))

    with pytest.warns(bl.DiagnosisWarning, match="not finite: upper loss is nan at the end"):
        solve(upper)
    assert solve(upper, signs=False).result == bl.RESULTS.successful


def test_an_error_blames_the_loss_and_not_the_steps():
    with pytest.raises(bl.SolveError, match="after step 0: lower loss is nan at the start.*start elsewhere") as info:
        solve(lower=lambda x, y, _: 0.5 * jnp.sum((y - jnp.log(x)) ** 2), x=-1.0)
    assert "Reduce" not in str(info.value)


def test_an_error_says_what_the_curvature_blames():
    """Conjugate gradient divides by a curvature of rounding; a step is above 2/L."""
    flat = lambda x, y, _: 0.5 * (y[0] - x) ** 2  # noqa: E731
    with pytest.raises(bl.SolveError, match=r"Seen: (flat|not strongly convex): the"):
        solve(lower=lambda x, y, _: flat(x, y, _) - y[1] * x, solver=bl.AIDBiO(0.1, 0.5, 2), steps=500)
    with pytest.raises(bl.SolveError, match=r"Seen: lower_step: 3 is above 2/L = 2"):
        solve(solver=bl.SOBA(0.1, 3.0, 0.5), steps=500)


def test_a_start_outside_of_x_is_projected():
    """Also in `sweep` and `initial_state`; x = e is the minimum."""
    options = dict(lower=lambda x, y, _: 0.5 * jnp.sum((y - jnp.log(x)) ** 2), project=lambda x: jnp.clip(x, 0.5, 9))
    assert float(solve(**options, x=-1.0, steps=500).x) == pytest.approx(np.e, abs=0.01)
    problem = bl.Problem(bl.Level(smooth), bl.Level(options["lower"]), options["project"])
    make = lambda rate: bl.SOBA(rate, 0.5, 0.5)  # noqa: E731
    swept = bl.sweep(make, {"rate": [0.1]}, problem, -1.0, np.zeros(2, np.float32), steps=500, key=KEY)
    assert float(swept.runs[0].x) == pytest.approx(np.e, abs=0.01)
    assert float(bl.initial_state(make(0.1), problem, jnp.array(-1.0), jnp.zeros(2), KEY)[0].x) == 0.5


def test_a_rate_that_is_zero_in_the_dtype_of_x(compiled):
    with pytest.raises(ValueError, match="upper_step: got 1e-50, which is 0 in float32"):
        solve(solver=bl.SOBA(1e-50, 0.5, 0.5))
    assert not compiled
    with pytest.warns(bl.DiagnosisWarning, match="x stands still: no entry has changed in 50 steps"):
        solve(solver=bl.SOBA(1e-30, 0.5, 0.5))


@pytest.mark.parametrize("t", [1, 30, 49])
def test_a_schedule_that_turns_negative(t):
    falls = bl.SOBA(lambda k: jnp.where(k < t, 0.1, -0.1), 0.5, 0.5)
    with pytest.raises(ValueError, match="upper_step: the function of t gave -0.1.* at t = "):
        solve(solver=falls)
    solve(solver=falls, steps=t)


def test_borep_takes_gradients_whose_squares_leave_the_range():
    steps = bl.inverse_power(2.0, 1.0, 20.0)
    for scale in (1e25, 1e-25, 1.0):
        upper = lambda x, y, _, scale=scale: scale * smooth(x, y, _)  # noqa: E731
        solution = solve(upper, solver=bl.BOREP(steps, 0.5, 0.5), steps=600, x=5.0)
        assert float(solution.x) == pytest.approx(1.0, abs=0.05)


def test_hoag_says_that_its_cap_ended_the_lower_loop():
    with pytest.warns(bl.DiagnosisWarning, match="capped: the last lower loop or adjoint solve of HOAG ended at"):
        solve(solver=bl.HOAG(0.1, 1e-4, strong_convexity=1.0, inner_steps=2))
    solve(solver=bl.HOAG(0.1, 0.5, strong_convexity=1.0), steps=300)


def test_a_flat_direction_that_the_upper_loss_does_not_see_is_none():
    """A softmax without a penalty has one; where the upper loss sees it, there is a warning."""
    lower = lambda x, y, _: 0.5 * (y[0] - y[1] - x) ** 2  # noqa: E731
    upper = lambda x, y, _: 0.5 * (y[0] - y[1] - 1.0) ** 2  # noqa: E731
    assert float(solve(upper, lower, bl.SOBA(0.1, 0.3, 0.3), steps=300).x) == pytest.approx(1, abs=0.05)
    with pytest.warns(bl.DiagnosisWarning, match="flat: the least curvature"):
        solve(smooth, lower, bl.SOBA(0.1, 0.3, 0.3), steps=100)


def test_bounded_losses_that_fall_for_long_are_not_unbounded():
    for upper in (
        lambda x, y, _: jnp.sum(jax.nn.softplus(-y)),  # falls to 0 at infinity
        lambda x, y, _: jnp.sum(1 / (1 + y**2)),
        lambda x, y, _: -jnp.sum(jnp.tanh(y)),
    ):
        solve(upper, solver=bl.SOBA(0.3, 0.5, 0.5), steps=200)
    saturates = lambda x, y, _: 0.5 * jnp.sum((y - jnp.tanh(x)) ** 2)  # noqa: E731
    solve(lambda x, y, _: -jnp.sum(y), saturates, steps=200)  # y* is bounded
    bounded = lambda x: jnp.clip(x, -3, 3)  # noqa: E731
    solve(lambda x, y, _: -jnp.sum(y), project=bounded, steps=200)  # x is
    for upper in (lambda x, y, _: -jnp.sum(y), lambda x, y, _: -x, lambda x, y, _: -(x**2) + jnp.sum(y)):
        assert "unbounded" in signs(upper, y=(2.0, 2.0))


def test_the_look_is_left_out_where_it_costs_much(compiled):
    """All rows of a long level would cost more than 2 % of a short run."""
    data = np.ones((60_000, 1), np.float32)
    level = bl.Level(lambda x, y, rows: 0.5 * jnp.mean(rows) * jnp.sum((y - x) ** 2), data)
    problem = bl.Problem(bl.Level(smooth), level)
    for steps, looked in ((3, False), (1000, True)):
        compiled.clear()
        bl.solve(problem, bl.SOBA(0.01, 0.5, 0.5), 2.0, np.zeros(20, np.float32), steps=steps, key=KEY)
        assert ("jit(_look)" in compiled) == looked


@pytest.mark.parametrize("said", ["RESOURCE_EXHAUSTED: Out of memory allocating 400 bytes", "INTERNAL: else"])
def test_a_look_that_fails_leaves_the_result(said, monkeypatch):
    def program(*arguments):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(_signs, "_program", lambda backend: program)
    with pytest.warns(bl.DiagnosisWarning, match="look at the end failed") if "else" in said else nullcontext():
        assert solve(steps=3).result == bl.RESULTS.successful


def test_a_second_run_compiles_no_look(compiled):
    upper = lambda x, y, _: smooth(x, y, _)  # noqa: E731
    for step in (0.1, 0.2):
        solve(upper, solver=bl.SOBA(step, 0.5, 0.5))
        assert compiled.count("jit(_look)") == 1


class Curved(eqx.Module):
    """Tasks whose lower level has the curvature a, between 1 and 3, drawn in each step."""

    lower: Callable

    def __call__(self, key):
        return bl.Problem(bl.Level(smooth), bl.Level(self.lower, drawn(key)))


def drawn(key):
    return jax.random.uniform(key, (1,), minval=1.0, maxval=3.0)


def warnings_on_episodes(solver, start, lower=lambda x, y, a: a[0] * near(x, y, None)):
    return warnings_of(
        bl.solve, bl.Episodes(Curved(lower), start), solver, 2.0, np.zeros(2, np.float32), steps=4, key=KEY
    )


@pytest.mark.parametrize("start", [lambda x: jnp.zeros(2), None])
def test_of_episodes_the_tasks_of_the_last_step_are_seen(start):
    tasks_key, *_ = jax.random.split(_random.at(_random.light(KEY), 3), 3)
    (a,) = drawn(tasks_key)
    texts = warnings_on_episodes(bl.ITDBiO(1e-4, 1.9, 6), start)
    assert names(texts)[:2] == ["lower_step", "lower residual grows"]
    assert f"1.9 is above 2/L = {2 / a:.3g} at the end" in texts[0]
    assert not warnings_on_episodes(bl.ITDBiO(1e-4, 0.3, 6), start)


def test_maml_may_move_the_start_alone_and_its_loop_need_not_descend():
    lower = lambda x, y, a: -0.1 * a[0] * jnp.sum(y**2)  # noqa: E731
    start = lambda x: jnp.stack([x, x])  # noqa: E731
    assert not warnings_on_episodes(bl.MAML(1e-4, 0.5, 2), start, lower)
    texts = warnings_on_episodes(bl.ITDBiO(1e-4, 0.5, 2), start, lower)
    assert names(texts) == ["no dependence on x", "not strongly convex"]
