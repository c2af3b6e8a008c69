"""Whether a table and its trusted rows can be what they are called: each check finds input that is wrong and runs."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

from bilevel.clean.labels import Found
from bilevel.columns.kinds import LEAST_ROWS, Column, listed

_CHECKED_ROWS = 2_000  # drawn for the models of the checks
_TELLS = 0.98  # F1 of a class from which on a column gives it away
_ENOUGH = 10  # rows of a class that can be given away
_MOST_COLUMNS = 10  # that give the label away
_CHUNK = 10_000


def of_labels(labels: Found) -> list[str]:
    """Notes on rows without a label, on classes with several spellings, and on small classes."""
    notes = []
    if labels.missing:
        words = [word for word in labels.missing if word]
        how = f", {sum(labels.missing[word] for word in words):,} of them written as {listed(words)}" if words else ""
        notes.append(
            f"{labels.missing.total():,} of {len(labels.codes):,} rows have no label{how}. They were left out, and got "
            "a proposed label without a weight."
        )
    for same in labels.same()[:5]:
        notes.append(
            f"The labels {listed(same)} were taken as one class. If they are not, write them so that they differ in "
            "more than case, spaces or the form of a number."
        )
    counts = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.classes))
    small = [labels.classes[code] for code in np.flatnonzero(counts < LEAST_ROWS)]
    if small:
        notes.append(
            f"{len(small):,} of {len(counts):,} labels have fewer than {LEAST_ROWS} rows: {listed(small)}. So few rows "
            "cannot be judged well. Are some of these labels typing errors?"
        )
    return notes


def giving_away(
    features: Any, codes: Int[np.ndarray, " n"], columns: Sequence[Column], owners: Int[np.ndarray, " d"], seed: int
) -> list[str]:
    """Names of columns that alone tell the given label, or one of the labels: their weights would all be high.

    A decision tree on half of the rows predicts the other half, first from all columns, then from each that it used.
    `owners[j]` is the column of feature j.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(codes))[:_CHECKED_ROWS])
    table, codes = features[rows], codes[rows]
    table = table.tocsc() if hasattr(table, "tocsc") else np.asarray(table)
    half, left, found = rng.random(len(codes)) < 0.5, np.arange(len(owners)), []
    while len(left) and len(found) < _MOST_COLUMNS:
        told, used = _told(table[:, left], codes, half)
        if not told.any():
            break
        new = []
        for owner in dict.fromkeys(owners[left[used]]):
            alone, _ = _told(table[:, owners == owner], codes, half)
            few = columns[owner].kind in ("boolean", "categorical") or _two_values(table[:, owners == owner])
            if (alone.any() and few) or alone.all():
                new.append(owner)
        if not new:
            break
        found += new
        left = left[~np.isin(owners[left], new)]
    return [columns[owner].name for owner in found]


def _two_values(feature: Any) -> bool:
    return feature.shape[1] == 1 and not hasattr(feature, "tocsc") and len(np.unique(feature)) <= 2


def _told(features: Any, codes: Int[np.ndarray, " n"], half: Any) -> tuple[np.ndarray, Int[np.ndarray, " u"]]:
    """For each class with enough rows, whether a tree tells it in rows it has not seen; and the features it used."""
    from sklearn.tree import DecisionTreeClassifier

    predicted, used = np.empty_like(codes), []
    for seen in (half, ~half):
        if seen.all() or not seen.any():
            return np.zeros(1, bool), np.empty(0, int)
        tree = DecisionTreeClassifier(random_state=0).fit(features[seen], codes[seen])
        predicted[~seen] = tree.predict(features[~seen])
        used.append(np.argsort(-tree.feature_importances_)[: np.count_nonzero(tree.feature_importances_)])
    classes, counts = np.unique(codes, return_counts=True)
    classes = classes[counts >= _ENOUGH]
    if not len(classes):
        return np.zeros(1, bool), np.empty(0, int)
    right = [np.sum((predicted == code) & (codes == code)) for code in classes]
    both = [np.sum(predicted == code) + np.sum(codes == code) for code in classes]
    return 2 * np.array(right) / np.array(both) >= _TELLS, np.concatenate(used)[:_MOST_COLUMNS]


def same_rows(features: Any, trusted: Any) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Trusted rows that are rows of the table: their numbers, and those of the rows; none if the table is too coarse.

    Rows are the same if all features are. In a table of a few categories that says nothing: there, rows with equal
    features are frequent.
    """
    table, others = _hashes(features), _hashes(trusted)
    values, first, counts = np.unique(table, return_index=True, return_counts=True)
    repeated = counts[counts > 1].sum() / len(table)
    place = np.minimum(np.searchsorted(values, others), len(values) - 1)
    equal = np.flatnonzero((values[place] == others) & (counts[place] == 1))
    if len(equal) <= 2 * repeated * len(others):  # so many may be equal by chance
        return np.empty(0, int), np.empty(0, int)
    return equal, first[place[equal]]


def _hashes(features: Any) -> UInt64[np.ndarray, " n"]:
    """One number for each row's float32 features, in exact arithmetic."""
    factors = np.random.default_rng(0).integers(1, 2**63, features.shape[1], dtype=np.uint64) | np.uint64(1)
    parts = []
    for start in range(0, features.shape[0], _CHUNK):
        part = features[start : start + _CHUNK]
        if hasattr(part, "indptr"):
            part = part.sorted_indices() if not part.has_sorted_indices else part
            terms = part.data.astype(np.float32).view(np.uint32).astype(np.uint64) * factors[part.indices]
            sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
            parts.append(sums[part.indptr[1:]] - sums[part.indptr[:-1]])
        else:
            bits = np.ascontiguousarray(part, np.float32).view(np.uint32).astype(np.uint64)
            parts.append((bits * factors).sum(axis=1, dtype=np.uint64))
    return np.concatenate(parts)


def of_trusted_labels(
    features: Any, codes: Int[np.ndarray, " n"], trusted: Any, trusted_codes: Int[np.ndarray, " m"], seed: int
) -> str:
    """A note if the trusted labels fit their rows far worse than the labels of the table fit theirs.

    Models of half of the table predict its other half and the trusted rows, a model of half of the trusted rows the
    others. Labels in random order agree with none of these beyond chance.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(codes))[:_CHECKED_ROWS])
    classes = int(max(codes.max(), trusted_codes.max())) + 1
    table = _halves(features[rows], codes[rows], classes, rng)
    own = _halves(trusted, trusted_codes, classes, rng)
    if table is None or own is None:
        return ""
    theirs, models = _agreement(table[0], codes[rows]), table[1]
    judged = np.mean([_probabilities(model, trusted, classes) for model in models], axis=0)
    found, error = _agreement(judged, trusted_codes)
    by_themselves, their_error = _agreement(own[0], trusted_codes)
    # If most labels of the table are wrong, right ones contradict it, but not each other.
    if found + error >= theirs[0] / 2 or by_themselves > their_error:
        return ""
    return (
        "The trusted labels fit the other columns far worse than the labels of the table do: models agree with them by "
        f"{max(found, 0):.2f}, and with the table's by {theirs[0]:.2f} (0: by chance, 1: always). Were they "
        "shuffled, or shifted against their rows? If they are right, their rows are unlike those of the table."
    )


def _halves(features: Any, codes: Int[np.ndarray, " n"], classes: int, rng: np.random.Generator) -> Any:
    """The probabilities of the classes in each half of the rows, by a model of the other half; and the models."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    half = np.arange(len(codes)) % 2 == 0
    half = half[rng.permutation(len(codes))]
    if len(np.unique(codes[half])) < 2 or len(np.unique(codes[~half])) < 2:
        return None
    probabilities, models = np.empty((len(codes), classes)), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for seen in (half, ~half):
            model = LogisticRegression(C=0.1, max_iter=100, class_weight="balanced")
            models.append(model.fit(features[seen], codes[seen]))
            probabilities[~seen] = _probabilities(model, features[~seen], classes)
    return probabilities, models


def _probabilities(model: Any, features: Any, classes: int) -> Float[np.ndarray, "n k"]:
    found = np.zeros((features.shape[0], classes))
    found[:, model.classes_] = model.predict_proba(features)
    return found


def _agreement(probabilities: Float[np.ndarray, "n k"], codes: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """The mean probability of the labels beyond that of the same labels in random order, as a share; and two errors."""
    shares = np.bincount(codes, minlength=probabilities.shape[1]) / len(codes)
    beyond = probabilities[np.arange(len(codes)), codes] - probabilities @ shares
    room = max(1 - float(np.mean(probabilities @ shares)), 1e-6)
    return float(np.mean(beyond)) / room, 2 * float(np.std(beyond)) / len(codes) ** 0.5 / room
