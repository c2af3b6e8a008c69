"""`solve`: one run of a solver on the host."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel._prepare import Prepared, prepare
from bilevel.problem import Episodes, Problem
from bilevel.run._advance import check_episodes, initial_state
from bilevel.run._checkpoint import Checkpoint, CheckpointError, described, fingerprint
from bilevel.run._loop import Hook, Record, loop
from bilevel.run._progress import progress_bar
from bilevel.run._single import Single
from bilevel.run._solution import FAILURES, RESULTS, Solution, SolveError, numbers
from bilevel.solvers._base import AbstractSolver


class Target(eqx.Module):
    """A callback that ends a run at a metric's value: `Target("accuracy", at_least=0.9)` or `Target("loss",
    at_most=0.1)`.

    The run's result is then `RESULTS.target_reached`.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __check_init__(self):
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("Target: pass one of at_least and at_most")

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
    throw: bool = True,
) -> Solution:
    """Run a solver for a number of steps.

    **Arguments**

    - `problem`: a `Problem`, or `Episodes`, where each step has tasks of its own.
    - `x`, `y`: the starts, pytrees of floating arrays; Equinox modules may hold other leaves. `y` may be left out
      where episodes have a `start`. Or, as `x`, a `Solution` to go on from (then leave out `y` and `key`):
      `solve(problem, solver, solution, steps=…)` gives bit for bit what one longer run would have given.
    - `steps`: how many more. `key`: a JAX random key; the same key gives the same run.
    - `every`: steps per chunk. At the start and after each chunk the history gets a row.
    - `metrics(x, y) -> {name: number}`: further columns of a row. So are those of `recorders`, functions
      `Solution -> {name: number}` such as `bl.Watch(problem, every=n)`, which see the run's state too.
    - `callbacks`: functions that receive the `Solution` so far after each row. One that returns `bl.RESULTS.stopped`,
      or another of `RESULTS`, stops the run, as `bl.Target("accuracy", at_least=0.9)` does.
    - `progress`: a bar on the terminal; default: only where standard error is one.
    - `checkpoint`: a directory, new or empty at first. After a chunk (not so often that saving takes more than about a
      tenth of the time) and at the end, the run is kept there. The same call, in another process too, goes on from the
      last checkpoint to bit for bit the same iterates, history (but for `seconds`) and tally, whenever it was cut off;
      with more `steps` it goes on further. It is the arrays of the problem that tell one run from another: functions
      count by their names. Needs `pip install 'bilevel[checkpoint]'`.
    - `throw`: raise `SolveError`, with `.solution`, where the run cannot go on; else return it.

    **Returns** a `Solution`. If a metric, recorder or callback raises, or on Ctrl-C, the exception has `.solution`, the
    state reached so far (absent before the first row).

    **Raises** `ValueError` or `TypeError`, before anything is compiled, for bad input, and for a solver that is no
    method on episodes; `SolveError` when an
    iterate is no longer finite or conjugate gradient meets a curvature that is not positive; `CheckpointError` where
    the checkpoint is corrupt or belongs to another run (it is not modified), or cannot be written.

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
    _check_options(steps, every, metrics, recorders, callbacks, progress, (x, y, key))
    previous = x if isinstance(x, Solution) else None
    if previous is not None:
        if y is not None or key is not None:
            raise ValueError("x: got a Solution to continue; leave out y and key, it holds them")
        x, y, key = previous.x, previous.y, previous.key
    run_key = checks.key("key", key)
    prepared = prepare(problem, x, y)
    check_episodes(solver, prepared.problem)
    if previous is not None:
        _check_continues(solver, prepared, previous)
    first = 0 if previous is None else previous.stats["steps"]
    keeper = None if checkpoint is None else _keeper(checkpoint, solver, prepared, first, run_key, every)
    run, end = Single(prepared, solver, run_key, previous, keeper), first + steps
    try:
        run.start()
        if run.step > end:
            raise CheckpointError(f"checkpoint: it is at step {run.step}, beyond the {steps} steps asked for")
        with progress_bar(progress, steps) as show:
            hooks: list[Hook] = [
                lambda record: show(run.step - first, record.rows[-1]),
                *(_as_hook(callback) for callback in callbacks),
                lambda record: run.keep(now=False),
            ]
            loop(run, end, every, lambda record, row: _columns(record, row, metrics, recorders), hooks)
        run.keep(now=True)
    except BaseException as error:
        if run.record.rows:
            run.leave(error)
        raise
    finally:
        if keeper is not None:
            keeper.close()
    solution = run.record.solution
    if throw and any(run.record.result == failure for failure in FAILURES):
        raise SolveError(f"after step {run.step}: {RESULTS[run.record.result]}", solution)
    return solution


def _columns(
    record: Record,
    row: dict[str, Any],
    metrics: Callable[[Any, Any], dict[str, Any]] | None,
    recorders: Sequence[Callable[[Solution], dict[str, float]]],
) -> dict[str, float]:
    """What recorders and metrics add to a row."""
    solution, found = record.solution, {}
    for recorder in recorders:
        name = f"recorder {type(recorder).__name__}"
        found |= numbers(recorder(solution), name, {*row, *found})
    if metrics is not None:
        found |= numbers(metrics(solution.x, solution.y), "metrics", {*row, *found})
    return found


def _as_hook(callback: Callable[[Solution], Any]) -> Hook:
    def hook(record: Record) -> RESULTS | None:
        if not record.fresh and not isinstance(callback, Target):  # a run that continues has shown this row
            return None
        answer = callback(record.solution)
        if answer is not None and not isinstance(answer, RESULTS):
            raise TypeError(
                f"callbacks: one returned {answer!r}; return bl.RESULTS.stopped to stop the run, or None to go on"
            )
        return answer

    return hook


def _keeper(
    directory: Any, solver: AbstractSolver, prepared: Prepared, first: int, key: PRNGKeyArray, every: int
) -> Checkpoint:
    about = {"solver": described(solver), "problem": fingerprint(prepared.problem)}
    about |= {"start": fingerprint(prepared.x, prepared.y, first), "key": fingerprint(key), "every": every}
    return Checkpoint(directory, about)


def _check_options(
    steps: Any, every: Any, metrics: Any, recorders: Any, callbacks: Any, progress: Any, inputs: Any
) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inputs)):
        raise TypeError("solve: called inside jit, vmap or grad, but it is a loop on the host; use bl.advance there")
    for name, value in (("steps", steps), ("every", every)):
        checks.count(name, value)
        if value >= 2**31:
            raise ValueError(f"{name}: got {value}; it must be below 2**31")
    if not (metrics is None or callable(metrics)):
        raise TypeError(f"metrics: got {metrics!r}; pass a function (x, y) -> {{name: number}}")
    for name, value in (("recorders", recorders), ("callbacks", callbacks)):
        if not (isinstance(value, Sequence) and all(callable(function) for function in value)):
            raise TypeError(f"{name}: got {value!r}; pass a list of functions of a Solution")
    if progress is not None:
        checks.flag("progress", progress)
        if progress and importlib.util.find_spec("rich") is None:
            raise ValueError("progress: rich, which draws it, is missing; pip install 'bilevel[display]'")


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
