"""LIBSVM's sets, from small files of that format."""

import bz2
import os

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import libsvm

TRAIN, TEST = "-1 3:1 123:0.5\n+1 1:1\n-1 2:-2\n", "+1 2:1\n-1 1:1\n"


@pytest.fixture
def small(publish):
    return publish(libsvm, "a9a", rows=5, splits={"train": 3, "test": 2})


def write(folder, name, text, compressed):
    if compressed:
        (folder / f"{name}.bz2").write_bytes(bz2.compress(text.encode()))
    else:
        (folder / name).write_text(text)


@pytest.mark.parametrize("compressed", [True, False])
def test_reads_both_files_training_rows_first(small, folder_of, compressed):
    folder = folder_of("libsvm")
    write(folder, "a9a", TRAIN, compressed)
    write(folder, "a9a.t", TEST, compressed)
    dataset = datasets.load_sparse("a9a")
    assert (dataset.train_rows, dataset.classes, dataset.card) == (3, 2, small)
    assert dataset.features.format == "csr" and dataset.features.dtype == np.float32
    assert dataset.features.shape == (5, 123)  # though no row of the test file has its last feature
    assert dataset.labels.dtype == np.int32 and dataset.labels.tolist() == [0, 1, 0, 1, 0]
    rows = dataset.features.toarray()
    assert rows[0, [2, 122]].tolist() == [1, 0.5]  # the first feature is number 1
    assert rows[[1, 2, 3, 4], [0, 1, 1, 0]].tolist() == [1, -2, 1, 1]
    assert np.count_nonzero(rows) == 6


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (TRAIN.replace("123:", "124:"), r"a9a.bz2, a9a.t.bz2: damaged \(.*get the published file again"),
        (TRAIN.replace("3:1", "3:one"), r"a9a.bz2, a9a.t.bz2: damaged"),
        (TRAIN + "+1 1:1\n", "a9a: 4 in the part 'train', where the published one has 3"),
        (TRAIN.replace("+1", "+2"), r"a9a: its files have the labels \[-1.0, 1.0, 2.0\]"),
    ],
)
def test_damaged_files(small, folder_of, train, message):
    folder = folder_of("libsvm")
    write(folder, "a9a", train, True)
    write(folder, "a9a.t", TEST, True)
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load_sparse("a9a")


def test_a_file_that_is_cut_off(small, folder_of):
    folder = folder_of("libsvm")
    (folder / "a9a.bz2").write_bytes(bz2.compress(TRAIN.encode())[:-10])
    write(folder, "a9a.t", TEST, True)
    with pytest.raises(datasets.DatasetError, match=r"a9a.bz2, a9a.t.bz2: damaged"):
        datasets.load_sparse("a9a")


def test_one_of_two_files_is_not_enough(small, folder_of):
    write(folder_of("libsvm"), "a9a", TRAIN, True)
    with pytest.raises(datasets.DatasetError, match=r"has no a9a.t.bz2; put all of these files there"):
        datasets.load_sparse("a9a")


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the files in $BILEVEL_DATA")
@pytest.mark.parametrize(("name", "share"), [("a9a", 0.239), ("w8a", 0.030)])
def test_the_published_files(name, share):
    dataset = datasets.load_sparse(name)
    assert dataset.labels.mean() == pytest.approx(share, abs=5e-4)
    assert set(np.unique(dataset.features.data)) == {1.0}
