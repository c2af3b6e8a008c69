"""The display of a run's progress: the numbers of its last row."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bilevel import _processes as processes
from bilevel._output import terminal
from bilevel._output.tables import short
from bilevel.run._solution import RESERVED

_LINES = 10  # in a log that is not a terminal


@contextlib.contextmanager
def progress_bar(progress: bool | None, steps: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    drawable = processes.first() and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
    if not (drawable if progress is None else progress and processes.first()):
        yield lambda done, row: None
        return
    from rich.console import Console

    with terminal.progress(Console(stderr=True), steps, lines=_LINES) as shown:

        def show(done: int, row: dict[str, Any]) -> None:
            numbers = [f"{name} {short(value, 4)}" for name, value in row.items() if name not in RESERVED]
            shown("  ".join(["solve", *numbers[:3]]), done)

        yield show
