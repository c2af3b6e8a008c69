"""A table as the rows that `LabelCleaner` learns from: scaled, and padded to shapes that many tables share."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from bilevel.estimators._common import positive, rounded, varies
from bilevel.tasks.networks.linear import ENTRIES, padded

_CHUNK = 10_000  # rows of the table at a time, so that no copy of it in double precision is made
_LEAST_ROWS, _NARROW_ROWS, _LEAST_WIDTH, _FREE_WIDTH = 256, 1024, 16, 64
_NARROW = 128  # columns
_LEAST = np.finfo(float).tiny


def _width(columns: int) -> int:
    """The padded number of columns: few columns are padded with zeros to a power of two."""
    return columns if columns > _FREE_WIDTH else max(_LEAST_WIDTH, 2 ** (columns - 1).bit_length())


class DenseTable:
    """Columns with mean zero and, unless constant, variance one; then rows with mean square one."""

    def __init__(self, X: Float[np.ndarray, "n d"]):
        self.X = X
        self.mean = X.mean(axis=0, dtype=float)
        size = positive(np.maximum(np.abs(X.max(axis=0)), np.abs(X.min(axis=0))).astype(float))
        squares = np.zeros(X.shape[1])
        for start in range(0, len(X), _CHUNK):
            squares += (((X[start : start + _CHUNK] - self.mean) / size) ** 2).sum(axis=0)  # no square overflows
        deviation = size * np.sqrt(squares / len(X))
        live = varies(deviation, self.mean, X.dtype) & (deviation > _LEAST)
        self.factor = np.where(live, 1 / np.where(live, deviation, 1.0), 0.0) / np.sqrt(max(1, live.sum()))
        self.width = _width(X.shape[1])
        self.narrow = self.width <= _NARROW

    def take(self, indices: Int[np.ndarray, " n"], length: int, X: Any = None) -> dict[str, Float32[np.ndarray, "m d"]]:
        """These rows of the table, or of another table with the same columns, padded with zeros to the length."""
        X, out = self.X if X is None else X, np.zeros((length, self.width), np.float32)
        for start in range(0, len(indices), _CHUNK):
            part = indices[start : start + _CHUNK]
            out[start : start + len(part), : X.shape[1]] = (X[part] - self.mean) * self.factor
        return {"features": out}


class SparseTable:
    """Pairs (column, value) per row, divided by one number so that rows have mean square one; never made dense.

    A row with more than 500 entries keeps the largest 500.
    """

    narrow = False

    def __init__(self, X: Any):
        self.X, self.width = X, _width(X.shape[1])
        size = positive(float(np.abs(X.data).max(initial=0)))
        rms = size * np.sqrt(((X.data / size) ** 2).sum() / X.shape[0])
        self.factor = 1 / max(rms, _LEAST)
        fullest = int(np.diff(X.indptr).max())
        self.entries = min(ENTRIES, 2 ** max(0, fullest - 1).bit_length())

    def take(self, indices: Int[np.ndarray, " n"], length: int, X: Any = None) -> dict[str, np.ndarray]:
        rows = (self.X if X is None else X)[indices] * self.factor
        columns, values, _ = padded(rows, self.entries)
        fill = (0, length - len(columns)), (0, self.entries - columns.shape[1])
        return {"columns": np.pad(columns, fill), "values": np.pad(values, fill)}


def features_for(X: Any) -> Any:
    """The fitted `TableFeatures` of a pandas data frame with a column that is no number or with a missing value, or
    None: scikit-learn reads X.

    Where all columns are numbers, all are features, as they are where scikit-learn reads them: a missing value does not
    make an identifier of one.
    """
    if not (hasattr(X, "iloc") and hasattr(X, "columns")):
        return None
    from pandas.api.types import is_complex_dtype, is_numeric_dtype

    typed = all(map(is_numeric_dtype, X.dtypes))
    if typed and (not X.isna().to_numpy().any() or any(map(is_complex_dtype, X.dtypes))):
        return None
    from bilevel.columns.features import TableFeatures

    return TableFeatures({str(name): "numeric" for name in X.columns} if typed else None).fit(X)


def encoded(features: Any, name: str, X: Any) -> Any:
    """The features of the rows of another data frame, whose columns are found by their names."""
    try:
        return features.transform(X)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {str(error).removeprefix('X: ')}") from error


def labeled(
    table: DenseTable | SparseTable,
    labels: Int[np.ndarray, " n"],
    indices: Int[np.ndarray, " m"],
    length: int,
    X: Any = None,
) -> dict[str, np.ndarray]:
    """The rows at `indices`, in this order, padded to `length`.

    Returns a dict of the table's arrays, `labels`, int32 (length,), and `keep`, float32 (length,): length / m for a row
    and 0 for padding, so that a mean over `length` is one over the rows. The argument `labels` holds the labels of all
    rows of the table, or of X.
    """
    n = len(indices)
    full, keep = np.zeros(length, np.int32), np.zeros(length, np.float32)
    full[:n], keep[:n] = labels[indices], length / n
    return table.take(indices, length, X) | {"labels": full, "keep": keep}


def length_for(rows: int, narrow: bool) -> int:
    """The padded number of rows.

    For narrow tables 1024, 2048, 4096, and then at most 1024 or a sixteenth more: tables up to 1024 rows, their folds
    and their trusted rows share all programs. In wide and sparse tables padding costs more than it saves: at most 256
    or a sixteenth more.
    """
    if not narrow:
        return rounded(rows, _LEAST_ROWS)
    most = 4 * _NARROW_ROWS
    return max(_NARROW_ROWS, 2 ** (rows - 1).bit_length()) if rows <= most else rounded(rows, _NARROW_ROWS)
