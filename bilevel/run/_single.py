"""One run: compiled in advance, cut back to its last sound state, and saved on disk."""

import contextlib
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import trees
from bilevel._cost import Total
from bilevel._prepare import Prepared
from bilevel.problem import Episodes, Problem
from bilevel.run._advance import advance, initial_state, status
from bilevel.run._checkpoint import Checkpoint, CheckpointError
from bilevel.run._loop import AbstractRuns, Record
from bilevel.run._solution import RESULTS, Solution, name_of
from bilevel.solvers._base import AbstractSolver
from bilevel.trees import Tree


@eqx.filter_jit
def _start(solver: AbstractSolver, problem: Problem | Episodes, x: Tree, y: Tree, key: PRNGKeyArray, go: Any) -> Any:
    """The solver's initial state; or zeros in its shape, to compile without computing it."""

    def start() -> Any:
        return initial_state(solver, problem, x, y, key)

    return jax.lax.cond(go, start, lambda: trees.zeros_like(jax.eval_shape(start)))


_advance = eqx.filter_jit(advance)
_check = eqx.filter_jit(status)


@eqx.filter_jit
def _advance_while_sound(solver: Any, problem: Any, state: Any, key: PRNGKeyArray, t0: Any, n: Any) -> Any:
    """The last sound state of a chunk, its cost, and its number of steps."""

    def going_on(carry: Any) -> Bool[Array, ""]:
        t, _, _, sound = carry
        return sound & (t < t0 + n)

    def body(carry: Any) -> Any:
        t, state, cost, _ = carry
        new, spent = advance(solver, problem, state, key, t, 1)
        finite, convex = status(solver, new)
        sound = finite & convex
        return jnp.where(sound, t + 1, t), *trees.where(sound, (new, cost + spent), (state, cost)), sound

    t, state, cost, _ = jax.lax.while_loop(going_on, body, (t0, state, Total.zero(), jnp.array(True)))
    return state, cost, t - t0


class Single(AbstractRuns):
    """One run, from a start, from the end of `previous`, or from the last checkpoint."""

    def __init__(
        self,
        prepared: Prepared,
        solver: AbstractSolver,
        key: PRNGKeyArray,
        previous: Solution | None,
        checkpoint: Checkpoint | None,
    ):
        self._prepared, self._solver, self._key = prepared, solver, key
        self._state, self.checkpoint = None, checkpoint
        self.record = Record(self, 0)
        self.records = [self.record]
        if previous is not None:
            self.record.stats |= previous.stats
            self.record.rows += previous.history.rows
            self._state = previous.state

    @property
    def step(self) -> int:
        return self.record.stats["steps"]

    def start(self) -> None:
        """Compile with a chunk of no steps. Then load the last checkpoint, or the solver's start unless continuing."""
        clock, stats = time.perf_counter(), self.record.stats
        arguments = (self._solver, self._prepared.problem, self._prepared.x, self._prepared.y, self._key)
        begins = self._state is None
        if begins:
            self._state, _ = _start(*arguments, jnp.array(False))
        jax.block_until_ready(self._call(_advance, 0))
        jax.block_until_ready(_check(self._solver, self._state))
        compiled = time.perf_counter()
        if self._take_up():
            begins = False
        self.record.stats["compile_seconds"] += compiled - clock
        if begins:
            self._state, cost = jax.block_until_ready(_start(*arguments, jnp.array(True)))
            stats["run_seconds"] += time.perf_counter() - compiled
            self.record.count(cost.to_dict())

    def _take_up(self) -> bool:
        """Go back to the last checkpoint, if there is one."""
        saved = None if self.checkpoint is None else self.checkpoint.load(self._state)
        if saved is None:
            return False
        self._state, record = saved
        self.record.stats, self.record.rows = record["stats"], record["rows"]
        self.record.result = getattr(RESULTS, record["result"])
        return True

    def _call(self, program: Any, n: int) -> Any:
        t0 = jnp.asarray(self.step, jnp.int32)
        return program(self._solver, self._prepared.problem, self._state, self._key, t0, jnp.asarray(n, jnp.int32))

    def advance(self, n: int) -> None:
        start = time.perf_counter()
        state, cost = jax.block_until_ready(self._call(_advance, n))
        self.record.stats["run_seconds"] += time.perf_counter() - start
        finite, convex = (bool(flag) for flag in _check(self._solver, state))
        if not (finite and convex):  # repeat the chunk up to the last sound step, which gets a row
            state, cost, n = self._call(_advance_while_sound, n)
            self.record.result = RESULTS.not_convex if not convex else RESULTS.nonfinite
        self._state = state
        self.record.stats["steps"] += int(n)
        self.record.count(cost.to_dict())

    def state(self, i: int) -> Any:
        return self._state

    def solution(self, i: int, record: Record) -> Solution:
        state: Any = self._state
        x, y = self._prepared.restore_x(state.x), self._prepared.restore_y(state.y)
        return Solution(x, y, record.result, record.history, state, dict(record.stats), self._key)

    def keep(self, *, now: bool) -> None:
        """Save the state if its row has been written."""
        rows, stats = self.record.rows, self.record.stats
        if self.checkpoint is not None and rows and rows[-1]["step"] == stats["steps"]:
            record = {"stats": stats, "rows": rows, "result": name_of(self.record.result)}
            self.checkpoint.save(stats["steps"], self._state, record, now=now)

    def leave(self, error: BaseException) -> None:
        """Attach the solution so far to the error that ends the run, and save it."""
        if self.checkpoint is not None and not isinstance(error, CheckpointError):
            with contextlib.suppress(CheckpointError):  # the error being raised is the more useful one
                self.keep(now=True)
            error.add_note(f"{self.checkpoint.directory} holds the run; the same call resumes it")
        self.record.result = RESULTS.interrupted
        error.solution = self.record.solution  # pyright: ignore[reportAttributeAccessIssue]
