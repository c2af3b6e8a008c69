"""The splits of a table: which rows a model is trained on, and which rows judge it."""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, check_cv

from bilevel import _checks as checks
from bilevel.estimators._common import by_class
from bilevel.estimators._given import one_column


class Splits(NamedTuple):
    """How often split k trains on row i, and how often it holds row i out."""

    trains: Float[np.ndarray, "n k"]
    holds_out: Float[np.ndarray, "n k"]


def check(cv: Any) -> None:
    """A number of folds, a share of the rows, or what scikit-learn takes."""
    if isinstance(cv, float | np.floating):
        if not 0 < cv <= 0.5:
            raise ValueError(f"cv: got {cv}; a share of the rows must be above 0 and at most 0.5")
    elif isinstance(cv, int | np.integer) and not isinstance(cv, bool):
        checks.count("cv", cv, least=2)
    elif cv is not None and (isinstance(cv, str | bool) or not (hasattr(cv, "split") or isinstance(cv, Iterable))):
        raise TypeError(
            f"cv: got {cv!r}; pass a number of folds, a share of the rows such as 0.2, a splitter of scikit-learn such "
            "as GroupKFold(5), or a list of (training rows, held-out rows)"
        )


def draw(
    cv: Any,
    X: Any,
    y: Any,
    groups: Any,
    kept: Bool[np.ndarray, " n"],
    labels: Int[np.ndarray, " m"] | None,
    rng: np.random.RandomState,
) -> Splits:
    """The splits of the kept rows. `labels`: their classes. A splitter and a list of splits see and number all rows."""
    cv = 5 if cv is None else cv
    if groups is not None:
        groups = one_column("groups", groups, X.shape[0], what="group")
    if isinstance(cv, int | np.integer | float | np.floating):
        splits = _own(cv, int(kept.sum()), None if groups is None else groups[kept], labels, rng)
    else:
        splits = _theirs(check_cv(cv, y, classifier=labels is not None), X, y, groups)
        splits = Splits(splits.trains[kept], splits.holds_out[kept])
    if not splits.holds_out.any():
        few = "" if labels is None else " of classes with two rows or more"
        raise ValueError(f"cv: got {cv}, which holds out none of the {kept.sum()} rows{few}; pass more rows")
    return splits


def _own(
    cv: Any, rows: int, groups: np.ndarray | None, labels: np.ndarray | None, rng: np.random.RandomState
) -> Splits:
    is_share = isinstance(cv, float | np.floating)
    unit = "rows" if groups is None else "groups"
    most = rows if groups is None else len(np.unique(groups))
    if not is_share and cv > most:
        raise ValueError(f"cv: got {cv} folds for {most} {unit}; pass fewer folds or more {unit}")
    if groups is None:
        folds = draw_folds(rows, cv, rng, labels)
    elif is_share:
        folds = np.full(rows, -1)
        folds[next(GroupShuffleSplit(1, test_size=cv, random_state=rng).split(folds, groups=groups))[1]] = 0
    else:
        folds = group_folds(np.zeros(rows, int) if labels is None else labels, groups, int(cv), rng)
    holds_out = folds[:, None] == np.arange(1 if is_share else cv)[None, :]
    return Splits((~holds_out).astype(float), holds_out.astype(float))


def _theirs(splitter: Any, X: Any, y: Any, groups: Any) -> Splits:
    rows, columns = X.shape[0], []
    for number, pair in enumerate(splitter.split(X, y, groups)):
        try:
            trains, holds_out = (_counts(indices, rows) for indices in pair)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"cv: split {number} is no pair of training rows and held-out rows among {rows} rows ({error})"
            ) from None
        both = np.flatnonzero((trains > 0) & (holds_out > 0))
        if len(both):
            raise ValueError(
                f"cv: split {number} trains on row {both[0]} and holds it out; pass splits whose parts do not overlap"
            )
        columns.append((trains, holds_out))
    if not columns:
        raise ValueError("cv: got no split; pass a list of (training rows, held-out rows)")
    return Splits(*(np.stack(part, axis=1) for part in zip(*columns, strict=True)))


def _counts(indices: Any, rows: int) -> Float[np.ndarray, " n"]:
    """How often each row is there, by indices or by a mask."""
    return np.bincount(np.arange(rows)[np.asarray(indices)], minlength=rows).astype(float)


def check_classes(splits: Splits, labels: Int[np.ndarray, " n"], classes: np.ndarray) -> None:
    """Each split trains on all classes: a model that has never seen a class cannot be judged by its rows."""
    for number, trains in enumerate(splits.trains.T):
        missing = np.setdiff1d(np.arange(len(classes)), labels[trains > 0])
        if len(missing):
            raise ValueError(
                f"cv: split {number} trains on no row of class {classes[missing[0]]!r}; pass splits that train on all "
                "classes, such as those of StratifiedKFold"
            )


def group_folds(
    labels: Int[np.ndarray, " n"], groups: np.ndarray, count: int, rng: np.random.RandomState
) -> Int[np.ndarray, " n"]:
    """The fold of each row: rows of a group stay together, and classes are spread as evenly as that allows."""
    folds = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        split = StratifiedGroupKFold(count, shuffle=True, random_state=rng).split(labels, labels, groups)
        for number, (_, rows) in enumerate(split):
            folds[rows] = number
    return folds


def draw_parts(
    labels: Int[np.ndarray, " n"], groups: Any, count: int, rng: np.random.RandomState
) -> list[Int[np.ndarray, " _"]]:
    """The rows of each of at most `count` folds, in random order, with each class spread evenly."""
    rows = len(labels)
    order = rng.permutation(rows)
    if groups is None:
        count, fold = min(count, rows), np.empty(rows, int)
        fold[by_class(order, labels)] = np.arange(rows) % count
    else:
        count = min(count, len(np.unique(groups)))
        if count < 2:
            raise ValueError("groups: got one group; the rows of a group stay in one fold, and two are needed")
        fold = group_folds(labels, groups, count, rng)
    parts = [order[fold[order] == number] for number in range(count)]
    return [part for part in parts if len(part)]


def rare_classes(labels: Int[np.ndarray, " n"], folds: list[np.ndarray]) -> Int[np.ndarray, " rare"]:
    """The classes that cannot be judged by the other folds of each row.

    Outside some fold that holds a row of the class there are fewer than two; or it has fewer than two rows per fold,
    and less than half an equal share of the rows.
    """
    counts = np.bincount(labels)
    inside = np.stack([np.bincount(labels[fold], minlength=len(counts)) for fold in folds])
    seen = np.where(inside > 0, counts - inside, len(labels)).min(axis=0)
    few = (counts < 2 * len(folds)) & (counts < len(labels) / (2 * len(counts)))
    rare = np.flatnonzero((seen < 2) | few)
    if len(rare) == len(counts):
        raise ValueError(
            "y: each class has too few rows outside a fold to be judged by each other; pass X_trusted and y_trusted, "
            "more rows, or other groups"
        )
    return rare


def draw_folds(
    rows: int, cv: Any, rng: np.random.RandomState, labels: Int[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"]:
    """The fold that holds each row out: 0, …, cv − 1. For a float cv: 0 for this share of rows, else −1.

    With `labels`, each class is spread evenly, and none is held out whole: a class of one row is always trained on.
    """
    order = rng.permutation(rows)
    if labels is not None:
        order = by_class(order, labels)
    place, folds = np.arange(rows), np.empty(rows, int)
    if isinstance(cv, int | np.integer):
        folds[order] = place % cv
    else:
        folds[order] = np.where(np.floor((place + 1) * cv) > np.floor(place * cv), 0, -1)
    if labels is not None:
        folds[np.bincount(labels)[labels] == 1] = -1
    return folds
