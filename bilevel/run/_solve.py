"""`solve`: one run of a solver on the host."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import _extras as extras
from bilevel._prepare import Prepared, prepare
from bilevel.cost import KINDS
from bilevel.disk import reading
from bilevel.fields import check_over
from bilevel.problem import Episodes, Problem
from bilevel.run._advance import check_episodes, initial_state
from bilevel.run._checkpoint import Checkpoint, CheckpointError
from bilevel.run._loop import Hook, Record, loop
from bilevel.run._programs import Programs
from bilevel.run._progress import progress_bar
from bilevel.run._signs import Look, of_lower_level, warn_of_signs
from bilevel.run._single import Single, identity, unit_of
from bilevel.run._solution import FAILURES, RESULTS, Solution, SolveError, name_of, numbers
from bilevel.solvers.base import AbstractSolver


class Target(eqx.Module):
    """A callback that ends a run when a metric reaches a value. The run's result is then `RESULTS.target_reached`.

    Examples: `Target("accuracy", at_least=0.9)`, `Target("loss", at_most=0.1)`.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __check_init__(self):
        if not isinstance(self.metric, str):
            raise TypeError(f"metric: got {self.metric!r}; pass the name of a metric")
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("Target: pass one of at_least and at_most")
        for name, bound in (("at_least", self.at_least), ("at_most", self.at_most)):
            if bound is not None:
                checks.number(name, bound)

    def reached(self, value: float) -> bool:
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most

    def __call__(self, solution: Solution) -> RESULTS | None:
        row = solution.history.rows[-1]
        checks.one_of("target", self.metric, row)
        return RESULTS.target_reached if self.reached(row[self.metric]) else None


def solve(
    problem: Problem | Episodes,
    solver: AbstractSolver,
    x: Any,
    y: Any = None,
    *,
    steps: int,
    key: PRNGKeyArray | None = None,
    every: int = 1000,
    metrics: Callable[[Any, Any], dict[str, Any]] | None = None,
    recorders: Sequence[Callable[[Solution], dict[str, float]]] = (),
    callbacks: Sequence[Callable[[Solution], RESULTS | None]] = (),
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    signs: bool = True,
    throw: bool = True,
) -> Solution:
    """Run a solver for a number of steps.

    **Arguments**

    - `problem`: a `Problem`, or `Episodes`, where each step draws its own tasks.
    - `x`, `y`: the initial values, pytrees of floating arrays; Equinox modules may hold other leaves. `y` may be
      omitted if the episodes have a `start`. To continue a run, pass its `Solution` as `x` and omit `y` and `key`:
      `solve(problem, solver, solution, steps=…)` gives bit for bit the result of one longer run.
    - `steps`: the number of (further) steps. `key`: a JAX random key; the same key gives the same run.
    - `every`: steps per chunk. The history gets a row at the start and after each chunk.
    - `metrics(x, y) -> {name: number}` adds columns to a row. So do `recorders`, functions
      `Solution -> {name: number}` such as `bl.Watch(problem, every=n)`, which also see the run's state.
    - `callbacks`: functions that receive the `Solution` so far after each row. A callback that returns a member of
      `RESULTS`, such as `bl.RESULTS.stopped`, stops the run. `bl.Target("accuracy", at_least=0.9)` is one.
    - `progress`: whether to show a progress bar; by default, only if standard error is a terminal.
    - `checkpoint`: a directory on this machine, at first new or empty, for one run at a time. The run is saved there at
      the end, and after chunks so rarely that saving takes at most about a tenth of the time. After an interruption the
      same call, also in another process, resumes from the last checkpoint, with bit for bit the same iterates, history
      (except `seconds`) and oracle counts; with more `steps` it continues further. Callbacks that ended the run are
      asked again. All that the numbers depend on tells runs apart: the arrays, what the losses, schedules and
      projections compute, the names of the columns, the versions of JAX and of this package. Needs
      `pip install '.[checkpoint]'`.
    - `signs`: whether to look once, at the end, for signs that the answer is not one: a lower level that is flat or
      not convex, steps above 2/L, losses that do not depend on y or x, growth, an upper loss without a minimum. Each
      gives a `DiagnosisWarning` that says what to do. The look takes milliseconds, or at most 2 % of the run's samples
      (parts that would take more, or more memory than there is, are left out), and once per problem a program is
      compiled. Of `Episodes` it sees the tasks of the last step.
    - `throw`: if the run cannot continue, raise `SolveError`, with `.solution`; if False, return the solution.

    Arrays may be split over devices and processes: x, y, and all that belongs to them, stay where they are.

    **Returns** a `Solution`. If a metric, recorder or callback raises, or on Ctrl-C (which is heard about once a
    second, or after a step that takes longer), the exception has `.solution`, the state after the last chunk (absent
    before the first row). With none of these functions and no checkpoint, nobody sees the states in between: chunks
    overwrite the state, a copy is kept now and then, and after Ctrl-C the last few per cent of the run may be missing.

    **Raises** `ValueError` or `TypeError` for bad input, before anything is compiled, also for a solver that does not
    work on the episodes; `SolveError` if an iterate is no longer finite or conjugate gradient meets a curvature that
    is not positive; `OtherProcessError` if a process that shares the run fails or is gone; `CheckpointError` if the
    checkpoint is corrupt, belongs to another run (it is not modified), is in use by another one or cannot be written.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, every=50, key=jax.random.key(0))
        >>> solution.history["step"].tolist()
        [0, 50, 100, 150, 200]
    """
    if not isinstance(solver, AbstractSolver):
        raise TypeError(f"solver: got {solver!r}; pass a solver such as bl.SOBA(upper_step=0.1, ...)")
    _check_options(steps, every, metrics, recorders, callbacks, progress, (x, y), key)
    previous = x if isinstance(x, Solution) else None
    if previous is not None:
        if y is not None or key is not None:
            raise ValueError("x: got a Solution to continue; omit y and key, which it holds")
        x, y, key = previous.x, previous.y, previous.key
    run_key = checks.key("key", key)
    prepared = prepare(problem, x, y)
    check_episodes(solver, prepared.problem)
    if previous is not None:
        _check_continues(solver, prepared, previous)
    first = 0 if previous is None else previous.stats["steps"]
    check_over(solver, range(first, first + steps), prepared.x, prepared.y)
    end, watched = first + steps, bool(metrics or recorders or callbacks or checkpoint)
    unit = unit_of(prepared, solver)
    programs = Programs(solver, prepared.problem, run_key, prepared.x, prepared.y, unit=unit, end=end)
    keeper = None
    if checkpoint is not None:
        keeper = Checkpoint(checkpoint, identity(prepared, solver, programs, previous, every), programs.shared)
    run = Single(prepared, programs, previous, keeper, end=end, watched=watched)

    def fill(record: Record, row: dict[str, Any]) -> dict[str, float]:
        return _columns(record, row, metrics, recorders)

    try:
        with reading(programs.stores):
            if run.start() and (previous is None or run.step > first):  # else its last row is of `previous`
                run.check_columns(fill)
            if run.step > end:
                raise CheckpointError(f"checkpoint: it is at step {run.step}, beyond the requested {steps} steps")
            with progress_bar(progress, steps) as show, run.listening():
                hooks: list[Hook] = [
                    lambda record: show(run.step - first, record.rows[-1]),
                    *(_as_hook(callback) for callback in callbacks),
                ]
                loop(run, end, every, fill, hooks)
            run.save(now=True)
    except BaseException as error:
        if run.record.rows:
            run.leave(error)
        raise
    finally:
        programs.close()
        if keeper is not None:
            keeper.close()
    solution, result = run.record.solution, run.record.result
    failed = any(result == failure for failure in FAILURES)
    look = None
    if signs and (failed or run.step > first):
        samples = sum(solution.stats[kind] - (0 if previous is None else previous.stats[kind]) for kind in KINDS)
        last = (run_key, np.int32(max(run.step - 1, 0))) if isinstance(prepared.problem, Episodes) else None
        look = Look(prepared.problem, (prepared.x, prepared.y), (solution.state.x, solution.state.y), samples, last)
    if throw and failed:
        raise SolveError(f"after step {run.step}: {_why(look, solver, run.step, result)}", solution)
    if look is not None and any(result == fine for fine in (RESULTS.successful, RESULTS.target_reached)):
        warn_of_signs(look, solver, solution.state, first, end - 1)
    return solution


def _why(look: Look | None, solver: AbstractSolver, step: int, result: RESULTS) -> str:
    """The advice of a failed run, with what the look at the last sound point blames."""
    if look is None:
        return RESULTS[result]
    wrong = look.not_finite()
    if wrong is not None and result == RESULTS.nonfinite and step == 0:
        return f"{wrong} at the start, so that no step can be taken; start elsewhere, or change the loss"
    seen = [*([f"{wrong} there"] if wrong is not None else []), *of_lower_level(look, solver, step)]
    return " ".join([RESULTS[result], *(f"Seen: {sign}." for sign in seen)])


def _columns(
    record: Record,
    row: dict[str, Any],
    metrics: Callable[[Any, Any], dict[str, Any]] | None,
    recorders: Sequence[Callable[[Solution], dict[str, float]]],
) -> dict[str, float]:
    """The columns that recorders and metrics add to a row."""
    if not recorders and metrics is None:
        return {}
    solution, found = record.solution, {}
    for recorder in recorders:
        name = f"recorder {type(recorder).__name__}"
        found |= numbers(recorder(solution), name, {*row, *found})
    if metrics is not None:
        found |= numbers(metrics(solution.x, solution.y), "metrics", {*row, *found})
    return found


def _as_hook(callback: Callable[[Solution], Any]) -> Hook:
    def hook(record: Record) -> RESULTS | None:
        if not record.fresh and not isinstance(callback, Target):  # the run that is continued has shown this row
            return None
        answer = callback(record.solution)
        if answer is None:
            return None
        if not isinstance(answer, RESULTS):
            raise TypeError(
                f"callbacks: one returned {answer!r}; return bl.RESULTS.stopped to stop the run, or None to continue"
            )
        return getattr(RESULTS, name_of(answer))

    return hook


def _check_options(
    steps: Any, every: Any, metrics: Any, recorders: Any, callbacks: Any, progress: Any, inputs: Any, key: Any
) -> None:
    leaves = [
        leaf for name, value in zip("xy", inputs, strict=True) for _, leaf in checks.paths_and_leaves(name, value)[0]
    ]
    if any(isinstance(leaf, Tracer) for leaf in (*leaves, key)):
        raise TypeError("solve: called inside jit, vmap or grad, but it loops on the host; use bl.advance there")
    for name, value in (("steps", steps), ("every", every)):
        checks.count(name, value)
    checks.metrics(metrics)
    for name, value in (("recorders", recorders), ("callbacks", callbacks)):
        if not (isinstance(value, Sequence) and all(callable(function) for function in value)):
            raise TypeError(f"{name}: got {value!r}; pass a list of functions of a Solution")
    if progress is not None:
        checks.flag("progress", progress)
        if progress and importlib.util.find_spec("rich") is None:
            raise ValueError(f"progress: rich, which draws it, is missing; {extras.install('display')}")


def _check_continues(solver: AbstractSolver, prepared: Prepared, previous: Solution) -> None:
    start, _ = eqx.filter_eval_shape(initial_state, solver, prepared.problem, prepared.x, prepared.y, previous.key)
    found, wanted = (
        (jax.tree.structure(state), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)])
        for state in (previous.state, start)
    )
    if found != wanted:
        raise ValueError(
            f"x: the Solution holds a {type(previous.state).__name__} that {type(solver).__name__} with these settings "
            "cannot continue; pass the solver it came from, or start from solution.x and solution.y"
        )
