"""The bar that shows a run's progress on a terminal."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bilevel.run._solution import RESERVED


@contextlib.contextmanager
def progress_bar(progress: bool | None, steps: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    drawable = sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
    if not (drawable if progress is None else progress):
        yield lambda done, row: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=sys.stderr.isatty()) as bar:
        task = bar.add_task("solve", total=steps)

        def show(done: int, row: dict[str, Any]) -> None:
            numbers = [f"{name} {value:.4g}" for name, value in row.items() if name not in RESERVED]
            bar.update(task, completed=done, description="  ".join(["solve", *numbers[:3]]))

        yield show
