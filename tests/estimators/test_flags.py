"""From probabilities to flags, where the true probabilities are known."""

import numpy as np
import pytest

from bilevel.estimators import _flags as flags

CLASSES = np.array(["a", "b", "c"])


def drawn(n, channel, certain=0.97, seed=0, shares=(1 / 3, 1 / 3, 1 / 3)):
    """True classes, given labels and log P(given | features), where features leave P(true) at `certain` or lower."""
    rng = np.random.default_rng(seed)
    k = len(channel)
    sure = certain - (certain - 0.5) * rng.random(n) ** 4
    q = np.full((n, k), 0.0) + ((1 - sure) / (k - 1))[:, None]
    q[np.arange(n), rng.choice(k, n, p=shares)] = sure
    right = (q.cumsum(axis=1) > rng.random(n)[:, None]).argmax(axis=1)
    given = (channel[right].cumsum(axis=1) > rng.random(n)[:, None]).argmax(axis=1)
    return right, given, np.log(q @ channel), q


def mixed(noise, k=3):
    return (1 - noise) * np.eye(k) + noise / k


def found(log_p, given, trusted=None):
    return flags.beliefs(flags.channels(log_p, given, trusted), given)


def flag(beliefs, precision=0.8):
    score = np.log(beliefs.right + 1e-9) - np.log(1 - beliefs.right + 1e-9)
    order = np.argsort(score, kind="stable")
    return flags.flagged(flags.weights(score, beliefs.right), beliefs, order, precision)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_bayes_rule_is_that_of_the_true_channel(noise):
    """The counted channel is near the true one, and so is P(right)."""
    channel = mixed(noise)
    right, given, log_p, q = drawn(20_000, channel, certain=0.999)
    beliefs = found(log_p, given)
    joint = q * channel.T[given]
    exact = joint[np.arange(len(given)), given] / joint.sum(axis=1)
    assert np.abs(beliefs.right - exact).mean() < 0.03
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):  # calibrated
        rows = (beliefs.right >= low) & (beliefs.right < high)
        assert abs(beliefs.right[rows].mean() - (right == given)[rows].mean()) < 0.12


@pytest.mark.parametrize("precision", [0.7, 0.9])
def test_flags_are_as_right_as_is_asked_and_the_interval_holds_the_truth(precision):
    right, given, log_p, _ = drawn(6000, mixed(0.3), certain=0.999, seed=1)
    beliefs = found(log_p, given)
    flagged = flag(beliefs, precision)
    assert flagged.sum() > 100 and (beliefs.other == right)[flagged].mean() > precision - 0.03
    estimate, wrong = flags.wrong_labels(beliefs, given, CLASSES), right != given
    assert estimate.low < wrong.mean() < estimate.high < wrong.mean() + 0.1
    for code, row in enumerate(estimate.classes):
        assert row["label"] == CLASSES[code] and row["rows"] == (given == code).sum()
        assert row["low"] < wrong[given == code].mean() < row["high"]
    assert str(estimate).startswith(f"wrong labels: {estimate.share:.1%} (")


def test_right_labels_are_not_flagged():
    for seed in range(5):
        _, given, log_p, _ = drawn(1000, np.eye(3), certain=0.9999, seed=seed)
        assert not flag(found(log_p, given)).any()


def test_a_temperature_makes_up_for_a_model_that_is_too_sure():
    right, given, log_p, _ = drawn(6000, mixed(0.3), certain=0.999, seed=1)
    flagged = flag(found(4 * log_p, given))
    assert flagged.sum() > 100 and (right != given)[flagged].mean() > 0.8


def test_a_rare_class_is_not_swallowed():
    """A class with 2 % of the rows, whose labels are right as often as those of the others."""
    right, given, log_p, _ = drawn(4000, mixed(0.1), certain=0.99, shares=(0.6, 0.38, 0.02))
    beliefs = found(log_p, given)
    rare, flagged = given == 2, flag(beliefs)
    accepted = np.where(flagged, beliefs.other, given)
    assert flagged[rare & (right != given)].mean() > 0.3 and (accepted == right)[rare & flagged].mean() > 0.8
    assert (accepted == right)[rare].mean() > (given == right)[rare].mean() + 0.1


def test_trusted_rows_show_that_most_labels_of_a_class_moved():
    """Without trusted rows the right labels look wrong."""
    channel = np.array([[0.3, 0.7, 0.0], [0.0, 0.3, 0.7], [0.7, 0.0, 0.3]])
    right, given, log_p, _ = drawn(3000, channel, certain=0.999)
    trusted = log_p[:100], right[:100]
    wrong = (right != given)[100:]
    for told, better in ((None, False), (trusted, True)):
        beliefs = found(log_p[100:], given[100:], told)
        assert (beliefs.right[~wrong].mean() > beliefs.right[wrong].mean()) == better
    flagged = flag(beliefs)
    assert flagged.sum() > 500 and (beliefs.other == right[100:])[flagged].mean() > 0.8


def test_weak_models_flag_nothing_and_the_interval_begins_at_zero():
    """Where the features say little but for few rows, labels that differ may be the models' errors."""
    rng = np.random.default_rng(0)
    n, sure = 3000, np.where(rng.random(3000) < 0.15, 0.97, 0.4)
    q = np.full((n, 3), 0.0) + ((1 - sure) / 2)[:, None]
    q[np.arange(n), rng.integers(3, size=n)] = sure
    right = (q.cumsum(axis=1) > rng.random(n)[:, None]).argmax(axis=1)
    given = np.where(rng.random(n) < 0.1, rng.integers(3, size=n), right)
    beliefs = found(np.log(q @ mixed(0.1)), given)
    assert beliefs.credible == 0 and not flag(beliefs).any()
    estimate = flags.wrong_labels(beliefs, given, CLASSES)
    assert estimate.low == 0 < (right != given).mean() < estimate.high


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.9, 0.07, 0.03)])
@pytest.mark.parametrize("seed", range(3))
def test_models_that_know_nothing_are_not_believed(shares, seed):
    """The surest are then as often right as the others, by chance."""
    rng = np.random.default_rng(seed)
    given = rng.choice(3, 2000, p=shares)
    log_p = np.log(rng.dirichlet(20 * np.array(shares), 2000))
    beliefs = found(log_p, given)
    assert beliefs.strength == 0 and not flag(beliefs, 0.6).any()
    assert flags.wrong_labels(beliefs, given, CLASSES).low == 0


def test_the_weights_keep_the_order_of_the_score():
    rng = np.random.default_rng(0)
    score = rng.normal(size=200)
    for right in (rng.random(200), np.ones(200), np.zeros(200)):
        weights = flags.weights(score, right)
        assert (np.diff(weights[np.argsort(score)]) >= 0).all() and abs(weights.mean() - right.mean()) < 0.02
