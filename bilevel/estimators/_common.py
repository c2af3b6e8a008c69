"""Functions that the estimators share."""

from typing import Any

import numpy as np
from jaxtyping import Int


def rounded(size: int, least: int) -> int:
    """A length that many sizes, and so their programs, share: `least`, or up to a sixteenth more than `size`."""
    unit = max(least, 2 ** max(0, (size - 1).bit_length() - 4))
    return -(-size // unit) * unit


def by_class(order: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The rows in this order, sorted by class. Dealt out to folds in turn, each class is spread evenly."""
    return order[np.argsort(labels[order], kind="stable")]


def check_present(name: str, values: Any, what: str = "label") -> None:
    """None of the labels or targets is None, NaN, or pandas' NA or NaT. scikit-learn finds NaN among numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
            array = np.asarray(values, dtype=object)  # NaN among strings would become the string "nan"
    except (TypeError, ValueError):  # a ragged list, which scikit-learn refuses
        return
    if array.dtype != object or array.ndim not in (1, 2):
        return
    rows = sorted({row for row, *_ in np.argwhere(np.vectorize(_is_missing, otypes=[bool])(array)).tolist()})
    if rows:
        several = "s" if len(rows) > 1 else ""
        named = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise ValueError(
            f"{name}: {len(rows)} {what}{several} {'are' if several else 'is'} missing (row{several} {named}); drop or "
            f"fill {'them' if several else 'it'}"
        )


def _is_missing(value: Any) -> bool:
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return missing or (isinstance(value, float) and value != value)
