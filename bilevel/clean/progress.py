"""How far a command is: a bar on a terminal, a line at the end of each stage anywhere."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any


class Progress:
    """Stages, printed to a console and timed in `seconds`; without a console, only timed."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self.console = Console(quiet=True) if console is None else console
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of unknown length."""
        start = time.perf_counter()
        with self.console.status(f"{name} …"):
            yield
        self._end(name, start)

    def counted(self, name: str, chunks: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        """The chunks, counting their rows."""
        from rich import progress

        shown = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,} rows"),
        )
        start, rows = time.perf_counter(), 0
        with progress.Progress(
            *shown, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            task = bar.add_task(name, total=total)
            for chunk in chunks:
                yield chunk
                rows += len(chunk)
                bar.update(task, completed=rows)
        self._end(name, start, f"{rows:,} rows, ")

    def _end(self, name: str, start: float, what: str = "") -> None:
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"{name}: {what}{self.seconds[name]:.1f} s")
