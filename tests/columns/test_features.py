"""The features of a data frame."""

import numpy as np
import pandas as pd
import pytest
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
