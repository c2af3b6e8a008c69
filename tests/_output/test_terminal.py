"""Progress: a bar on a terminal, lines in a log, nothing without a console."""

import io

import pytest
from rich.console import Console

from bilevel._output.tables import Table
from bilevel._output.terminal import progress, visible


def shown(total, steps, terminal=False, **options):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with progress(console, total, **options) as show:
        for done in range(1, steps + 1):
            show(f"at [{done}]")
            show(f"after [{done}]", done)
    return console.file.getvalue()


def test_a_log_has_a_line_for_each_that_is_done():
    assert shown(2, 2) == "[1/2] after [1]\n[2/2] after [2]\n"
    assert shown(None, 2) == ""


@pytest.mark.parametrize(("lines", "expected"), [(0, []), (3, [4, 7, 10]), (10, range(1, 11)), (100, range(1, 11))])
def test_a_log_has_so_many_lines_at_most(lines, expected):
    printed = shown(10, 10, lines=lines).splitlines()
    assert printed == [f"[{done}/10] after [{done}]" for done in expected]


@pytest.mark.parametrize("total", [3, None])
def test_a_terminal_has_a_bar_which_goes_away(total):
    printed = shown(total, 3, terminal=True)
    assert "after [3]" in printed and ("3/3" in printed) == (total == 3)
    assert printed.endswith("\x1b[2K")  # the line is cleared


def test_without_a_console_nothing_is_shown(capsys):
    with progress(None, 3) as show:
        show("silent", 1)
    assert capsys.readouterr() == ("", "")


OBEYED = ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\r", "\b", "\x7f", "\u202e", "\u2066"]


@pytest.mark.parametrize("evil", OBEYED)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_does_not_obey_texts(evil, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    table = Table(f"title{evil}", f"column{evil}", first_width=60)
    table.add_row(f"cell{evil} and more that makes the column wide")
    console.print(table)
    with progress(console, 1) as show:
        show(f"work{evil}", 1)
        printed = console.file.getvalue()
    for name in ("title", "column", "cell"):
        assert f"{name}{evil}" not in printed and f"{name}{visible(evil)}" in printed
    assert f"work{evil}" not in console.file.getvalue()


def test_ordinary_texts_are_shown_as_they_are():
    text = "naïve 漢字 👩\u200d🔬 שלום\n\tnext [bold]"
    assert visible(text) == text
