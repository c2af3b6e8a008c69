"""Numbers as people and spreadsheets write them: separators, currencies, percent, units."""

import collections
import dataclasses
import functools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_CODES = "usd|eur|gbp|jpy|cny|rmb|chf|inr|aud|cad|nzd|brl|krw|rub|sek|nok|dkk|pln|czk|huf|try|zar|mxn|sgd|hkd|rs|kr|fr"
_SYMBOL = "[$€£¥₹₩₽₺₫₪₴₦฿₱¢]"  # after NFKC
_CURRENCY = rf"(?:[a-z]{{0,2}}{_SYMBOL}|(?:{_CODES})\b\.?)"
_UNIT = r"[^\d\s()+\-.,'<>=][^\d()+<>=]{0,14}"
_TIMES = {"k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9}  # 1.2M beside 950k
_NO_CENTS = re.compile(r"(?<=\d)[.,]-+(?=\s|$)")  # 50.- in Switzerland
_DASHES = str.maketrans("−–—\u2010\u2011’´`\u00a0\u202f\u2009", "-----'''   ")
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.ASCII | re.IGNORECASE)  # as programs write them
_CODE = re.compile(r"0\d+|\d{16,}")  # a leading zero or more digits than a float has: no amount is written like that


@dataclasses.dataclass(frozen=True)
class Numerals:
    """How the numbers of a column are written.

    `unit` is what stands before or after them, such as $, % or kg; a cell without it is in the same unit.
    """

    decimal: str = "."
    thousands: str = ""
    unit: str = ""

    @property
    def plain(self) -> bool:
        return self == Numerals()

    def read(self, cells: Sequence[str]) -> Float[np.ndarray, " n"]:
        """The cells as numbers, NaN if they are not numbers in this unit."""
        values = np.full(len(cells), np.nan)
        known: dict[str, float] = {}
        for i, cell in enumerate(cells):
            if cell not in known:
                number, unit = _read(cell, self.decimal, self.thousands)
                if unit not in ("", self.unit) and not (self.unit == "k, M" and unit in _TIMES):
                    number = np.nan
                known[cell] = number * _TIMES.get(unit, 1.0) if self.unit == "k, M" else number
            values[i] = known[cell]
        return values

    def __str__(self) -> str:
        """What a reader of the report must know; nothing for plain numbers."""
        unit = {"": "", "%": "percent", "k, M": "k and M are thousands and millions"}.get(self.unit)
        if unit is None:
            unit = f"amount in {self.unit}" if re.fullmatch(_CURRENCY, self.unit, re.IGNORECASE) else f"in {self.unit}"
        mark = "decimal comma" if self.decimal == "," else ""
        names = {",": "comma", ".": "point", "'": "apostrophe", " ": "space"}
        group = f"{names[self.thousands]} between thousands" if self.thousands else ""
        return ", ".join(part for part in (unit, mark, group) if part)


def find(
    cells: Sequence[str], commas: bool, decimal: str | None = None
) -> tuple[Numerals, Float[np.ndarray, " n"], str]:
    """How the cells are written, the numbers (NaN: not a number), and another way to read them, if there is one.

    The way that reads most cells is taken. If 1,234 can be both a thousand and a bit more than one, it is a thousand,
    or a decimal comma if `commas`: where the table's columns are not separated by commas. Beside 950, it is a thousand:
    the other would be written 950,000. `decimal` is the mark, if the user says it.
    """
    ways = [(".", ""), (".", ","), (",", ""), (",", "."), (".", "'"), (".", " "), (",", " "), (",", "'")]
    beside = not all("," in cell for cell in cells)
    if commas and not beside:
        ways = [ways[0], ways[2], ways[3], ways[1], *ways[4:]]
    tried = []
    for mark, thousands in ways:
        if decimal in (None, mark):
            numerals = _with_unit(cells, mark, thousands)
            tried.append((numerals, numerals.read(cells)))
    best, values = max(tried, key=lambda one: np.isfinite(one[1]).sum())  # the first of equals
    if (best.plain and not commas) or (beside and best.thousands == ","):
        return best, values, ""
    read = np.isfinite(values)
    for other, numbers in tried:
        if (np.isfinite(numbers) == read).all() and not np.array_equal(numbers[read], values[read]):
            return best, values, other.decimal
    return best, values, ""


def codes(cells: Sequence[str]) -> bool:
    """Whether cells of digits are codes, such as 08001, and no amounts."""
    return sum(_CODE.fullmatch(cell) is not None for cell in cells) > 0.01 * len(cells)


def value(cell: str) -> float:
    """The number that a program has written, NaN if the cell is none or is a code such as 007."""
    return float(cell) if _PLAIN.fullmatch(cell) and not _CODE.fullmatch(cell) else np.nan


def _with_unit(cells: Sequence[str], decimal: str, thousands: str) -> Numerals:
    """The most common unit; or k and M, where these are the only ones."""
    units = collections.Counter(unit for _, unit in (_read(cell, decimal, thousands) for cell in cells) if unit)
    if len(units) > 1 and set(units) <= set(_TIMES):
        return Numerals(decimal, thousands, "k, M")
    return Numerals(decimal, thousands, units.most_common(1)[0][0] if units else "")


@functools.lru_cache(16)
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    mark, group = re.escape(decimal), re.escape(thousands)
    digits = rf"\d+(?:{mark}\d+)?|{mark}\d+|\d+{mark}(?!\s*[^\W\d_])"  # 1.png is no number
    if thousands:
        inner = rf"(?:{group}\d\d\d?)*" if thousands == "," else rf"(?:{group}\d{{3}})*"  # 12,34,567 in India
        digits = rf"[1-9]\d{{0,2}}{inner}{group}\d{{3}}(?:{mark}\d*)?|{digits}"
    return re.compile(
        rf"[~≈]?\s*(?P<open>\()?(?P<sign>[-+])?\s*(?P<before>{_CURRENCY})?\s*(?P<inner>[-+])?\s*"
        rf"(?P<digits>{digits})(?P<exponent>e[-+]?\d+)?\+?\s*(?P<after>{_UNIT})?(?P<last>-)?(?P<close>\))?",
        re.IGNORECASE,
    )


def _read(cell: str, decimal: str, thousands: str) -> tuple[float, str]:
    """The number and its unit."""
    if decimal == "." and _PLAIN.fullmatch(cell):
        return float(cell), ""
    if not cell.isascii() and any(character.isdigit() and not character.isdecimal() for character in cell):
        return np.nan, ""  # 10² is not 102
    text = cell if cell.isascii() else unicodedata.normalize("NFKC", cell.translate(_DASHES)).translate(_DASHES)
    found = _pattern(decimal, thousands).fullmatch(_NO_CENTS.sub("", text).strip())
    if found is None:
        return np.nan, ""
    part = found.groupdict("")
    signs = part["sign"] + part["inner"] + part["last"] + ("-" if part["open"] else "")
    before, after = part["before"].lower(), part["after"].strip().casefold()
    if len(signs) > 1 or bool(part["open"]) != bool(part["close"]) or (before and after and after not in _TIMES):
        return np.nan, ""
    digits = part["digits"].replace(thousands, "") if thousands else part["digits"]
    number = float(digits.replace(decimal, ".") + part["exponent"])
    if len(after) > 3 and after.endswith("s"):
        after = after[:-1]  # 1 year, 2 years
    before, after = before.rstrip("."), after.rstrip(".")
    return (-number if "-" in signs else number), _unit(before, after)


def _unit(before: str, after: str) -> str:
    if before and after:  # $3.4M
        return after
    return (before or after).upper() if re.fullmatch(_CODES, before or after) else before or after
