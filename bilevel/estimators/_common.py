"""Functions that the estimators share."""

from typing import Any

import numpy as np
from jaxtyping import Int
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.feature_selection import RFE
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter


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
    rows = sorted({row for (row, *_), value in np.ndenumerate(array) if is_missing(value)})
    if rows:
        several = "s" if len(rows) > 1 else ""
        named = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise ValueError(
            f"{name}: {len(rows)} {what}{several} {'are' if several else 'is'} missing (row{several} {named}); drop or "
            f"fill {'them' if several else 'it'}"
        )


def is_missing(value: Any) -> bool:
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return missing or (isinstance(value, float) and value != value)


def of_one_kind(name: str, labels: Any, what: str = "label") -> np.ndarray:
    """Python's objects as an array of texts or of numbers: scikit-learn would turn 1 in [1, "b"] into a text.

    **Raises** `TypeError`, naming the argument, if some are texts and some are not.
    """
    texts = sum(isinstance(label, str) for label in labels.flat)
    if 0 < texts < labels.size:
        raise TypeError(f"{name}: some {what}s are texts and some are not; pass {what}s of one kind")
    return np.array(labels.tolist())


def positive(values: Any) -> np.ndarray:
    """The values, one for those that are not above zero."""
    return np.where(values > 0, values, 1.0)


def varies(size: Any, center: Any, dtype: Any) -> np.ndarray:
    """Whether columns vary, by `size` around `center`, by more than numbers of this type are rounded."""
    return size > 8 * np.finfo(dtype).eps * np.abs(center)


def check_estimator(estimator: Any) -> None:
    """The estimator is a classifier, and no class, whose `fit` takes the weights of rows."""
    if isinstance(estimator, type) or not is_classifier(estimator):
        a_class = isinstance(estimator, type)
        said = f"the class {estimator.__name__}" if a_class else f"{estimator!r}, which is no classifier"
        raise TypeError(f"estimator: got {said}; pass a classifier, such as LogisticRegression()")
    if weight_argument(estimator) is None:
        raise ValueError(
            f"estimator: fit of {type(estimator).__name__} takes no sample_weight; pass a classifier that "
            "does, such as LogisticRegression() or RandomForestClassifier(), or a pipeline that ends with one"
        )


def weight_argument(estimator: Any) -> str | None:
    """The name under which `fit` takes the weights of rows: `sample_weight`, or `<last step>__sample_weight`."""
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    if get_config()["enable_metadata_routing"]:
        consumed = get_routing_for_object(estimator).consumes("fit", ["sample_weight"])
        return "sample_weight" if consumed else None
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = weight_argument(last)
        return None if inner is None else f"{name}__{inner}"
    passes_on = isinstance(estimator, GridSearchCV | RandomizedSearchCV | RFE)
    return weight_argument(estimator.estimator) if passes_on else None
