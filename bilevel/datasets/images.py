"""MNIST and Fashion-MNIST: from a folder, from the user's cache, or from OpenML."""

import functools
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bilevel.datasets import idx
from bilevel.datasets.base import Card, Dataset
from bilevel.datasets.files import Download, Files

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
# MD5 of the uncompressed contents of IDX_FILES
SUMS = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion-mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
CARDS = {
    "mnist": Card(
        "mnist",
        rows=70_000,
        classes=10,
        splits={"train": 60_000, "test": 10_000},
        license="CC BY-SA 3.0, as usually cited",
        source="LeCun, Cortes & Burges, The MNIST database of handwritten digits",
    ),
    "fashion-mnist": Card(
        "fashion-mnist",
        rows=70_000,
        classes=10,
        splits={"train": 60_000, "test": 10_000},
        license="MIT",
        source="Xiao, Rasul & Vollgraf (2017), Fashion-MNIST, Zalando Research",
    ),
}
_PIXELS = 28 * 28

Arrays = tuple[UInt8[np.ndarray, "n pixels"], UInt8[np.ndarray, " n"]]  # images and labels, training rows first


def _from_openml(openml_name: str, source: str, path: str, pooch: Any) -> None:
    """Write all pixels and then all labels, one byte each, so that the file does not depend on package versions."""
    from sklearn.datasets import fetch_openml

    parser = "pandas" if importlib.util.find_spec("pandas") else "liac-arff"  # the second needs nothing, but is slower
    with tempfile.TemporaryDirectory() as home:  # without a folder, scikit-learn downloads twice
        pixels, labels = fetch_openml(
            openml_name, version=1, data_home=home, return_X_y=True, as_frame=False, parser=parser
        )
    with open(path, "wb") as file:
        file.write(np.asarray(pixels).astype(np.uint8).tobytes())
        file.write(np.asarray(labels).astype(np.uint8).tobytes())


def _files(name: str, openml_name: str, megabytes: int, md5: str) -> Files:
    source = f"OpenML, about {megabytes} MB"
    return Files(name, (IDX_FILES,), Download("rows.u8", source, functools.partial(_from_openml, openml_name), md5))


FILES = {
    "mnist": _files("mnist", "mnist_784", 15, "e6d0c0596883d0a036c7a301e97f576d"),
    "fashion-mnist": _files("fashion-mnist", "Fashion-MNIST", 33, "73faf11762e021e6ff74ddbcb831ca41"),
}


def load(name: str) -> Dataset:
    """`"mnist"` or `"fashion-mnist"`: training rows, then test rows.

    They are read from the four published `idx-ubyte.gz` files, or from the file that a download leaves in the cache.
    If there are none, they are downloaded. MD5 sums are checked in each case.
    """
    paths = FILES[name].need()
    pixels, labels = _read_rows(*paths) if len(paths) == 1 else _read_published(name, paths)
    card = CARDS[name]
    return Dataset(
        features=np.divide(pixels, 255, dtype=np.float32),
        labels=labels.astype(np.int32),
        classes=card.classes,
        train_rows=card.splits["train"],
        card=card,
    )


def _read_published(name: str, paths: tuple[Path, ...]) -> Arrays:
    parts = [idx.read(path, md5, of_content=True) for path, md5 in zip(paths, SUMS[name], strict=True)]
    return np.concatenate([parts[0], parts[2]]).reshape(-1, _PIXELS), np.concatenate([parts[1], parts[3]])


def _read_rows(path: Path) -> Arrays:
    stored = np.fromfile(path, np.uint8)
    rows = len(stored) // (_PIXELS + 1)
    return stored[: rows * _PIXELS].reshape(rows, _PIXELS), stored[rows * _PIXELS :]
