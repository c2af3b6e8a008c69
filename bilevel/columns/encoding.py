"""The features of a model from a table's columns: scikit-learn's ColumnTransformer, fitted on a sample of rows and
applied chunk by chunk."""

import collections
import copy
import dataclasses
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
import sklearn
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, TransformerMixin

from bilevel.columns import dates, numerals
from bilevel.columns.cells import MISSING, days, numbers, texts
from bilevel.columns.kinds import LEAST_ROWS, MOST_LEVELS, NEARLY, Column, listed
from bilevel.columns.words import words

TEXT_FEATURES = 10_000  # the most frequent words of a text column
FARTHEST = 10.0  # standard deviations; numbers beyond are clipped
_FAR = 10.0  # ranges between the quartiles; numbers beyond are clipped before the scale is measured
_DENSE_FROM = 0.25  # the share of nonzero entries
_COUNTED = 1_000  # different unread cells of a column
_SHOWN = 3
_ALL_NEW = 20  # cells; of fewer, all may be new levels of a category that has many


class Unread:
    """The cells of a column that could not be read as its kind, and count as missing, or are levels that its category
    does not have; and how many cells are `filled`."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.filled = 0

    def add(self, cells: Iterable[str], filled: int) -> None:
        self.filled += filled
        for cell in cells:
            self.counts[cell if cell in self.counts or len(self.counts) < _COUNTED else ""] += 1

    def without(self, known: Set[str]) -> "Unread":
        """The cells but for those that are known."""
        other = Unread()
        other.counts = collections.Counter({cell: count for cell, count in self.counts.items() if cell not in known})
        other.filled = self.filled - int(self) + int(other)
        return other

    @property
    def most(self) -> bool:
        return 2 * int(self) > self.filled

    def __int__(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        shown = [(cell, count) for cell, count in self.counts.most_common(_SHOWN + 1) if cell][:_SHOWN]
        text = ", ".join(f"{cell[:30]!r}" + (f" ({count:,})" if count > 1 else "") for cell, count in shown)
        return text + (", …" if len(self.counts) > len(shown) else "")


class Encoder:
    """Features of a table's rows, float32.

    Numbers and dates are standardized and clipped to ±10, after those far from the quartiles (9999-12-31 among dates of
    a year) have been brought near; missing ones become the median. Categories have one feature for each of the 50 most
    frequent levels in at least 5 rows, and one for all others; case does not matter, and a missing value is a level.
    Texts become the TF-IDF of the 10,000 most frequent words. Medians, scales, levels and words come from the sample.
    """

    def __init__(self, columns: Sequence[Column], sample: Any, missing: Set[str] = MISSING) -> None:
        self.columns, self.missing = columns, missing
        for column in columns:
            if column.kind == "text" and not any(words(cell) for cell in texts(sample[column.name], missing)):
                raise ValueError(f"kind: {column.name!r} has no words, so it cannot be text; pass another kind")
        self._transformer, self._levels = _transformer(columns), {}
        self.forget()
        with sklearn.config_context(transform_output="default"):  # the user may have asked for data frames
            features = self._transformer.fit_transform(self.typed(sample))
        self._own, self._levels = self.unread, self._known_levels()
        self.width = features.shape[1]
        self.forget()
        self.sparse = not isinstance(features, np.ndarray) and features.nnz < _DENSE_FROM * np.prod(features.shape)

    def forget(self) -> dict[str, Unread]:
        """Begin another count of unread cells; returns it, column by column."""
        self.unread = {column.name: Unread() for column in self.columns}
        return self.unread

    def with_forms(self, columns: Sequence[Column]) -> "Encoder":
        """The same features of a table that writes its numbers and dates in another way."""
        other = copy.copy(self)
        other.columns = columns
        other.forget()
        return other

    @property
    def owners(self) -> Int[np.ndarray, " d"]:
        """For each feature, the number of its column."""
        place, owners = {column.name: i for i, column in enumerate(self.columns)}, []
        for name, part, names in self._transformer.transformers_:
            if name == "levels":
                owners += part.get_feature_names_out().tolist()
            elif name == "numbers":
                owners += names
            else:
                owners += [names] * len(part.vocabulary_)
        return np.array([place[name] for name in owners], int)

    @property
    def words(self) -> list[str]:
        """For each feature, its word in a column of texts; empty for other columns."""
        found: list[str] = []
        for name, part, names in self._transformer.transformers_:
            if name in ("levels", "numbers"):
                found += [""] * len(part.get_feature_names_out() if name == "levels" else names)
            else:
                found += part.get_feature_names_out().tolist()
        return found

    def features(self, chunks: Iterable[Any], rows: int) -> Any:
        """The features of all rows: an array, or a CSR matrix if most entries are zero."""
        import scipy.sparse

        done, parts = 0, []
        whole = np.empty((0 if self.sparse else rows, self.width), np.float32)
        for chunk in chunks:
            with sklearn.config_context(transform_output="default"):
                part = self._transformer.transform(self.typed(chunk))
            if self.sparse:
                parts.append(scipy.sparse.csr_matrix(part, dtype=np.float32))
            else:
                whole[done : done + len(chunk)] = part if isinstance(part, np.ndarray) else part.toarray()
            done += len(chunk)
        if done != rows:
            raise ValueError(f"table: it had {rows:,} rows, then {done:,}; do not change the file while it is read")
        return scipy.sparse.vstack(parts, format="csr") if self.sparse else whole

    def check(self, argument: str, table: str, place: str = "") -> None:
        """Refuse rows that were written in another way than the fitted table's.

        Cells that the fitted table could not read either, such as "unknown", are no sign of that. Nor are a few new
        levels where rare ones share a feature: that is what it is for.

        **Raises** `ValueError`, naming the argument, for a column of which most cells cannot be read as its kind or,
        of a category, are levels that the fitted table does not have.
        """
        for column in self.columns:
            own, unread = self._own[column.name], self.unread[column.name]
            new = unread.without(own.counts.keys() - {""})
            said = f"{argument}: {int(new):,} of {unread.filled:,} cells of {column.name!r}"
            if column.name in self._levels:
                known, rare = self._levels[column.name]
                many = int(new) == new.filled >= _ALL_NEW if len(known) > MOST_LEVELS else new.most
                if many and not (rare and int(new) < LEAST_ROWS):
                    raise ValueError(
                        f"{said} hold what {table} does not: {listed(list(filter(None, new.counts)))}; {table} has "
                        f"{listed(sorted(known - {''}))}; write them as it does, or leave them empty"
                    )
            elif new.most and not own.most:
                raise ValueError(f"{said}{place} cannot be read as {column.kind} ({new}); write them as {table} does")

    def _known_levels(self) -> dict[str, tuple[Set[str], bool]]:
        """The levels of each category, and whether some are so rare that they share a feature."""
        found = {}
        for name, part, names in self._transformer.transformers_:
            if name == "levels":
                for column, levels, rare in zip(names, part.categories_, part.infrequent_categories_, strict=True):
                    found[column] = set(levels), rare is not None
        return found

    def typed(self, chunk: Any) -> Any:
        """The columns in use, as numbers or text."""
        import pandas as pd

        typed = {}
        for column in self.columns:
            cells, missing, unread = chunk[column.name], self.missing, self.unread[column.name]
            if column.kind in ("numeric", "date"):
                read = _values(column, cells, missing)
                odd = cells[np.isnan(read)]
                odd = odd[np.array(texts(odd, missing), object) != ""]
                odd = odd[np.isnan(_values(column, odd, frozenset({""})))]  # not what stands for a missing cell
                unread.add(texts(odd, missing), int(np.isfinite(read).sum()) + len(odd))
                typed[column.name] = read
            elif column.kind == "text":
                typed[column.name] = np.array(texts(cells, missing), object)
            else:  # in lower case: spreadsheets write true as TRUE
                spelled = texts(cells, missing)
                if column.name in self._levels:
                    known, _ = self._levels[column.name]
                    new = (cell for cell in spelled if cell and cell.lower() not in known)
                    unread.add(new, sum(map(bool, spelled)))
                typed[column.name] = np.array([cell.lower() for cell in spelled], object)
        return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in typed.items()})


def rewritten(column: Column, table: Any, other: Any, commas: bool, missing: Set[str]) -> Column:
    """The column as another table writes it, whose sample is `other`.

    The table's way is kept where it reads nearly all cells; of other ways, the one nearest to the table's values.
    """
    if column.kind not in ("numeric", "date") or other[column.name].dtype.kind in "Mfiub":
        return column
    cells = [cell for cell in texts(other[column.name], missing) if cell]
    if column.kind == "numeric":
        ways = [
            column.form or numerals.Numerals(),
            numerals.find(cells, commas)[0],
            numerals.find(cells, not commas)[0],
        ]
        read: Any = [way.read(cells) for way in ways]
    else:
        ways = [column.form or "year first", *dates.ORDERS]
        read = [dates.read(cells, way) for way in ways]
    shares = np.array([np.isfinite(values).mean() if cells else 0 for values in read])
    if shares[0] >= NEARLY or not shares.max():
        return column
    near = [i for i, share in enumerate(shares) if share >= shares.max()]
    center = np.nanmedian(_values(column, table[column.name], missing))
    best = min(near, key=lambda i: abs(np.nanmedian(read[i]) - center))
    return dataclasses.replace(column, form=ways[best])


def out_of_range(column: Column, table: Any, theirs: Column, other: Any, missing: Set[str]) -> str:
    """A note if nearly all numbers or dates of another table lie outside of the table's, as in another unit."""
    if column.kind not in ("numeric", "date"):
        return ""
    ours = _values(column, table[column.name], missing)
    values = _values(theirs, other[column.name], missing)
    values, ours = values[np.isfinite(values)], ours[np.isfinite(ours)]
    if not len(values) or not len(ours):
        return ""
    low, high = ours.min(), ours.max()
    if np.mean((values < low) | (values > high)) < NEARLY:
        return ""
    what = "days since 1970" if column.kind == "date" else "numbers"
    return (
        f"Nearly all {what} of {column.name!r} in the trusted rows, from {values.min():g} to {values.max():g}, lie "
        f"outside of the table's, from {low:g} to {high:g}. Are they in another unit?"
    )


def _values(column: Column, cells: Any, missing: Set[str]) -> Float[np.ndarray, " n"]:
    read: Any = numbers if column.kind == "numeric" else days
    return read(cells, column.form, missing)


class _BringNear(TransformerMixin, BaseEstimator):
    """Clip numbers that are farther from the quartiles than ten times the range between these."""

    def fit(self, X: Float[np.ndarray, "n d"], y: Any = None) -> "_BringNear":
        low, high = np.quantile(X, [0.25, 0.75], axis=0)
        reach = np.where(high > low, _FAR * (high - low), np.inf)
        self.low_, self.high_ = low - reach, high + reach
        return self

    def transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return np.clip(X, self.low_, self.high_)


def _owner(column: str, level: str) -> str:
    """The name of a level's feature: its column, see `Encoder.owners`. No lambda: those cannot be pickled."""
    return column


def _transformer(columns: Sequence[Column]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    def named(*kinds: str) -> list[str]:
        return [column.name for column in columns if column.kind in kinds]

    numeric = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        _BringNear(),
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -FARTHEST, "a_max": FARTHEST}),
    )
    float32: Any = np.float32
    owner: Any = _owner
    in_words: Any = words
    levels = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=LEAST_ROWS,
        max_categories=MOST_LEVELS + 1,
        dtype=float32,
        feature_name_combiner=owner,
    )
    parts: list[Any] = [("numbers", numeric, named("numeric", "date"))]
    parts.append(("levels", levels, named("boolean", "categorical")))
    for i, name in enumerate(named("text")):
        counted = TfidfVectorizer(analyzer=in_words, max_features=TEXT_FEATURES, dtype=float32)
        parts.append((f"text{i}", counted, name))
    return ColumnTransformer([part for part in parts if part[2]], sparse_threshold=1.0)
