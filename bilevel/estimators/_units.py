"""The units in which a table is fitted, so that the units of its columns do not matter."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel.estimators import _penalties as penalties
from bilevel.estimators._common import positive, varies
from bilevel.estimators._penalties import Loss

_Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # center, offset, divisor, scale


@dataclass(frozen=True)
class Table:
    """Rows (X, ones), their targets and weights, and the splits. X is an array or a SciPy CSR matrix.

    Split k trains on row i `trains`_ik times, and holds it out `holds_out`_ik times. `total` is the sum of the weights,
    which have mean one; `held_out` that of the rows that each split holds out, over all splits; and `judges` that of
    the rows that any split holds out. `ones` is zero where the model has no intercept.
    """

    X: Any
    targets: Float[np.ndarray, "n c"]
    weights: Float[np.ndarray, " n"]
    trains: Float[np.ndarray, "n k"]
    holds_out: Float[np.ndarray, "n k"]
    ones: Float[np.ndarray, " n"]
    total: float
    held_out: float
    judges: float


@dataclass(frozen=True)
class Units:
    """In the fit, a feature is (x − center)/divisor and a target (t − target_center)/target_divisor.

    Features then have mean square one. `offset` is the part of center/divisor that products take off, as a sparse X
    keeps its zeros.

    `scale` is the unit of a feature's penalty: `divisor` over the root of the share of its values that are not zero.
    Where none is zero, this is the deviation. For a word that few rows hold, it is about the size that the word has
    there, and the penalty is strong in relation to what these few rows can say.
    """

    center: Float[np.ndarray, " d"]
    offset: Float[np.ndarray, " d"]
    divisor: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    target_center: Float[np.ndarray, " c"]
    target_divisor: float


def new_table(
    X: Any,
    targets: np.ndarray,
    weights: np.ndarray,
    trains: np.ndarray,
    holds_out: np.ndarray,
    *,
    intercept: bool = True,
) -> Table:
    """`weights` may have any mean."""
    weights = weights / weights.max()
    weights = weights / weights.mean()
    ones, total = np.full(len(weights), float(intercept)), float(len(weights))
    held_out, judges = float((weights @ holds_out).sum()), float(weights[holds_out.any(axis=1)].sum())
    return Table(X, targets, weights, trains, holds_out, ones, total, held_out, judges)


def in_units(table: Table, loss: Loss) -> tuple[Table, Units]:
    """The table with its columns centered and divided and, for a squared loss, its targets too.

    Of a sparse X only the columns without zeros are centered here. Without an intercept nothing is centered.
    """
    share, centers = table.weights / table.total, table.ones.any()
    split = _dense if isinstance(table.X, np.ndarray) else _sparse
    X, units = split(table.X, share, bool(centers))
    targets = table.targets
    target_center, target_divisor = np.zeros(targets.shape[1]), 1.0
    if loss is penalties.SQUARED:
        if centers:
            target_center = share @ targets
        targets = targets - target_center[None, :]
        each = _root_mean_square(targets, share)
        target_divisor = float(positive(_root_mean_square(each, np.full(len(each), 1 / len(each)))))
        targets = targets / target_divisor
    return replace(table, X=X, targets=targets), Units(*units, target_center, target_divisor)


def _dense(X: np.ndarray, share: Float[np.ndarray, " n"], centers: bool) -> tuple[np.ndarray, _Columns]:
    center = share @ X if centers else np.zeros(X.shape[1])
    filled, holed = np.ones(X.shape[1]), np.flatnonzero(~X.all(axis=0))
    filled[holed] = share @ (X[:, holed] != 0)
    X = X - center.astype(X.dtype)[None, :]
    divisor, scale = _divisors(_root_mean_square(X, share), center, filled, X.dtype)
    return X / divisor.astype(X.dtype)[None, :], (center, np.zeros_like(divisor), divisor, scale)


def _sparse(X: Any, share: Float[np.ndarray, " n"], centers: bool) -> tuple[Any, _Columns]:
    """The mean square of x − center is that of the stored entries, and of the zeros between them."""
    X, width = X.copy(), X.shape[1]
    shares = np.repeat(share, np.diff(X.indptr))

    def sums(terms: np.ndarray) -> Float[np.ndarray, " d"]:
        return np.bincount(X.indices, terms, minlength=width)

    full = np.bincount(X.indices, minlength=width) == X.shape[0]
    stored = np.where(full, 1.0, sums(shares))
    filled = sums(shares * (X.data != 0))
    largest = np.zeros(width)
    np.maximum.at(largest, X.indices, np.abs(X.data))
    largest = positive(largest)
    mean = sums(shares * (X.data / largest[X.indices])) if centers else np.zeros(width)
    away = sums(shares * (X.data / largest[X.indices] - mean[X.indices]) ** 2) + (1 - stored) * mean**2
    center = largest * mean
    divisor, scale = _divisors(largest * np.sqrt(away), center, filled, X.dtype)
    X.data = (X.data - np.where(full, center, 0.0)[X.indices]) / divisor[X.indices]
    return X, (center, np.where(full, 0.0, center / divisor), divisor, scale)


def _divisors(
    size: Float[np.ndarray, " d"], center: Float[np.ndarray, " d"], filled: Float[np.ndarray, " d"], dtype: Any
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """`divisor` and `scale`. A column that is constant up to rounding is divided by its size, and is then zero."""
    live, constant = varies(size, center, dtype), positive(np.abs(center))
    return np.where(live, size, constant), np.where(live, size / np.sqrt(positive(filled)), constant)


def _root_mean_square(columns: Float[np.ndarray, "n ..."], share: Float[np.ndarray, " n"]) -> Float[np.ndarray, "..."]:
    """The root mean square of each column. No square overflows."""
    largest = positive(np.abs(columns).max(axis=0).astype(float))
    return np.asarray(largest * np.sqrt(share @ (columns / largest) ** 2))
