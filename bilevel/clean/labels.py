"""The label column: its classes, and whether it can be a label column."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from bilevel.clean.reading import listed

MISSING = frozenset({"", "na", "n/a", "nan", "null"})
_FORMULA = ("=", "+", "-", "@")  # with which formulas of spreadsheets begin
_FEW = 20  # up to this many classes are never mistaken for regression targets


class Labels:
    """The codes of the classes, collected row by row; `classes[code]` is a class as the table holds it."""

    def __init__(self, argument: str) -> None:
        self._argument = argument
        self._known: dict[str, int] = {}
        self._codes: list[np.ndarray] = []
        self._missing: list[int] = []
        self.classes: list[Any] = []

    def add(self, cells: Iterable[Any], start: int) -> None:
        """Add the labels of the rows from `start` on."""
        codes = []
        for row, cell in enumerate(cells, start):
            text = label_text(cell)
            if text.lower() in MISSING:
                self._missing.append(row)
            if text not in self._known:
                self._known[text] = len(self.classes)
                self.classes.append(_written(cell, text))
            elif is_formula(text) and self.classes[self._known[text]] == text:
                self.classes[self._known[text]] = _written(cell, text)
            codes.append(self._known[text])
        self._codes.append(np.array(codes, np.int32))

    def finish(self) -> tuple[Int[np.ndarray, " n"], list[Any]]:
        """The codes of all rows and the classes, in order.

        **Raises** `ValueError`, naming the argument, for missing labels.
        """
        if self._missing:
            rows, count = [row + 1 for row in self._missing], len(self._missing)
            which = f"row {rows[0]} has no label" if count == 1 else f"{count:,} rows have no label ({listed(rows)})"
            raise ValueError(
                f"{self._argument}: {which}, where row 1 is the first below the header; fill in or remove them"
            )
        keys = _numbers(list(self._known)) or list(self._known)
        order = sorted(range(len(keys)), key=lambda code: keys[code])
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        return place[np.concatenate(self._codes)], [self.classes[code] for code in order]


def _written(cell: Any, text: str) -> Any:
    """A class as it is written: as in the table, without surrounding spaces. They stay if they keep the text from being
    a formula in a spreadsheet."""
    return cell if not isinstance(cell, str) or is_formula(text) else text


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may compute this text."""
    return text.startswith(_FORMULA) and not _numbers([text])


def check_classes(classes: Sequence[Any], rows: int, argument: str) -> None:
    """Check that there are two or more classes, and that they are not regression targets.

    **Raises** `ValueError`, naming the argument.
    """
    count, numbers = len(classes), _numbers([label_text(label) for label in classes])
    if count == 1:
        raise ValueError(f"{argument}: all {rows:,} labels are {classes[0]!r}; cleaning needs two classes or more")
    fractions = sum(number != round(number) for number in numbers) > count / 2
    if numbers and (count > max(_FEW, rows**0.5) or (fractions and count > _FEW / 2)):
        raise ValueError(
            f"{argument}: {count:,} different numbers in {rows:,} rows ({listed(classes, 3)}) look like a regression "
            "target; divide them into ranges, or name a column of classes"
        )
    if count > max(_FEW, rows / 2):
        raise ValueError(
            f"{argument}: {count:,} different labels in {rows:,} rows ({listed(classes, 3)}); name a column of classes"
        )


def label_text(cell: Any) -> str:
    """The text that identifies a class in all formats: 1, 1.0 and "1" are the same."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        cell = int(cell)
    return str(cell).strip()


def find(columns: Sequence[str], label: str, argument: str) -> None:
    """Check that the label's column exists."""
    if label not in columns:
        near = difflib.get_close_matches(label, columns, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{argument}: no column {label!r}; {advice}the columns are {listed(columns, 30)}")


def _numbers(texts: Sequence[str]) -> list[float]:
    """The texts as numbers if all of them are, else no numbers."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []
