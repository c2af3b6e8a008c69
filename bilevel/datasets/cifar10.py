"""CIFAR-10, and the labels that people gave its training images (CIFAR-10N)."""

import dataclasses
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from bilevel.datasets import pickles
from bilevel.datasets.base import Card, Dataset, DatasetError, DoubtfulDataset
from bilevel.datasets.files import Files

_BATCHES, _TEST = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch"
_BATCH_ROWS = 10_000
_PIXELS = 3 * 32 * 32
_NAMES = {  # ours ↦ the published names
    "aggregate": "aggre_label",
    "random 1": "random_label1",
    "random 2": "random_label2",
    "random 3": "random_label3",
    "worst": "worse_label",
}

CARDS = {
    "cifar-10": Card(
        "cifar-10",
        rows=60_000,
        classes=10,
        splits={"train": 50_000, "test": 10_000},
        license="none stated",
        source="Krizhevsky (2009), Learning multiple layers of features from tiny images",
    ),
    "cifar-10n": Card(
        "cifar-10n",
        rows=60_000,
        classes=10,
        splits={"doubtful": 50_000, "right": 10_000},
        license="CC BY-NC 4.0 (the labels)",
        source="Wei et al. (2022), Learning with noisy labels revisited, ICLR; Krizhevsky (2009)",
    ),
}
FILES = {
    "cifar-10": Files("cifar-10", ((*_BATCHES, _TEST), (_BATCHES[0], _TEST))),
    "cifar-10n": Files("cifar-10n", (("CIFAR-10_human.pt",), ("CIFAR-10N.npz",))),
}


def load(name: str) -> Dataset:
    """`"cifar-10"`: the published pickles `data_batch_1` to `data_batch_5` and `test_batch`; training rows first.

    The first batch and the test batch are enough; the card then has their numbers of rows. A row has 1,024 red, 1,024
    green and 1,024 blue values. Reading a pickle runs no code in it. The numbers of images are checked.
    """
    parts = [_read(path) for path in FILES[name].need()]
    features = np.empty((len(parts) * _BATCH_ROWS, _PIXELS), np.float32)
    for number, (images, _) in enumerate(parts):
        np.divide(images, 255, out=features[number * _BATCH_ROWS : (number + 1) * _BATCH_ROWS], dtype=np.float32)
    train = len(features) - _BATCH_ROWS
    card = dataclasses.replace(CARDS[name], rows=len(features), splits={"train": train, "test": _BATCH_ROWS})
    return Dataset(features, np.concatenate([labels for _, labels in parts]), card.classes, train, card)


def load_doubtful(name: str) -> DoubtfulDataset:
    """`"cifar-10n"`: the labels of three people for each training image of CIFAR-10 (`random 1` to `random 3`); that of
    most of them (`aggregate`); and a wrong one where any of them is wrong (`worst`).

    They are read from `CIFAR-10_human.pt`, the published file, or from `CIFAR-10N.npz`, the same arrays as NumPy keeps
    them. The folder `cifar-10` must hold the images. The labels of CIFAR-10 must be those in the file.
    """
    (path,) = FILES[name].need()
    stored = _read_labels(path)
    images = load("cifar-10")
    doubtful = images.train_rows
    if not np.array_equal(stored["clean_label"][:doubtful], images.labels[:doubtful]):
        raise DatasetError(f"{path}: its labels `clean_label` are not those of CIFAR-10; get the published file again")
    return DoubtfulDataset(
        features=images.features,
        given={ours: stored[theirs][:doubtful] for ours, theirs in _NAMES.items()},
        labels=images.labels,
        checked=np.ones(doubtful, bool),
        classes=10,
        card=dataclasses.replace(
            CARDS[name], rows=len(images.labels), splits={"doubtful": doubtful, "right": len(images.labels) - doubtful}
        ),
    )


def _read(path: Path) -> tuple[UInt8[np.ndarray, "n d"], Int32[np.ndarray, " n"]]:
    """The images and labels of a batch."""
    stored = pickles.read(path)
    try:
        stored = {key.decode() if isinstance(key, bytes) else key: value for key, value in stored.items()}
        images, labels = stored["data"], stored["labels"]
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise ValueError("images that are no bytes")
        if images.shape != (_BATCH_ROWS, _PIXELS) or len(labels) != _BATCH_ROWS:
            raise ValueError(f"images of shape {images.shape} and {len(labels)} labels")
        if not all(isinstance(label, int) and 0 <= label < 10 for label in labels):
            raise ValueError("labels that are not 0 to 9")
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not as published ({error}); get the published file again") from error
    return np.asarray(images), np.array(labels, np.int32)


def _read_labels(path: Path) -> dict[str, Int32[np.ndarray, " n"]]:
    """The arrays of labels, by their published names."""
    try:
        if path.suffix == ".pt":
            with zipfile.ZipFile(path) as archive:
                stored: Any = pickles.read_from(io.BytesIO(archive.read("archive/data.pkl")), path)
        else:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                stored = {key: archive[key] for key in archive}
        found = {key: np.asarray(stored[key]) for key in ("clean_label", *_NAMES.values())}
        for key, labels in found.items():
            if labels.shape != (CARDS["cifar-10n"].splits["doubtful"],) or labels.dtype.kind not in "iu":
                raise ValueError(f"{key}: of type {labels.dtype} and shape {labels.shape}")
            if not 0 <= labels.min() <= labels.max() < 10:
                raise ValueError(f"{key}: labels that are not 0 to 9")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not as published ({error}); get the published file again") from error
    return {key: labels.astype(np.int32) for key, labels in found.items()}
