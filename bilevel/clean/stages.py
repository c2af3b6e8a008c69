"""The stages of a command: their progress, their duration, and a line when each has ended."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from bilevel._output.terminal import progress


class Stages:
    """Stages, timed in `seconds` and, if there is a console, printed to it."""

    def __init__(self, console: Any = None) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of unknown length."""
        start = time.perf_counter()
        with progress(self.console) as show:
            show(f"{name} …")
            yield
        self._end(name, start)

    def counted(self, name: str, chunks: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        """The chunks, counting their rows."""
        start, rows = time.perf_counter(), 0
        with progress(self.console, total, lines=0) as show:
            show(name)
            for chunk in chunks:
                yield chunk
                rows += len(chunk)
                show(f"{name}: {rows:,} rows", rows)
        self._end(name, start, f"{rows:,} rows, ")

    def print(self, content: Any) -> None:
        if self.console is not None:
            self.console.print(content)

    def _end(self, name: str, start: float, what: str = "") -> None:
        self.seconds[name] = time.perf_counter() - start
        self.print(f"{name}: {what}{self.seconds[name]:.1f} s")
