"""Features by scikit-learn's ColumnTransformer, chunk by chunk."""

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn

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


COLUMNS = [
    *(Column("x", "numeric", ""), Column("d", "date", "", "year first"), Column("b", "boolean", "")),
    *(Column("c", "categorical", ""), Column("t", "text", "")),
]


def table(n=40):
    return text_frame(
        x=[str(i % 7) if i % 10 else "unknown" for i in range(n)],
        d=[f"2024-03-{i % 28 + 1:02d}" for i in range(n)],
        b=["yes", "no"] * (n // 2),
        c=["red", "green"] * (n // 2),
        t=[f"word{i % 5} again" for i in range(n)],
    )


def checked(encoder, frame):
    part = encoder.with_forms(encoder.columns)
    part.features([frame], len(frame))
    part.check("X", "the table")
    return part


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
def test_every_kind_can_be_pickled(column):
    encoder = Encoder([column], table())
    again = pickle.loads(pickle.dumps(encoder))
    whole, other = (one.features([table()], 40) for one in (encoder, again))
    assert abs(whole - other).max() == 0
    assert again.owners.tolist() == encoder.owners.tolist() and again.words == encoder.words


def test_what_the_user_asks_of_scikit_learn_changes_nothing():
    encoder = Encoder(COLUMNS, table())
    for form in ("pandas", "default"):
        with sklearn.config_context(transform_output=form):
            for one in (encoder, Encoder(COLUMNS, table())):
                assert abs(one.features([table()], 40) - encoder.features([table()], 40)).max() == 0


@pytest.mark.parametrize(
    ("name", "cell", "message"),
    [
        ("x", "0,5", r"X: 40 of 40 cells of 'x' cannot be read as numeric \('0,5' \(40\)\); write them as the table"),
        ("d", "31.12.2024", "X: 40 of 40 cells of 'd' cannot be read as date"),
        ("b", "1", "X: 40 of 40 cells of 'b' hold what the table does not: '1'; the table has 'no', 'yes'; write them"),
        ("c", "Rot", "X: 40 of 40 cells of 'c' hold what the table does not: 'Rot'; the table has 'green', 'red'"),
    ],
)
def test_a_column_that_is_written_in_another_way(name, cell, message):
    encoder = Encoder(COLUMNS, table())
    other = table().assign(**{name: pd.Series([cell] * 40, dtype=object)})
    with pytest.raises(ValueError, match=message):
        checked(encoder, other)
    other.loc[:23, name] = table()[name][:24].to_numpy()
    checked(encoder, other)  # most of it is as ever
    other[name] = None
    checked(encoder, other)


def test_empty_cells_and_known_words_are_not_counted():
    encoder = Encoder(COLUMNS, table())
    checked(encoder, table().assign(x="unknown"))
    mostly_empty = table().assign(x=pd.Series(["", "unknown", "", "0,5"] * 10, dtype=object))
    with pytest.raises(ValueError, match="X: 10 of 20 cells of 'x' cannot be read as numeric"):
        checked(encoder, mostly_empty)


def test_a_column_that_is_called_numeric_and_mostly_is_not():
    frame = text_frame(x=[str(i) if i % 5 == 0 else f"about {i}" for i in range(40)])
    part = checked(Encoder([Column("x", "numeric", "")], frame), text_frame(x=["some", "many", "few"]))
    assert int(part.unread["x"]) == 3


def test_a_few_new_levels_are_what_the_feature_of_rare_ones_is_for():
    rare = Encoder([Column("x", "categorical", "")], text_frame(x=["a", "b"] * 10 + ["c"]))
    checked(rare, text_frame(x=["d"]))
    with pytest.raises(ValueError, match="X: 5 of 5 cells of 'x' hold what the table does not: 'd'"):
        checked(rare, text_frame(x=["d"] * 5))
    many = Encoder([Column("x", "categorical", "")], text_frame(x=[f"level {i % 200}" for i in range(2000)]))
    checked(many, text_frame(x=[*(f"new {i}" for i in range(30)), "level 3"]))
    with pytest.raises(ValueError, match="X: 30 of 30 cells of 'x' hold what the table does not: 'new 0', "):
        checked(many, text_frame(x=[f"new {i}" for i in range(30)]))


def test_what_stands_for_a_missing_cell_is_not_unread():
    frame = pd.DataFrame({"x": [-999.0, 1.0, 2.0, 3.0] * 10})
    encoder = Encoder([Column("x", "numeric", "")], frame, frozenset({"", "-999"}))
    features = encoder.features([frame], 40)
    np.testing.assert_array_equal(features[0], features[2])  # the median
    assert int(encoder.unread["x"]) == 0
