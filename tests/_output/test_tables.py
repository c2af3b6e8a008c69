"""Tables: the form of numbers, and one table on a terminal, in Markdown and on a page."""

import io
import math
import re

import pytest
from rich.console import Console

from bilevel._output.pages import render
from bilevel._output.tables import Cell, Table, aligned, count, number, percent, short, with_error


def test_numbers_are_legible():
    assert [count(n).text for n in (0, 950, 51200, 2.31e6, math.nan)] == ["0", "950", "51.2k", "2.31M", "–"]
    shown = [number(n).text for n in (0.0, 0.92512, 1e-5, math.nan, -0.5)]
    assert shown == ["0.000", "0.925", "1.0e-05", "–", "-0.500"]
    assert with_error(0.91, 0.0123).text == "0.910 ± 0.012" and with_error(0.91, math.nan).text == "0.910"
    assert short(math.nan) == "–"
    assert [percent(p) for p in (0.054, 99.0, 120.0)] == ["5 %", "9900 %", "120 times"]


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        (count(51234), "51234.0"),  # exact, where the text is not
        (with_error(-1.25e-7, 1.0), "-1.25e-07"),
        (number(-math.inf), "-Infinity"),
        (number(math.nan), ""),
        (Cell("not reached", None), ""),
        (Cell("soba", "soba"), "soba"),
    ],
)
def test_what_a_page_sorts_by(cell, key):
    assert cell.key == key


def made():
    table = Table("[bold]Title[/]", "name", "value")
    table.add_row("<a> [red]", Cell("1k", 1000.0, "green"))
    table.add_row("low", number(0.5), dim=True)
    return table


def test_a_terminal_shows_it_and_takes_no_text_for_markup():
    console = Console(file=io.StringIO(), width=60)
    console.print(made())
    lines = [line.strip() for line in console.file.getvalue().splitlines() if line.strip()]
    assert lines[0] == "[bold]Title[/]" and lines[1].split() == ["name", "value"]
    assert lines[3].startswith("<a> [red]") and lines[3].endswith("   1k")
    assert lines[-1].split() == ["low", "0.500"]


def test_markdown():
    lines = ["| name | value |", "| --- | --- |", "| <a> [red] | 1k |", "| low | 0.500 |"]
    assert made().markdown().splitlines() == lines


def test_a_page_has_each_cells_value():
    values = dict.fromkeys(("notes", "rule", "axes", "metrics", "command", "plotly", "chart", "budget"), "")
    values |= {name: {} for name in ("arguments", "environment", "settings", "suggestions")}
    page = render("compare.html", title="t", tables=[made()], **values)
    headers = re.findall(r'<th(?: class="number")?>[a-z]+</th>', page)
    assert headers[:2] == ["<th>name</th>", '<th class="number">value</th>']
    assert '<td data-value="&lt;a&gt; [red]">&lt;a&gt; [red]</td><td class="number" data-value="1000.0">1k</td>' in page
    assert '<tr class="dim"><td data-value="low">low</td><td class="number" data-value="0.5">0.500</td></tr>' in page


def test_a_row_fills_the_columns():
    with pytest.raises(ValueError, match="cells: got 1, but the table has 2 columns"):
        made().add_row("alone")


def test_plain_text_in_columns():
    rows = [("step", "0.1", "small"), ("x", "10", "")]
    assert aligned(rows) == ["step  0.1  small", "x     10"]
    assert aligned(rows, right=True) == ["step  0.1  small", "x      10"]
    assert aligned([]) == []
