"""FC100 and miniImageNet: 100 classes with 600 color images each, from their usual pickles."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from bilevel.datasets import pickles
from bilevel.datasets.base import Card, DatasetError, FewshotDataset
from bilevel.datasets.files import Files, check_splits

CARDS = {
    "fc100": Card(
        "fc100",
        rows=60_000,
        classes=100,
        splits={"train": 60, "validation": 20, "test": 20},
        license="none stated; images of CIFAR-100, for research",
        source="Oreshkin, Rodríguez & Lacoste (2018), TADAM, NeurIPS; Krizhevsky (2009), CIFAR-100",
    ),
    "mini-imagenet": Card(
        "mini-imagenet",
        rows=60_000,
        classes=100,
        splits={"train": 64, "validation": 16, "test": 20},
        license="ImageNet's terms: research, not commercial",
        source="Vinyals et al. (2016), Matching networks, NeurIPS; split of Ravi & Larochelle (2017), ICLR",
    ),
}
FILES = {
    "fc100": Files("fc100", (("FC100_train.pickle", "FC100_val.pickle", "FC100_test.pickle"),)),
    "mini-imagenet": Files(
        "mini-imagenet", (tuple(f"mini-imagenet-cache-{part}.pkl" for part in ("train", "val", "test")),)
    ),
}
_SIDES = {"fc100": 32, "mini-imagenet": 84}


def load(name: str) -> FewshotDataset:
    """`"fc100"` or `"mini-imagenet"`: three pickles, one per part; classes in the order of their labels or names.

    - FC100: `data`, uint8 (n, 32, 32, 3), and `labels`, n integers.
    - miniImageNet: `image_data`, uint8 (n, 84, 84, 3), and `class_dict`, name ↦ rows.

    Reading a pickle runs no code in it. No checksums are published; the numbers of classes and images are checked.
    """
    card = CARDS[name]
    per_class = card.rows // card.classes
    paths = FILES[name].need()
    train, validation, test = (_read(path, _SIDES[name], per_class) for path in paths)
    check_splits(card, {"train": len(train), "validation": len(validation), "test": len(test)})
    return FewshotDataset(train, validation, test, card)


def _read(path: Path, side: int, per_class: int) -> UInt8[np.ndarray, "classes per_class side side 3"]:
    stored = pickles.read(path)
    try:
        stored = {key.decode() if isinstance(key, bytes) else key: value for key, value in stored.items()}
        images = stored["image_data"] if "image_data" in stored else stored["data"]
        if not isinstance(images, np.ndarray):
            raise ValueError(f"images in a {type(images).__name__}")
        if (images.dtype, images.shape[1:]) != (np.uint8, (side, side, 3)):
            raise ValueError(f"images of type {images.dtype} and shape {images.shape[1:]}")
        if "image_data" in stored:
            classes = stored["class_dict"]
            rows = [_integers(classes[name], len(images)) for name in sorted(classes)]
        else:
            labels = _integers(stored["labels"], len(images))
            rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        if {len(of_class) for of_class in rows} != {per_class}:
            raise ValueError(f"not all classes have {per_class} images")
        order = np.concatenate(rows)
        images = (
            images if np.array_equal(order, np.arange(len(images))) else images[order]
        )  # no copy if they are in order
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise DatasetError(f"{path}: not as published ({error}); get the published file again") from error
    return np.asarray(images).reshape(len(rows), per_class, side, side, 3)


def _integers(values: Any, most: int) -> Int64[np.ndarray, " n"]:
    """At most so many integers, as an array. A small pickle can hold lists of lists that NumPy would never finish."""
    if len(values) > most or not all(isinstance(value, int | np.integer) for value in values):
        raise ValueError("labels that are not one integer per image")
    return np.asarray(values, np.int64)
