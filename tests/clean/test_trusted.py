"""Trusted rows: a second table."""

import numpy as np
import pandas as pd
import pytest

from bilevel.clean import clean_table
from bilevel.clean.trusted import Judges, settle

CLASSES = ["iris", "rose"]


def rows(n):
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def judged(features, numbers, codes):
    return Judges(features[numbers], np.array(codes, np.int32), np.arange(len(codes)) + 4)


def test_trusted_rows_of_the_table_are_settled():
    features, given, settled = rows(30), np.zeros(30, int), np.full(30, -1)
    notes = settle(features, judged(features, [5, 3, 5], [1, 0, 1]), given, settled, CLASSES)
    assert settled[[3, 5]].tolist() == [0, 1] and (settled >= 0).sum() == 2
    assert "3 of 3 trusted rows are rows of the table" in notes[0]


@pytest.mark.parametrize(
    ("numbers", "codes", "more"),
    [([5, 3, 5, 7], [1, 0, 0, 1], ""), ([5, 3, 5, 3], [1, 0, 0, 1], " (and 1 more such pairs)")],
)
def test_trusted_rows_that_contradict_each_other(numbers, codes, more):
    features, given, settled = rows(30), np.zeros(30, int), np.full(30, -1)
    with pytest.raises(ValueError, match="trusted: ") as caught:
        settle(features, judged(features, numbers, codes), given, settled, CLASSES)
    pair = "rows 6 and 8 are both row 4" if more else "rows 5 and 7 are both row 6"
    labels = ("iris", "rose") if more else ("rose", "iris")
    assert str(caught.value) == (
        f"trusted: {pair} of the table, but one is labeled {labels[0]!r} and the other {labels[1]!r}{more}; keep the "
        "rows that are right"
    )
    assert (settled == -1).all()


def test_a_trusted_table_that_contradicts_itself(tmp_path):
    frame = pd.DataFrame(rows(60), columns=list("abc")).assign(name=[CLASSES[i % 2] for i in range(60)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    checked = frame.iloc[[0, 1, 2, 1]].assign(name=["iris", "rose", "", "iris"])
    checked.to_csv(tmp_path / "c.csv", index=False)
    message = "trusted: rows 2 and 4 are both row 2 of the table, but one is labeled 'rose' and the other 'iris'"
    with pytest.raises(ValueError, match=message):
        clean_table(tmp_path / "t.csv", label="name", trusted=tmp_path / "c.csv", out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
