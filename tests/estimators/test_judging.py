"""Labels judged by probabilities, or features, of the user's own model."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from bilevel.estimators import LabelCleaner, NoTrustedRowsWarning

pytestmark = pytest.mark.filterwarnings("ignore::bilevel.estimators.NoTrustedRowsWarning")


@pytest.fixture(scope="module")
def judged():
    """Digits with one label in eight moved to the next class, and what forests say of them that have not seen them."""
    X, y = load_digits(return_X_y=True)
    names = np.array([f"digit {digit}" for digit in range(10)])
    X, y = X[:900] / 16, y[:900]
    wrong = np.arange(len(y)) % 8 == 0
    given = names[np.where(wrong, (y + 1) % 10, y)]
    forest = RandomForestClassifier(60, min_samples_leaf=2, random_state=0)
    return X, given, wrong, names[y], cross_val_predict(forest, X, given, cv=4, method="predict_proba")


def auroc(cleaner, wrong):
    return roc_auc_score(wrong, -cleaner.sample_weight_)


def test_probabilities_of_ones_own_model(judged):
    X, given, wrong, true, p = judged
    with pytest.warns(NoTrustedRowsWarning):
        cleaner = LabelCleaner(epochs=10, random_state=0).fit(X, given, pred_probs=p)
    own = roc_auc_score(wrong, -p[np.arange(len(p)), np.searchsorted(cleaner.classes_, given)])
    assert auroc(cleaner, wrong) > max(0.95, own)
    flags = cleaner.suspects_
    assert len(flags) > 0.5 * wrong.sum()
    assert (flags["label"] == true[flags["row"]]).mean() > 0.8
    assert cleaner.wrong_labels_.low <= wrong.mean() <= cleaner.wrong_labels_.high
    assert cleaner.n_features_in_ == 64 and cleaner.score(X, true) > 0.9  # the estimator is fitted to X
    with pytest.warns(NoTrustedRowsWarning):
        other = LabelCleaner(epochs=10, random_state=0).fit(X[:, ::-1], given, pred_probs=p)
    np.testing.assert_array_equal(cleaner.sample_weight_, other.sample_weight_)


def test_probabilities_beside_trusted_rows(judged):
    X, given, wrong, true, p = judged
    trusted = np.arange(0, 900, 9)
    rest = np.setdiff1d(np.arange(900), trusted)
    cleaner, few = LabelCleaner(epochs=5, random_state=0), dict(pred_probs=p[rest], pred_probs_trusted=p[trusted])
    cleaner.fit(X[rest], given[rest], X[trusted], true[trusted], **few)
    assert auroc(cleaner, wrong[rest]) > 0.98 and cleaner.confusion_ is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, 1:], r"got the shape \(900, 9\); pass \(900, 10\), a column for each class of y, sorted"),
        (lambda p: p[1:], r"got the shape \(899, 10\)"),
        (lambda p: 2 * p, "sums of rows from 2 to 2"),
        (lambda p: np.log(p + 1e-3), "got numbers from -6.91"),
        (lambda p: np.where(np.arange(10) == 3, np.nan, p), "pred_probs contains NaN"),
    ],
)
def test_what_are_no_probabilities(judged, change, message):
    X, given, *_, p = judged
    with pytest.raises(ValueError, match=message):
        LabelCleaner().fit(X, given, pred_probs=change(p))


def test_probabilities_of_some_rows_alone(judged):
    X, given, *_, p = judged
    trusted, both = (X[100:], given[100:], X[:100], given[:100]), "with trusted rows, pass pred_probs and"
    with pytest.raises(ValueError, match=f"pred_probs_trusted: missing; {both}"):
        LabelCleaner().fit(*trusted, pred_probs=p[100:])
    with pytest.raises(ValueError, match=f"pred_probs: missing; {both}"):
        LabelCleaner().fit(*trusted, pred_probs_trusted=p[:100])
    with pytest.raises(ValueError, match="pred_probs_trusted: there are no trusted rows"):
        LabelCleaner().fit(X, given, pred_probs=p, pred_probs_trusted=p)


def test_a_model_that_has_seen_the_rows(judged):
    X, given, *_ = judged
    p = np.eye(10)[np.unique(given, return_inverse=True)[1]]
    with pytest.warns(UserWarning, match="pred_probs agree with all labels"):
        LabelCleaner().fit(X, given, pred_probs=p)
