"""The kinds of a table's columns: numbers, dates, categories, texts, images, or of no use as features.

A column is of the kind of nearly all of its cells; the others count as missing. pandas reads the numbers and dates that
it knows (`numerals`, `dates`).
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel import _checks as checks
from bilevel.columns import dates, numerals
from bilevel.columns.cells import MISSING, is_number, numbers, present, texts
from bilevel.columns.numerals import Numerals
from bilevel.columns.words import length, words

KINDS = ("numeric", "date", "boolean", "categorical", "text", "image", "identifier", "ignored")
FEATURES = KINDS[:5]
MOST_LEVELS = 50  # levels of a category with a feature of their own; the others share one
SAMPLE_ROWS = 20_000  # of a larger table are looked at
LEAST_ROWS = 5  # rows of a level that has a feature of its own
NEARLY = 0.95  # the share of a column's cells that decides its kind
_FEW_WORDS = 3  # this many different words among numbers stand for missing ones, however often they occur
_TOLD = 0.1  # a column that the user calls numbers or dates has at least this share of them
_ALMOST = 0.2  # from this share of numbers or dates on, a note says that a column was not taken as such
_IDENTIFIED_FROM = 20  # rows; in fewer, all cells may differ by chance
_IN_ORDER = 0.98  # the correlation of ranks from which numbers are said to grow with the rows
_CODE_FROM = 1e8  # numbers of so many digits, all equally long and all different, are codes such as phone numbers
_SECONDS = 9e8, 2e9  # since 1970, from 1998 to 2033: no codes
_TRUTHS = frozenset({"true", "false", "t", "f", "yes", "no", "y", "n"})
_IMAGE = re.compile(r"\.(png|jpe?g|gif|webp|bmp|tiff?)$", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"(?:row|user|patient|customer|client|order|item|product|record|sample|subject|student|passenger|person|event)?ids?|"
    r"index|idx|unnamed|key|uid|guid|uuid|identifier|code|number|nr|no|num|\w*nummer|isbn|ean|sku|ssn|iban|account|"
    "phone|telephone|tel|mobile|fax|zip|zipcode|postcode|plz",
    re.IGNORECASE,
)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column and its kind.

    `detail` gives what was read from it, or the reason; `form` is how its numbers (`Numerals`) or dates (an order of
    `dates.ORDERS`, or a format) are written. `note` says what the user should check.
    """

    name: str
    kind: str
    detail: str
    form: Any = None
    note: str = ""


def parse(pairs: Iterable[str]) -> dict[str, str]:
    """COLUMN=KIND pairs as a dictionary."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"kind: got {pair!r}; write COLUMN=KIND, where KIND is one of {', '.join(KINDS)}")
    return {column: kind for column, _, kind in (pair.rpartition("=") for pair in pairs)}


def infer(
    sample: Any, rows: int, commas: bool, told: Mapping[str, str], label: str | None, missing: Set[str] = MISSING
) -> list[Column]:
    """The columns except the label, if there is one: the kind of each, from a sample of the table's rows or the user.

    `commas`: whether a comma is more likely a decimal mark than one of thousands.

    **Raises** `ValueError`, naming `kind`, for unknown columns and kinds, and for a kind that the cells are not.
    """
    names = [name for name in sample.columns if name != label]
    for name, kind in told.items():
        checks.one_of("kind", name, names)
        checks.one_of(f"kind of {name!r}", kind.partition(":")[0], KINDS)
    found = []
    for name in names:
        try:
            cells = _Cells(name, sample[name], rows, commas, missing)
            found.append(_told(cells, told[name]) if name in told else _infer(cells))
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"table: the column {name!r} cannot be read ({error}); pass --kind {name}=ignored"
            ) from error
    return [_as_the_others(column, found, sample, missing) for column in found]


class _Cells:
    """A sample of a column."""

    def __init__(self, name: str, cells: Any, rows: int, commas: bool, missing: Set[str]) -> None:
        self.name, self.raw, self.rows, self.commas, self.missing = name, cells, rows, commas, missing
        strings = texts(cells, missing)
        self.filled = [cell for cell in strings if cell]
        self.positions = np.array([i for i, cell in enumerate(strings) if cell], int)
        self.levels = len(set(self.filled))
        empty = len(strings) - len(self.filled)
        self.empty = f", {empty / len(strings):.2g} missing" if empty else ""

    def column(self, kind: str, detail: str, form: Any = None, note: str = "") -> Column:
        return Column(self.name, kind, detail, form, note)


def _told(cells: _Cells, kind: str) -> Column:
    """The kind that the user says, after a check that the cells are of it."""
    kind, _, how = kind.partition(":")
    if kind == "numeric" and how not in ("", ",", "."):
        raise ValueError(
            f"kind of {cells.name!r}: 'numeric:{how}' is unknown; the decimal mark is numeric:, or numeric:."
        )
    if kind == "numeric" and is_number(cells.raw.dtype):
        values = numbers(cells.raw, missing=cells.missing)
        return cells.column("numeric", _range(values) + cells.empty)
    filled, found = cells.filled, _infer(cells)
    if kind == "numeric":
        form, values, _ = numerals.find(filled, cells.commas, how or None)
        if not np.isfinite(values).any():
            values = numbers(cells.raw, missing=cells.missing)[cells.positions]  # true and false of a typed table
        detail = ", ".join(part for part in ("as you say", str(form)) if part)
    elif kind == "date" and cells.raw.dtype.kind != "M":
        form, values, other = dates.find(filled) if not how else (how, _formatted(cells.name, filled, how), "")
        detail = f"as you say, {form}" + (f", which is not certain: it may be {other}" if other else "")
    else:
        if kind == "boolean" and cells.levels > 2:
            raise ValueError(
                f"kind of {cells.name!r}: 'boolean', but it has {cells.levels:,} different values; pass categorical"
            )
        return found if found.kind == kind else cells.column(kind, "as you say", found.form if kind == "date" else None)
    if np.isfinite(values).mean() < _TOLD if filled else True:
        shown = next((cell for cell, value in zip(filled, values, strict=True) if np.isnan(value)), "")
        what, advice = ("numbers", "numeric:, for a decimal comma") if kind == "numeric" else ("dates", "date:%d.%m.%Y")
        raise ValueError(
            f"kind of {cells.name!r}: {kind!r}, but only {int(np.isfinite(values).sum()):,} of {len(filled):,} cells "
            f"can be read as {what}, not {shown[:60]!r}; pass another kind, or how they are written, such as {advice}"
        )
    return found if found.kind == kind and not how else cells.column(kind, detail, form)


def _formatted(name: str, filled: list[str], order: str) -> Float[np.ndarray, " n"]:
    if order not in dates.ORDERS and "%" not in order:
        raise ValueError(
            f"kind of {name!r}: 'date:{order}' is unknown; pass date:day first, date:month first or a format such as "
            "date:%d/%m/%Y"
        )
    return dates.read(filled, order)


def _infer(cells: _Cells) -> Column:
    first = next((cell for cell in cells.raw if cell is not None and not isinstance(cell, float)), "")
    if isinstance(first, list | tuple | dict | bytes | np.ndarray):
        return cells.column("ignored", f"holds values of type {type(first).__name__}")
    filled = cells.filled
    if cells.raw.dtype.kind == "M":
        return cells.column("date", "as days")
    if not filled or (cells.levels == 1 and not cells.empty):
        return cells.column("ignored", "holds one value only" if filled else "is empty")
    if cells.levels == 1 or isinstance(first, bool | np.bool_):
        return _strings(cells)
    if dates.compact(filled):
        return cells.column("date", "date, year first" + cells.empty, "year first")
    if not numerals.codes(filled):
        values = Numerals().read(filled)
        if np.isfinite(values).all():
            return _number(cells, values, Numerals(), "")
        if _some(filled, lambda part: numerals.find(part, cells.commas)[1]):
            form, values, other = numerals.find(filled, cells.commas)
            if _most(filled, values):
                return _number(cells, values, form, other)
    return _strings(cells)


def _some(filled: list[str], read: Any) -> bool:
    """Whether more than a few of some cells can be read."""
    return bool(np.isfinite(read(filled[:: max(1, len(filled) // 200)])).mean() > _ALMOST / 2)


def _most(filled: list[str], values: Float[np.ndarray, " n"]) -> bool:
    """Whether the cells are numbers but for a few, or but for a few words that stand for missing ones."""
    read = np.isfinite(values)
    odd = {cell for cell, known in zip(filled, read, strict=True) if not known}
    many = len(np.unique(values[read])) >= _IDENTIFIED_FROM
    return bool(read.mean() >= NEARLY or (read.mean() >= _ALMOST and len(odd) <= _FEW_WORDS and many))


def _number(cells: _Cells, values: Float[np.ndarray, " n"], form: Numerals, other: str) -> Column:
    """A column of numbers, unless they are codes."""
    read = np.isfinite(present(values, cells.missing))
    found = values[read]
    code = _code(cells, found, cells.positions[read]) if not form.unit else None
    if code is not None:
        return code
    parts = [str(form), _range(found)]
    detail, note = ", ".join(part for part in parts if part) + cells.empty, ""
    if other:
        mark = {",": "a decimal comma", ".": "a decimal point"}[other]
        note = (
            f"The column {cells.name!r} can be read in two ways: {cells.filled[0]!r} was taken as {found[0]:g}. "
            f"If it has {mark}, pass --kind '{cells.name}=numeric:{other}'."
        )
        detail += f"; may have {mark}"
    return cells.column("numeric", detail, form, note)


def _range(values: Float[np.ndarray, " n"]) -> str:
    values = values[np.isfinite(values)]
    return f"from {values.min():g} to {values.max():g}" if len(values) else "is empty"


def _code(cells: _Cells, values: Float[np.ndarray, " n"], positions: Any) -> Column | None:
    """The column, if its whole numbers name the rows or something else, and are not amounts."""
    if len(values) < _IDENTIFIED_FROM or not (values == np.round(values)).all():
        return None
    distinct = len(np.unique(values))
    if distinct == len(values):
        if not cells.empty and np.ptp(values) < cells.rows:
            return cells.column("identifier", "numbers the rows; not used as a feature")
        ranks = np.argsort(np.argsort(values))
        if abs(np.corrcoef(ranks, positions)[0, 1]) >= _IN_ORDER:
            return cells.column("identifier", "all differ and grow with the rows; not used as a feature")
    digits = np.floor(np.log10(np.maximum(np.abs(values), 1)))
    times = values.min() > _SECONDS[0] and values.max() < _SECONDS[1]
    if distinct >= NEARLY * len(values) and values.min() >= _CODE_FROM and np.ptp(digits) == 0 and not times:
        return cells.column("identifier", f"codes of {digits[0] + 1:.0f} digits; not used as a feature")
    parts = _PARTS.findall(cells.name)
    if parts and (_IDENTIFIER.fullmatch(parts[-1]) or parts[0].lower() == "id"):
        if distinct > len(values) / 2:
            return cells.column("identifier", "named like an identifier, and most differ; not used as a feature")
        return cells.column("categorical", f"{distinct} codes, by its name{cells.empty}")
    return None


def _strings(cells: _Cells) -> Column:
    """A column whose cells are not all numbers: the first kind that fits."""
    filled, levels = cells.filled, cells.levels
    if sum(_IMAGE.search(cell) is not None for cell in filled) > 0.9 * len(filled):
        return cells.column("image", "shown in the report, not used as a feature")
    if any(map(str.isdigit, "".join(filled[:100]))) and _some(filled, lambda part: dates.find(part)[1]):
        order, values, other = dates.find(filled)
        if np.isfinite(values).mean() >= NEARLY:
            return cells.column("date", f"date, {order}{cells.empty}", order, other)  # the note is completed later
    if {cell.lower() for cell in filled} <= _TRUTHS:
        return cells.column("boolean", ", ".join(sorted(set(filled))) + cells.empty)
    category = cells.column("categorical", f"{levels} levels{cells.empty}")
    if levels <= min(MOST_LEVELS, len(filled) / 4):
        return category
    size = np.mean([length(cell) for cell in filled])
    letters = np.mean([any(map(str.isalpha, cell)) for cell in filled]) > 0.5
    if letters and (size >= 3 or _words_recur(filled)):
        return cells.column("text", f"{size:.0f} words on average{cells.empty}", note=_almost(cells, "taken as text"))
    if levels >= NEARLY * len(filled) >= NEARLY * _IDENTIFIED_FROM:
        how = "all" if levels == len(filled) else "nearly all"
        return cells.column("identifier", f"{how} differ; not used as a feature", note=_almost(cells, "not used"))
    if levels > MOST_LEVELS:
        detail = f"{levels} levels, those beyond {MOST_LEVELS} as one{cells.empty}"
        return cells.column("categorical", detail, note=_almost(cells, "taken as categorical"))
    return category


def _words_recur(filled: list[str]) -> bool:
    """Whether cells have several words, and most have one that others have too, but not all: it tells something."""
    every = [words(cell) for cell in filled]
    if np.mean([len(cell) for cell in every]) < 1.5:
        return False
    found = [{word for word in cell if word.isalpha() and len(word) >= 2} for cell in every]
    counts = collections.Counter(word for cell in found for word in cell)
    least, most = max(3, 0.005 * len(filled)), 0.9 * len(filled)
    telling = {word for word, count in counts.items() if least <= count <= most}
    return bool(np.mean([not telling.isdisjoint(cell) for cell in found]) >= 0.5)


def _almost(cells: _Cells, taken: str) -> str:
    """A note on a column that looks like numbers or dates and was not taken as such."""
    filled = cells.filled
    if numerals.codes(filled):
        return ""
    read = np.isfinite(numerals.find(filled, cells.commas)[1])
    share, kind, what = read.mean(), "numeric", "numbers"
    if dates.look_like(filled) > max(share, 0.5):
        read = np.isfinite(dates.find(filled)[1])
        share, kind, what = 1.0, "date:%d.%m.%Y", "dates"
    if share < _ALMOST:
        return ""
    odd = next(cell for cell, known in zip(filled, read, strict=True) if not known)
    return (
        f"The column {cells.name!r} looks like {what}, but cells such as {odd[:60]!r} cannot be read, so it was "
        f"{taken}. If it holds {what}, pass --kind '{cells.name}={kind}'{', in their format' * (what == 'dates')}."
    )


def _as_the_others(column: Column, columns: list[Column], sample: Any, missing: Set[str]) -> Column:
    """A date of which day and month cannot be told apart is read as the other dates of the table."""
    other = column.note
    if column.kind != "date" or other not in dates.ORDERS:
        return column
    certain = {one.form for one in columns if one.kind == "date" and not one.note} & {column.form, other}
    if len(certain) == 1:
        order = certain.pop()
        detail = column.detail.replace(column.form, f"{order} like the others")
        return dataclasses.replace(column, form=order, detail=detail, note="")
    cell = next(cell for cell in texts(sample[column.name], missing) if cell)
    note = (
        f"The dates of {column.name!r}, such as {cell!r}, can be read in two ways; they were taken as {column.form}. "
        f"If that is wrong, pass --kind '{column.name}=date:{other}'."
    )
    return dataclasses.replace(column, detail=f"{column.detail}; may be {other}", note=note)


def listed(values: Sequence[Any], most: int = 5) -> str:
    """The first few, as text."""
    shown = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in values[:most])
    return shown + (f" and {len(values) - most:,} more" if len(values) > most else "")
