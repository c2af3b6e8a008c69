"""From probabilities to flags: which labels are wrong with a stated probability, and how many are wrong in all."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp, softmax

_TINY = 1e-12
_PASSES = 30  # of each expectation-maximization
_PRIOR = 10.0  # rows that the pooled error rate counts for, in each class's row of a channel
_DEVIATIONS = 1.645  # of a normal distribution: 90 % lie within
_SUREST, _SURER, _LEAST = 0.1, 0.5, 20  # shares of the rows predicted as a class, and the least number of them
_POWERS = (1.0, 1.5, 2.0, 3.0, 5.0)  # of the trusted confusion
_GAIN = 4.0, 0.02  # the log-likelihood that another channel must gain: at least, and per trusted row
_FLOOR = 1e-3  # of the probability of a trusted class, so that single rows do not decide
_MOST_UNSURE = 4.0  # the largest temperature, and one over the smallest
_CHANCE = 3.0  # deviations above chance that predictions, or the surest of them, must be right
_STRONG, _WEAK = 0.95, 0.8  # how sure of itself a model must be to be believed, wholly and at all
_SELECTION = 0.1  # part of an estimated share that is missing, as the surest rows have fewer wrong labels than others


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
    """For each row: P(the given label is right), the most probable other class, and its share of P(wrong).

    `wrong` has P(wrong) by each channel that is plausible, a row per channel. `strength` is about the accuracy that the
    models would have on right labels; zero, if they predict no better than chance.
    """

    right: Float[np.ndarray, " n"]
    other: Int[np.ndarray, " n"]
    other_share: Float[np.ndarray, " n"]
    wrong: Float[np.ndarray, "c n"]
    strength: float

    @property
    def credible(self) -> float:
        """From 0, where the models cannot tell their own errors from wrong labels, to 1."""
        return float(np.clip((self.strength - _WEAK) / (_STRONG - _WEAK), 0, 1))


class Channels(NamedTuple):
    """P(given label | features), and the channels P(given | true) that are plausible; the last is the one to use."""

    p: Float[np.ndarray, "n k"]
    plausible: list[Float[np.ndarray, "k k"]]
    strength: float


def channels(
    log_p: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    trusted: tuple[Float[np.ndarray, "m k"], Int[np.ndarray, " m"]] | None = None,
) -> Channels:
    """P(given label | true class), by counting and, with trusted rows, by how well they are explained.

    `log_p` is log P(given label | features), by models that have not seen the row, for a temperature. Where the models
    are surest, a label that differs is taken as wrong: the channel is counted among the surest tenth of the rows that
    are predicted as each class and, as a bound, among the surer half. `trusted` holds log P(given label | features) and
    the classes of trusted rows. Their mean per class is the confusion, blurred where the models are unsure, so its
    powers are tried. Another channel than the first is taken if it explains the trusted classes much better.
    """
    temperature = _temperature(log_p, labels)
    p = softmax(log_p / temperature, axis=1)
    surest = _counted(p, labels, _SUREST)
    telling = np.trace(surest) and (_telling(surest, labels) or _telling(_counted(p, labels, 1.0), labels))
    strength = np.mean(p.argmax(axis=1) == labels) / (np.trace(surest) / surest.sum()) if telling else 0.0
    plausible = [_shrunk(_counted(p, labels, _SURER), labels), _shrunk(surest, labels)]
    if trusted is None:
        return Channels(p, plausible, float(strength))
    q, classes = softmax(trusted[0] / temperature, axis=1), trusted[1]
    rows = 10.0 * np.bincount(classes, minlength=p.shape[1])[:, None]  # ten for each, as these are probabilities
    confusion = (np.eye(p.shape[1])[classes].T @ q) / (rows / 10)
    powers = (confusion**by for by in _POWERS)
    tried = [*plausible, *(_shrunk(rows * one / one.sum(axis=1, keepdims=True), labels) for one in powers)]
    losses = np.array([-np.log(_divided(q, one)[np.arange(len(q)), classes] + _FLOOR).sum() for one in tried])
    losses[1] -= max(_GAIN[0], _GAIN[1] * len(q))
    best = int(np.argmin(losses))
    plausible = plausible if best == 1 else plausible[::-1] if best == 0 else [*plausible, tried[best]]
    return Channels(p, plausible, float(strength))


def beliefs(found: Channels, labels: Int[np.ndarray, " n"], said: Float[np.ndarray, "n k"] | None = None) -> Beliefs:
    """P(true class | features, given label) by Bayes' rule.

    `said` is P(a crowd's answers | true class): the label is then theirs, and they are believed.
    """

    def posterior(channel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "n k"]:
        joint = _divided(found.p, channel) * (channel.T[labels] if said is None else said) + _TINY
        return joint / joint.sum(axis=1, keepdims=True)

    rows, posteriors = np.arange(len(labels)), [posterior(channel) for channel in found.plausible]
    wrong, joint = [1 - one[rows, labels] for one in posteriors], posteriors[-1]
    right = joint[rows, labels].copy()
    joint[rows, labels] = -1.0
    other = joint.argmax(axis=1)
    share = joint[rows, other] / np.maximum(1 - right, _TINY)
    return Beliefs(right, other, share, np.stack(wrong), found.strength if said is None else 1.0)


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

    Both the weight and Bayes' rule must doubt a label. If the models are too weak to be believed, there is none.
    """
    right = np.maximum(weight, found.right)
    proposal = (1 - right) * found.other_share
    candidates = order[proposal[order] > 0.5]
    mean = np.cumsum(proposal[candidates]) / np.arange(1, len(candidates) + 1)
    enough = np.flatnonzero(mean >= precision) if found.credible else []
    flags = np.zeros(len(weight), bool)
    flags[candidates[: enough[-1] + 1 if len(enough) else 0]] = True
    return flags


def wrong_labels(found: Beliefs, labels: Int[np.ndarray, " n"], classes: np.ndarray) -> WrongLabels:
    """The mean of P(wrong) over the plausible channels. The interval spans them and the sampling error.

    The less the models can be believed, the nearer its lower end is to zero: the labels that they take for wrong may be
    their own errors. Above, it is wider by a tenth, as the surest rows have fewer wrong labels than the others.
    """

    def share(rows: np.ndarray) -> tuple[float, float, float]:
        means = found.wrong[:, rows].mean(axis=1)
        mean, n = float(means.mean()), len(rows)
        reach = _DEVIATIONS * np.sqrt(max(mean * (1 - mean), 0.25 / n) / n)
        low = found.credible * max(0.0, means.min() - reach)
        return mean, float(low), float(min(1.0, (1 + _SELECTION) * means.max() + reach))

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
    found: Any = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(found.x))


def _counted(p: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], share: float) -> Float[np.ndarray, "k k"]:
    """How often each label is given, among the rows predicted as each class that are surest to be of it."""
    k = p.shape[1]
    predicted, counts = p.argmax(axis=1), np.zeros((k, k))
    for code in range(k):
        rows = np.flatnonzero(predicted == code)
        surest = rows[np.argsort(-p[rows, code], kind="stable")[: max(_LEAST, math.ceil(share * len(rows)))]]
        counts[code] = np.bincount(labels[surest], minlength=k)
    return counts


def _telling(counts: Float[np.ndarray, "k k"], labels: Int[np.ndarray, " n"]) -> bool:
    """Whether the rows that were counted as each class have its label more often than by chance."""
    share = np.bincount(labels, minlength=len(counts)) / len(labels)
    rows = counts.sum(axis=1)
    return bool(np.trace(counts) - rows @ share > _CHANCE * np.sqrt(rows @ (share * (1 - share))))


def _shrunk(counts: Float[np.ndarray, "k k"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "k k"]:
    """The rows of counts as probabilities, drawn to the pooled error rate, so that rare classes are not swallowed."""
    k = len(counts)
    error = (counts.sum() - np.trace(counts)) / (counts.sum() + 1)
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
