"""The progress of a piece of work, on a terminal or in a log; and texts that a terminal does not obey."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

# All control characters but the tab and the end of a line, and those that turn the direction of text.
_OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    r"""A text whose control characters are written out: names and cells of tables may be anybody's.

    Example:

        >>> from bilevel._output.terminal import visible
        >>> print(visible("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@runtime_checkable
class Show(Protocol):
    def __call__(self, text: str, done: int | None = None) -> None:
        """Show what is being done and, if it has changed, how much is done."""
        ...


@contextlib.contextmanager
def progress(console: Any, total: int | None = None, *, lines: int | None = None) -> Iterator[Show]:
    """Show the work inside on a `rich` console; None shows nothing.

    On a terminal or in a notebook it is a bar, or a spinner if no `total` is known, which disappears at the end.
    Elsewhere, a line is printed whenever more is done, at most `lines` of them.

    Example:

        >>> from rich.console import Console
        >>> from bilevel._output.terminal import progress
        >>> with progress(Console(force_terminal=False), total=2) as show:
        ...     show("boiling")
        ...     show("soft", 1)
        ...     show("hard", 2)
        [1/2] soft
        [2/2] hard
    """
    if console is None:
        yield lambda text, done=None: None
    elif console.is_terminal or console.is_jupyter:
        with _bar(console, total) as bar:
            task = bar.add_task("", total=total)
            yield lambda text, done=None: bar.update(task, description=visible(text), completed=done)
    else:
        yield _printed(console, total, lines)


def _bar(console: Any, total: int | None) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    text, share = TextColumn("{task.description}", markup=False), (BarColumn(20), TaskProgressColumn())
    shown = (SpinnerColumn(),) if total is None else (*share, MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*shown, text, console=console, transient=True)


def _printed(console: Any, total: int | None, lines: int | None) -> Show:
    printed = 0

    def show(text: str, done: int | None = None) -> None:
        nonlocal printed
        if done is None or total is None:
            return
        due = done if lines is None else done * lines // total
        if due > printed:
            console.print(f"[{done}/{total}] {visible(text)}", markup=False, soft_wrap=True)
            printed = due

    return show
