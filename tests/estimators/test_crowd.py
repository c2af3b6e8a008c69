"""The labels of a crowd, against a transcription of Dawid and Skene's equations."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import roc_auc_score

from bilevel.estimators import LabelCleaner, WeakModelWarning, crowd_labels
from bilevel.estimators._crowd import evidence, joined

N, PEOPLE, K = 60, 7, 3


def transcription(answers, shrinkage):
    """Dawid & Skene (1979), equations 2.3 to 2.5, with loops. `answers` has −1 where there is none."""
    n, people = answers.shape
    T = np.array([[np.mean([a == t for a in row if a >= 0]) for t in range(K)] for row in answers])
    while True:
        said = np.zeros((people, K, K))  # n_p(t, l): how often p said l, by the true class t
        for i in range(n):
            for p in range(people):
                if answers[i, p] >= 0:
                    said[p, :, answers[i, p]] += T[i]
        pooled = said.sum(axis=0) + np.eye(K) + 1 / K
        for t in range(K):
            pooled[t] /= pooled[t].sum()
        pi = np.zeros((people, K, K))
        for p in range(people):
            for t in range(K):
                for answer in range(K):
                    more = shrinkage * pooled[t, answer]
                    pi[p, t, answer] = (said[p, t, answer] + more) / (said[p, t].sum() + shrinkage)  # (2.3)
        rho = T.mean(axis=0)  # (2.4)
        new = np.zeros_like(T)
        for i in range(n):
            for t in range(K):
                new[i, t] = rho[t] * np.prod([pi[p, t, answers[i, p]] for p in range(people) if answers[i, p] >= 0])
            new[i] /= new[i].sum()  # (2.5)
        moved, T = np.abs(new - T).max(), new
        if moved < 1e-6:
            return T, pi


@pytest.fixture(scope="module")
def crowd():
    """The right labels, and those of people of whom the last answers at random; −1 where there is none."""
    rng = np.random.default_rng(0)
    right = rng.integers(K, size=N)
    answers = np.where(rng.random((N, PEOPLE)) < 0.7, right[:, None], rng.integers(K, size=(N, PEOPLE)))
    answers[:, -1] = rng.integers(K, size=N)
    asked = rng.random((N, PEOPLE)) < 0.6
    asked[:, 0] |= ~asked.any(axis=1)
    return right, np.where(asked, answers, -1)


@pytest.mark.parametrize("shrinkage", [0.01, 4.0])
def test_the_equations(crowd, shrinkage):
    found = crowd_labels(np.ma.masked_less(crowd[1], 0), shrinkage=shrinkage)
    T, pi = transcription(crowd[1], shrinkage)
    np.testing.assert_allclose(found.probabilities, T, atol=1e-10)
    np.testing.assert_allclose(found.confusion, pi, atol=1e-10)
    np.testing.assert_array_equal(found.labels, T.argmax(axis=1))
    assert found.classes.tolist() == [0, 1, 2]


def test_a_person_who_answers_at_random_counts_less(crowd):
    right, answers = crowd
    found = crowd_labels(np.ma.masked_less(answers, 0))
    votes = np.stack([(answers == t).sum(axis=1) for t in range(K)], axis=1)
    assert (found.labels == right).mean() > (votes.argmax(axis=1) == right).mean()
    correct = found.confusion[:, range(K), range(K)].mean(axis=1)
    assert correct.argmin() == PEOPLE - 1


def test_a_person_of_few_answers_is_drawn_toward_all(crowd):
    answers = crowd[1].copy()
    answers[1:, 0] = -1  # the first person has answered once
    answers[0, 0] = 0
    masked = np.ma.masked_less(answers[(answers >= 0).any(axis=1)], 0)
    pooled = crowd_labels(masked, shrinkage=1e6).confusion[0]
    few = [np.abs(crowd_labels(masked, shrinkage=s).confusion[0] - pooled).max() for s in (0.01, 4.0)]
    assert few[0] > 3 * few[1]


@pytest.mark.parametrize(
    "form",
    [
        lambda a: np.ma.masked_less(a, 0),
        lambda a: np.where(a < 0, np.nan, a),
        lambda a: np.where(a < 0, None, a),
        lambda a: np.where(a < 0, None, a).tolist(),
        lambda a: pd.DataFrame(np.where(a < 0, np.nan, a)),
        lambda a: pd.DataFrame(np.where(a < 0, None, a)).astype("Int64"),
    ],
    ids=["masked", "NaN", "None", "lists", "frame", "frame of Int64"],
)
def test_how_answers_may_be_missing(crowd, form):
    found = crowd_labels(form(crowd[1]))
    expected = crowd_labels(np.ma.masked_less(crowd[1], 0))
    assert found.labels.dtype.kind == "i"
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_other_labels(crowd):
    names = np.array(["a", "bb", "ccc"], object)
    texts = np.where(crowd[1] < 0, None, names[crowd[1]])
    expected = crowd_labels(np.ma.masked_less(crowd[1], 0)).labels
    for answers in (texts, pd.DataFrame(texts), pd.DataFrame(texts).astype("category")):
        assert crowd_labels(answers).labels.tolist() == names[expected].tolist()
    assert crowd_labels([[-1, -1, 1], [1, 1, 1]]).labels.tolist() == [-1, 1]
    assert crowd_labels([[0.5, 0.5], [1.5, None]]).labels.tolist() == [0.5, 1.5]  # few rows, and nobody disagrees


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([0, 1, 1], "answers: got 1 axes"),
        (np.zeros((2, 2, 2)), "answers: got 3 axes"),
        ([[0, 1], [None, None], [1, 1], [np.nan, None]], r"nobody labeled rows 1, 3 \(2 in all\)"),
        (np.ma.masked_equal([[0, 1], [2, 2]], 2), "nobody labeled row 1 "),
        (np.zeros((0, 3)), "answers: got no row"),
        (np.zeros((4, 0)), "nobody labeled rows 0, 1, 2, 3"),
        ([[1, 1], [1, None]], "answers: got one class, 1; at least two"),
        ([[1, np.inf], [0, 1]], "answers: holds infinity"),
        (np.eye(3, dtype=int), "answers: each row has a single 1"),
    ],
)
def test_answers_that_say_nothing(answers, error):
    with pytest.raises(ValueError, match=error):
        crowd_labels(answers)


def test_labels_of_two_kinds():
    with pytest.raises(TypeError, match="some labels are texts and some are not"):
        crowd_labels([["1", 1], [1, "1"]])


@pytest.mark.parametrize("shrinkage", [0, -1, float("nan"), "1"])
def test_a_wrong_shrinkage(shrinkage):
    with pytest.raises((ValueError, TypeError), match="shrinkage"):
        crowd_labels([[0, 1], [1, 1]], shrinkage=shrinkage)


class Sentences:
    """Rows whose features say something of the class, and answers of a crowd, missing as NaN."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.right = rng.integers(K, size=300)
        self.X = rng.standard_normal((300, 4)) + 1.5 * np.eye(K, 4)[self.right]
        answers = np.where(rng.random((300, 4)) < 0.6, self.right[:, None], rng.integers(K, size=(300, 4)))
        asked = rng.random((300, 4)) < 0.5
        asked[:, 0] |= ~asked.any(axis=1)
        self.answers = np.where(asked, answers, np.nan)


@pytest.mark.filterwarnings("ignore::bilevel.estimators.NoTrustedRowsWarning")
@pytest.mark.filterwarnings("ignore::bilevel.estimators.WeakModelWarning")
@pytest.mark.parametrize("trusted", [0, 30])
def test_cleaning_the_labels_of_a_crowd(trusted):
    s = Sentences()
    X, answers, right = s.X[trusted:], s.answers[trusted:], s.right[trusted:]
    more = (s.X[:trusted], s.right[:trusted]) if trusted else ()
    cleaner = LabelCleaner(random_state=0).fit(X, pd.DataFrame(answers), *more)
    crowd = crowd_labels(answers)
    np.testing.assert_array_equal(cleaner.crowd_.probabilities, crowd.probabilities)
    wrong = crowd.labels != right
    both = roc_auc_score(wrong, -cleaner.sample_weight_)
    features = LabelCleaner(random_state=0).fit(X, crowd.labels, *more)
    assert features.crowd_ is None
    assert both > roc_auc_score(wrong, -features.sample_weight_) + 0.005
    assert both > roc_auc_score(wrong, -crowd.probabilities.max(axis=1)) + 0.02
    found = crowd.labels.copy()
    found[cleaner.suspects_["row"]] = cleaner.suspects_["label"]
    assert (found == right).mean() > (crowd.labels == right).mean()


def test_the_odds_of_features_and_answers():
    """Two classes: exactly Bayes' rule for independent evidence."""
    crowd = crowd_labels([[0, 0, 0], [1, 0, 1], [1, 1, None], [0, None, 1]])
    by_features = np.array([0.999, 0.8, 0.001, 0.9])  # P(class 1 | features)
    own = crowd.labels
    right = np.where(own == 1, by_features, 1 - by_features)
    score = joined(crowd, np.log(right / (1 - right)))
    prior = crowd.probabilities[:, 1].mean()
    odds = by_features / (1 - by_features) * crowd.probabilities[:, 1] / crowd.probabilities[:, 0] * (1 - prior) / prior
    np.testing.assert_allclose(score, np.where(own == 1, np.log(odds), -np.log(odds)), atol=1e-10)
    said, share = evidence(crowd, crowd.classes), np.array([1 - prior, prior])
    posterior = np.stack([1 - by_features, by_features], axis=1) * said
    np.testing.assert_allclose(posterior[:, 1] / posterior[:, 0], odds)
    np.testing.assert_allclose(said * share, crowd.probabilities)


def test_a_class_that_is_no_rows_label_is_left_out_of_the_evidence():
    crowd = crowd_labels([["a", "b", "a"], ["b", "b", "b"], ["b", "c", "b"], ["a", "a", "a"]])
    assert set(crowd.labels) == {"a", "b"} and crowd.classes.tolist() == ["a", "b", "c"]
    assert evidence(crowd, np.array(["a", "b"])).shape == (4, 2)


def test_wrong_answers_are_named_as_y():
    with pytest.raises(ValueError, match="y: nobody labeled row 1 "):
        LabelCleaner().fit(np.eye(3), [[0, 1], [None, None], [1, 1]])


def test_one_column_is_no_crowd():
    s = Sentences()
    with pytest.warns(DataConversionWarning), pytest.warns(WeakModelWarning):
        cleaner = LabelCleaner(random_state=0, epochs=1).fit(s.X[30:], s.right[30:, None], s.X[:30], s.right[:30])
    assert cleaner.crowd_ is None
