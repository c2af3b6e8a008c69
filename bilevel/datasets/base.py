"""What the loaders give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

if TYPE_CHECKING:  # SciPy comes with scikit-learn and JAX, and is imported by the loaders that need it
    import scipy.sparse


class DatasetError(RuntimeError):
    """A data set that is damaged, or that cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Card:
    """What a data set is, and whose.

    - `rows`, `classes`: how many in all.
    - `splits`: name ↦ how many, of the parts it is published in, in the order of the rows: so many rows or, in few-shot
      sets, classes.
    - `source`, `license`: whose it is, and on what terms.
    """

    name: str
    rows: int
    classes: int
    splits: Mapping[str, int]
    license: str
    source: str


# of a set that no card is known of
_OWN = Card("own", rows=0, classes=0, splits={}, license="none stated", source="none stated")


def _check_labels(labels: Int32[np.ndarray, " n"], classes: int, rows: int) -> None:
    if len(labels) != rows:
        raise ValueError(f"labels: got {len(labels)} for {rows} rows; pass one per row")
    if rows and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels: got {labels.min()} to {labels.max()}; pass whole numbers from 0 to {classes - 1}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification.

    - `features`: float32, of the sets here in [0, 1]; `labels`: 0, …, `classes` − 1.
    - `train_rows`: so many rows, the first ones, are the published training set; all of them where none is.
    """

    features: Float32[np.ndarray, "n d"]
    labels: Int32[np.ndarray, " n"]
    classes: int
    train_rows: int
    card: Card = _OWN

    def __post_init__(self) -> None:
        _check_labels(self.labels, self.classes, len(self.features))


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Short texts with a label each, from one or more domains.

    - `texts`: as they were published; `labels`: 0, …, `classes` − 1.
    - `domains`: the domain of each row, an index into `domain_names`.
    - `groups`: rows of one group (the sentences of one review) belong on one side of any split.
    """

    texts: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    domains: Int32[np.ndarray, " n"]
    domain_names: tuple[str, ...]
    groups: Int32[np.ndarray, " n"]
    classes: int
    card: Card = _OWN

    def __post_init__(self) -> None:
        _check_labels(self.labels, self.classes, len(self.texts))
        for name in ("domains", "groups"):
            if len(getattr(self, name)) != len(self.texts):
                raise ValueError(
                    f"{name}: got {len(getattr(self, name))} for {len(self.texts)} texts; pass one per text"
                )


@dataclass(frozen=True, eq=False)
class SparseDataset:
    """A data set for classification whose features are mostly zero.

    - `features`: a SciPy CSR matrix (n, d) of float32; `labels`: 0, …, `classes` − 1.
    - `train_rows`: so many rows, the first ones, are the training set.
    """

    features: scipy.sparse.csr_matrix
    labels: Int32[np.ndarray, " n"]
    classes: int
    train_rows: int
    card: Card = _OWN

    def __post_init__(self) -> None:
        shape: Any = self.features.shape  # SciPy's types say that it may be None
        _check_labels(self.labels, self.classes, shape[0])


@dataclass(frozen=True, eq=False)
class FewshotDataset:
    """Images of many classes, few of each; the three parts have no class in common."""

    train: UInt8[np.ndarray, "classes per_class height width channels"]
    validation: UInt8[np.ndarray, "validation_classes per_class height width channels"]
    test: UInt8[np.ndarray, "test_classes per_class height width channels"]
    card: Card = _OWN
