"""MNIST and Fashion-MNIST: from a folder, from the user's cache, or from OpenML."""

import hashlib
import importlib.util
import os
import tempfile
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bilevel.datasets import fetching, idx
from bilevel.datasets.base import Card, Dataset, DatasetError
from bilevel.datasets.places import Files

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
TRAIN_ROWS = 60_000

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
FILES = {name: Files(name, (IDX_FILES,), kept="rows.npz") for name in CARDS}


@dataclass(frozen=True)
class _Published:
    openml: str
    megabytes: int
    files: tuple[str, str, str, str]  # MD5 of the uncompressed contents of IDX_FILES
    arrays: str  # MD5 of all pixels, then all labels, training rows first


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
        arrays="e6d0c0596883d0a036c7a301e97f576d",
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
        arrays="73faf11762e021e6ff74ddbcb831ca41",
    ),
}

Arrays = tuple[np.ndarray, np.ndarray]  # pixels (n, 784) and labels (n,), both uint8, training rows first


def load(name: str) -> Dataset:
    """`"mnist"` or `"fashion-mnist"`: training and test rows, in this order; sums are checked.

    The four published `idx-ubyte.gz` files, or what is left of a download; where there are none, it is downloaded
    into the cache.
    """
    paths = FILES[name].find()
    if paths is None:
        pixels, labels = _download(name)
    else:
        pixels, labels = _read_kept(name, paths[0]) if len(paths) == 1 else _read_published(name, paths)
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


def _read_kept(name: str, path: Path) -> Arrays:
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            arrays = stored["pixels"], stored["labels"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: damaged ({error}); delete it, and it will be downloaded again") from error
    if _sum(arrays) != PUBLISHED[name].arrays:
        raise DatasetError(f"{path}: damaged (wrong MD5 of its rows); delete it, and it will be downloaded again")
    return arrays


def _keep(name: str, arrays: Arrays) -> None:
    path = FILES[name].cache / FILES[name].kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            np.savez_compressed(whole, pixels=arrays[0], labels=arrays[1])
            os.replace(whole, path)  # so that nobody ever finds half a file
    except OSError as error:
        warnings.warn(f"{name}: could not be kept in {path} ({error}); it will be downloaded again", stacklevel=2)


def _download(name: str) -> Arrays:
    from sklearn.datasets import fetch_openml

    about = PUBLISHED[name]
    parser = "pandas" if importlib.util.find_spec("pandas") else "liac-arff"  # the second needs nothing, but is slower
    try:
        notice = fetching.notice(f"bilevel: downloading {name} from OpenML, about {about.megabytes} MB")
        with notice, fetching.patience(), tempfile.TemporaryDirectory() as home:  # without a folder: downloads twice
            pixels, labels = fetch_openml(
                about.openml, version=1, data_home=home, return_X_y=True, as_frame=False, parser=parser
            )
    except fetching.FAILURES as error:
        why = f'it could not be downloaded ({error}; "digits" needs no network)'
        raise FILES[name].error(why) from error
    arrays = np.asarray(pixels).astype(np.uint8), np.asarray(labels).astype(np.uint8)
    if _sum(arrays) != about.arrays:
        raise DatasetError(f"{name}: what was downloaded is not the published set (wrong MD5 of its rows); try again")
    _keep(name, arrays)
    return arrays


def _sum(arrays: Arrays) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
