"""MNIST and Fashion-MNIST: from a folder, from the user's cache, or from OpenML."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bilevel.datasets import idx
from bilevel.datasets.base import Card, Dataset, DatasetError
from bilevel.datasets.places import Files

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
ROWS_FILE = "rows.u8"  # what a download leaves: bytes, all pixels and then all labels, training rows first
TRAIN_ROWS = 60_000

_PIXELS = 28 * 28
_SPLITS = {"train": TRAIN_ROWS, "test": 10_000}

CARDS = {
    "mnist": Card(
        "mnist",
        rows=70_000,
        classes=10,
        splits=_SPLITS,
        license="CC BY-SA 3.0, as usually cited",
        source="LeCun, Cortes & Burges, The MNIST database of handwritten digits",
    ),
    "fashion-mnist": Card(
        "fashion-mnist",
        rows=70_000,
        classes=10,
        splits=_SPLITS,
        license="MIT",
        source="Xiao, Rasul & Vollgraf (2017), Fashion-MNIST, Zalando Research",
    ),
}
FILES = {name: Files(name, (IDX_FILES, (ROWS_FILE,))) for name in CARDS}


@dataclass(frozen=True)
class _Published:
    openml: str
    megabytes: int
    files: tuple[str, str, str, str]  # MD5 of the uncompressed contents of IDX_FILES
    rows: str  # MD5 of ROWS_FILE


PUBLISHED = {
    "mnist": _Published(
        openml="mnist_784",
        megabytes=15,
        files=(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        rows="e6d0c0596883d0a036c7a301e97f576d",
    ),
    "fashion-mnist": _Published(
        openml="Fashion-MNIST",
        megabytes=33,
        files=(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        rows="73faf11762e021e6ff74ddbcb831ca41",
    ),
}

Arrays = tuple[np.ndarray, np.ndarray]  # pixels (n, 784) and labels (n,), both uint8, training rows first


def load(name: str) -> Dataset:
    """`"mnist"` or `"fashion-mnist"`: training and test rows, in this order; sums are checked.

    The four published `idx-ubyte.gz` files, or what is left of a download; where there are none, it is downloaded
    into the cache.
    """
    paths = FILES[name].find() or (_download(name),)
    pixels, labels = _read_rows(name, paths[0]) if len(paths) == 1 else _read_published(name, paths)
    return Dataset(
        features=np.divide(pixels, 255, dtype=np.float32),
        labels=labels.astype(np.int32),
        classes=10,
        train_rows=TRAIN_ROWS,
        card=CARDS[name],
    )


def _read_published(name: str, paths: tuple[Path, ...]) -> Arrays:
    sums = PUBLISHED[name].files
    parts = [idx.read(path, content_md5=md5) for path, md5 in zip(paths, sums, strict=True)]
    pixels = np.concatenate([parts[0], parts[2]])
    return pixels.reshape(len(pixels), -1), np.concatenate([parts[1], parts[3]])


def _read_rows(name: str, path: Path) -> Arrays:
    import pooch

    if pooch.file_hash(str(path), alg="md5") != PUBLISHED[name].rows:
        raise DatasetError(f"{path}: damaged (wrong MD5); delete it, and it will be downloaded again")
    content = np.fromfile(path, np.uint8)
    pixels, labels = np.split(content, [len(content) // (_PIXELS + 1) * _PIXELS])
    return pixels.reshape(-1, _PIXELS), labels


def _download(name: str) -> Path:
    from sklearn.datasets import fetch_openml

    about = PUBLISHED[name]
    parser = "pandas" if importlib.util.find_spec("pandas") else "liac-arff"  # the second needs nothing, but is slower

    def fetch(scratch: str, path: str) -> None:  # without a scratch folder scikit-learn downloads twice
        arrays = fetch_openml(
            about.openml, version=1, data_home=scratch, return_X_y=True, as_frame=False, parser=parser
        )
        with open(path, "wb") as file:
            for array in arrays:
                file.write(np.asarray(array).astype(np.uint8).tobytes())

    return FILES[name].download(ROWS_FILE, f"OpenML, about {about.megabytes} MB", fetch, about.rows)
