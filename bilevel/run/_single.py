"""One run: compiled in advance, cut back to its last sound state, and saved on disk."""

import contextlib
import time
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from bilevel._cost import Total
from bilevel._prepare import Prepared
from bilevel.run._checkpoint import Checkpoint, CheckpointError
from bilevel.run._loop import AbstractRuns, Record
from bilevel.run._programs import Programs
from bilevel.run._solution import RESULTS, Solution, name_of
from bilevel.solvers._base import AbstractSolver

_LOOKING = 50  # a state that nobody sees is looked at when the steps since the last look took this many times as long


class Kept(NamedTuple):
    """A sound state that no chunk overwrites, and the run's statistics there."""

    state: Any
    stats: dict[str, Any]


class Single(AbstractRuns):
    """One run, from a start, from the end of `previous`, or from the last checkpoint.

    A chunk overwrites the state, so that it costs no copy of the state. To look at a state is to check it, and to keep
    it if it is sound; the next chunk overwrites a copy. If somebody sees each state (`watched`), each is looked at;
    else the last, and so few others that it takes at most about a fiftieth of the time. If one is unsound, the run goes
    back to what was kept, and each is looked at from there.
    """

    def __init__(
        self,
        prepared: Prepared,
        solver: AbstractSolver,
        key: PRNGKeyArray,
        previous: Solution | None,
        checkpoint: Checkpoint | None,
        *,
        end: int,
        watched: bool,
    ):
        self._prepared, self._key, self.checkpoint = prepared, key, checkpoint
        self._end, self._watched = end, watched
        self._programs = Programs(solver, prepared.problem, key)
        self._state, self._unseen, self._look_seconds = None, 0.0, 0.0
        self.record = Record(self, 0)
        self.records = [self.record]
        if previous is not None:
            self.record.stats |= previous.stats
            self.record.rows += previous.history.rows
        self._kept = Kept(None if previous is None else previous.state, dict(self.record.stats))

    @property
    def step(self) -> int:
        return self.record.stats["steps"]

    def start(self) -> None:
        """Compile with a chunk of no steps. Then load the last checkpoint, or the solver's start unless continuing."""
        clock, programs, start = time.perf_counter(), self._programs, (self._prepared.x, self._prepared.y)
        begins = self._kept.state is None
        if begins:
            self._state, _ = programs.start(*start, compute=False)
        self._go_on()
        self._steps(0)
        programs.status(self._state)
        compiled = time.perf_counter()
        saved = None if self.checkpoint is None else self.checkpoint.load(self._state)
        if saved is not None:
            self._state, record = saved
            self.record.stats, self.record.rows = record["stats"], record["rows"]
            self.record.result = getattr(RESULTS, record["result"])
        self.record.stats["compile_seconds"] += compiled - clock
        if saved is None and begins:
            self._state, cost = jax.block_until_ready(programs.start(*start, compute=True))
            self.record.stats["run_seconds"] += time.perf_counter() - compiled
            self.record.count(cost.to_dict())
        if saved is None and not begins:
            self._kept = Kept(self._kept.state, dict(self.record.stats))
        else:
            self._keep()

    def _steps(self, n: int) -> Total:
        """The cost of `n` steps, taken in place."""
        self._state, cost = jax.block_until_ready(self._programs.advance(self._state, self.step, n))
        return cost

    def advance(self, n: int) -> None:
        self._go_on()
        start = time.perf_counter()
        cost = self._steps(n)
        seconds = time.perf_counter() - start
        self._unseen += seconds
        self.record.stats["run_seconds"] += seconds
        self.record.stats["steps"] += n
        self.record.count(cost.to_dict())
        if self._watched or self.step >= self._end or self._unseen >= _LOOKING * self._look_seconds:
            self._look(n)

    def _look(self, n: int) -> None:
        """Keep a sound state. Otherwise go back, and end at the last sound step if it is one of the last `n`."""
        start = time.perf_counter()
        finite, convex = self._programs.status(self._state)
        if finite and convex:
            self._keep()
            self._unseen, self._look_seconds = 0.0, time.perf_counter() - start
            return
        seconds, steps = self.record.stats["run_seconds"], self.step - self._kept.stats["steps"]
        self._go_back()
        if steps > n:
            self._watched = True
            return
        self._state, cost, n = self._programs.advance_while_sound(self._kept.state, self.step, n)
        self.record.stats |= {"run_seconds": seconds, "steps": self.step + n}
        self.record.count(cost.to_dict())
        self.record.result = RESULTS.not_convex if not convex else RESULTS.nonfinite
        self._keep()

    def _keep(self) -> None:
        self._kept, self._state = Kept(self._state, dict(self.record.stats)), None

    def _go_on(self) -> None:
        """Have a state that may be overwritten."""
        if self._state is None:
            start = time.perf_counter()
            self._state = jax.block_until_ready(self._programs.copy(self._kept.state))
            self._look_seconds += time.perf_counter() - start

    def _go_back(self) -> None:
        """Forget what came after the state that was kept."""
        self._state, self.record.stats = None, dict(self._kept.stats)
        self.record.rows = [row for row in self.record.rows if row["step"] <= self.step]

    def state(self, i: int) -> Any:
        return self._kept.state

    def solution(self, i: int, record: Record) -> Solution:
        state: Any = self._kept.state
        x, y = self._prepared.restore_x(state.x), self._prepared.restore_y(state.y)
        return Solution(x, y, record.result, record.history, state, dict(record.stats), self._key)

    def save(self, *, now: bool) -> None:
        """Save the state if its row has been written."""
        rows, stats = self.record.rows, self.record.stats
        if self.checkpoint is not None and rows and rows[-1]["step"] == stats["steps"]:
            record = {"stats": stats, "rows": rows, "result": name_of(self.record.result)}
            self.checkpoint.save(stats["steps"], self._kept.state, record, now=now)

    def leave(self, error: BaseException) -> None:
        """Attach the last state that was kept to the error that ends the run, and save it."""
        self._go_back()
        if self.checkpoint is not None and not isinstance(error, CheckpointError):
            with contextlib.suppress(CheckpointError):  # the error being raised is the more useful one
                self.save(now=True)
            error.add_note(f"{self.checkpoint.directory} holds the run; the same call resumes it")
        self.record.result = RESULTS.interrupted
        error.solution = self.record.solution  # pyright: ignore[reportAttributeAccessIssue]
