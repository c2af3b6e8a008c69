"""PenalizedLogistic and PenalizedRidge from the point of view of a scikit-learn user."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, ShuffleSplit, StratifiedKFold, TimeSeriesSplit
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
    theirs = Ridge(alpha=model.penalties_[0]).fit(X / model.scale_, y)
    np.testing.assert_allclose(model.coef_ * model.scale_, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, atol=2e-3)
    assert model.score(X, y) == pytest.approx(theirs.score(X / model.scale_, y), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_one_penalty_is_that_of_logistic_regression(classes):
    X, y = table(classes=classes)
    model = PenalizedLogistic(steps=0, random_state=0).fit(X, y)
    assert np.ptp(model.penalties_) == 0
    scaled = X / model.scale_
    theirs = LogisticRegression(C=1 / model.penalties_[0], tol=1e-8, max_iter=1000).fit(scaled, y)
    np.testing.assert_array_equal(model.classes_, theirs.classes_)
    np.testing.assert_allclose(model.coef_ * model.scale_, theirs.coef_, atol=5e-3)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(scaled), atol=5e-3)
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(scaled), atol=3e-2)
    assert (model.predict(X) == theirs.predict(scaled)).mean() > 0.99


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
    assert losses[1] < 0.96 * losses[0]


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


@settings(max_examples=6)
@given(
    weight=st.sampled_from([1e-300, 1e-30, 1 / 200, 1.0, 1e12, 1e300]),
    exponents=st.lists(st.integers(-100, 100), min_size=D, max_size=D),
    classes=st.sampled_from([0, 2]),
    sparse=st.booleans(),
)
def test_the_scale_of_weights_and_of_columns_does_not_matter(weight, exponents, classes, sparse):
    X, y = table(classes=classes)
    X[:, ::2] *= X[:, ::2] > 0
    units = 2.0 ** np.array(exponents)
    made = scipy.sparse.csr_matrix if sparse else np.asarray
    estimator = (PenalizedLogistic if classes else PenalizedRidge)(random_state=0)
    plain = clone(estimator).fit(made(X), y)
    scaled = estimator.fit(made(X * units), y, sample_weight=np.full(len(X), weight))
    np.testing.assert_allclose(scaled.coef_ * units, plain.coef_, atol=1e-4)
    np.testing.assert_allclose(scaled.intercept_, plain.intercept_, atol=1e-4)
    np.testing.assert_allclose(scaled.penalties_ / weight, plain.penalties_, rtol=1e-3)
    np.testing.assert_allclose(scaled.scale_, units * plain.scale_)


@pytest.mark.parametrize("classes", [0, 2])
def test_columns_far_from_zero_in_sparse_rows(classes):
    """A year, a time in seconds, and a count with an offset and some zeros."""
    X, y = table(classes=classes)
    shift = np.zeros(D)
    shift[[0, 1, 2]] = 2000, 1e9, 40
    X[:, 3:] *= np.random.default_rng(0).random((len(X), D - 3)) < 0.2
    far = X + shift
    far[:20, 2] = X[:20, 2] = 0
    estimator = (PenalizedLogistic if classes else PenalizedRidge)(random_state=0)
    sparse, dense = (clone(estimator).fit(rows, y) for rows in (scipy.sparse.csr_matrix(far), far))
    np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-4)
    assert sparse.score(scipy.sparse.csr_matrix(far), y) > 0.6


def test_plateaus_do_not_end_the_search():
    """Two features whose difference matters are nearly one: a penalty that is weak enough for it is very weak."""
    rng = np.random.default_rng(0)
    both, difference = rng.normal(size=(2, 300))
    X = np.stack([both, both + 1e-3 * difference], axis=1)
    y = both + difference + 0.1 * rng.normal(size=300)
    assert PenalizedRidge(random_state=0).fit(X[:200], y[:200]).score(X[200:], y[200:]) > 0.95


def test_splits_of_scikit_learn():
    X, y = table(classes=2)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    models = [PenalizedLogistic(cv=cv).fit(X, y) for cv in (folds, list(folds.split(X, y)), ShuffleSplit(5))]
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)
    assert (models[0].coef_ != models[2].coef_).any()
    weight = np.append(np.zeros(50), np.ones(150))  # rows without weight are numbered, too
    own = list(folds.split(X[50:], y[50:]))
    some = PenalizedLogistic(cv=[(train + 50, test + 50) for train, test in own]).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(some.coef_, PenalizedLogistic(cv=own).fit(X[50:], y[50:]).coef_)
    assert PenalizedLogistic(cv=TimeSeriesSplit(5)).fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize("cv", [5, 0.3, GroupKFold(5)])
def test_rows_of_a_group_are_in_one_fold(cv):
    """The columns tell the group, and the targets are the groups': only within a group is anything to be learned."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(15), 10)
    X, y = np.eye(15)[groups] + 0.01 * rng.normal(size=(150, 15)), rng.normal(size=15)[groups]
    together, apart = PenalizedRidge(cv=cv, random_state=0), PenalizedRidge(random_state=0)
    assert together.fit(X, y, groups=groups).history_["held-out loss"].min() > 0.5
    assert apart.fit(X, y).history_["held-out loss"].min() < 0.1
    assert together.penalties_.mean() > 10 * apart.penalties_.mean()


def test_class_weights_are_factors_of_the_rows_weights():
    X, y = table(classes=2)
    weight = np.random.default_rng(0).uniform(1, 2, len(X)) * np.where(y == "no", 5, 1)
    sums = {name: weight[y == name].sum() for name in ("no", "yes")}
    balanced = {name: weight.sum() / 2 / total for name, total in sums.items()}
    one = PenalizedLogistic(class_weight="balanced", random_state=0).fit(X, y, weight)
    for other in (
        PenalizedLogistic(class_weight=balanced, random_state=0).fit(X, y, weight),
        PenalizedLogistic(random_state=0).fit(X, y, weight * np.where(y == "no", balanced["no"], balanced["yes"])),
    ):
        np.testing.assert_allclose(other.coef_, one.coef_, rtol=1e-5)
        np.testing.assert_allclose(other.penalties_, one.penalties_, rtol=1e-5)


@pytest.mark.parametrize("classes", [0, 2])
def test_without_an_intercept(classes):
    X, y = table(classes=classes)
    X = np.where(np.arange(D) % 2, X, np.abs(X)) * (np.abs(X) > 0.5)
    ours, theirs = (PenalizedLogistic, LogisticRegression) if classes else (PenalizedRidge, Ridge)
    models = [
        ours(fit_intercept=False, steps=0, random_state=0).fit(made(X), y)
        for made in (np.asarray, scipy.sparse.csr_matrix)
    ]
    penalty = models[0].penalties_[0]
    settings = {"C": 1 / penalty, "tol": 1e-8} if classes else {"alpha": penalty}
    expected = theirs(fit_intercept=False, **settings).fit(X / models[0].scale_, y).coef_ / models[0].scale_
    for model in models:
        assert not np.any(model.intercept_)
        np.testing.assert_allclose(model.coef_, expected, atol=5e-3)


def test_scoring_chooses_the_penalties():
    X, y = table(classes=2, n=120)
    folds = list(StratifiedKFold(5).split(X, y))
    seen = []

    def score(model, X, y):
        seen.append(get_scorer("roc_auc")(model, X, y))
        return -model.decision_function(X).std()  # prefers the strongest penalty

    model = PenalizedLogistic(cv=folds, scoring=score, steps=2).fit(X, y)
    assert len(seen) == 5 * (10 + 3) and np.all(np.array(seen) >= 0.4)
    assert model.penalties_.min() > 100 * PenalizedLogistic(cv=folds, steps=2).fit(X, y).penalties_.max()
    assert model.score(X, y) == score(model, X, y)
    by_name = PenalizedLogistic(cv=folds, scoring="roc_auc", steps=2).fit(X, y, sample_weight=np.ones(len(X)))
    assert by_name.score(X, y) == get_scorer("roc_auc")(by_name, X, y) > 0.8
    assert PenalizedRidge(scoring="r2", steps=2, random_state=0).fit(*table()).score(*table()) > 0.8
    with pytest.raises(ValueError, match="scoring: .* is nan on the rows that split 0 holds out"):
        PenalizedLogistic(cv=folds, scoring=lambda *_: np.nan).fit(X, y)


@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_targets_are_named(missing):
    X, y = table(classes=2)
    labels = y.astype(object)
    labels[[5, 9]] = missing
    with pytest.raises(ValueError, match=r"y: 2 labels are missing \(rows 5, 9\); drop or fill them"):
        PenalizedLogistic().fit(X, labels)
    with pytest.raises(ValueError, match="y: 2 labels are missing"):
        PenalizedLogistic().fit(X, labels.tolist())
    numbers = table()[1].astype(object)
    numbers[3] = missing
    with pytest.raises(ValueError, match=r"y: 1 target is missing \(row 3\); drop or fill it"):
        PenalizedRidge().fit(X, numbers)


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
    model = PenalizedRidge(cv=0.4, random_state=0).fit(X, y)
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
    "cv, no split": ({"cv": []}, ValueError, "cv: got no split"),
    "cv, outside": ({"cv": [([0, 1], [500])]}, ValueError, "cv: split 0 is no pair"),
    "cv, overlap": ({"cv": [(np.arange(200), [7])]}, ValueError, "cv: split 0 trains on row 7 and holds it out"),
    "cv, a class": ({"cv": [([0], np.arange(1, 200))]}, ValueError, "cv: split 0 trains on no row of class"),
    "scoring": ({"scoring": ["roc_auc", "accuracy"]}, TypeError, "scoring: got ['roc_auc', 'accuracy']"),
    "class_weight": ({"class_weight": "balance"}, ValueError, "class_weight: 'balance' is unknown"),
    "class_weight, zero": ({"class_weight": {"no": 0, "yes": 1}}, ValueError, "class_weight: got {'no': 0"),
    "fit_intercept": ({"fit_intercept": 2}, TypeError, "fit_intercept: got 2"),
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
