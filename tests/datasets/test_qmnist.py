"""QMNIST on four small files in its format."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import qmnist

TRAIN, TEST = 5, 3


def idx(array):
    """Bytes as type 8, 32-bit integers, big-endian, as type 12."""
    kind = 8 if array.dtype == np.uint8 else 12
    content = array if kind == 8 else array.astype(">i4")
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + content.tobytes()


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8) for rows in (TRAIN, TEST)]
    labels = [rng.integers(-1, 500_000, (rows, 8), dtype=np.int32) for rows in (TRAIN, TEST)]
    for array in labels:
        array[:, 0] %= 10
    return [images[0], labels[0], images[1], labels[1]]


@pytest.fixture
def folder(parts, folder_of, publish, monkeypatch):
    folder = folder_of("qmnist")
    for name, part in zip(list(qmnist.SUMS), parts, strict=True):
        (folder / name).write_bytes(gzip.compress(idx(part)))
        monkeypatch.setitem(qmnist.SUMS, name, hashlib.md5((folder / name).read_bytes()).hexdigest())
    publish(qmnist, "qmnist", splits={"train": TRAIN, "test": TEST})
    return folder


def test_reads_the_published_files(folder, parts):
    dataset = datasets.load("qmnist")
    assert (dataset.card, dataset.classes, dataset.train_rows) == (datasets.card("qmnist"), 10, TRAIN)
    assert (dataset.features.dtype, dataset.labels.dtype) == (np.float32, np.int32)
    pixels = np.concatenate([parts[0], parts[2]]).reshape(TRAIN + TEST, 784)
    np.testing.assert_array_equal(dataset.features, (pixels / 255).astype(np.float32))
    np.testing.assert_array_equal(dataset.labels, np.concatenate([parts[1], parts[3]])[:, 0])


def test_sums_are_those_of_the_compressed_files(folder, parts):
    path = folder / "qmnist-test-labels-idx2-int.gz"
    path.write_bytes(gzip.compress(idx(parts[3] + 1)))
    with pytest.raises(datasets.DatasetError, match=r"qmnist-test-labels-idx2-int.gz: its MD5 is"):
        datasets.load("qmnist")


def test_another_number_of_rows(folder, publish):
    publish(qmnist, "qmnist", splits={"train": TRAIN, "test": TEST + 1})
    with pytest.raises(datasets.DatasetError, match="qmnist: 3 in the part 'test', where the published one has 4"):
        datasets.load("qmnist")
