"""Features by scikit-learn's ColumnTransformer, chunk by chunk."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from bilevel.columns.encoding import FARTHEST, Encoder
from bilevel.columns.kinds import MOST_LEVELS, Column


def text_frame(**columns):
    return pd.DataFrame({name: pd.Series(list(cells), dtype=object) for name, cells in columns.items()})


def test_numbers_are_standardized_and_the_missing_are_the_median():
    values = [1.0, 2.0, 3.0, 10.0]
    frame = text_frame(x=["1", "2", "", "3", "10", "what?"])
    encoder = Encoder([Column("x", "numeric", "")], frame)
    features = encoder.features([frame[:4], frame[4:]], 6)
    filled = np.array([1, 2, 2.5, 3, 10, 2.5])
    assert np.median(values) == 2.5
    np.testing.assert_allclose(features[:, 0], (filled - filled.mean()) / filled.std(), rtol=1e-6)
    assert features.dtype == np.float32
    assert (int(encoder.unread["x"]), str(encoder.unread["x"])) == (1, "'what?'")
    constant = text_frame(x=["1"] * 90 + ["2"])
    far = Encoder([Column("x", "numeric", "")], constant).features([text_frame(x=["1e30"])], 1)
    assert far[0, 0] == FARTHEST


def test_one_far_number_does_not_flatten_the_others():
    days = [f"2024-03-{i % 28 + 1:02d}" for i in range(200)]
    columns = [Column("x", "date", "", "year first")]
    near = Encoder(columns, text_frame(x=days)).features([text_frame(x=days)], 200)
    far = [*days[:-1], "2200-12-31"]
    features = Encoder(columns, text_frame(x=far)).features([text_frame(x=far)], 200)
    assert features[:-1].std() > 0.5 * near[:-1].std()
    assert features[-1] == features.max() > 5


def test_levels_rare_missing_and_new():
    cells = ["a"] * 6 + ["b"] * 5 + [""] * 5 + ["c"] * 2 + ["d"]
    encoder = Encoder([Column("x", "categorical", "")], text_frame(x=cells))
    assert encoder.width == 4  # missing, a, b, the others
    new = encoder.features([text_frame(x=["d", "c", "never seen", "A", "NA"])], 5)
    np.testing.assert_array_equal(new[0], new[1])
    np.testing.assert_array_equal(new[0], new[2])
    assert len(np.unique(new, axis=0)) == 3
    many = text_frame(x=[f"level {i % 500}" for i in range(5000)])
    assert Encoder([Column("x", "categorical", "")], many).width == MOST_LEVELS + 1


def test_texts_give_a_sparse_matrix():
    frame = text_frame(x=[str(i % 7) for i in range(60)], t=[f"word{i} and word{i + 1} again" for i in range(60)])
    encoder = Encoder([Column("x", "numeric", ""), Column("t", "text", "")], frame)
    features = encoder.features([frame[:25], frame[25:]], 60)
    assert scipy.sparse.issparse(features) and features.format == "csr"
    assert (features.shape, features.dtype) == ((60, 1 + 63), np.float32)
    whole = encoder.features([frame], 60)
    assert abs(features - whole).max() == 0


def test_text_without_words():
    with pytest.raises(ValueError, match="kind: 't' has no words"):
        Encoder([Column("t", "text", "")], text_frame(t=["!", "?!"]))


def test_a_table_that_changes_while_it_is_read():
    frame = text_frame(x=["1", "2"])
    encoder = Encoder([Column("x", "numeric", "")], frame)
    with pytest.raises(ValueError, match="table: it had 3 rows, then 2"):
        encoder.features([frame], 3)
