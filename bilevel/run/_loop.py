"""The chunk loop of every run: advance, check, record, call back."""

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from bilevel.cost import KINDS
from bilevel.run._solution import RESULTS, History, Solution

Hook = Callable[["Record"], RESULTS | None]
Fill = Callable[["Record", dict[str, Any]], dict[str, float]]


class AbstractRuns(abc.ABC):
    """Runs that step together: one, or many in one program."""

    records: list["Record"]

    @property
    @abc.abstractmethod
    def step(self) -> int:
        """The steps taken by the runs that continue."""

    @abc.abstractmethod
    def advance(self, n: int) -> None:
        """Take `n` steps of all runs. A run that is no longer sound gets its `result` and its own number of steps."""

    def telling(self) -> contextlib.AbstractContextManager[None]:
        """Surrounds the functions that fill a row and are called back."""
        return contextlib.nullcontext()

    def settle(self, record: "Record") -> None:  # noqa: B027
        """Called after them."""

    @abc.abstractmethod
    def state(self, i: int) -> Any:
        """The state of a run."""

    @abc.abstractmethod
    def solution(self, i: int, record: "Record") -> Solution:
        """A run, as far as it has come."""


class Record:
    """The progress of one run: its rows, its counts, and how it ended.

    `sound`: its state is finite, and no curvature that is not positive has been met. `fresh`: the callbacks
    have not seen its last row, or are asked `again` about it, because they ended the run there that it continues.
    """

    def __init__(self, runs: AbstractRuns, i: int):
        self._runs, self._i = runs, i
        self.result = RESULTS.successful
        self.stats: dict[str, Any] = {"steps": 0, "compile_seconds": 0.0, "run_seconds": 0.0} | dict.fromkeys(KINDS, 0)
        self.rows: list[dict[str, Any]] = []
        self.sound, self.fresh, self.again = True, False, False

    @property
    def goes_on(self) -> bool:
        return self.result is RESULTS.successful  # `==` of members computes with JAX

    @property
    def state(self) -> Any:
        return self._runs.state(self._i)

    @property
    def solution(self) -> Solution:
        return self._runs.solution(self._i, self)

    @property
    def history(self) -> History:
        return History(self.rows)

    def count(self, counts: dict[str, int]) -> None:
        for kind, n in counts.items():
            self.stats[kind] += n

    @property
    def moved(self) -> bool:
        """Whether the present step has no row yet."""
        return not self.rows or self.rows[-1]["step"] != self.stats["steps"]

    def row(self) -> dict[str, Any]:
        """The driver's columns of the row at the present step."""
        row = {"step": self.stats["steps"], "seconds": self.stats["run_seconds"]}
        return row | {kind: self.stats[kind] for kind in KINDS}


def loop(runs: AbstractRuns, end: int, every: int, fill: Fill, hooks: Sequence[Hook] = ()) -> None:
    """Run from the start to step `end`.

    At the start and after each chunk each run gets a row, to which `fill(record, row)` adds columns. Then the hooks
    are called. A hook that returns a member of `RESULTS` ends its run, and so does a state that is no longer sound.
    """
    going = [record for record in runs.records if record.goes_on]
    while going:
        for record in going:
            with runs.telling():
                moved = record.sound and record.moved
                if moved:
                    row = record.row()
                    record.rows.append(row | fill(record, row))
                record.fresh, record.again = moved or record.again, False
                for hook in hooks:
                    found = hook(record)
                    if found is not None and record.goes_on:
                        record.result = found
            runs.settle(record)
        going = [record for record in going if record.goes_on]
        if not going or runs.step >= end:
            return
        runs.advance(min(every, end - runs.step))
