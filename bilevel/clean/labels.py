"""The label column: its classes, and whether it can be a label column."""

import collections
import dataclasses
import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from bilevel.columns.kinds import listed

MISSING = frozenset({"", "na", "n/a", "nan", "null", "<na>", "#n/a"})
_FORMULA = ("=", "+", "-", "@")  # with which formulas of spreadsheets begin
_FEW = 20  # up to this many classes are never mistaken for regression targets
_LEAST_MEAN = 5  # rows per class, if there are many classes
_LEAST, _SHARE = 5, 0.01  # rows, and share of the rows: a class with fewer may be a typing error
_NUMERAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_YES = frozenset({"1", "true", "t", "yes", "y", "x", "ok", "✓", "✔", "checked"})
_NO = frozenset({"0", "false", "f", "no", "n", "-", "unchecked"})


@dataclasses.dataclass(frozen=True)
class Found:
    """The labels of a table.

    `codes[i]` is row i's class, −1 without a label; a class is the most common of its spellings. `spelled[i]` is row
    i's own spelling, among `spellings`; `missing` counts the cells that are no labels, by their text.
    """

    codes: Int[np.ndarray, " n"]
    classes: list[Any]
    spelled: Int[np.ndarray, " n"]
    spellings: list[Any]
    missing: collections.Counter[str]

    def same(self) -> list[list[Any]]:
        """The spellings of each class that has several."""
        keys = [label_key(spelling) for spelling in self.spellings]
        groups = ([s for s, key in zip(self.spellings, keys, strict=True) if key == label_key(c)] for c in self.classes)
        return [group for group in groups if len(group) > 1]

    def spelling(self, codes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The spelling of each row's code: the row's own, if it has one of this class."""
        first = np.array([self.spellings.index(value) for value in self.classes], np.int32)
        return np.where(codes == self.codes, self.spelled, first[codes])


class Labels:
    """The labels, collected row by row. `missing`: words in lower case that stand for no label, if the user says so."""

    def __init__(self, argument: str, missing: Set[str] | None = None) -> None:
        self._argument, self._told = argument, missing
        self._missing = {label_key(word) for word in (MISSING if missing is None else missing) | {""}}
        self._known: dict[str, int] = {}
        self._codes: list[np.ndarray] = []
        self._absent: collections.Counter[str] = collections.Counter()
        self._spellings: list[Any] = []

    def add(self, cells: Iterable[Any]) -> None:
        """Add the labels of some rows."""
        codes = []
        for cell in cells:
            text = _text(cell)
            code = self._known.get(text)
            if code is None:
                if label_key(text) in self._missing:
                    code = -1
                else:
                    code = len(self._spellings)
                    self._spellings.append(_written(cell, text))
                self._known[text] = code
            elif code >= 0 and is_formula(text) and self._spellings[code] == text:
                self._spellings[code] = _written(cell, text)
            if code < 0:
                self._absent[text] += 1
            codes.append(code)
        self._codes.append(np.array(codes, np.int32))

    def finish(self) -> Found:
        """All rows and the classes, in order.

        **Raises** `ValueError`, naming the argument, if no row has a label, or if a word that may stand for a missing
        label is as frequent as a class.
        """
        spelled = np.concatenate(self._codes)
        if not self._spellings:
            raise ValueError(f"{self._argument}: no row has a label; name a column of classes")
        counts = np.bincount(spelled[spelled >= 0], minlength=len(self._spellings))
        keys = [label_key(spelling) for spelling in self._spellings]
        classes: dict[str, Any] = {}
        for i in np.argsort(-counts, kind="stable"):  # the most common spelling of each class
            classes.setdefault(keys[i], self._spellings[i])
        sizes = dict(zip(classes, _numbers(list(classes)) or classes, strict=True))
        order = sorted(classes, key=lambda key: sizes[key])
        place = np.array([order.index(key) for key in keys], np.int32)
        codes = np.where(spelled < 0, -1, place[spelled]).astype(np.int32)
        if self._told is None:
            self._check_words(np.bincount(codes[codes >= 0]))
        return Found(codes, [classes[key] for key in order], spelled, self._spellings, self._absent)

    def _check_words(self, counts: Int[np.ndarray, " k"]) -> None:
        common = counts[counts >= max(_LEAST, _SHARE * counts.sum())]
        for word, count in self._absent.items():
            if word and len(common) and count >= min(common):
                raise ValueError(
                    f"{self._argument}: {count:,} rows hold {word!r}, which may be a class or stand for no label; pass "
                    f"--missing '' if it is a class, or --missing {word} if it stands for none"
                )


def _written(cell: Any, text: str) -> Any:
    """A class as it is written: as in the table, without surrounding spaces. They stay if they keep the text from being
    a formula in a spreadsheet."""
    return cell if not isinstance(cell, str) or is_formula(text) else text


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may compute this text."""
    return text.startswith(_FORMULA) and not _numbers([text])


def check_classes(classes: Sequence[Any], rows: int, argument: str) -> None:
    """Check that there are two or more classes, and that they are not regression targets, identifiers or texts.

    **Raises** `ValueError`, naming the argument.
    """
    count, numbers = len(classes), _numbers([label_key(label) for label in classes])
    if count == 1:
        raise ValueError(f"{argument}: all {rows:,} labels are {classes[0]!r}; cleaning needs two classes or more")
    fractions = sum(number != round(number) for number in numbers) > count / 2
    if numbers and (count > max(_FEW, rows**0.5) or (fractions and count > _FEW / 2)):
        raise ValueError(
            f"{argument}: {count:,} different numbers in {rows:,} rows ({listed(classes, 3)}) look like a regression "
            "target; divide them into ranges, or name a column of classes"
        )
    if count > max(_FEW, rows / _LEAST_MEAN):
        raise ValueError(
            f"{argument}: {count:,} different labels in {rows:,} rows ({listed(classes, 3)}), fewer than {_LEAST_MEAN} "
            "rows for each; name a column of classes, or merge them"
        )


def label_key(cell: Any) -> str:
    """What identifies a class in all formats: 1, 1.0 and "1" are the same, and Yes, yes and "yes "."""
    text = unicodedata.normalize("NFKC", _text(cell)).casefold()
    if _NUMERAL.fullmatch(text) and math.isfinite(number := float(text)):
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    return " ".join(text.split())


def checked(cells: Iterable[Any], missing: Set[str], argument: str, column: str) -> Bool[np.ndarray, " n"]:
    """Whether each cell says that the row's label has been checked.

    **Raises** `ValueError`, naming the argument, for a cell that says neither yes nor no.
    """
    said, missing = [], {label_key(word) for word in missing}
    for cell in cells:
        key = label_key(cell)
        if key not in _YES and key not in _NO and key not in missing:
            raise ValueError(f"{argument}: {column!r} holds {cell!r}; write yes or no, 1 or 0, or leave the cell empty")
        said.append(key in _YES)
    return np.array(said, bool)


def find(columns: Sequence[str], label: str, argument: str) -> None:
    """Check that the label's column exists."""
    if label not in columns:
        near = difflib.get_close_matches(label, columns, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{argument}: no column {label!r}; {advice}the columns are {listed(columns, 30)}")


def _text(cell: Any) -> str:
    return "" if cell is None or cell != cell else str(cell).strip()


def _numbers(texts: Sequence[str]) -> list[float]:
    """The texts as numbers if all of them are, else no numbers."""
    if not all(map(_NUMERAL.fullmatch, texts)):  # Python takes 2023_01 for a number
        return []
    numbers = [float(text) for text in texts]
    return numbers if np.isfinite(numbers).all() else []
