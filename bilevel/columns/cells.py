"""The cells of a column as text, numbers and days, and what stands for a missing one."""

import functools
from collections.abc import Iterable, Set
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel.columns import dates, numerals
from bilevel.columns.numerals import Numerals

MISSING = frozenset({"", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "none"}) | {
    *("?", "-", "--", ".", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!")
}


def told_missing(words: Iterable[str]) -> frozenset[str]:
    """The user's words for a missing cell in lower case, and the empty cell.

    **Raises** `TypeError`, naming `missing`, if it is no list of words.
    """
    if isinstance(words, str) or not isinstance(words, Iterable):
        raise TypeError(f"missing: got {words!r}; pass a list of words, such as [{str(words)!r}]")
    found = list(words)
    for word in found:
        if not isinstance(word, str):
            raise TypeError(f"missing: got {word!r} among the words; pass it as text, {str(word)!r}")
    return frozenset(word.strip().lower() for word in found) | {""}


def is_number(dtype: Any) -> bool:
    """Whether a column of this type holds real numbers, true and false included."""
    from pandas.api.types import is_numeric_dtype

    return is_numeric_dtype(dtype) and dtype.kind != "c"


def texts(cells: Any, missing: Set[str] = MISSING) -> list[str]:
    """The cells as text without surrounding spaces, empty if missing."""
    import pandas as pd

    values, absent = _stand_ins(frozenset(missing))[0], pd.isna(cells)
    if len(values) and is_number(getattr(cells, "dtype", np.dtype(object))):
        absent = absent | np.isin(_floats(cells), _stored(values, cells.dtype))
    plain = ["" if no else _spelled(cell) for cell, no in zip(cells, absent, strict=True)]
    known = set(values.tolist())
    return ["" if cell.lower() in missing or (known and numerals.value(cell) in known) else cell for cell in plain]


def numbers(cells: Any, form: Numerals | None = None, missing: Set[str] = MISSING) -> Float[np.ndarray, " n"]:
    """The cells as numbers, NaN if they are not numbers."""
    values = _stand_ins(frozenset(missing))[0]
    if is_number(cells.dtype):
        return _without(_floats(cells), _stored(values, cells.dtype))
    read = np.array([np.nan if isinstance(cell, str) else _value(cell) for cell in cells], float)
    text = np.array([isinstance(cell, str) for cell in cells], bool)
    read[text] = (form or Numerals()).read(texts(cells[text], missing))
    return _without(read, values)


def days(cells: Any, order: str | None = None, missing: Set[str] = MISSING) -> Float[np.ndarray, " n"]:
    """Dates and times as days since 1970, NaN if they are not dates in this order."""
    typed = cells.dtype.kind == "M"
    found = dates.as_days(cells) if typed else dates.read(texts(cells, missing), order or "year first")
    return _without(found, _stand_ins(frozenset(missing))[1])


def present(values: Float[np.ndarray, " n"], missing: Set[str]) -> Float[np.ndarray, " n"]:
    """The numbers, NaN where one stands for a missing cell."""
    return _without(values, _stand_ins(frozenset(missing))[0])


def _without(values: Float[np.ndarray, " n"], stand_ins: Float[np.ndarray, " s"]) -> Float[np.ndarray, " n"]:
    return np.where(np.isfinite(values) & ~np.isin(values, stand_ins), values, np.nan)


def _floats(cells: Any) -> Float[np.ndarray, " n"]:
    return cells.to_numpy(np.float64, na_value=np.nan)


def _stored(values: Float[np.ndarray, " s"], dtype: Any) -> Float[np.ndarray, " s"]:
    """The numbers as a column of this type holds them: in single precision, -99.9 is another number."""
    if dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):
        return values.astype(f"f{getattr(dtype, 'itemsize', 8)}").astype(np.float64)


@functools.lru_cache(16)
def _stand_ins(missing: frozenset[str]) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " t"]]:
    """The numbers, and the days, among the words for a missing cell: typed cells hold no words."""
    words = sorted(missing)
    values, found = np.array([numerals.value(word) for word in words], float), dates.read(words, "year first")
    return values[np.isfinite(values)], found[np.isfinite(found)]


def _spelled(cell: Any) -> str:
    """The cell as text; a whole number without a fraction, which it gets where a number beside it is missing."""
    if isinstance(cell, float | np.floating) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return str(cell).strip()


def _value(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return np.nan
