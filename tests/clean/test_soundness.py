"""Input that is wrong in ways that pass without an error."""

import numpy as np
import pytest
import scipy.sparse

from bilevel.clean import soundness
from bilevel.clean.labels import Labels
from bilevel.columns.kinds import Column

N = 400


def rows(n, seed):
    """Features of three classes, the classes, and labels of which 30 % are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    X = (rng.normal(size=(n, 4)) + 3 * np.eye(3, 4)[truth]).astype(np.float32)
    return X, truth, np.where(rng.random(n) < 0.3, (truth + 1) % 3, truth)


@pytest.mark.parametrize("sparse", [False, True])
def test_shuffled_trusted_labels(sparse):
    (X, _, given), (T, truth, _) = rows(N, 0), rows(200, 1)
    if sparse:
        X, T = scipy.sparse.csr_matrix(X), scipy.sparse.csr_matrix(T)
    assert soundness.of_trusted_labels(X, given, T, truth, 0) == ""
    for wrong in (np.roll(truth, 1), np.random.default_rng(0).permutation(truth)):
        note = soundness.of_trusted_labels(X, given, T, wrong, 0)
        assert note.startswith("The trusted labels fit the other columns far worse than the labels of the table do")


def test_trusted_labels_may_contradict_a_table_of_wrong_labels():
    (X, truth, _), (T, right, _) = rows(N, 0), rows(60, 1)
    given = np.where(np.random.default_rng(0).random(N) < 0.9, (truth + 1) % 3, truth)
    assert soundness.of_trusted_labels(X, given, T, right, 0) == ""


@pytest.mark.parametrize("sparse", [False, True])
def test_trusted_rows_that_are_rows_of_the_table(sparse):
    X, T = rows(N, 0)[0], rows(20, 1)[0]
    T[[3, 5]] = X[[300, 7]]
    if sparse:
        X, T = scipy.sparse.csr_matrix(np.maximum(X, 0)), scipy.sparse.csr_matrix(np.maximum(T, 0))
    found = soundness.same_rows(X, T)
    assert [part.tolist() for part in found] == [[3, 5], [300, 7]]


def test_equal_rows_of_a_coarse_table_say_nothing():
    drawn = np.random.default_rng(0).integers(30, size=(2 * N, 2)).astype(np.float32)
    assert len(soundness.same_rows(drawn[:N], drawn[N:])[0]) == 0


def leaks(made, kind="categorical"):
    """What is said of a column made from the labels, beside four honest ones."""
    X, _, given = rows(N, 0)
    extra = np.asarray(made(given), np.float32).reshape(N, -1)
    columns = [*(Column(name, "numeric", "") for name in "abcd"), Column("extra", kind, "")]
    owners = np.r_[np.arange(4), np.full(extra.shape[1], 4)]
    return soundness.giving_away(np.hstack([X, extra]), given, columns, owners, 0)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda y: y, "numeric"),
        (lambda y: -(y + 0.9 * np.random.default_rng(0).random(N)), "numeric"),
        (lambda y: np.eye(3)[y], "categorical"),
        (lambda y: np.eye(2)[(y == 1) * 1], "boolean"),  # tells one of the labels
        (lambda y: y == 2, "numeric"),
    ],
)
def test_a_column_that_gives_the_label_away(made, kind):
    assert leaks(made, kind) == ["extra"]


def test_an_honest_column_gives_nothing_away():
    rng = np.random.default_rng(1)
    assert leaks(lambda y: rng.normal(size=N), "numeric") == []
    assert leaks(lambda y: np.where(rng.random(N) < 0.1, rng.integers(3, size=N), y), "numeric") == []
    # A measurement may tell one class from all others, as the petals of setosa do.
    assert leaks(lambda y: np.where(y == 2, 5, 0) + rng.normal(size=N) / 2, "numeric") == []


def test_several_columns_are_named():
    X, _, given = rows(N, 0)
    columns = [Column(name, "numeric", "") for name in "abcdef"]
    table = np.c_[X, given, 10 - given].astype(np.float32)
    assert sorted(soundness.giving_away(table, given, columns, np.arange(6), 0)) == ["e", "f"]


def test_notes_on_labels():
    labels = Labels("label")
    labels.add(["yes", "no", "Yes", "", "n/a"] + ["yes", "no"] * 9 + ["maybe"])
    notes = soundness.of_labels(labels.finish())
    assert [note[:60] for note in notes] == [
        "2 of 24 rows have no label, 1 of them written as 'n/a'. They",
        "The labels 'yes', 'Yes' were taken as one class. If they are",
        "1 of 3 labels have fewer than 5 rows: 'maybe'. So few rows c",
    ]
    labels = Labels("label")
    labels.add(["yes", "no"] * 9)
    assert soundness.of_labels(labels.finish()) == []
