"""The features of a model from a table's columns: scikit-learn's ColumnTransformer, fitted on a sample of rows and
applied chunk by chunk."""

import collections
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bilevel.clean.kinds import LEAST_ROWS, MOST_LEVELS, Column, days, numbers, texts

TEXT_FEATURES = 10_000  # the most frequent words of a text column
FARTHEST = 10.0  # standard deviations; numbers beyond are clipped
_WORD = re.compile(r"\w")
_DENSE_FROM = 0.25  # the share of nonzero entries


class Encoder:
    """Features of a table's rows, float32.

    Numbers and dates are standardized and clipped to ±10; missing ones become the median. Categories have one feature
    for each of the 50 most frequent levels in at least 5 rows, and one for all others; a missing value is a level.
    Texts become the TF-IDF of the 10,000 most frequent words. Medians, levels and words come from the sample.
    """

    def __init__(self, columns: Sequence[Column], sample: Any) -> None:
        self.columns = columns
        self.unread: collections.Counter[str] = collections.Counter()  # cells of numeric columns that are not numbers
        for column in columns:
            if column.kind == "text" and not any(_WORD.search(cell) for cell in texts(sample[column.name])):
                raise ValueError(f"kind: {column.name!r} has no words, so it cannot be text; pass another kind")
        self._transformer = _transformer(columns)
        features = self._transformer.fit_transform(self._typed(sample))
        self.width = features.shape[1]
        self.unread.clear()
        self.sparse = not isinstance(features, np.ndarray) and features.nnz < _DENSE_FROM * np.prod(features.shape)

    def features(self, chunks: Iterable[Any], rows: int) -> Any:
        """The features of all rows: an array, or a CSR matrix if most entries are zero."""
        import scipy.sparse

        done, parts = 0, []
        whole = np.empty((0 if self.sparse else rows, self.width), np.float32)
        for chunk in chunks:
            part = self._transformer.transform(self._typed(chunk))
            if self.sparse:
                parts.append(scipy.sparse.csr_matrix(part, dtype=np.float32))
            else:
                whole[done : done + len(chunk)] = part if isinstance(part, np.ndarray) else part.toarray()
            done += len(chunk)
        if done != rows:
            raise ValueError(f"table: it had {rows:,} rows, then {done:,}; do not change the file while it is read")
        return scipy.sparse.vstack(parts, format="csr") if self.sparse else whole

    def _typed(self, chunk: Any) -> Any:
        """The columns in use, as numbers or text."""
        import pandas as pd

        typed = {}
        for column in self.columns:
            cells = chunk[column.name]
            if column.kind == "numeric":
                values = numbers(cells, column.decimal)
                missing = np.flatnonzero(np.isnan(values))
                self.unread[column.name] += sum(cell != "" for cell in texts(cells.to_numpy()[missing]))
                typed[column.name] = values
            elif column.kind == "date":
                typed[column.name] = days(cells)
            else:
                typed[column.name] = np.array(texts(cells), object)
        return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in typed.items()})


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
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -FARTHEST, "a_max": FARTHEST}),
    )
    float32: Any = np.float32
    levels = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=LEAST_ROWS, max_categories=MOST_LEVELS + 1, dtype=float32
    )
    parts: list[Any] = [("numbers", numeric, named("numeric", "date"))]
    parts.append(("levels", levels, named("boolean", "categorical")))
    for i, name in enumerate(named("text")):
        words = TfidfVectorizer(max_features=TEXT_FEATURES, token_pattern=r"(?u)\b\w+\b", dtype=float32)
        parts.append((f"text{i}", words, name))
    return ColumnTransformer([part for part in parts if part[2]], sparse_threshold=1.0)
