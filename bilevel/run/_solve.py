"""The driver: runs a solver chunk by chunk, and keeps the time, the tally and the history."""

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import trees
from bilevel.diagnostics.recorders import Watch
from bilevel.oracles import Tally
from bilevel.problem import Problem, prepare
from bilevel.run._advance import advance, begin, status
from bilevel.run._checkpoint import Checkpoint, CheckpointError, described, fingerprint
from bilevel.run._progress import progress_bar
from bilevel.run._solution import FAILURES, RESULTS, History, Solution, SolveError, name_of, numbers
from bilevel.solvers._base import AbstractSolver

Tree = PyTree[Any]


class Target(eqx.Module):
    """A metric's value that ends a run: `Target("accuracy", at_least=0.9)` or `Target("loss", at_most=0.1)`."""

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


@eqx.filter_jit
def _init(solver: AbstractSolver, problem: Problem, x: Tree, y: Tree, key: PRNGKeyArray, go: Any) -> Any:
    """The solver's start; or, to compile without computing it, zeros in its shape."""

    def start() -> Any:
        return begin(solver, problem, x, y, key)

    return jax.lax.cond(go, start, lambda: trees.zeros_like(jax.eval_shape(start)))


_advance = eqx.filter_jit(advance)
_check = eqx.filter_jit(status)


@eqx.filter_jit
def _advance_while_sound(solver: Any, problem: Problem, state: Any, key: PRNGKeyArray, t0: Any, n: Any) -> Any:
    """The last sound state of a chunk, and how many steps it took."""

    def going_on(carry: Any) -> Bool[Array, ""]:
        t, _, sound = carry
        return sound & (t < t0 + n)

    def body(carry: Any) -> Any:
        t, state, _ = carry
        new = advance(solver, problem, state, key, t, 1)
        finite, convex = status(solver, new)
        sound = finite & convex
        return jnp.where(sound, t + 1, t), trees.where(sound, new, state), sound

    t, state, _ = jax.lax.while_loop(going_on, body, (t0, state, jnp.array(True)))
    return state, t - t0


class _Run:
    """One call of `solve`: what has been reached so far."""

    def __init__(
        self,
        problem: Problem,
        solver: AbstractSolver,
        restore: Any,
        key: PRNGKeyArray,
        previous: Any,
        watch: Watch | None,
        checkpoint: Checkpoint | None,
    ):
        self.problem, self.solver, self.restore, self.key = problem, solver, restore, key
        self.watch, self.checkpoint = watch, checkpoint
        self.state: Any = None
        self.result = RESULTS.successful
        self.stats = {"steps": 0, "compile_seconds": 0.0, "run_seconds": 0.0} | dict.fromkeys(Tally.KINDS, 0)
        self.rows: list[dict[str, Any]] = []
        if previous is not None:
            self.stats |= previous.stats
            self.rows += previous.history.rows
            self.state = previous.state

    def solution(self) -> Solution:
        x, y = self.restore(self.state.x, self.state.y)
        return Solution(x, y, self.result, History(self.rows), self.state, dict(self.stats), self.key)

    def take_tally(self) -> None:
        for kind, n in self.state.tally.to_dict().items():
            self.stats[kind] += n
        self.state = eqx.tree_at(lambda state: state.tally, self.state, Tally.zero())

    def start(self, x: Tree, y: Tree) -> None:
        """Compile, by a chunk of no steps; then take the last checkpoint or, unless continuing, the solver's start."""
        clock = time.perf_counter()
        arguments = (self.solver, self.problem, x, y, self.key)
        begins = self.state is None
        if begins:
            self.state = _init(*arguments, jnp.array(False))
        jax.block_until_ready(self._call(_advance, 0))
        jax.block_until_ready(_check(self.solver, self.state))
        compiled = time.perf_counter()
        if self._take_up():
            begins = False
        self.stats["compile_seconds"] += compiled - clock
        if begins:
            self.state = jax.block_until_ready(_init(*arguments, jnp.array(True)))
            self.stats["run_seconds"] += time.perf_counter() - compiled
        self.take_tally()

    def _take_up(self) -> bool:
        """Go back to the last checkpoint, if there is one."""
        saved = None if self.checkpoint is None else self.checkpoint.load(self.state)
        if saved is None:
            return False
        self.state, record = saved
        self.stats, self.rows = record["stats"], record["rows"]
        self.result = getattr(RESULTS, record["result"])
        return True

    def keep(self, *, now: bool) -> None:
        """Save the state, if its row has been written."""
        if self.checkpoint is not None and self.rows and self.rows[-1]["step"] == self.stats["steps"]:
            record = {"stats": self.stats, "rows": self.rows, "result": name_of(self.result)}
            self.checkpoint.save(self.stats["steps"], self.state, record, now=now)

    def _call(self, program: Any, n: int) -> Any:
        t0 = jnp.asarray(self.stats["steps"], jnp.int32)
        return program(self.solver, self.problem, self.state, self.key, t0, jnp.asarray(n, jnp.int32))

    def chunk(self, n: int) -> None:
        start = time.perf_counter()
        state = jax.block_until_ready(self._call(_advance, n))
        self.stats["run_seconds"] += time.perf_counter() - start
        finite, convex = (bool(flag) for flag in _check(self.solver, state))
        if not (finite and convex):
            state, n = self._call(_advance_while_sound, n)
            self.result = RESULTS.not_convex if not convex else RESULTS.nonfinite
        self.state = state
        self.stats["steps"] += int(n)
        self.take_tally()

    def leave(self, error: BaseException) -> None:
        """Hang what has been reached on the error that ends the run, and save it."""
        if self.checkpoint is not None and not isinstance(error, CheckpointError):
            with contextlib.suppress(CheckpointError):  # the error that is under way says more
                self.keep(now=True)
            error.add_note(f"{self.checkpoint.directory} keeps the run; the same call goes on from there")
        self.result = RESULTS.interrupted
        error.solution = self.solution()  # pyright: ignore[reportAttributeAccessIssue]

    def record(self, metrics: Any) -> dict[str, Any]:
        row = {"step": self.stats["steps"], "seconds": self.stats["run_seconds"]}
        row |= {kind: self.stats[kind] for kind in Tally.KINDS}
        if self.watch is not None:
            row |= self.watch(self.stats["steps"], self.state)
        if metrics is not None:
            row |= numbers(metrics(*self.restore(self.state.x, self.state.y)))
        self.rows.append(row)
        return row


def solve(
    problem: Problem,
    solver: AbstractSolver,
    x: Any,
    y: Any = None,
    *,
    steps: int,
    key: PRNGKeyArray | None = None,
    every: int = 1000,
    metrics: Callable[[Any, Any], dict[str, Any]] | None = None,
    target: Target | None = None,
    callbacks: Sequence[Callable[[Solution], Any]] = (),
    progress: bool | None = None,
    diagnose_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    throw: bool = True,
) -> Solution:
    """Run a solver for a number of steps.

    **Arguments**

    - `x`, `y`: the starts, pytrees of floating arrays; Equinox modules may hold other leaves. `y` may be left out
      where the problem has a `start`. Or, as `x`, a `Solution` to go on from (then leave out `y` and `key`):
      `solve(problem, solver, solution, steps=…)` gives bit for bit what one longer run would have given.
    - `steps`: how many more. `key`: a JAX random key; the same key gives the same run.
    - `every`: steps in a chunk. After each one the history gets a row, `metrics(x, y) -> {name: number}` is
      evaluated, `target` is checked, and each of `callbacks` receives the `Solution` so far; one that returns
      True stops the run.
    - `progress`: a bar on the terminal; default: only where standard error is one.
    - `diagnose_every`: a multiple of `every`. The start and every so many steps, the history gets the columns `lower
      residual` ‖G_y‖, `adjoint residual` ‖H v − F_y‖/‖F_y‖ (of solvers that keep v) and `least curvature`, `largest
      curvature` (10 Lanczos steps on H), on all rows, at most 50,000; rows between them hold NaN. The run is the same
      and the clock does not hold it. A `DiagnosisWarning` says, once by name, when a curvature is negative or the lower
      residual exceeds ten times what it was at first. `bl.diagnose` is the thorough version.
    - `checkpoint`: a directory, new or empty at first. After a chunk (not so often that saving takes more than about a
      tenth of the time) and at the end, the run is kept there. The same call, in another process too, goes on from the
      last checkpoint to bit for bit the same iterates, history (but for `seconds`) and tally, whenever it was cut off;
      with more `steps` it goes on further. It is the arrays of the problem that tell one run from another: functions
      count by their names. Needs `pip install 'bilevel[checkpoint]'`.
    - `throw`: raise `SolveError`, with `.solution`, where the run cannot go on; else return it.

    **Returns** a `Solution`. An exception that leaves from within (a metric's, Ctrl-C) carries `.solution` once there
    is one to speak of.

    **Raises** `ValueError` or `TypeError`, before anything is compiled, for bad input; `SolveError` when an
    iterate is no longer finite or conjugate gradient meets a curvature that is not positive; `CheckpointError` where
    the checkpoint is torn or of another run (it is left as it is), or cannot be written.

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
    _check_options(steps, every, metrics, target, callbacks, progress, diagnose_every, (x, y, key))
    previous = x if isinstance(x, Solution) else None
    if previous is not None:
        if y is not None or key is not None:
            raise ValueError("x: got a Solution to continue; leave out y and key, it holds them")
        x, y, key = previous.x, previous.y, previous.key
    if y is None and isinstance(problem, Problem) and problem.start is not None:
        y = problem.start(checks.tree("x", x))
    run_key = checks.key("key", key)
    problem, x, y, restore = prepare(problem, x, y)
    if previous is not None:
        _check_continues(solver, problem, x, y, previous)
    if diagnose_every is not None and problem.redraw is not None:
        raise ValueError(
            "diagnose_every: the problem redraws its tasks in each step; use bl.diagnose, which draws once"
        )
    watch = None if diagnose_every is None else Watch(problem, diagnose_every)
    first = 0 if previous is None else previous.stats["steps"]
    keeper = None
    if checkpoint is not None:
        about = {"solver": described(solver), "problem": fingerprint(problem), "start": fingerprint(x, y, first)}
        keeper = Checkpoint(checkpoint, about | {"key": fingerprint(run_key), "every": every})
    run = _Run(problem, solver, restore, run_key, previous, watch, keeper)
    try:
        run.start(x, y)
        end = first + steps
        if run.stats["steps"] > end:
            raise CheckpointError(f"checkpoint: it is at step {run.stats['steps']}, beyond the {steps} steps asked for")
        with progress_bar(progress, steps) as show:
            if not run.rows:
                run.record(metrics)
            stop = _stops(run, target, ())
            while not stop and run.stats["steps"] < end:
                run.chunk(min(every, end - run.stats["steps"]))
                show(run.stats["steps"] - first, run.record(metrics))
                stop = _stops(run, target, callbacks)
                run.keep(now=False)
        run.keep(now=True)
    except BaseException as error:
        if run.rows:
            run.leave(error)
        raise
    finally:
        if keeper is not None:
            keeper.close()
    solution = run.solution()
    if throw and any(run.result == failure for failure in FAILURES):
        raise SolveError(f"after step {run.stats['steps']}: {RESULTS[run.result]}", solution)
    return solution


def _check_options(
    steps: Any,
    every: Any,
    metrics: Any,
    target: Any,
    callbacks: Any,
    progress: Any,
    diagnose_every: Any,
    inputs: Any,
) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inputs)):
        raise TypeError("solve: called inside jit, vmap or grad, but it is a loop on the host; use bl.advance there")
    for name, value in (("steps", steps), ("every", every)):
        checks.count(name, value)
        if value >= 2**31:
            raise ValueError(f"{name}: got {value}; it must be below 2**31")
    if diagnose_every is not None:
        checks.count("diagnose_every", diagnose_every)
        if diagnose_every % every:
            raise ValueError(f"diagnose_every: got {diagnose_every} with every={every}; pass a multiple of every")
    if not (metrics is None or callable(metrics)):
        raise TypeError(f"metrics: got {metrics!r}; pass a function (x, y) -> {{name: number}}")
    if not (target is None or isinstance(target, Target)):
        raise TypeError(f"target: got {target!r}; pass e.g. bl.Target('accuracy', at_least=0.9)")
    if not (isinstance(callbacks, Sequence) and all(callable(callback) for callback in callbacks)):
        raise TypeError(f"callbacks: got {callbacks!r}; pass a list of functions of a Solution")
    if progress is not None:
        checks.flag("progress", progress)
        if progress and importlib.util.find_spec("rich") is None:
            raise ValueError("progress: rich, which draws it, is missing; pip install 'bilevel[display]'")


def _check_continues(solver: AbstractSolver, problem: Problem, x: Tree, y: Tree, previous: Solution) -> None:
    start = eqx.filter_eval_shape(solver.init, problem, x, y, key=previous.key)
    found, wanted = (
        (jax.tree.structure(state), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)])
        for state in (previous.state, start)
    )
    if found != wanted:
        raise ValueError(
            f"x: the Solution holds a {type(previous.state).__name__} that {type(solver).__name__} with these settings "
            "cannot continue; pass the solver it came from, or start from solution.x and solution.y"
        )


def _stops(run: _Run, target: Target | None, callbacks: Sequence[Callable[[Solution], Any]]) -> bool:
    for callback in callbacks:
        answer = callback(run.solution())
        stop = isinstance(answer, bool | np.bool_ | jax.Array) and bool(answer)
        if stop and run.result == RESULTS.successful:
            run.result = RESULTS.stopped
    if target is not None:
        checks.one_of("target", target.metric, run.rows[-1])
        if target.reached(run.rows[-1][target.metric]) and run.result == RESULTS.successful:
            run.result = RESULTS.target_reached
    return not bool(run.result == RESULTS.successful)
