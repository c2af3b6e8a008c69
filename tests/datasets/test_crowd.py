"""The sentences that a crowd judged, on a small file."""

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import crowd

FILE = "sentiment_polarity_mturk.npz"


def content(**changes):
    arrays = {
        "texts_train": np.frombuffer("good\nfilm «noir»".encode(), np.uint8),
        "texts_test": np.frombuffer(b"bad", np.uint8),
        "labels_train": np.array([1, 0], np.int8),
        "labels_test": np.array([0], np.int8),
        "answers": np.array([[1, -1, 0], [-1, 0, -1]], np.int8),
    }
    return arrays | changes


@pytest.fixture
def folder(folder_of, publish):
    publish(crowd, "crowd-sentiment", rows=3, splits={"doubtful": 2, "right": 1})
    return folder_of("crowd-sentiment")


def test_reads_the_file(folder):
    np.savez(folder / FILE, **content())
    data = datasets.load_doubtful("crowd-sentiment")
    assert data.features == ("good", "film «noir»", "bad")
    assert (data.labels.tolist(), data.labels.dtype) == ([1, 0, 0], np.int32)
    assert data.given["crowd"].tolist() == [[1, None, 0], [None, 0, None]]
    assert data.checked.tolist() == [True, True]
    assert data.card == datasets.card("crowd-sentiment")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"texts_test": np.frombuffer(b"\xff", np.uint8)}, "not as described"),
        ({"texts_test": np.frombuffer(b"bad\nworse", np.uint8)}, "2 texts of the part 'test'"),
        ({"labels_train": np.array([1, 2])}, "2 texts of the part 'train'"),
        ({"answers": np.array([[1, -1, 0]])}, r"answers of shape \(1, 3\)"),
        ({"answers": np.array([[1, -2], [0, 0]])}, r"answers of shape \(2, 2\)"),
        ({"answers": np.array([1, 0])}, r"answers of shape \(2,\)"),
        ({"answers": np.array([[None, 0], [0, 0]])}, "not as described"),
    ],
)
def test_other_content(changes, error, folder):
    np.savez(folder / FILE, **content(**changes))
    with pytest.raises(datasets.DatasetError, match=f"{FILE}: not as described.*{error}|{error}"):
        datasets.load_doubtful("crowd-sentiment")


def test_a_damaged_file(folder):
    (folder / FILE).write_bytes(b"PK\x03\x04")
    with pytest.raises(datasets.DatasetError, match="not as described"):
        datasets.load_doubtful("crowd-sentiment")


def test_another_number_of_rows(folder, publish):
    publish(crowd, "crowd-sentiment", splits={"doubtful": 2, "right": 2})
    np.savez(folder / FILE, **content())
    with pytest.raises(datasets.DatasetError, match="1 in the part 'right', where the published one has 2"):
        datasets.load_doubtful("crowd-sentiment")
