"""The stages of a command: their progress, their duration, and a line when each has ended."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bilevel._output.terminal import progress


class Stages:
    """Stages, timed in `seconds` and, if there is a console, printed to it; a terminal shows which of `total` runs."""

    def __init__(self, console: Any = None, total: int = 1) -> None:
        self.console, self.total = console, total
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, parts: int | None = None) -> Iterator[Callable[[], None]]:
        """A stage, of a known number of parts or none; it yields what to call when a part is done."""
        start, done = time.perf_counter(), itertools.count(1)
        with progress(self.console, parts, lines=0) as show:
            show(f"{self._running} {name} …", 0)
            yield lambda: show(f"{self._running} {name} …", next(done))
        self._end(name, start)

    @property
    def _running(self) -> str:
        return f"{len(self.seconds) + 1}/{self.total}"

    def counted(self, name: str, chunks: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        """The chunks, counting their rows."""
        start, rows = time.perf_counter(), 0
        with progress(self.console, total, lines=0) as show:
            show(f"{self._running} {name}", 0)
            for chunk in chunks:
                yield chunk
                rows += len(chunk)
                show(f"{self._running} {name}: {rows:,} rows", rows)
        self._end(name, start, f"{rows:,} rows, ")

    def print(self, content: Any) -> None:
        if self.console is not None:
            self.console.print(content)

    def _end(self, name: str, start: float, what: str = "") -> None:
        self.seconds[name] = time.perf_counter() - start
        self.print(f"{name}: {what}{self.seconds[name]:.1f} s")
