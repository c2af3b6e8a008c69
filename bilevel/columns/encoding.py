"""The features of a model from a table's columns: scikit-learn's ColumnTransformer, fitted on a sample of rows and
applied chunk by chunk."""

import collections
import copy
import dataclasses
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, TransformerMixin

from bilevel.columns import dates, numerals
from bilevel.columns.kinds import LEAST_ROWS, MISSING, MOST_LEVELS, NEARLY, Column, days, numbers, texts
from bilevel.columns.words import words

TEXT_FEATURES = 10_000  # the most frequent words of a text column
FARTHEST = 10.0  # standard deviations; numbers beyond are clipped
_FAR = 10.0  # ranges between the quartiles; numbers beyond are clipped before the scale is measured
_DENSE_FROM = 0.25  # the share of nonzero entries
_COUNTED = 1_000  # different unread cells of a column
_SHOWN = 3


class Unread:
    """The cells of a column that could not be read as its kind, and count as missing."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, cells: Iterable[str]) -> None:
        for cell in cells:
            self.counts[cell if cell in self.counts or len(self.counts) < _COUNTED else ""] += 1

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
        self.columns, self._missing = columns, missing
        for column in columns:
            if column.kind == "text" and not any(words(cell) for cell in texts(sample[column.name], missing)):
                raise ValueError(f"kind: {column.name!r} has no words, so it cannot be text; pass another kind")
        self._transformer = _transformer(columns)
        self.forget()
        features = self._transformer.fit_transform(self.typed(sample))
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
            part = self._transformer.transform(self.typed(chunk))
            if self.sparse:
                parts.append(scipy.sparse.csr_matrix(part, dtype=np.float32))
            else:
                whole[done : done + len(chunk)] = part if isinstance(part, np.ndarray) else part.toarray()
            done += len(chunk)
        if done != rows:
            raise ValueError(f"table: it had {rows:,} rows, then {done:,}; do not change the file while it is read")
        return scipy.sparse.vstack(parts, format="csr") if self.sparse else whole

    def typed(self, chunk: Any) -> Any:
        """The columns in use, as numbers or text."""
        import pandas as pd

        typed = {}
        for column in self.columns:
            cells, missing = chunk[column.name], self._missing
            if column.kind in ("numeric", "date"):
                read = _values(column, cells, missing)
                absent = np.flatnonzero(np.isnan(read))
                self.unread[column.name].add(cell for cell in texts(cells.to_numpy()[absent], missing) if cell)
                typed[column.name] = read
            elif column.kind == "text":
                typed[column.name] = np.array(texts(cells, missing), object)
            else:  # in lower case: spreadsheets write true as TRUE
                typed[column.name] = np.array([cell.lower() for cell in texts(cells, missing)], object)
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
    values, low, high = values[np.isfinite(values)], np.nanmin(ours), np.nanmax(ours)
    if not len(values) or np.mean((values < low) | (values > high)) < NEARLY:
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
    owner: Any = lambda column, level: column  # noqa: E731, see `Encoder.owners`
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
