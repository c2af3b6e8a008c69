"""The types that the loaders return."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

if TYPE_CHECKING:  # SciPy comes with scikit-learn and JAX, and is imported by the loaders that need it
    import scipy.sparse


class DatasetError(RuntimeError):
    """A data set is damaged, or its files are missing; the message says what to do."""


@dataclass(frozen=True)
class Card:
    """What a data set is, who published it, and under which license.

    - `rows`, `classes`: their total numbers.
    - `splits`: the published parts in the order of the rows: name ↦ number of rows, or of classes in few-shot sets.
    """

    name: str
    rows: int
    classes: int
    splits: Mapping[str, int]
    license: str
    source: str


# The card of a user's own set.
_OWN = Card("own", rows=0, classes=0, splits={}, license="none stated", source="none stated")


def _check_labels(labels: Int32[np.ndarray, " n"], classes: int, rows: int) -> None:
    if len(labels) != rows:
        raise ValueError(f"labels: got {len(labels)} for {rows} rows; pass one per row")
    if rows and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels: got {labels.min()} to {labels.max()}; pass whole numbers from 0 to {classes - 1}")


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the two kinds of data sets for classification have in common."""

    features: Any
    labels: Int32[np.ndarray, " n"]
    classes: int
    train_rows: int
    card: Card = _OWN

    def __post_init__(self) -> None:
        _check_labels(self.labels, self.classes, self.features.shape[0])


@dataclass(frozen=True, eq=False)
class Dataset(_Rows):
    """A data set for classification.

    - `features`: float32; in [0, 1] in the sets of this package.
    - `labels`: 0, …, `classes` − 1.
    - `train_rows`: the first `train_rows` rows are the published training set, or all rows if none is published.
    """

    features: Float32[np.ndarray, "n d"]


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Short texts from one or more domains, with one label per text.

    - `texts`: as they were published.
    - `labels`: 0, …, `classes` − 1.
    - `domains`: the domain of each row, an index into `domain_names`.
    - `groups`: rows of one group (the sentences of one review) belong on the same side of any split.
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


def text_dataset(
    rows: Sequence[tuple[int, Hashable, int, str]], domain_names: Sequence[str], card: Card
) -> TextDataset:
    """The data set of these rows: domain, group, label, text. Groups are numbered in the order of their first rows."""
    domains, groups, labels, texts = zip(*rows, strict=True)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return TextDataset(
        texts=texts,
        labels=np.array(labels, np.int32),
        domains=np.array(domains, np.int32),
        domain_names=tuple(domain_names),
        groups=np.array([numbers[group] for group in groups], np.int32),
        classes=card.classes,
        card=card,
    )


@dataclass(frozen=True, eq=False)
class SparseDataset(_Rows):
    """A data set for classification whose features are mostly zero.

    - `features`: a SciPy CSR matrix (n, d) of float32.
    - `labels`: 0, …, `classes` − 1.
    - `train_rows`: the first `train_rows` rows are the training set.
    """

    features: scipy.sparse.csr_matrix


@dataclass(frozen=True, eq=False)
class DoubtfulDataset:
    """Rows whose labels people gave, some of them wrong, followed by rows whose labels are right.

    - `features`: of all rows: float32 (n, d), a SciPy CSR matrix, or a tuple of n texts.
    - `given`: a name ↦ the labels of the first m rows, the doubtful ones: (m,), or of several people a masked array
      (m, people), masked where a person gave none.
    - `labels`: the right labels, 0, …, `classes` − 1; −1 where the given one is wrong and the right one unknown.
    - `checked`: (m,), whether people checked the row; the given labels of the others are taken as right.
    """

    features: Any
    given: Mapping[str, Int32[np.ndarray, "m ..."]]
    labels: Int32[np.ndarray, " n"]
    checked: Bool[np.ndarray, " m"]
    classes: int
    card: Card = _OWN


@dataclass(frozen=True, eq=False)
class FewshotDataset:
    """Images of many classes for few-shot learning; the three parts have no class in common."""

    train: UInt8[np.ndarray, "classes per_class height width channels"]
    validation: UInt8[np.ndarray, "validation_classes per_class height width channels"]
    test: UInt8[np.ndarray, "test_classes per_class height width channels"]
    card: Card = _OWN
