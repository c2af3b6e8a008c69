"""The features of a data frame."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone

from bilevel.clean import TableFeatures


def frame(n):
    return pd.DataFrame(
        {
            "paid": [f"${i * 7 % 90}.50" if i % 5 else None for i in range(n)],
            "when": pd.date_range("2024-01-01", periods=n, tz="Europe/Rome"),
            "size": pd.array([i % 7 if i % 3 else None for i in range(n)], "Int64"),
            "color": pd.Categorical(["red", "blue"] * (n // 2)),
            "sure": [True, False] * (n // 2),
            3: np.arange(n) % 4 / 3,
        },
        index=range(n, 0, -1),
    )


def test_a_frame_with_strings_and_missing_values():
    table = frame(60)
    features = TableFeatures()
    X = features.fit_transform(table)
    assert [column.kind for column in features.columns_] == [
        *("numeric", "date", "numeric", "categorical", "boolean", "numeric")
    ]
    assert (X.shape, X.dtype) == ((60, 8), np.float32) and np.isfinite(X).all()
    np.testing.assert_array_equal(features.transform(table.iloc[10:20][::-1]), X[10:20][::-1])
    told = clone(TableFeatures({"3": "categorical"}, missing=["red"])).fit(table)
    assert told.transform(table).shape == (60, 11)


def test_the_ambiguous_is_a_warning():
    table = pd.DataFrame({"when": ["01/02/2024", "03/04/2024"] * 20})
    with pytest.warns(UserWarning, match="can be read in two ways.*pass as kinds 'when=date:day first'"):
        TableFeatures().fit(table)
    assert TableFeatures({"when": "date:day first"}).fit(table).columns_[0].form == "day first"


def test_what_is_no_table():
    with pytest.raises(TypeError, match="X: got ndarray; pass a pandas.DataFrame"):
        TableFeatures().fit(np.ones((3, 2)))
    with pytest.raises(ValueError, match="X: no column can be a feature: 'a .holds one value only.'"):
        TableFeatures().fit(pd.DataFrame({"a": [1, 1]}))
    with pytest.raises(ValueError, match="X: lacks columns of the fitted table: 'sure'"):
        TableFeatures().fit(frame(60)).transform(frame(60).drop(columns="sure"))


def test_a_frame_whose_columns_cannot_be_told_apart():
    for names, said in ((["a", "a", "b"], "'a'"), ([1, "1", "b"], "'1'")):
        X = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=names)
        X.iloc[0, 0] = np.nan
        with pytest.raises(ValueError, match=f"X: more than one column is named {said}, taken as text; rename them"):
            TableFeatures().fit(X)
        with pytest.raises(ValueError, match="X: more than one column is named"):
            TableFeatures().fit(X.set_axis(["a", "1", "b"], axis=1)).transform(X)
    X.columns = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")])
    with pytest.raises(ValueError, match="X: its columns have names of 2 levels; pass one name for each column"):
        TableFeatures().fit(X)


def test_a_column_without_a_name_is_a_column():
    X = frame(60).rename(columns={"paid": ""})
    features = TableFeatures().fit(X)
    assert features.columns_[0].name == ""
    np.testing.assert_array_equal(features.transform(X), TableFeatures().fit_transform(frame(60)))


def test_words_for_missing_cells_are_a_list():
    with pytest.raises(TypeError, match=r"missing: got 'NA'; pass a list of words, such as \['NA'\]"):
        TableFeatures(missing="NA").fit(frame(60))


@pytest.mark.parametrize("stand_in", [-999, -999.0, "-999", "-999.0"])
def test_a_number_that_stands_for_a_missing_cell(stand_in):
    numbers = [i * 7 % 90 + (0.5 if isinstance(stand_in, float | str) else 0) for i in range(60)]
    X = pd.DataFrame(
        {"x": [stand_in if i % 4 == 0 else type(stand_in)(numbers[i]) for i in range(60)], "c": ["a", "b"] * 30}
    )
    gaps = X.assign(x=[None if i % 4 == 0 else numbers[i] for i in range(60)])
    found = TableFeatures(missing=["-999"]).fit(X)
    np.testing.assert_array_equal(found.transform(X), TableFeatures().fit_transform(gaps))
    assert found.columns_[0].detail.endswith("0.25 missing")


def test_cells_that_cannot_be_read_are_refused():
    X = pd.DataFrame({"size": [i % 9 / 2 for i in range(60)], "color": ["red", "blue"] * 30})
    features = TableFeatures().fit(X)
    commas = X.assign(size=[f"{value:.1f}".replace(".", ",") for value in X["size"]])
    with pytest.raises(
        ValueError, match="X: 60 of 60 cells of 'size' cannot be read as numeric .* as the fitted table"
    ):
        features.transform(commas)
    with pytest.raises(ValueError, match="X: 1 of 1 cells of 'size' cannot be read"):
        features.transform(commas[:1])
    with pytest.raises(ValueError, match="X: 60 of 60 cells of 'color' hold what the fitted table does not: 'rot'"):
        features.transform(X.assign(color="rot"))
    assert features.transform(X.assign(size=X["size"].astype(str), color="RED")).shape == (60, 3)
    whole = pd.DataFrame({"store": [1, 2, 3] * 20, "x": X["size"]})
    stores = TableFeatures({"store": "categorical"}).fit(whole)
    gap = whole.assign(store=whole["store"].where(whole.index > 0))  # a missing one makes all of them floats
    np.testing.assert_array_equal(stores.transform(gap)[1:], stores.transform(whole)[1:])


@pytest.mark.parametrize("typed", ["float64", "Float64", object])
def test_infinite_numbers_are_refused(typed):
    X = pd.DataFrame({"x": pd.Series([i % 9 / 2 for i in range(60)], dtype=typed), "c": ["a", "b"] * 30})
    endless = X.copy()
    endless.loc[3, "x"] = np.inf
    with pytest.raises(ValueError, match="X: 'x' has infinite numbers; replace them, by NaN if they are missing"):
        TableFeatures().fit(endless)
    with pytest.raises(ValueError, match="X: 'x' has infinite numbers"):
        TableFeatures().fit(X).transform(endless)
    assert np.isfinite(TableFeatures(missing=["inf"]).fit_transform(endless)).all()


def test_a_fitted_one_can_be_pickled():
    X = frame(60).assign(said=[f"word{i % 5} and word{i % 7}, said {i}" for i in range(60)])
    features = TableFeatures().fit(X)
    assert {column.kind for column in features.columns_} == {"numeric", "date", "categorical", "boolean", "text"}
    assert abs(pickle.loads(pickle.dumps(features)).transform(X) - features.transform(X)).max() == 0


def test_where_data_frames_are_asked_of_scikit_learn():
    expected = TableFeatures().fit_transform(frame(60))
    with sklearn.config_context(transform_output="pandas"):
        features = TableFeatures().fit(frame(60))
        np.testing.assert_array_equal(features.transform(frame(60)), expected)
