"""Reference rows for `cleaning`: the scores of plain training, and of training with known wrong labels."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from bilevel.compare import settings

CEILING = "true labels (ceiling)"
ATTAINABLE = ("noisy labels", "noisy + trusted", "trusted alone")


def references(task_name: str, task: Any, strengths: Mapping[str, float] | None = None) -> dict[str, float]:
    """The score of each reference row on one drawn task; none for a task without such rows, or on texts.

    Each is a multinomial logistic regression: on the noisy labels, on noisy and trusted rows together, on the
    trusted rows alone, and (an unattainable ceiling) on the training rows whose labels are right.
    `strengths` are scikit-learn's C, by default those found by `benchmarks/tune.py`.
    """
    if getattr(task.data, "vocabulary", None) is not None:
        return {}  # tokens are not features for a linear model
    known = settings.REFERENCES.get(task_name, {})
    strengths = known if strengths is None else strengths
    return {name: fit(*training_rows(task, name), C, task) for name, C in strengths.items()}


def training_rows(task: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The features and labels that a reference row trains on."""
    data = task.data
    noisy = np.asarray(data.features), np.asarray(data.noisy_labels)
    trusted = np.asarray(data.trusted_features), np.asarray(data.trusted_labels)
    if name == "noisy labels":
        return noisy
    if name == "trusted alone":
        return trusted
    if name == "noisy + trusted":
        return np.concatenate([noisy[0], trusted[0]]), np.concatenate([noisy[1], trusted[1]])
    if name == CEILING:
        return noisy[0][~data.wrong], noisy[1][~data.wrong]
    raise ValueError(f"reference: {name!r} is unknown; known are {', '.join([*ATTAINABLE, CEILING])}")


def fit(features: np.ndarray, labels: np.ndarray, C: float, task: Any) -> float:
    """Test accuracy of a logistic regression."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at large C, the last digits change no prediction
        model = LogisticRegression(C=C, max_iter=1000).fit(features.astype(float), labels)
    return float(model.score(np.asarray(task.data.test_features, dtype=float), np.asarray(task.data.test_labels)))
