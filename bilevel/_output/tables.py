"""Tables whose cells have a value and a text, for a terminal, Markdown or HTML; and how numbers look."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from bilevel._output.terminal import visible


def short(value: float, digits: int = 3) -> str:
    """A number in a sentence, with some significant digits.

    Example:

        >>> from bilevel._output.tables import short
        >>> short(1234.5), short(2 / 3), short(5e-7)
        ('1.23e+03', '0.667', '5e-07')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}g}"


def percent(fraction: float) -> str:
    """A fraction in percent; from a hundred times on, as a multiple."""
    return f"{100 * fraction:.0f} %" if fraction < 100 else f"{fraction:.0f} times"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The text of a cell, and the value that its row is sorted by: a number, a text, or None, which sorts last."""

    text: str
    value: float | str | None
    style: str = ""  # a style of rich, such as "green"

    @property
    def key(self) -> str:
        """The value for the script of a page, with numbers as JavaScript writes them."""
        if self.value is None or isinstance(self.value, str):
            return self.value or ""
        return repr(float(self.value)).replace("inf", "Infinity").replace("nan", "")


def number(value: float, digits: int = 3) -> Cell:
    """A number in a column: some digits after the point, or a power of ten if these would not show it."""
    return Cell(_decimal(value, digits), value)


def with_error(mean: float, standard_error: float, digits: int = 3) -> Cell:
    """mean ± standard error, sorted by the mean."""
    error = "" if math.isnan(standard_error) else f" ± {_decimal(standard_error, digits)}"
    return Cell(_decimal(mean, digits) + error, mean)


def count(value: float) -> Cell:
    """A count: 950, 1.2k, 3.4M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return Cell(f"{value / size:.3g}{unit}", value)
    return Cell("–" if math.isnan(value) else f"{value:.0f}", value)


def _decimal(value: float, digits: int) -> str:
    if math.isnan(value):
        return "–"
    if value and not 10**-digits <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Row:
    cells: tuple[Cell, ...]
    dim: bool


class Table:
    """Rows under named columns. The columns at the positions in `left` hold text, the others numbers.

    `first_width`: the maximal width of the first column on a terminal, in characters.
    """

    def __init__(self, title: str, *columns: str, left: Sequence[int] = (0,), first_width: int = 15):
        self.title, self.columns, self.left, self.first_width = title, columns, left, first_width
        self.rows: list[Row] = []

    def add_row(self, *cells: str | Cell, dim: bool = False) -> None:
        """Add a row. `dim` rows are shown dimmed, below a line."""
        made = tuple(Cell(cell, cell) if isinstance(cell, str) else cell for cell in cells)
        if len(made) != len(self.columns):
            raise ValueError(f"cells: got {len(made)}, but the table has {len(self.columns)} columns")
        self.rows.append(Row(made, dim))

    def __rich__(self) -> Any:
        """What a `rich` console prints. No text is interpreted as markup, or obeyed by the terminal."""
        from rich import box
        from rich.table import Table as Shown
        from rich.text import Text

        shown = Shown(title=Text(visible(self.title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        shown.pad_edge, shown.padding, shown.show_header = False, (0, 1, 0, 0), any(self.columns)
        for i, column in enumerate(self.columns):
            justify = "left" if i in self.left else "right"
            width = None if i else self.first_width  # a name without spaces is broken, and never cut off
            shown.add_column(
                Text(visible(column)), justify=justify, max_width=width, overflow="ellipsis" if i else "fold"
            )
        for before, row in itertools.pairwise([None, *self.rows]):
            if row is not None:
                if before is not None and row.dim > before.dim:
                    shown.add_section()
                shown.add_row(
                    *(Text(visible(cell.text), cell.style) for cell in row.cells), style="dim" if row.dim else None
                )
        return shown

    def markdown(self) -> str:
        """The table without its title."""
        lines = [self.columns, ["---"] * len(self.columns), *([cell.text for cell in row.cells] for row in self.rows)]
        return "\n".join(" | ".join(["", *cells, ""]).strip() for cells in lines)


def aligned(rows: Sequence[tuple[str, str, str]], right: bool = False) -> list[str]:
    """Lines of plain text: a name, a value (at the right of its column, if `right`) and a remark."""
    first, second = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    side = ">" if right else "<"
    return [f"{name:<{first}}  {value:{side}{second}}  {remark}".rstrip() for name, value, remark in rows]
