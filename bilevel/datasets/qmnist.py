"""QMNIST: MNIST made again from its sources, with 60,000 test images."""

import numpy as np

from bilevel.datasets import idx
from bilevel.datasets.base import Card, Dataset
from bilevel.datasets.files import Files, check_splits

SUMS = {  # MD5 of the compressed files
    "qmnist-train-images-idx3-ubyte.gz": "ed72d4157d28c017586c42bc6afe6370",
    "qmnist-train-labels-idx2-int.gz": "0058f8dd561b90ffdd0f734c6a30e5e4",
    "qmnist-test-images-idx3-ubyte.gz": "1394631089c404de565df7b7aeaf9412",
    "qmnist-test-labels-idx2-int.gz": "5b5b05890a5e13444e108efe57b788aa",
}
CARDS = {
    "qmnist": Card(
        "qmnist",
        rows=120_000,
        classes=10,
        splits={"train": 60_000, "test": 60_000},
        license="BSD 3-Clause (the release), images of NIST",
        source="Yadav & Bottou (2019), Cold Case: The Lost MNIST Digits, NeurIPS",
    )
}
FILES = {"qmnist": Files("qmnist", (tuple(SUMS),))}


def load(name: str) -> Dataset:
    """`"qmnist"`: the four published files. Labels have 8 columns of integers; the first is the digit."""
    paths = FILES[name].need()
    images, labels, test_images, test_labels = (idx.read(path, SUMS[path.name]) for path in paths)
    check_splits(CARDS[name], {"train": len(labels), "test": len(test_labels)})
    pixels = np.concatenate([images, test_images])
    return Dataset(
        features=np.divide(pixels.reshape(len(pixels), -1), 255, dtype=np.float32),
        labels=np.concatenate([labels[:, 0], test_labels[:, 0]]).astype(np.int32),
        classes=10,
        train_rows=len(labels),
        card=CARDS[name],
    )
