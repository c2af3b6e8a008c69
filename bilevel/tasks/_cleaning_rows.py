"""The rows of a cleaning task: which rows each level gets, and which labels are wrong."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from bilevel import _checks as checks
from bilevel import datasets
from bilevel.datasets import words

Indices = Int[np.ndarray, "_"]
NOISES = ("redrawn", "flipped")


@dataclass(frozen=True, kw_only=True, eq=False)
class CleaningData:
    """The rows of a cleaning task: features in [0, 1] or standardized, or the tokens of the words for texts.

    - `features`, `noisy_labels`: the training rows as a solver sees them; `true_labels`: their labels before the noise.
    - `trusted_features`, `trusted_labels`: the upper level's rows.
    - `test_features`, `test_labels`: only the final metrics use them. For a task with `split="validation"` they are
      validation rows, and the test rows are not kept.
    - `vocabulary`: the token of each word, from the training rows; `None` for images.
    """

    features: Shaped[Array, "train d"]
    noisy_labels: Int[Array, " train"]
    true_labels: Int[Array, " train"]
    trusted_features: Shaped[Array, "trusted d"]
    trusted_labels: Int[Array, " trusted"]
    test_features: Shaped[Array, "test d"]
    test_labels: Int[Array, " test"]
    classes: int
    vocabulary: Mapping[str, int] | None = None

    @property
    def wrong(self) -> Bool[np.ndarray, " train"]:
        """Which training labels are not the true ones."""
        return np.asarray(self.noisy_labels != self.true_labels)


@dataclass(frozen=True)
class Sizes:
    """The number of rows of each kind; `None` means all."""

    train: int | None
    trusted: int
    test: int | None
    test_fraction: float

    def __post_init__(self) -> None:
        checks.count("trusted", self.trusted)
        checks.fraction("test_fraction", self.test_fraction)
        for name, value in (("train", self.train), ("test", self.test)):
            if value is not None:
                checks.count(name, value)


def draw(
    dataset: datasets.Dataset | datasets.TextDataset,
    sizes: Sizes,
    corruption: float,
    noise: str,
    split: str,
    rng: np.random.Generator,
    *,
    standardize: bool = False,
    pool: int = 1,
    vocabulary: int = 0,
    length: int = 0,
) -> tuple[CleaningData, list[str]]:
    """The rows, and the texts of the training rows.

    `standardize` and `pool` are for images; `vocabulary`, the number of tokens, and `length`, the tokens per row, are
    for texts."""
    groups = dataset.groups if isinstance(dataset, datasets.TextDataset) else None
    test, trusted, training = _parts(len(dataset.labels), groups, sizes, split, rng)
    known, texts = None, []
    if isinstance(dataset, datasets.TextDataset):
        texts = [dataset.texts[row] for row in training]
        known = words.vocabulary(texts, vocabulary)
        features = [
            words.encode([dataset.texts[row] for row in rows], known, length) for rows in (training, trusted, test)
        ]
    else:
        features = [pooled(dataset.features[rows], pool) for rows in (training, trusted, test)]
        features = standardized(*features) if standardize else features
    true_labels = dataset.labels[training]
    data = CleaningData(
        features=jnp.asarray(features[0]),
        noisy_labels=jnp.asarray(corrupted(true_labels, dataset.classes, corruption, noise, rng), jnp.int32),
        true_labels=jnp.asarray(true_labels),
        trusted_features=jnp.asarray(features[1]),
        trusted_labels=jnp.asarray(dataset.labels[trusted]),
        test_features=jnp.asarray(features[2]),
        test_labels=jnp.asarray(dataset.labels[test]),
        classes=dataset.classes,
        vocabulary=known,
    )
    return data, texts


def corrupted(
    labels: Int[np.ndarray, " n"], classes: int, corruption: float, noise: str, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """The labels, each redrawn from all classes or changed to another class with the probability `corruption`."""
    chosen = rng.random(len(labels)) < corruption
    if noise == "redrawn":
        return np.where(chosen, rng.integers(classes, size=len(labels)), labels)
    return np.where(chosen, (labels + rng.integers(1, classes, size=len(labels))) % classes, labels)


def pooled(features: Shaped[np.ndarray, "n d"], pool: int) -> Shaped[np.ndarray, "n d//{pool}**2"]:
    """Square images as rows, averaged over squares of `pool`×`pool` pixels."""
    if pool == 1:
        return features
    n, d = features.shape
    side = round(d**0.5)
    if side % pool:
        raise ValueError(f"model_settings: got pool={pool}, which does not divide the images' side of {side} pixels")
    blocks = features.reshape(n, side // pool, pool, side // pool, pool)
    return blocks.mean(axis=(2, 4), dtype=features.dtype).reshape(n, -1)


def standardized(
    training: Shaped[np.ndarray, "n d"], *others: Shaped[np.ndarray, "_ d"]
) -> list[Shaped[np.ndarray, "_ d"]]:
    """All of these rows, with the training rows' means subtracted, divided by their deviations that are not zero."""
    from sklearn.preprocessing import StandardScaler

    scaler: Any = StandardScaler().fit(training)
    return [scaler.transform(rows) for rows in (training, *others)]


def whole_batches(data: CleaningData, size: int) -> CleaningData:
    """The data without the last few training rows if `size` does not divide their number."""
    kept = len(data.features) // size * size or None  # with fewer rows than a batch, the level raises the error
    names = ("features", "noisy_labels", "true_labels")
    return dataclasses.replace(data, **{name: getattr(data, name)[:kept] for name in names})


def _parts(
    n: int, groups: Indices | None, sizes: Sizes, split: str, rng: np.random.Generator
) -> tuple[Indices, Indices, Indices]:
    """Disjoint random rows for the test, the trusted and the training set; no two sets have rows of one group."""
    order = (
        rng.permutation(n) if groups is None else np.argsort(rng.permutation(groups.max() + 1)[groups], kind="stable")
    )
    test, rest = _cut(order, sizes.test_fraction, groups)
    if split == "validation":
        test, rest = _cut(rest, sizes.test_fraction, groups)
    if len(rest) - sizes.trusted < 1:
        raise ValueError(
            f"trusted: got {sizes.trusted}, but only {len(rest)} rows are not test rows; leave some to train on"
        )
    trusted, training = rest[: sizes.trusted], _without(rest[sizes.trusted :], rest[: sizes.trusted], groups)
    for name, size, rows, kind in (
        ("train", sizes.train, training, "neither test nor trusted"),
        ("test", sizes.test, test, "test rows"),
    ):
        if size is not None and size > len(rows):
            raise ValueError(f"{name}: got {size}, but {len(rows)} rows are {kind}; pass at most that")
    if groups is not None:  # so far the rows of one group follow each other
        test, trusted, training = (rng.permutation(rows) for rows in (test, trusted, training))
    return test[: sizes.test], trusted, training[: sizes.train]


def _cut(rows: Indices, share: float, groups: Indices | None) -> tuple[Indices, Indices]:
    """The first `share` of the rows, and those of the rest that belong to other groups."""
    size = round(share * len(rows))
    if not 0 < size < len(rows):
        raise ValueError(f"test_fraction: got {share}, which makes {size} of {len(rows)} rows the test set")
    return rows[:size], _without(rows[size:], rows[:size], groups)


def _without(rows: Indices, taken: Indices, groups: Indices | None) -> Indices:
    return rows if groups is None else rows[groups[rows] != groups[taken[-1]]]  # one group at most was cut in two
