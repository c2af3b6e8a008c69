"""Labels, groups and probabilities as people pass them."""

import numpy as np
import pandas as pd
import pytest

from bilevel.estimators import LabelCleaner
from bilevel.estimators._given import _LEAST_PROBABILITY, from_probabilities, one_column


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([3, 1, 2], [3, 1, 2]),
        (np.array([3, 1, 2], object), [3, 1, 2]),
        (np.array([True, False, True], object), [True, False, True]),
        (pd.Series([1.5, 2, 1], dtype=object), [1.5, 2.0, 1.0]),
        (np.array(["a", "b", "a"], object), ["a", "b", "a"]),
        (np.array(["a", "b", "a"], np.dtypes.StringDType()) if hasattr(np.dtypes, "StringDType") else ["a", "b", "a"],
         ["a", "b", "a"]),
        (pd.Categorical(["a", "b", "a"]), ["a", "b", "a"]),
    ],
)  # fmt: skip
def test_labels_of_one_kind(given, expected):
    found = one_column("y", given, 3)
    assert found.tolist() == expected and [type(value) for value in found.tolist()] == [type(v) for v in expected]
    assert isinstance(found.tolist()[0], str) or found.dtype != object  # scikit-learn knows no numbers in those


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([1, "b", 2], "y: some labels are texts and some are not"),
        (np.array([1, "b", 2], object), "y: some labels are texts and some are not"),
        ([1, 2], "y: got 2 labels for the 3 rows of X"),
        (np.ones((3, 2)), r"y: got the shape \(3, 2\); pass one label per row"),
        ([1, None, 2], r"y: 1 label is missing \(row 1\)"),
    ],
)
def test_labels_that_are_refused(given, error):
    with pytest.raises((TypeError, ValueError), match=error):
        one_column("y", given, 3)


CLASSES = np.array(["a", "b"])
P = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])


def read(p, index=None):
    found, _ = from_probabilities(np.array([0, 1, 1]), CLASSES, p, None, None, index)
    return np.exp(found) - _LEAST_PROBABILITY


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(P, columns=["a", "b"]),
        pd.DataFrame(P[:, ::-1], columns=["b", "a"]),
        pd.DataFrame(P),
        pd.DataFrame(P, columns=["a", "b"], index=[7, 8, 9]),
    ],
)
def test_the_columns_of_probabilities_are_found_by_the_classes(frame):
    np.testing.assert_allclose(read(frame, pd.Index([7, 8, 9])), P)


def test_probabilities_whose_names_say_something_else_are_refused():
    with pytest.raises(ValueError, match=r"pred_probs: its columns are \['cat', 'dog'\], but the classes of y are"):
        read(pd.DataFrame(P, columns=["cat", "dog"]))
    with pytest.raises(ValueError, match="pred_probs: its index is not that of X"):
        read(pd.DataFrame(P, index=[9, 7, 8]), pd.Index([7, 8, 9]))


@pytest.mark.filterwarnings("ignore::bilevel.estimators.NoTrustedRowsWarning")
@pytest.mark.filterwarnings("ignore::bilevel.estimators.WeakModelWarning")
def test_a_cleaner_takes_them():
    rng = np.random.default_rng(0)
    y = np.array(["a", "b"])[rng.integers(2, size=60)]
    X = pd.DataFrame(rng.normal(size=(60, 2)) + (y == "b")[:, None], index=np.arange(100, 160))
    p = np.where((y == "b") ^ (np.arange(60) < 3), 0.3, 0.8)
    p = pd.DataFrame({"b": 1 - p, "a": p}, index=X.index)
    few = LabelCleaner(epochs=1, folds=2, random_state=0)
    named, plain = (few.fit(X, y.astype(object), pred_probs=q).sample_weight_ for q in (p, p[["a", "b"]].to_numpy()))
    np.testing.assert_array_equal(named, plain)
    with pytest.raises(ValueError, match="pred_probs: its index"):
        few.fit(X, y, pred_probs=p[::-1])
