"""The columns that speak for a proposed label and against the given one."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bilevel.columns.encoding import Encoder

_ROWS = 3_000  # drawn for the model
_MOST = 3  # columns of a row
_LEAST = 0.1  # of the log-odds that the columns add: fewer are not said
_WORDS = 3  # of a text


class Reason(NamedTuple):
    """A column that speaks for the proposed label: what it adds to the log-odds; the words of a text that add most."""

    column: str
    amount: float
    words: tuple[str, ...] = ()


def reasons(
    features: Any,
    encoder: Encoder,
    weights: Float[np.ndarray, " n"],
    given: Int[np.ndarray, " n"],
    proposed: Int[np.ndarray, " n"],
    rows: Sequence[int],
    seed: int,
) -> Mapping[int, list[Reason]]:
    """For each of the rows whose proposed label p differs from the given label g, up to three columns that speak for p.

    A multinomial logistic regression is fitted to the given labels with their weights, on rows drawn at random. Feature
    j of row i adds (W_pj − W_gj)(z_ij − mean_j) to the log-odds of p against g, compared with an average row. A column
    adds the sum over its features. Where all columns together speak for the given label, this model does not see what
    the proposal rests on, and gives no reason.
    """
    asked = np.array([row for row in rows if given[row] >= 0 and proposed[row] != given[row]], int)
    counted = np.flatnonzero((given >= 0) & (np.nan_to_num(weights) > 0))
    drawn = np.sort(np.random.default_rng(seed).permutation(counted)[:_ROWS])
    if not len(asked) or len(np.unique(given[drawn])) < 2:
        return {}
    table = features[drawn]
    coefficients = _coefficients(table, given[drawn], weights[drawn])
    mean = np.asarray(table.mean(0)).ravel()
    owners, words, found = encoder.owners, encoder.words, {}
    for row in asked.tolist():
        ours, theirs = int(given[row]), int(proposed[row])
        if ours not in coefficients or theirs not in coefficients:
            continue
        difference = coefficients[theirs] - coefficients[ours]
        cells = features[[row]]
        cells = np.asarray(cells.toarray() if hasattr(cells, "toarray") else cells).ravel()
        parts = difference * (cells - mean)
        amounts = np.bincount(owners, parts, len(encoder.columns))
        if amounts.sum() <= 0:
            continue
        best = [i for i in np.argsort(-amounts)[:_MOST] if amounts[i] > _LEAST * np.abs(amounts).sum()]
        names = [encoder.columns[i].name for i in best]
        told = [_told(parts, cells, owners == i, words) for i in best]
        found[row] = [Reason(*one) for one in zip(names, amounts[best].tolist(), told, strict=True)]
    return found


def _coefficients(
    table: Any, labels: Int[np.ndarray, " m"], weights: Float[np.ndarray, " m"]
) -> dict[int, Float[np.ndarray, " d"]]:
    """W_k for each class k."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rough model says the same
        model = LogisticRegression(max_iter=100, tol=1e-3).fit(table, labels, weights)
    rows = model.coef_ if len(model.classes_) > 2 else np.concatenate([-model.coef_, model.coef_]) / 2
    return dict(zip(model.classes_.tolist(), rows, strict=True))


def _told(parts: Any, cells: Any, own: Any, words: list[str]) -> tuple[str, ...]:
    """The words of a text that speak most for the proposed label."""
    there = np.flatnonzero(own & (cells != 0) & (parts > 0))
    best = there[np.argsort(-parts[there])[:_WORDS]]
    return tuple(words[i] for i in best if words[i])
