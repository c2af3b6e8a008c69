"""MNIST and Fashion-MNIST: from a folder, from the user's cache, or from OpenML."""

import contextlib
import gzip
import hashlib
import importlib.util
import os
import socket
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np

from bilevel.datasets.base import Dataset, DatasetError

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
TRAIN_ROWS = 60_000
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class _Published:
    openml: str
    megabytes: int
    source: str
    licence: str
    files: tuple[str, str, str, str]  # MD5 of the uncompressed contents of FILES
    arrays: str  # MD5 of all pixels, then all labels, training rows first


PUBLISHED = {
    "mnist": _Published(
        openml="mnist_784",
        megabytes=15,
        source="LeCun, Cortes & Burges, The MNIST database of handwritten digits",
        licence="CC BY-SA 3.0, as usually cited",
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
        source="Xiao, Rasul & Vollgraf (2017), Fashion-MNIST, Zalando Research",
        licence="MIT",
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
    """`"mnist"` or `"fashion-mnist"`: training and test rows, in this order."""
    pixels, labels = _from_folder(name) or _from_cache(name) or _download(name)
    about = PUBLISHED[name]
    return Dataset(
        name=name,
        features=np.divide(pixels, 255, dtype=np.float32),
        labels=labels.astype(np.int32),
        classes=10,
        train_rows=TRAIN_ROWS,
        source=about.source,
        licence=about.licence,
    )


def _from_folder(name: str) -> Arrays | None:
    root = os.environ.get("BILEVEL_DATA")
    if not root:
        return None
    folder = Path(root) / name
    missing = [file for file in FILES if not (folder / file).exists()]
    if len(missing) == len(FILES):
        return None
    if missing:
        raise DatasetError(f"{name}: {folder} has no {', '.join(missing)}; it needs all four of {', '.join(FILES)}")
    parts = [_read_idx(folder / file, md5) for file, md5 in zip(FILES, PUBLISHED[name].files, strict=True)]
    pixels = np.concatenate([parts[0], parts[2]])
    return pixels.reshape(len(pixels), -1), np.concatenate([parts[1], parts[3]])


def _read_idx(path: Path, md5: str) -> np.ndarray:
    """An idx file of bytes: two zeros, the type 8, the number of axes, their lengths (big-endian), the data."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    if _md5(content) != md5:
        raise DatasetError(f"{path}: its content's MD5 is {_md5(content)}, the published one is {md5}; fetch it again")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _cache_path(name: str) -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("bilevel")) / name / "rows.npz"


def _from_cache(name: str) -> Arrays | None:
    path = _cache_path(name)
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            arrays = stored["pixels"], stored["labels"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: damaged ({error}); delete it, and it will be downloaded again") from error
    if _sum(arrays) != PUBLISHED[name].arrays:
        raise DatasetError(f"{path}: damaged (wrong MD5 of its rows); delete it, and it will be downloaded again")
    return arrays


def _keep(name: str, arrays: Arrays) -> None:
    path = _cache_path(name)
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
        notice = _notice(f"bilevel: downloading {name} from OpenML, about {about.megabytes} MB")
        with notice, _patience(), tempfile.TemporaryDirectory() as home:  # without a folder it downloads twice
            pixels, labels = fetch_openml(
                about.openml, version=1, data_home=home, return_X_y=True, as_frame=False, parser=parser
            )
    except (OSError, EOFError, ValueError, HTTPException, zlib.error) as error:
        raise DatasetError(_how_to_get(name, error)) from error
    arrays = np.asarray(pixels).astype(np.uint8), np.asarray(labels).astype(np.uint8)
    if _sum(arrays) != about.arrays:
        raise DatasetError(f"{name}: what was downloaded is not the published set (wrong MD5 of its rows); try again")
    _keep(name, arrays)
    return arrays


def _how_to_get(name: str, error: Exception) -> str:
    root = os.environ.get("BILEVEL_DATA")
    where = f"{Path(root) / name} ($BILEVEL_DATA/{name})" if root else f"$BILEVEL_DATA/{name} (the variable is not set)"
    return (
        f"{name}: neither in {where} nor in {_cache_path(name)}, and it could not be downloaded ({error}). Put "
        f"{', '.join(FILES)}, as published, into a folder {name!r}, and set BILEVEL_DATA to the folder that holds it; "
        'or use "digits", which needs no network'
    )


@contextlib.contextmanager
def _notice(text: str) -> Iterator[None]:
    """Says on standard error what is going on."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield
    else:
        print(text, file=sys.stderr, flush=True)
        yield


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Sockets give up after a while, and scikit-learn's warnings about retries stay silent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)


def _md5(content: bytes | memoryview) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _sum(arrays: Arrays) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
