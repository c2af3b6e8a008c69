"""PenalizedLogistic and PenalizedRidge from the point of view of a scikit-learn user."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bilevel.estimators import PenalizedLogistic, PenalizedRidge

D, MATTER = 30, 3


def table(n=200, seed=0, classes=0):
    """Three features matter. Without classes, a regression."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D))
    scores = X[:, :MATTER] @ (3 * np.eye(MATTER) if classes == 3 else np.array([[2.0], [-2.0], [2.0]]))
    noisy = scores + rng.normal(size=scores.shape)
    if classes == 2:
        return X, np.array(["no", "yes"])[(noisy[:, 0] > 0).astype(int)]
    return X, noisy.argmax(axis=1) if classes else noisy[:, 0]


def test_one_penalty_is_that_of_ridge():
    X, y = table()
    model = PenalizedRidge(steps=0, random_state=0).fit(X, y)
    assert np.ptp(model.penalties_) == 0
    theirs = Ridge(alpha=model.penalties_[0]).fit(X, y)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, atol=2e-3)
    assert model.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_one_penalty_is_that_of_logistic_regression(classes):
    X, y = table(classes=classes)
    model = PenalizedLogistic(steps=0, random_state=0).fit(X, y)
    assert np.ptp(model.penalties_) == 0
    theirs = LogisticRegression(C=1 / model.penalties_[0], tol=1e-8, max_iter=1000).fit(X, y)
    np.testing.assert_array_equal(model.classes_, theirs.classes_)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=5e-3)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=5e-3)
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(X), atol=3e-2)
    assert (model.predict(X) == theirs.predict(X)).mean() > 0.99


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_penalties_tell_the_features_that_matter(classes):
    X, y = table(n=60, seed=1, classes=classes)
    new, answers = table(n=2000, seed=2, classes=classes)
    estimator = PenalizedLogistic if classes else PenalizedRidge
    one, many = (estimator(steps=steps, random_state=0).fit(X, y) for steps in (0, 20))
    assert many.penalties_[:MATTER].max() < 0.7 * np.median(many.penalties_[MATTER:])
    assert many.history_["step"].tolist() == list(range(21))
    assert many.history_["objective"].min() < many.history_["objective"][0] - 0.02
    assert many.history_["held-out loss"][-1] < many.history_["held-out loss"][0]
    if classes:
        losses = [log_loss(answers, model.predict_proba(new)) for model in (one, many)]
    else:
        losses = [np.mean((model.predict(new) - answers) ** 2) for model in (one, many)]
    assert losses[1] < 0.95 * losses[0]


def test_held_out_losses_are_in_the_units_of_the_targets():
    X, y = table()
    history = PenalizedRidge(steps=3, random_state=0).fit(X, 100 * y).history_
    assert 0.7e4 < history["held-out loss"][0] < 1.7e4  # the noise has variance 1
    assert set(history.columns) == {"step", "seconds", "F", "G", "H", "J", "held-out loss", "objective"}


def test_sparse_rows_are_never_made_dense(monkeypatch):
    X, y = table(classes=2)
    X[np.abs(X) < 1] = 0
    model = PenalizedLogistic(random_state=0).fit(X - X.mean(axis=0), y)
    sparse = scipy.sparse.csr_matrix(X)
    for name in ("toarray", "todense", "__array__"):
        monkeypatch.setattr(scipy.sparse.csr_matrix, name, None, raising=False)
    same = PenalizedLogistic(random_state=0).fit(sparse, y)
    agreement = np.corrcoef(same.decision_function(sparse), model.decision_function(X - X.mean(axis=0)))[0, 1]
    assert agreement > 0.99


def test_groups_share_a_penalty():
    X, y = table(n=60, seed=1)
    groups = np.repeat(["a", "b", "c"], [3, 20, 7])
    model = PenalizedRidge(penalty_groups=groups, random_state=0).fit(X, y)
    a, b, c = (np.unique(model.penalties_[groups == name]) for name in "abc")
    assert len(a) == len(b) == len(c) == 1
    assert a < 0.5 * min(b, c)


def test_classes_have_penalties_of_their_own():
    X, y = table(n=60, classes=3)
    model = PenalizedLogistic(per="class", random_state=0).fit(X, y)
    assert model.penalties_.shape == (3,)
    assert model.coef_.shape == (3, D)
    assert np.ptp(model.penalties_) > 0


def test_several_targets():
    X, y = table()
    model = PenalizedRidge(random_state=0).fit(X, np.stack([y, -2 * y + 1], axis=1))
    assert model.coef_.shape == (2, D) and model.intercept_.shape == (2,)
    np.testing.assert_allclose(model.coef_[1], -2 * model.coef_[0], atol=1e-2)
    assert model.predict(X[:5]).shape == (5, 2)


def test_rows_without_weight_are_no_rows():
    X, y = table(n=150)
    weight = np.append(np.ones(100), np.zeros(50))
    with_them = PenalizedRidge(random_state=0).fit(X, y, sample_weight=weight)
    without = PenalizedRidge(random_state=0).fit(X[:100], y[:100])
    np.testing.assert_array_equal(with_them.coef_, without.coef_)


def test_the_seed_draws_the_folds():
    X, y = table()
    first, again, other = (PenalizedRidge(random_state=seed).fit(X, y).penalties_ for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_share_may_be_held_out_once():
    X, y = table(n=60, seed=1)
    model = PenalizedRidge(cv=0.25, random_state=0).fit(X, y)
    assert model.penalties_[:MATTER].max() < np.median(model.penalties_[MATTER:])


def test_fits_of_nearly_one_shape_share_a_program(compiled):
    X, y = table()
    PenalizedRidge(random_state=0).fit(X, y)
    compiled.clear()
    PenalizedRidge(random_state=1, spread=1.0, steps=7).fit(X[:150, :27], y[:150])
    assert not [name for name in compiled if "advance" in name]
    PenalizedRidge(random_state=2).fit(X[:150, :27], y[:150])
    compiled.clear()
    PenalizedRidge(random_state=3).fit(X[:150, :27], 2 * y[:150])
    assert compiled == []


def test_in_a_pipeline_and_a_grid_with_names_of_columns():
    pandas = pytest.importorskip("pandas")
    X, y = table(classes=2)
    frame = pandas.DataFrame(X, columns=[f"f{j}" for j in range(D)])
    pipeline = make_pipeline(StandardScaler(), PenalizedLogistic(random_state=0))
    search = GridSearchCV(pipeline, {"penalizedlogistic__spread": [0.1, 0.5]}, cv=2).fit(frame, y)
    assert search.best_score_ > 0.8
    bare = clone(PenalizedLogistic(random_state=0)).fit(frame, y)
    assert bare.feature_names_in_.tolist() == frame.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        bare.predict(frame.rename(columns={"f0": "g0"}))


LOGISTIC_ERRORS = {
    "per": ({"per": "features"}, ValueError, "did you mean feature"),
    "per, groups": ({"per": "class", "penalty_groups": np.zeros(D)}, ValueError, "penalty_groups"),
    "penalty_groups": ({"penalty_groups": np.zeros(3)}, ValueError, "penalty_groups: got shape (3,)"),
    "cv, one": ({"cv": 1}, ValueError, "cv: got 1"),
    "cv, share": ({"cv": 0.7}, ValueError, "cv: got 0.7"),
    "cv, kind": ({"cv": "five"}, TypeError, "cv: got 'five'"),
    "cv, rows": ({"cv": 500}, ValueError, "cv: got 500 folds for 200 rows"),
    "steps": ({"steps": -1}, ValueError, "steps: got -1"),
    "spread": ({"spread": 0.0}, ValueError, "spread: got 0.0"),
}


@pytest.mark.parametrize("case", LOGISTIC_ERRORS)
def test_errors_name_the_argument_before_anything_is_compiled(case, compiled):
    settings, error, message = LOGISTIC_ERRORS[case]
    X, y = table(classes=2)
    with pytest.raises(error) as caught:
        PenalizedLogistic(**settings).fit(X, y)
    assert message in str(caught.value)
    assert compiled == []


def test_errors_of_labels_and_weights():
    X, y = table(classes=2)
    with pytest.raises(ValueError, match="y: holds only one class"):
        PenalizedLogistic().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="zero"):
        PenalizedLogistic().fit(X, y, sample_weight=np.zeros(len(X)))
    with pytest.raises(ValueError, match="cv: got 2, which holds out none"):
        PenalizedLogistic(cv=2).fit(X[:5], np.arange(5))


def test_log_probabilities_score_as_they_should():
    X, y = table(classes=2)
    model = PenalizedLogistic(random_state=0).fit(X, y)
    assert log_loss(y, model.predict_proba(X)) == pytest.approx(
        -np.mean(model.predict_log_proba(X)[np.arange(len(y)), (y == "yes").astype(int)])
    )
