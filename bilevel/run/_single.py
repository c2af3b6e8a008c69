"""One run: compiled in advance, interrupted within seconds, cut back to its last sound state, and saved on disk."""

import contextlib
import time
from typing import Any, NamedTuple

import jax

from bilevel import _lagged
from bilevel._prepare import Prepared
from bilevel.cost import Total
from bilevel.problem import Problem
from bilevel.run._checkpoint import Checkpoint, CheckpointError
from bilevel.run._identity import described, fingerprint, versions
from bilevel.run._lag import may_lag
from bilevel.run._loop import AbstractRuns, Fill, Record
from bilevel.run._programs import Programs
from bilevel.run._solution import RESULTS, Solution, name_of
from bilevel.run._together import Together
from bilevel.solvers.base import AbstractSolver

_PATIENCE = 1.0  # seconds of stepping in which Ctrl-C is not heard
_LOOKING = 50  # a state that nobody sees is looked at when the steps since the last look took this many times as long


def identity(
    prepared: Prepared, solver: AbstractSolver, programs: Programs, previous: Solution | None, every: int
) -> dict[str, Any]:
    """All that a run's numbers depend on, name by name."""
    first, state = (0, None) if previous is None else (previous.stats["steps"], previous.state)
    about = {"solver": described(solver), "settings": fingerprint(solver), "problem": fingerprint(prepared.problem)}
    about |= {"start": fingerprint(prepared.x, prepared.y, first, state), "key": fingerprint(programs.key)}
    if programs.stores:
        about |= {"some rows on disk": fingerprint([store.some() for store in programs.stores])}
    computed = programs.computation()
    return about | {"every": int(every), "computation (losses, schedules, projections)": computed} | versions()


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
        programs: Programs,
        previous: Solution | None,
        checkpoint: Checkpoint | None,
        *,
        end: int,
        watched: bool,
    ):
        self._prepared, self._programs, self.checkpoint = prepared, programs, checkpoint
        self._together = Together() if programs.shared else None
        self._end, self._watched = end, watched or programs.shared
        self._state, self._unseen, self._look_seconds = None, 0.0, 0.0
        self.record = Record(self, 0)
        self.records = [self.record]
        self._unit = programs.unit
        self._part = 1  # units in a part of a chunk
        if previous is not None:
            self.record.stats |= previous.stats
            self.record.rows += previous.history.rows
        self._kept = Kept(None if previous is None else previous.state, dict(self.record.stats))

    @property
    def step(self) -> int:
        return self.record.stats["steps"]

    def start(self) -> bool:
        """Compile with a chunk of no steps. Then load the last checkpoint, or the solver's start unless continuing.

        **Returns** whether there was a checkpoint.
        """
        clock, programs = time.perf_counter(), self._programs
        begins = self._kept.state is None
        if begins:
            self._state, _ = programs.start(compute=False)
        self._go_on()
        self._steps(0)
        programs.status(self._state)
        compiled = time.perf_counter()
        resumed = self._take_up()
        self.record.stats["compile_seconds"] += compiled - clock
        if begins and not resumed:
            self._state, cost = jax.block_until_ready(programs.start(compute=True))
            self.record.stats["run_seconds"] += time.perf_counter() - compiled
            self.record.count(cost.to_dict())
        if begins or resumed:
            self._keep()
        else:
            self._kept = Kept(self._kept.state, dict(self.record.stats))
        return resumed

    def _take_up(self) -> bool:
        """Go back to the last checkpoint, if there is one."""
        saved = None if self.checkpoint is None else self.checkpoint.load(self._state)
        if saved is None:
            return False
        self._state, record = saved
        self.record.stats, self.record.rows = record["stats"], record["rows"]
        self.record.result = getattr(RESULTS, record["result"])
        if self.record.result in (RESULTS.target_reached, RESULTS.stopped):  # by callbacks, which may be others now
            self.record.result, self.record.again = RESULTS.successful, True
        return True

    def check_columns(self, fill: Fill) -> None:
        """Refuse metrics and recorders with other names than those of the checkpoint."""
        record, rows = self.record, self.record.rows
        record.rows, row = rows[:-1], record.row()
        try:
            names = row | fill(record, row)
        finally:
            record.rows = rows
        if self.checkpoint is not None and names.keys() != rows[-1].keys():
            was, now = (", ".join(name for name in names if name not in row) or "none" for names in (rows[-1], names))
            raise CheckpointError(
                f"checkpoint: {self.checkpoint.directory} belongs to another run: the columns of its metrics and "
                f"recorders were {was}, now they are {now}; pass another directory, or the functions it was made with"
            )

    def _steps(self, n: int) -> Total:
        """The cost of `n` steps, taken in place."""
        prefetch = self._programs.prefetch
        waited = 0.0 if prefetch is None else prefetch.seconds
        self._state, cost = jax.block_until_ready(self._programs.advance(self._state, self.step, n))
        if prefetch is not None:
            stats = self.record.stats
            stats["wait_seconds"] = stats.get("wait_seconds", 0.0) + prefetch.seconds - waited
        return cost

    def advance(self, n: int) -> None:
        """Take `n` steps in parts of about a second. Between them, Ctrl-C is heard."""
        self._go_on()
        left = n
        while left:
            size = left if self._together else min(self._part * self._unit, left)
            start = time.perf_counter()
            cost = self._steps(size)
            seconds = time.perf_counter() - start
            self._unseen += seconds
            self._count(size, cost)
            self.record.stats["run_seconds"] += seconds
            left -= size
            fitting = int(size * _PATIENCE / (max(seconds, 1e-6) * self._unit))
            self._part = max(1, min(10 * self._part, fitting))
        if self._watched or self.step >= self._end or self._unseen >= _LOOKING * self._look_seconds:
            self._look(n)

    def _count(self, n: int, cost: Total) -> None:
        self.record.stats["steps"] += n
        self.record.count(cost.to_dict())

    def _look(self, n: int) -> None:
        """Keep a sound state. Otherwise go back, and end at the last sound step if it is one of the last `n`."""
        start = time.perf_counter()
        if all(self._programs.status(self._state)):
            self._keep()
            self._unseen, self._look_seconds = 0.0, time.perf_counter() - start
            return
        seconds, steps = self.record.stats["run_seconds"], self.step - self._kept.stats["steps"]
        self._go_back()
        if steps > n:
            self._watched = True
            return
        self._end_at_last_sound_step(n)
        self.record.stats["run_seconds"] = seconds

    def _end_at_last_sound_step(self, n: int) -> None:
        """Repeat `n` steps, the last of which is unsound: part by part, and the unsound part step by step."""
        state, ends, left = self._kept.state, False, n
        while not ends:
            size = min(self._part * self._unit, left)
            new, cost = self._programs.advance(self._programs.copy(state), self.step, size)
            finite, convex = self._programs.status(new)
            ends = not (finite and convex)
            if ends:
                self.record.result = RESULTS.not_convex if not convex else RESULTS.nonfinite
                new, cost, size = self._programs.advance_while_sound(state, self.step, size)
            self._count(size, cost)
            state, left = new, left - size
        self._state = state
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

    def listening(self) -> contextlib.AbstractContextManager[None]:
        return self._together.listening() if self._together else contextlib.nullcontext()

    def telling(self) -> contextlib.AbstractContextManager[None]:
        return self._together.telling() if self._together else contextlib.nullcontext()

    def settle(self, record: Record) -> None:
        if self._together:
            self._together.agree(record)
        self.save(now=False)

    def state(self, i: int) -> Any:
        return self._kept.state

    def solution(self, i: int, record: Record) -> Solution:
        state: Any = self._kept.state
        x, y = self._prepared.restore_x(state.x), self._prepared.restore_y(state.y)
        return Solution(x, y, record.result, record.history, state, dict(record.stats), self._programs.key)

    def save(self, *, now: bool) -> None:
        """Save the state on disk if its row has been written."""
        rows, stats = self.record.rows, self.record.stats
        if self.checkpoint is not None and rows and rows[-1]["step"] == stats["steps"]:
            record = {"stats": stats, "rows": rows, "result": name_of(self.record.result)}
            self.checkpoint.save(stats["steps"], self._kept.state, record, now=now)

    def leave(self, error: BaseException) -> None:
        """Attach the last state that was kept to the error that ends the run, and save it."""
        self._go_back()
        if self.checkpoint is not None and self._can_save_after(error):
            with contextlib.suppress(CheckpointError):  # the error being raised is the more useful one
                self.save(now=True)
            error.add_note(f"{self.checkpoint.directory} holds the run; the same call resumes it")
        self.record.result = RESULTS.interrupted
        error.solution = self.record.solution  # pyright: ignore[reportAttributeAccessIssue]

    def _can_save_after(self, error: BaseException) -> bool:
        """Not where saving has failed, nor where other processes may be gone."""
        return not isinstance(error, CheckpointError) and (self._together is None or self._together.ended)


def unit_of(prepared: Prepared, solver: AbstractSolver) -> int:
    """Steps after which a cut changes no number. Rows of x may lag: see `bilevel.run._lag`."""
    problem = prepared.problem
    return _lagged.BLOCK if isinstance(problem, Problem) and may_lag(solver, problem, prepared.x) else 1
