"""From probabilities to flags: which labels are wrong with a stated probability, and how many are wrong in all."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp

_TINY = 1e-12
_PASSES = 30  # of each expectation-maximization
_PRIOR = 10.0  # rows that the pooled error rate counts for, in each class's row of the channel
_DEVIATIONS = 1.645  # of a normal distribution: 90 % lie within
_POWERS = (1.0, 1.5, 2.0, 3.0, 5.0)  # of the trusted confusion
_DOUBT = 2.0  # the log-likelihood that a trusted confusion must gain
_FLOOR = 1e-3  # of the probability of a trusted class, so that single rows do not decide
_MOST_UNSURE = 4.0  # the largest temperature, and one over the smallest


class WrongLabels(NamedTuple):
    """The estimated share of wrong labels, with a 90 % interval, of all rows and of the rows of each given label."""

    share: float
    low: float
    high: float
    classes: np.ndarray

    def __str__(self) -> str:
        lines = [f"wrong labels: {self.share:.1%} ({self.low:.1%} to {self.high:.1%})"]
        lines += [
            f"  {row['label']}: {row['share']:.1%} of {row['rows']:,} ({row['low']:.1%} to {row['high']:.1%})"
            for row in self.classes
        ]
        return "\n".join(lines)


class Beliefs(NamedTuple):
    """For each row: P(the given label is right), the most probable other class, and its share of P(wrong)."""

    right: Float[np.ndarray, " n"]
    other: Int[np.ndarray, " n"]
    other_share: Float[np.ndarray, " n"]


def beliefs(
    log_p: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    trusted: tuple[Float[np.ndarray, "m k"], Int[np.ndarray, " m"], Float[np.ndarray, "k k"]] | None = None,
    said: Float[np.ndarray, "n k"] | None = None,
) -> Beliefs:
    """P(true class | features, given label) by Bayes' rule.

    `log_p` is log P(given label | features), by models that have not seen the row, for a temperature. The channel
    P(given | true) is counted among the rows that the models are surest of, and the probabilities are divided by it.
    `trusted` holds log P(given label | features) and the classes of trusted rows, and the confusion on them. Averages
    over these rows blur the channel, as the model is unsure, so its powers are tried, too. The channel is taken that
    explains the trusted classes best. `said` is P(a crowd's answers | true class): the label is then theirs.
    """
    temperature = _temperature(log_p, labels)
    p = _softmax(log_p / temperature)
    channel = _counted(p, labels)
    if trusted is not None:
        log_q, classes, confusion = trusted
        q = _softmax(log_q / temperature)
        tried = [channel] + [_shrunk(_power(confusion, by) * _count(classes, p), labels) for by in _POWERS]
        losses = [-np.log(_divided(q, one)[np.arange(len(q)), classes] + _FLOOR).sum() for one in tried]
        losses[0] -= _DOUBT
        channel = tried[int(np.argmin(losses))]
    joint = _divided(p, channel) * (channel.T[labels] if said is None else said) + _TINY
    joint /= joint.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    right = joint[rows, labels].copy()
    joint[rows, labels] = -1.0
    other = joint.argmax(axis=1)
    return Beliefs(right, other, joint[rows, other] / np.maximum(1 - right, _TINY))


def _softmax(scores: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    return np.exp(scores - logsumexp(scores, axis=1, keepdims=True))


def _power(channel: Float[np.ndarray, "k k"], by: float) -> Float[np.ndarray, "k k"]:
    return channel**by / (channel**by).sum(axis=1, keepdims=True)


def _count(classes: Int[np.ndarray, " m"], p: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "k 1"]:
    """Rows that the trusted confusion counts for: ten for each trusted row, as it comes from probabilities."""
    return 10.0 * np.bincount(classes, minlength=p.shape[1])[:, None]


def weights(score: Float[np.ndarray, " n"], right: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """σ(a · score + b), nearest in cross-entropy to P(right): a probability in the score's order (a > 0)."""

    def loss(found: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(found[0])
        z = slope * score + found[1]
        error = (expit(z) - right) / len(score)
        return float(np.mean(np.logaddexp(0, z) - right * z)), np.array([slope * (error @ score), error.sum()])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=((-4, 4), (-20, 20))).x
    return expit(np.exp(found[0]) * score + found[1])


def flagged(
    weight: Float[np.ndarray, " n"], found: Beliefs, order: Int[np.ndarray, " n"], precision: float
) -> Bool[np.ndarray, " n"]:
    """The most rows in this order whose proposed labels are right with this mean probability, each one likely so.

    Both the weight and Bayes' rule must doubt a label.
    """
    right = np.maximum(weight, found.right)
    proposal = (1 - right) * found.other_share
    candidates = order[proposal[order] > 0.5]
    mean = np.cumsum(proposal[candidates]) / np.arange(1, len(candidates) + 1)
    enough = np.flatnonzero(mean >= precision)
    flags = np.zeros(len(weight), bool)
    flags[candidates[: enough[-1] + 1 if len(enough) else 0]] = True
    return flags


def wrong_labels(
    weight: Float[np.ndarray, " n"],
    right: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    folds: list[Int[np.ndarray, " _"]],
    classes: np.ndarray,
) -> WrongLabels:
    """The mean of P(wrong). Its variance has that of single labels, that between folds, and what the two ways to
    reckon P(wrong), by the weights and by Bayes' rule, disagree."""
    fold = np.empty(len(labels), int)
    for number, rows in enumerate(folds):
        fold[rows] = number

    def share(rows: np.ndarray) -> tuple[float, float, float]:
        wrong = 1 - right[rows]
        mean = wrong.mean()
        means = np.array([wrong[fold[rows] == number].mean() for number in np.unique(fold[rows])])
        between = means.var(ddof=1) / len(means) if len(means) > 1 else 0.0
        single = (wrong * (1 - wrong)).sum() + 0.25  # of one more row, which nothing is known of
        deviation = np.sqrt(single / len(rows) ** 2 + between + (mean - (1 - weight[rows]).mean()) ** 2)
        reach = _DEVIATIONS * deviation
        return float(mean), float(max(0.0, mean - reach)), float(min(1.0, mean + reach))

    table = np.empty(
        len(classes),
        [("label", classes.dtype), ("rows", np.int64), ("share", float), ("low", float), ("high", float)],
    )
    for code, name in enumerate(classes):
        rows = np.flatnonzero(labels == code)
        table[code] = (name, len(rows), *share(rows))
    return WrongLabels(*share(np.arange(len(labels))), table)


def _temperature(log_p: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature whose softmax(log p / temperature) explains the given labels best."""
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = log_p * np.exp(-log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[rows, labels]).mean())

    limit = np.log(_MOST_UNSURE)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))


def _counted(p: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "k k"]:
    """P(given | true), of the surer half of the rows that are predicted as each class; few rows are shrunk."""
    k = p.shape[1]
    predicted, counts = p.argmax(axis=1), np.zeros((k, k))
    for code in range(k):
        rows = np.flatnonzero(predicted == code)
        if len(rows):
            surest = rows[p[rows, code] >= np.median(p[rows, code])]
            counts[code] = np.bincount(labels[surest], minlength=k)
    return _shrunk(counts, labels)


def _shrunk(counts: Float[np.ndarray, "k k"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "k k"]:
    """The rows of counts as probabilities, drawn to the pooled error rate, so that rare classes are not swallowed."""
    k = len(counts)
    error = (counts.sum() - np.trace(counts) + 0.5) / (counts.sum() + 1)
    share = np.tile((np.bincount(labels, minlength=k) + 1.0)[None, :], (k, 1))
    np.fill_diagonal(share, 0)
    prior = error * share / share.sum(axis=1, keepdims=True) + (1 - error) * np.eye(k)
    found = counts + _PRIOR * prior
    return found / found.sum(axis=1, keepdims=True)


def _divided(p: Float[np.ndarray, "n k"], channel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "n k"]:
    """P(true | features) from P(given | features): q with q · channel ≈ p, by expectation-maximization."""
    q = p + _TINY
    for _ in range(_PASSES):
        q = q * ((p / (q @ channel + _TINY)) @ channel.T)
        q /= q.sum(axis=1, keepdims=True)
    return q
