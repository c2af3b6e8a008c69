"""The test labels that people checked, on small sets."""

import json

import numpy as np
import pytest
import scipy.sparse

from bilevel import datasets
from bilevel.datasets import label_errors, newsgroups
from bilevel.datasets.base import Dataset, SparseDataset

FILES = {
    "mnist-errors": "mnist_mturk.json",
    "news-errors": "20news_mturk.json",
    "cifar-10-errors": "cifar10_mturk.json",
}
TRAIN, TEST = 3, 6
LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8], np.int32)


@pytest.fixture(autouse=True)
def bases(monkeypatch):
    """Sets of nine rows; feature 0 is the number of the row."""
    features = np.arange(TRAIN + TEST, dtype=np.float32)[:, None]
    dense, sparse = (
        Dataset(features, LABELS, 10, TRAIN),
        SparseDataset(scipy.sparse.csr_matrix(features), LABELS, 20, TRAIN),
    )
    for name, (base, _) in label_errors._BASES.items():
        found = sparse if base == "newsgroups" else dense
        monkeypatch.setitem(label_errors._BASES, name, (base, lambda _, found=found: found))


def entry(row, published, guessed, given, agreed, **more):
    votes = {"given": given, "guessed": agreed, "neither": 0} | more
    return {"id": row, "given_original_label": published, "our_guessed_label": guessed, "mturk": votes}


def write(folder_of, name, entries):
    (folder_of("label-errors") / FILES[name]).write_text(json.dumps(entries))


@pytest.mark.parametrize("name", ["mnist-errors", "cifar-10-errors"])
def test_what_people_said(name, folder_of):
    entries = [entry(1, 4, 7, 5, 0), entry(2, 5, 9, 0, 5), entry(4, 7, 0, 2, 2, both=1), entry(5, 8, 0, 3, 4)]
    write(folder_of, name, entries)
    data = datasets.load_doubtful(name)
    assert data.features[:, 0].tolist() == [3, 4, 5, 6, 7, 8, 0, 1, 2]  # test rows first
    assert data.given["published"].tolist() == [3, 4, 5, 6, 7, 8]
    assert data.labels.tolist() == [3, 4, 9, 6, -1, 8, 0, 1, 2]
    assert data.checked.tolist() == [False, True, True, False, True, True]
    assert (data.card.rows, dict(data.card.splits)) == (9, {"doubtful": TEST, "right": TRAIN})


def test_newsgroups_in_the_order_of_scikit_learn(folder_of):
    """Row i of the file is row shuffled_rows(n, 42)[i] of the archive; ours is row shuffled_rows(n)[i]."""
    ours, theirs = newsgroups.shuffled_rows(TEST), newsgroups.shuffled_rows(TEST, 42)
    assert ours.tolist() != theirs.tolist()
    place = ours.tolist().index(theirs[2])
    write(folder_of, "news-errors", [entry(2, int(LABELS[TRAIN + place]), 19, 1, 4)])
    data = datasets.load_doubtful("news-errors")
    assert np.flatnonzero(data.checked).tolist() == [place]
    assert data.labels[place] == 19
    assert data.features.toarray()[:, 0].tolist() == [3, 4, 5, 6, 7, 8, 0, 1, 2]


def test_labels_of_another_set(folder_of):
    write(folder_of, "mnist-errors", [entry(1, 5, 7, 5, 0)])
    with pytest.raises(datasets.DatasetError, match="row 1 has the label 5, but that of mnist has 4"):
        datasets.load_doubtful("mnist-errors")


@pytest.mark.parametrize(
    "entries",
    [
        {"a": 1},
        [1],
        [{"id": 1}],
        [entry(TEST, 3, 4, 5, 0)],
        [entry(-1, 8, 4, 5, 0)],
        [entry(0, 3, 10, 5, 0)],
        [entry(0, 3, "4", 5, 0)],
        [entry(0, 3, 4, 5, None)],
        [entry(0, 3, 4, True, 5)],
    ],
)
def test_other_content(entries, folder_of):
    write(folder_of, "mnist-errors", entries)
    with pytest.raises(datasets.DatasetError, match=r"mnist_mturk\.json: not as published"):
        datasets.load_doubtful("mnist-errors")


def test_a_damaged_file(folder_of):
    (folder_of("label-errors") / "mnist_mturk.json").write_bytes(b"[\xff")
    with pytest.raises(datasets.DatasetError, match=r"mnist_mturk\.json: not as published"):
        datasets.load_doubtful("mnist-errors")
