"""Stages on a console."""

import io
import re

import pytest
from rich.console import Console

from bilevel.clean.stages import Stages


@pytest.mark.parametrize("terminal", [True, False])
def test_stages_are_printed_and_timed(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, highlight=False)
    stages = Stages(console)
    assert list(stages.counted("Reading", ["ab", "c"])) == ["ab", "c"]
    with stages.stage("Learning"):
        pass
    printed = console.file.getvalue()
    assert re.search(r"Reading: 3 rows, \d+\.\d s", printed)
    assert ("\x1b[" in printed) == terminal
    assert list(stages.seconds) == ["Reading", "Learning"]


def test_a_terminal_shows_the_share_that_is_done():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False, color_system=None)
    stages = Stages(console, 4)
    list(stages.counted("Reading", ["ab"]))
    with stages.stage("Learning", 8) as advance:
        for _ in range(6):
            advance()
    printed = console.file.getvalue()
    assert "2/4 Learning" in printed and " 75% 6/8 " in printed


def test_without_a_console_nothing_is_printed(capsys):
    with Stages().stage("Learning"):
        pass
    assert capsys.readouterr().out == ""
