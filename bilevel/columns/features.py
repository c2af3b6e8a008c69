"""The features of a data frame, as a scikit-learn transformer."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from bilevel.columns.cells import MISSING, texts, told_missing
from bilevel.columns.encoding import Encoder
from bilevel.columns.kinds import FEATURES, SAMPLE_ROWS, infer, listed


class TableFeatures(TransformerMixin, BaseEstimator):
    """The features that `bilevel clean` makes of a table, for a data frame: numbers for `LabelCleaner` and others.

    Columns may hold numbers, dates, categories and texts, as text or typed, with missing values. Amounts ($1,234.50),
    percent and local dates are read as people write them. Identifiers are left out.

    **Arguments**

    - `kinds`: the kind of a column that would be inferred wrongly, as in `bilevel.clean.clean_table`.
    - `missing`: the words that stand for a missing cell, instead of the usual ones such as NA.

    **Attributes**

    - `columns_`: for each column its `name`, its `kind`, and in `detail` what was read from it.

    **Raises** `TypeError` if X is no data frame; `ValueError` if no column can be a feature, if `kinds` does not fit,
    and in `transform` if X lacks a column. What is ambiguous is a `UserWarning`.

    Example:

        >>> import pandas as pd
        >>> from bilevel.clean import TableFeatures
        >>> table = pd.DataFrame({"price": ["$1,200", "$950", None] * 9, "day": ["31.12.2024", "1.1.2025", "?"] * 9})
        >>> features = TableFeatures()
        >>> features.fit_transform(table).shape
        (27, 2)
        >>> features.columns_[0].detail
        'amount in $, comma between thousands, from 950 to 1200, 0.33 missing'
        >>> features.columns_[1].detail
        'date, day first, 0.33 missing'
    """

    def __init__(self, kinds: Mapping[str, str] | None = None, missing: Iterable[str] | None = None):
        self.kinds = kinds
        self.missing = missing

    def fit(self, X: Any, y: Any = None) -> "TableFeatures":
        """Decide the kinds of the columns, and learn medians, scales, levels and words. `y` is not used."""
        X = _frame(X)
        missing = MISSING if self.missing is None else told_missing(self.missing)
        sample = X if len(X) <= SAMPLE_ROWS else X.sample(SAMPLE_ROWS, random_state=0).sort_index()
        self.columns_ = infer(sample, len(X), False, self.kinds or {}, None, missing)
        used = [column for column in self.columns_ if column.kind in FEATURES]
        if not used:
            reasons = listed([f"{column.name} ({column.detail})" for column in self.columns_])
            raise ValueError(f"X: no column can be a feature: {reasons}; add some columns, or pass their kinds")
        for note in (column.note for column in self.columns_ if column.note):
            warnings.warn(note.replace("pass --kind", "pass as kinds"), UserWarning, stacklevel=2)
        self.encoder_ = Encoder(used, sample, missing)
        _check_finite(X, self.encoder_)
        return self

    def transform(self, X: Any) -> Any:
        """The features (n, d), float32: an array, or a CSR matrix if most entries are zero."""
        check_is_fitted(self)
        X = _frame(X)
        absent = [column.name for column in self.encoder_.columns if column.name not in X.columns]
        if absent:
            raise ValueError(f"X: lacks columns of the fitted table: {listed(absent)}")
        _check_finite(X, self.encoder_)
        encoder = self.encoder_.with_forms(self.encoder_.columns)  # it counts by itself: threads may share this one
        features = encoder.features([X], len(X))
        encoder.check("X", "the fitted table")
        return features


def _check_finite(X: Any, encoder: Encoder) -> None:
    for column in encoder.columns:
        cells = X[column.name]
        if column.kind == "numeric" and any(texts(cells[cells.isin([np.inf, -np.inf])], encoder.missing)):
            raise ValueError(f"X: {column.name!r} has infinite numbers; replace them, by NaN if they are missing")


def _frame(X: Any) -> Any:
    import pandas as pd

    if not isinstance(X, pd.DataFrame):
        raise TypeError(f"X: got {type(X).__name__}; pass a pandas.DataFrame")
    if isinstance(X.columns, pd.MultiIndex):
        raise ValueError(f"X: its columns have names of {X.columns.nlevels} levels; pass one name for each column")
    names = X.columns.map(str)
    if not names.is_unique:
        repeated = names[names.duplicated()].unique().tolist()
        raise ValueError(f"X: more than one column is named {listed(repeated)}, taken as text; rename them")
    return X.rename(columns=str).reset_index(drop=True)
