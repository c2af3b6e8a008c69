"""Dates and times as people and spreadsheets write them, read by pandas in many formats of four orders.

Before pandas 3, dates before 1677 and after 2262 cannot be read, and count as missing.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Float

_MONTHS = (
    *("jan|gen|ene", "feb|fév|fev", "mar|mär|mrz|mrt|maa", "apr|avr|abr", "may|mai|mei|mag|maj", "jun|juin|giu"),
    *("jul|juil|lug", "aug|aoû|aou|ago", "sep|set", "oct|okt|ott|out", "nov", "dec|dez|déc|dic"),
)
_MONTH = re.compile("|".join(rf"(?P<m{i:02d}>\b(?:{names})[^\W\d_]*\.?)" for i, names in enumerate(_MONTHS, 1)), re.I)
_WEEKDAY = re.compile(r"^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\b[.,]?\s*", re.I)
_BETWEEN = re.compile(r"\s*[./\-,年月]\s*|\s+de\s+|\s+(?=M?\d)(?!\d{1,2}:)|(?<=M\d\d)\s+")
_FILLER = re.compile(r"\b(?:uhr|at|um|à)\b", re.IGNORECASE)  # 31.12.2024 um 10:00 Uhr
_TIME = re.compile(r"\d{1,2}:\d{2}")
_COMPACT = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_LIKE = re.compile(r"\d{1,4}\s?[./\-年]\s?(?:\d{1,2}|[^\W\d_]{3,9}\.?)\s?[./\-月]\s?\d{1,4}\b|\d{1,2}:\d{2}\b")

# After _plain: fields are separated by "-", a month's name is M and its number.
_DAYS = {
    "year first": ("%Y-%m-%d", "%Y-M%m-%d", "%Y-%m", "%Y-M%m"),
    "day first": ("%d-%m-%Y", "%d-%m-%y", "%d-M%m-%Y", "%d-M%m-%y", "M%m-%Y", "%m-%Y"),
    "month first": ("%m-%d-%Y", "%m-%d-%y", "M%m-%d-%Y", "M%m-%d-%y", "M%m-%Y", "%m-%Y"),
    "time of day": ("",),
}
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
ORDERS = tuple(_DAYS)


def compact(cells: list[str]) -> bool:
    """Whether cells of digits are dates such as 20241231."""
    return all(_COMPACT.fullmatch(cell) for cell in cells)


def look_like(cells: list[str]) -> float:
    """The share of the cells that a person would take for a date or a time."""
    return float(np.mean([_LIKE.search(cell) is not None and 5 < len(cell) < 30 for cell in cells])) if cells else 0.0


def read(cells: list[str], order: str) -> Float[np.ndarray, " n"]:
    """The cells as days since 1970, NaN if they are not dates in this order (of `ORDERS`) or format (of strptime)."""
    import pandas as pd

    cells = ["" if cell in ("now", "today") else cell for cell in cells]  # pandas reads the time of the run
    whole = pd.Series(cells, dtype=object)
    if order in ORDERS:  # 1984 and 0123 are numbers or codes
        whole = pd.Series(
            ["" if cell.isdigit() and not _COMPACT.fullmatch(cell) else cell for cell in cells], dtype=object
        )
    if order not in ORDERS:
        return as_days(pd.to_datetime(whole, format=order, errors="coerce", utc=True))
    values = np.full(len(whole), np.nan)
    if order == "year first":
        values = as_days(pd.to_datetime(whole, format="ISO8601", errors="coerce", utc=True))
    left = np.flatnonzero(np.isnan(values) & (whole != "").to_numpy())
    plain = pd.Series([_plain(cell) for cell in whole.iloc[left]], dtype=object)
    # Each format is tried on what the ones before it could not read.
    for date in _DAYS[order]:
        for hour in _HOURS:
            if not len(left) or not (date + hour):
                continue
            found = as_days(pd.to_datetime(plain, format=(date + hour).strip(), errors="coerce", utc=True))
            values[left] = found
            left, plain = left[np.isnan(found)], plain[np.isnan(found)]
    return values


def find(cells: list[str]) -> tuple[str, Float[np.ndarray, " n"], str]:
    """The order that reads most cells, the days, and another order that reads the same cells otherwise, if any."""
    tried = {order: read(cells, order) for order in ORDERS}
    first = sorted(ORDERS, key=lambda order: -np.isfinite(tried[order]).sum())[0]
    other = {"day first": "month first", "month first": "day first"}.get(first, "")
    if other and np.array_equal(np.isfinite(tried[first]), np.isfinite(tried[other])):
        if np.array_equal(tried[first], tried[other], equal_nan=True):
            return first, tried[first], ""  # all of the kind 05/05, or with names
        if "/" in "".join(cells[:100]):  # as in the United States
            first, other = "month first", "day first"
        return first, tried[first], other
    return first, tried[first], ""


def as_days(stamps: Any) -> Float[np.ndarray, " n"]:
    """Time stamps as days since 1970, in integers of seconds: nanoseconds end in 2262."""
    import pandas as pd

    stamps = pd.Series(stamps)
    if stamps.dt.tz is not None:
        stamps = stamps.dt.tz_convert("UTC").dt.tz_localize(None)
    missing = stamps.isna().to_numpy()
    seconds = stamps.to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.where(missing, np.nan, seconds / 86_400)


def _plain(cell: str) -> str:
    """The cell with one separator, months as numbers, and no name of the weekday."""
    if not cell[-1:].isdigit():
        cell = cell.replace("日", "").replace("a.m.", "AM").replace("p.m.", "PM").rstrip("Z. ")
    cell = _FILLER.sub("", _WEEKDAY.sub("", cell)).strip()
    named = _MONTH.search(cell)
    if named is not None:
        cell = cell[: named.start()] + f"M{(named.lastgroup or '')[1:]}" + cell[named.end() :]
    clock = _TIME.search(cell)
    day, hour = (cell, "") if clock is None else (cell[: clock.start()], cell[clock.start() :])
    if day.endswith("T"):
        day = day[:-1]
    day = _BETWEEN.sub("-", day.strip(" ,")).strip("-")
    return f"{day} {hour}".strip()
