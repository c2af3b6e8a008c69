"""What `LabelCleaner.fit` is given besides the table: labels, groups, and probabilities by a model of one's own."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.utils import check_array
from sklearn.utils.validation import column_or_1d

from bilevel.estimators._common import check_present, of_one_kind

_ROUNDING = 1e-3  # of probabilities that were written with few digits
_LEAST_PROBABILITY = 0.01  # below, the logarithm says how a model rounds rather than what it knows


def one_column(name: str, values: Any, rows: int, table: str = "X", what: str = "label") -> np.ndarray:
    """One label or group per row, none missing and all of one kind."""
    check_present(name, values, what)
    shape = np.asarray(values).shape
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(f"{name}: got the shape {shape}; pass one {what} per row")
    if shape and shape[0] != rows:
        raise ValueError(f"{name}: got {shape[0]} {what}s for the {rows} rows of {table}")
    dtype = str(getattr(values, "dtype", None))
    if isinstance(values, list | tuple) or dtype == "object" or dtype.startswith("StringDType"):
        values = of_one_kind(name, np.asarray(values, dtype=object), what)
    return column_or_1d(values, warn=True)


def from_probabilities(
    labels: Int[np.ndarray, " n"],
    classes: np.ndarray,
    p: Any,
    p_trusted: Any,
    trusted: tuple[Any, np.ndarray] | None,
    index: Any,
) -> tuple[Float[np.ndarray, "n k"], tuple[Float[np.ndarray, "m k"], np.ndarray] | None]:
    """What the user's own model says of the rows and of the trusted rows, as features. `index`: of the rows' table."""
    if p is None or (trusted is None) != (p_trusted is None):
        name = "pred_probs" if p is None else "pred_probs_trusted"
        said = "missing" if p is None or p_trusted is None else "there are no trusted rows"
        raise ValueError(
            f"{name}: {said}; with trusted rows, pass pred_probs and pred_probs_trusted; without, pred_probs alone"
        )
    seen = _log_probabilities("pred_probs", p, len(labels), classes, index)
    if (seen.argmax(axis=1) == labels).all():
        warnings.warn(
            "LabelCleaner: pred_probs agree with all labels, so that hardly any can look wrong. Pass probabilities "
            "by models that have not seen the row, such as those of cross_val_predict.",
            stacklevel=3,
        )
    if trusted is None:
        return seen, None
    return seen, (_log_probabilities("pred_probs_trusted", p_trusted, len(trusted[1]), classes, None), trusted[1])


def _log_probabilities(name: str, given: Any, n: int, classes: np.ndarray, index: Any) -> Float[np.ndarray, "n k"]:
    if hasattr(given, "iloc") and hasattr(given, "columns"):
        given = _by_name(name, given, classes, index)
    p: Any = check_array(given, dtype="float64", input_name=name)
    if p.shape != (n, len(classes)):
        raise ValueError(
            f"{name}: got the shape {p.shape}; pass ({n}, {len(classes)}), a column for each class of y, sorted"
        )
    sums = p.sum(axis=1)
    if p.min() < 0 or np.abs(sums - 1).max() > _ROUNDING:
        raise ValueError(
            f"{name}: got numbers from {p.min():.3g} and sums of rows from {sums.min():.3g} to {sums.max():.3g}; "
            "pass probabilities, whose sum is one in each row"
        )
    return np.log(p + _LEAST_PROBABILITY)


def _by_name(name: str, given: Any, classes: np.ndarray, index: Any) -> Any:
    """The data frame with its columns in the order of the classes. Columns and rows that have no names but numbers from
    zero on are taken as they come."""
    columns, known = given.columns.tolist(), classes.tolist()
    if len(columns) == len(known) and set(columns) == set(known):
        given = given[known]
    elif columns != list(range(len(columns))):
        raise ValueError(
            f"{name}: its columns are {columns[:5]}, but the classes of y are {known[:5]}; name the columns by the "
            "classes, in any order, or pass an array"
        )
    unnamed = given.index.tolist() == list(range(len(given)))
    if index is not None and not unnamed and not given.index.equals(index):
        raise ValueError(f"{name}: its index is not that of X; bring its rows into the order of X, or pass an array")
    return given
