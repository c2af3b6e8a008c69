"""Data frames as the rows that `LabelCleaner` learns from."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn

from bilevel.estimators import LabelCleaner
from bilevel.estimators._rows import features_for

N = 200
ALONE = pytest.mark.filterwarnings("ignore:LabelCleaner. without trusted rows")


def numeric():
    """Numbers that look like identifiers, codes, truths and amounts."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": np.arange(20.0, 20.0 + N),
            "key": rng.permutation(N).astype(float),
            "storeId": np.arange(N) % 7,
            "day": 20240101.0 + np.arange(N) % 28,
            "sure": np.arange(N) % 2 == 0,
            "q": rng.normal(size=N),
        }
    )


def mixed(rows, seed=0):
    rng = np.random.default_rng(seed)
    y = np.array(["ant", "bee"])[rng.integers(2, size=rows)]
    size = rng.normal(size=rows).round(3) + 3 * (y == "bee")
    return pd.DataFrame({"size": size, "color": rng.choice(["red", "blue"], rows)}), y


def fitted(X, y, *trusted):
    return LabelCleaner(epochs=2, folds=2, random_state=0).fit(X, y, *trusted)


def test_one_missing_number_changes_no_column():
    assert features_for(numeric()) is None
    X = numeric()
    X.loc[3, "q"] = np.nan
    found = features_for(X)
    assert [(column.name, column.kind) for column in found.columns_] == [(name, "numeric") for name in X.columns]
    features, whole = found.transform(X), numeric()
    for i, name in enumerate(X.columns[:-1]):
        expected = (whole[name] - whole[name].mean()) / whole[name].std(ddof=0)
        np.testing.assert_allclose(features[:, i], expected.astype(float), rtol=1e-5, atol=1e-5)
    median = np.nanmedian(X["q"])
    assert features[3, -1] == pytest.approx((median - X["q"].fillna(median).mean()) / X["q"].fillna(median).std(ddof=0))


@pytest.mark.parametrize("gap", [None, "q"])
def test_infinite_numbers_are_refused_with_and_without_missing_ones(gap):
    X = numeric()
    X.loc[5, "age"] = np.inf
    if gap:
        X.loc[3, gap] = np.nan
    with pytest.raises(ValueError, match="infinity|infinite"):
        fitted(X, np.arange(N) % 2)


def test_a_column_of_numbers_without_any():
    X = numeric().assign(none=np.nan)
    assert features_for(X).transform(X).shape == (N, 7)


def test_complex_numbers_are_refused_with_missing_ones():
    X = numeric()[["age", "q"]].assign(z=1j)
    X.loc[3, "q"] = np.nan
    with pytest.raises(ValueError, match="Complex data not supported"):
        fitted(X, np.arange(N) % 2)


@ALONE
def test_cells_that_cannot_be_read_are_refused_by_name():
    (X, y), (other, labels) = mixed(N), mixed(40, 1)
    commas = other.assign(size=[f"{value:.3f}".replace(".", ",") for value in other["size"]])
    cleaner = fitted(X, y)
    assert cleaner.score(other, labels) > 0.8
    for call in (cleaner.predict, cleaner.predict_proba, lambda frame: cleaner.score(frame, labels)):
        with pytest.raises(ValueError, match="^X: 40 of 40 cells of 'size' cannot be read as numeric"):
            call(commas)
        with pytest.raises(ValueError, match="^X: 40 of 40 cells of 'color' hold what the fitted table does not: "):
            call(other.assign(color="rot"))
    with pytest.raises(ValueError, match="^X_trusted: 40 of 40 cells of 'size' cannot be read as numeric"):
        fitted(X, y, commas, labels)


@ALONE
def test_a_cleaner_of_a_data_frame_can_be_pickled():
    X, y = mixed(N)
    X = X.assign(sure=X["size"] > 1)
    cleaner = fitted(X, y)
    again = pickle.loads(pickle.dumps(cleaner))
    np.testing.assert_array_equal(again.predict_proba(X), cleaner.predict_proba(X))


@ALONE
def test_where_data_frames_are_asked_of_scikit_learn():
    X, y = mixed(N)
    expected = fitted(X, y)
    gap, high = numeric(), np.array(numeric()["q"] > 0)
    gap.loc[3, "q"] = np.nan
    with sklearn.config_context(transform_output="pandas"):
        cleaner = fitted(X, y)
        np.testing.assert_array_equal(cleaner.predict_proba(X), expected.predict_proba(X))
        assert fitted(gap, high).predict(gap).shape == (N,)
    np.testing.assert_array_equal(cleaner.sample_weight_, expected.sample_weight_)


@ALONE
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a", "b"], "^X: more than one column is named 'a'"),
        ([1, "1", "b"], "^X: more than one column is named '1'"),
        (pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")]), "^X: its columns have names of 2 levels"),
    ],
)
def test_columns_that_cannot_be_told_apart(names, message):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 3)), columns=names)
    X.iloc[0, 0] = np.nan
    with pytest.raises(ValueError, match=message):
        fitted(X, np.arange(N) % 2)
