"""The kinds of a table's columns: numbers, dates, categories, texts, images, or of no use as features."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel import _checks as checks

KINDS = ("numeric", "date", "boolean", "categorical", "text", "image", "identifier", "ignored")
FEATURES = KINDS[:5]
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})
MOST_LEVELS = 50  # levels of a category with a feature of their own; the others share one
LEAST_ROWS = 5  # rows of a level that has a feature of its own
_IDENTIFIED_FROM = 20  # rows; in fewer, all cells may differ by chance
_TRUTHS = frozenset({"true", "false", "t", "f", "yes", "no", "y", "n"})
_IMAGE = re.compile(r"\.(png|jpe?g|gif|webp|bmp|tiff?)$", re.IGNORECASE)
_IDENTIFIER = re.compile(r"(^|[^a-z])(id|index|idx|unnamed: 0)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column and its kind. `detail` gives the reason or more information."""

    name: str
    kind: str
    detail: str
    decimal: str = "."


def parse(pairs: Iterable[str]) -> dict[str, str]:
    """COLUMN=KIND pairs as a dictionary."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"kind: got {pair!r}; write COLUMN=KIND, where KIND is one of {', '.join(KINDS)}")
    return {column: kind for column, _, kind in (pair.rpartition("=") for pair in pairs)}


def texts(cells: Any) -> list[str]:
    """The cells as text without surrounding spaces, empty if missing."""
    plain = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    return ["" if cell.lower() in MISSING else cell for cell in plain]


def numbers(cells: Any, decimal: str = ".") -> Float[np.ndarray, " n"]:
    """The cells as numbers, NaN if they are not numbers."""
    import pandas as pd

    values = cells.to_numpy()
    if decimal != ".":
        values = np.array([str(cell).replace(decimal, ".") for cell in values], object)
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError):
        values = np.asarray(pd.to_numeric(values, errors="coerce"), np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def days(cells: Any) -> Float[np.ndarray, " n"]:
    """ISO 8601 dates and times as days since 1970, NaN if they are not dates."""
    import pandas as pd

    if cells.dtype.kind != "M":
        cells = pd.Series(texts(cells), dtype=object)
    stamps = pd.Series(pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True))
    return ((stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(np.float64)


def infer(sample: Any, rows: int, decimals: str, told: Mapping[str, str], label: str) -> list[Column]:
    """The columns except the label: the kind of each, from a sample of the table's rows or from the user.

    **Raises** `ValueError`, naming `kind`, for unknown columns and kinds.
    """
    names = [name for name in sample.columns if name != label]
    for name, kind in told.items():
        checks.one_of("kind", name, names)
        checks.one_of(f"kind of {name!r}", kind, KINDS)
    found = []
    for name in names:
        column = _infer(name, sample[name], rows, decimals)
        if name in told and told[name] != column.kind:
            column = Column(name, told[name], "as you say", column.decimal)
        found.append(column)
    return found


def _infer(name: str, cells: Any, rows: int, decimals: str) -> Column:
    first = next((cell for cell in cells if cell is not None and not isinstance(cell, float)), "")
    truths = isinstance(first, bool | np.bool_)
    if isinstance(first, list | tuple | dict | bytes | np.ndarray):
        return Column(name, "ignored", f"holds values of type {type(first).__name__}")
    if cells.dtype.kind == "M":
        return Column(name, "date", "as days")
    strings = texts(cells)
    filled = [cell for cell in strings if cell]
    missing, levels = len(strings) - len(filled), len(set(filled))
    if not filled or (levels == 1 and not missing):
        return Column(name, "ignored", "holds one value only" if filled else "is empty")
    with_missing = f", {missing / len(strings):.2g} missing" if missing else ""
    for decimal in decimals if levels > 1 and not truths else "":
        values = numbers(cells, decimal)
        if np.isfinite(values).sum() == len(filled):
            return _number(name, values[np.isfinite(values)], rows, decimal, with_missing)
    return _strings(name, filled, levels, rows, with_missing)


def _number(name: str, values: Float[np.ndarray, " n"], rows: int, decimal: str, with_missing: str) -> Column:
    """A column of numbers, unless they only count the rows."""
    distinct = len(np.unique(values)) == len(values) >= _IDENTIFIED_FROM
    if distinct and not with_missing and (values == np.round(values)).all():
        if np.ptp(values) < rows:
            return Column(name, "identifier", "numbers the rows; not used as a feature")
        if _IDENTIFIER.search(name):
            return Column(name, "identifier", "all differ; not used as a feature")
    detail = f"from {values.min():g} to {values.max():g}" + (", decimal comma" if decimal == "," else "")
    return Column(name, "numeric", detail + with_missing, decimal)


def _strings(name: str, filled: list[str], levels: int, rows: int, with_missing: str) -> Column:
    """A column whose cells are not all numbers: the first kind that fits."""
    if sum(_IMAGE.search(cell) is not None for cell in filled) > 0.9 * len(filled):
        return Column(name, "image", "shown in the report, not used as a feature")
    if np.isfinite(days(_series(filled[:100]))).all() and np.isfinite(days(_series(filled))).all():
        return Column(name, "date", "as days" + with_missing)
    if {cell.lower() for cell in filled} <= _TRUTHS:
        return Column(name, "boolean", ", ".join(sorted(set(filled))) + with_missing)
    category = Column(name, "categorical", f"{levels} levels{with_missing}")
    if levels <= min(MOST_LEVELS, len(filled) / 4):
        return category
    words = np.mean([len(cell.split()) for cell in filled])
    if words >= 3:
        return Column(name, "text", f"{words:.0f} words on average{with_missing}")
    if levels == len(filled) >= _IDENTIFIED_FROM:
        return Column(name, "identifier", "all differ; not used as a feature")
    if levels > MOST_LEVELS:
        return dataclasses.replace(category, detail=f"{levels} levels, those beyond {MOST_LEVELS} as one{with_missing}")
    return category


def _series(cells: list[str]) -> Any:
    import pandas as pd

    return pd.Series(cells, dtype=object)
