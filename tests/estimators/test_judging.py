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
    with pytest.warns(NoTrustedRowsWarning, match="your model and the labels"):
        cleaner = LabelCleaner(random_state=0).fit(X, given, pred_probs=p)
    own = roc_auc_score(wrong, -p[np.arange(len(p)), np.searchsorted(cleaner.classes_, given)])
    assert auroc(cleaner, wrong) > max(0.98, own - 0.005)
    flags = cleaner.suspects_
    assert len(flags) > 0.5 * wrong.sum()
    assert (flags["label"] == true[flags["row"]]).mean() > 0.9
    assert cleaner.wrong_labels_.low <= wrong.mean() <= cleaner.wrong_labels_.high
    assert cleaner.confusion_ is None and not cleaner.history_.rows
    assert cleaner.score(X, true) > 0.9


def test_nothing_is_drawn_and_columns_of_X_do_not_matter(judged):
    X, given, *_, p = judged
    one, two = (LabelCleaner().fit(table, given, pred_probs=p) for table in (X, X[:, ::-1]))
    np.testing.assert_array_equal(one.sample_weight_, two.sample_weight_)


def test_probabilities_as_features_beside_trusted_rows(judged):
    X, given, wrong, true, p = judged
    trusted = np.arange(0, 900, 9)
    rest = np.setdiff1d(np.arange(900), trusted)
    said = np.log(p + 1e-3)
    cleaner = LabelCleaner(RandomForestClassifier(random_state=0), epochs=5, random_state=0)
    cleaner.fit(said[rest], given[rest], said[trusted], true[trusted])
    assert auroc(cleaner, wrong[rest]) > 0.98


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


def test_probabilities_beside_what_they_do_not_go_with(judged):
    X, given, *_, p = judged
    with pytest.raises(ValueError, match="pred_probs: they are not used with trusted rows; pass your model's embed"):
        LabelCleaner().fit(X[100:], given[100:], X[:100], given[:100], pred_probs=p[100:])
    with pytest.raises(ValueError, match="groups: they define folds, which are not used with pred_probs"):
        LabelCleaner().fit(X, given, groups=np.arange(900), pred_probs=p)


def test_a_model_that_has_seen_the_rows(judged):
    X, given, *_ = judged
    p = np.eye(10)[np.unique(given, return_inverse=True)[1]]
    with pytest.warns(UserWarning, match="pred_probs agree with all labels"):
        LabelCleaner().fit(X, given, pred_probs=p)
