"""LabelCleaner: what it finds, what it cannot, and what it refuses."""

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_blobs
from sklearn.feature_selection import RFE
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import bilevel as bl
from bilevel.estimators import LabelCleaner, NoTrustedRowsWarning, RareClassWarning, WeakModelWarning
from bilevel.estimators._rows import DenseTable, SparseTable, labeled, length_for
from bilevel.estimators._splits import rare_classes

pytestmark = pytest.mark.filterwarnings("ignore::bilevel.estimators.WeakModelWarning")  # of small made-up tables
ALONE = pytest.mark.filterwarnings("ignore::bilevel.estimators.NoTrustedRowsWarning")
N, TRUSTED, CLASSES = 240, 30, 3


class Table:
    """Three overlapping classes, some of whose labels are wrong, and trusted rows."""

    def __init__(self, rate=0.3, kind="next", seed=0, n=N):
        rng = np.random.default_rng(seed)
        X, labels, *_ = make_blobs(n + TRUSTED, 5, centers=CLASSES, cluster_std=3.0, random_state=seed)
        self.X, self.X_trusted, self.true, self.y_trusted = X[TRUSTED:], X[:TRUSTED], labels[TRUSTED:], labels[:TRUSTED]
        other = (self.true + 1) % CLASSES if kind == "next" else rng.integers(CLASSES, size=n)
        self.y = np.where(rng.random(n) < rate, other, self.true)
        self.wrong = self.y != self.true

    def auroc(self, cleaner):
        return roc_auc_score(self.wrong, -cleaner.sample_weight_)

    def cleaned(self, **settings):
        return LabelCleaner(random_state=0, **settings).fit(self.X, self.y, self.X_trusted, self.y_trusted)


@pytest.fixture(scope="module")
def table():
    return Table()


@pytest.fixture(scope="module")
def cleaner(table):
    return table.cleaned()


def test_finds_the_wrong_labels_and_proposes_the_right_ones(table, cleaner):
    weights, suspects = cleaner.sample_weight_, cleaner.scores_
    assert table.auroc(cleaner) > 0.93
    assert weights.shape == (N,) and weights.min() >= 0 and weights.max() <= 1
    assert suspects.dtype.names == ("row", "label", "weight")
    assert sorted(suspects["row"]) == list(range(N))
    np.testing.assert_array_equal(suspects["weight"], weights[suspects["row"]])
    assert (np.diff(suspects["weight"]) >= 0).all()
    first = cleaner.suspects_  # scores_ keep the given label where they are unsure
    assert (first["label"] == table.true[first["row"]]).mean() > 0.9
    plain = LogisticRegression(max_iter=1000).fit(table.X, table.y)
    assert cleaner.score(table.X, table.true) > plain.score(table.X, table.true)
    expected = np.array([[0.7, 0.3, 0], [0, 0.7, 0.3], [0.3, 0, 0.7]])
    np.testing.assert_allclose(cleaner.confusion_, expected, atol=0.2)
    assert cleaner.history_.columns[-2:] == ["upper loss", "mean weight"] and len(cleaner.history_) == 6


def test_flags_are_right_and_the_share_of_wrong_labels_is_near(table, cleaner):
    flags, estimate = cleaner.suspects_, cleaner.wrong_labels_
    assert 10 < len(flags) < N and (flags["label"] != table.y[flags["row"]]).all()
    assert table.wrong[flags["row"]].mean() > 0.75
    accepted = table.y.copy()
    accepted[flags["row"]] = flags["label"]
    assert (accepted == table.true).mean() > (table.y == table.true).mean()
    assert abs(estimate.share - table.wrong.mean()) < 0.1 and estimate.low < estimate.share < estimate.high
    assert estimate.classes["rows"].sum() == N and "wrong labels" in str(estimate)
    check = cleaner.to_check_["row"]
    assert len(check) == round(estimate.share * N) and table.wrong[check].mean() > 0.75
    assert cleaner.sample_weight_[check].max() <= np.delete(cleaner.sample_weight_, check).min()


def test_trusted_rows_find_what_most_labels_deny():
    table = Table(rate=0.7)
    assert table.auroc(table.cleaned()) > 0.93
    with pytest.warns(NoTrustedRowsWarning, match="looks right"):
        alone = LabelCleaner(random_state=0).fit(table.X, table.y)
    assert table.auroc(alone) < 0.5


def test_trusted_rows_judge_where_given_labels_tell_nothing():
    """Half of the labels of two classes are exchanged, so that no model predicts them."""
    rng = np.random.default_rng(0)
    true = rng.integers(2, size=460)
    X = rng.normal(size=(460, 4)) + 2 * np.array([1, -1, 0, 0]) * (true[:, None] - 0.5)
    given = np.where(rng.random(400) < 0.55, 1 - true[60:], true[60:])
    cleaner = LabelCleaner(random_state=0)
    with pytest.warns(WeakModelWarning, match="no better than chance"):
        cleaner.fit(X[60:], given, X[:60], true[:60])
    assert roc_auc_score(given == true[60:], cleaner.sample_weight_) > 0.9
    assert ((cleaner.sample_weight_ - (given == true[60:])) ** 2).mean() < 0.15
    assert cleaner.score(X, true) > 0.88  # 0.92 with right labels


def test_scattered_errors_are_found_without_trusted_rows(compiled):
    """Folds of 81 and 80 rows, in one program."""
    table = Table(rate=0.4, kind="redrawn", n=241)
    with pytest.warns(NoTrustedRowsWarning):
        cleaner = LabelCleaner(folds=3, batch_size=100, random_state=0).fit(table.X, table.y)
    assert table.auroc(cleaner) > 0.9
    assert sorted(set(cleaner.history_["fold"])) == [0, 1, 2]
    assert compiled.count("jit(_advance)") == 1


@ALONE
@pytest.mark.parametrize("trusted", [True, False])
def test_a_second_fit_of_a_shape_compiles_nothing(compiled, trusted):
    def fit(table, seed, **settings):
        rows = (table.X_trusted, table.y_trusted) if trusted else ()
        LabelCleaner(random_state=seed, folds=2, epochs=3, **settings).fit(table.X, table.y, *rows)

    fit(Table(), 0)
    del compiled[:]
    fit(Table(seed=3, n=230), 5, penalty=0.5)  # filled up to one shape
    assert compiled == []
    jax.jit(lambda number: number + 1)(1.0)
    assert compiled  # the counter counts


@ALONE
def test_depends_on_random_state_alone(table):
    first, again, other = (
        LabelCleaner(random_state=seed, epochs=3).fit(table.X, table.y).sample_weight_ for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_units_and_constant_columns_do_not_matter(table, cleaner):
    def other(X):
        return np.hstack([X * [1e-3, 1, 1e4, 1, 1] + [1e3, 0, 0, 0, 5], np.full((len(X), 2), 1e6)])

    found = LabelCleaner(random_state=0).fit(other(table.X), table.y, other(table.X_trusted), table.y_trusted)
    np.testing.assert_allclose(found.sample_weight_, cleaner.sample_weight_, atol=2e-3)


@pytest.mark.parametrize("change", [(1e3, 1.7e9), (1, 2459000.0), (1e300, 0), (1e-300, 0)])  # seconds, days, extremes
def test_columns_far_from_zero_and_of_any_size_are_not_lost(table, change):
    scale, shift = change
    plain, other = DenseTable(table.X), DenseTable(table.X * scale + shift)
    found, expected = (one.take(np.arange(N), N)["features"] for one in (other, plain))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sparse_numbers_of_any_size(table):
    plain, large = (SparseTable(scipy.sparse.csr_matrix(table.X) * scale) for scale in (1, 1e200))
    found, expected = (one.take(np.arange(N), N)["values"] for one in (large, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_names_strings_and_pandas(table, cleaner):
    names, columns = np.array(["ant", "bee", "cat"]), list("abcde")
    X, X_trusted = (pd.DataFrame(part, columns=columns) for part in (table.X, table.X_trusted))
    named = LabelCleaner(random_state=0).fit(X, pd.Series(names[table.y]), X_trusted, names[table.y_trusted])
    np.testing.assert_array_equal(named.sample_weight_, cleaner.sample_weight_)
    np.testing.assert_array_equal(named.scores_["label"], names[cleaner.scores_["label"]])
    assert named.feature_names_in_.tolist() == columns and set(named.predict(X)) <= set(names)
    np.testing.assert_array_equal(named.predict_proba(X), named.estimator_.predict_proba(table.X))
    with pytest.raises(ValueError, match="feature names"):
        clone(named).fit(X, names[table.y], X_trusted[columns[::-1]], names[table.y_trusted])


def test_a_data_frame_with_text_and_missing_values():
    rng, n, trusted = np.random.default_rng(0), N + TRUSTED, slice(TRUSTED)
    true = rng.integers(2, size=n)
    wrong = rng.random(n) < 0.2
    y = np.where(wrong, 1 - true, true)
    like = np.where(rng.random(n) < 0.1, 1 - true, true)  # alone, this leaves a tenth in doubt
    X = pd.DataFrame(
        {
            "paid": [f"${value:,.2f}" for value in 1000 + 400 * true + 150 * rng.normal(size=n)],
            "color": np.where(rng.random(n) < 0.1, None, np.array(["red", "blue"])[like]),
            "size": np.where(rng.random(n) < 0.1, np.nan, true + rng.normal(size=n)),
        },
        index=[f"r{i}" for i in range(n)],
    )
    rows = X[TRUSTED:], y[TRUSTED:], X[trusted], true[trusted]
    cleaner = LabelCleaner(random_state=0).fit(*rows)
    assert [column.kind for column in cleaner.features_.columns_] == ["numeric", "categorical", "numeric"]
    assert roc_auc_score(wrong[TRUSTED:], -cleaner.sample_weight_) > 0.95
    worst = rows[0].index[cleaner.suspects_["row"][:20]]
    assert np.mean(wrong[X.index.get_indexer(worst)]) > 0.9
    assert cleaner.feature_names_in_.tolist() == ["paid", "color", "size"] and cleaner.n_features_in_ == 3
    assert cleaner.score(X, true) > 0.9
    other = X[["size", "color", "paid"]].assign(more=1)  # columns are found by their names
    np.testing.assert_array_equal(cleaner.predict_proba(other), cleaner.predict_proba(X))
    with pytest.raises(ValueError, match="X: lacks columns of the fitted table: 'paid'"):
        cleaner.predict(X[["size", "color"]])
    with pytest.raises(ValueError, match="X_trusted: lacks columns of the fitted table: 'paid'"):
        LabelCleaner().fit(*rows[:2], rows[2][["size", "color"]], rows[3])
    with pytest.raises(TypeError, match=r"X_trusted: got ndarray; pass a pandas.DataFrame"):
        LabelCleaner().fit(*rows[:2], rows[2].to_numpy(), rows[3])


@ALONE
@pytest.mark.parametrize("missing", [True, False])
def test_a_data_frame_of_numbers_is_read_as_ever_unless_some_are_missing(table, missing):
    X = pd.DataFrame(table.X, columns=list("abcde")).round(3)
    if missing:
        X.iloc[3, 2] = np.nan
    cleaner = LabelCleaner(random_state=0, epochs=2, folds=2).fit(X, table.y)
    assert (cleaner.features_ is not None) == missing
    assert cleaner.predict(X).shape == (N,)


@ALONE
def test_in_pipelines_and_grids(table):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LabelCleaner(epochs=2, folds=2, random_state=0)),
        {"labelcleaner__estimator__C": [0.1, 1.0], "labelcleaner__estimator": [LogisticRegression(max_iter=1000)]},
        cv=2,
    ).fit(table.X, table.y)
    assert search.best_estimator_[-1].estimator_.C in (0.1, 1.0)
    assert search.score(table.X, table.true) > 0.7


class Recorder(ClassifierMixin, BaseEstimator):
    def fit(self, X, y, sample_weight=None):
        self.seen_ = X, y, sample_weight
        self.classes_ = np.unique(y)
        return self


def test_the_estimator_gets_all_rows_and_trusted_ones_with_weight_one(table):
    given = Recorder()
    fitted = LabelCleaner(given, epochs=1).fit(
        table.X.astype(np.float32), table.y, table.X_trusted.astype(np.float32), table.y_trusted
    )
    X, y, weights = fitted.estimator_.seen_
    assert not hasattr(given, "seen_") and X.shape == (N + TRUSTED, 5) and X.dtype == np.float32
    np.testing.assert_array_equal(y[:N], table.y)
    np.testing.assert_array_equal(weights[:N], fitted.sample_weight_)
    np.testing.assert_array_equal(weights[N:], 1)
    assert not hasattr(fitted, "predict_proba") and not hasattr(LabelCleaner(SVC()), "predict_proba")


def pipeline(last):
    return make_pipeline(StandardScaler(), last)


@pytest.mark.parametrize(
    "wrap",
    [
        pipeline,
        lambda last: pipeline(pipeline(last)),
        lambda last: GridSearchCV(pipeline(last), {"logisticregression__C": [1.0]}, cv=2),
        lambda last: RFE(last),
    ],
)
def test_pipelines_pass_the_weights_on(table, wrap):
    """And the user's own weights are factors of them."""
    last, own = LogisticRegression(max_iter=1000), np.where(table.y == 0, 30.0, 10.0)
    cleaner = LabelCleaner(wrap(last), epochs=1, random_state=0)
    cleaner.fit(table.X, table.y, table.X_trusted, table.y_trusted, sample_weight=own)
    weights = np.append(cleaner.sample_weight_ * own / own.mean(), np.ones(TRUSTED))
    rows = np.vstack([table.X, table.X_trusted]), np.append(table.y, table.y_trusted)
    plain = wrap(last)
    if isinstance(plain, RFE):
        plain.fit(*rows, sample_weight=weights)
    else:
        deepest = "pipeline__" if "pipeline" in getattr(plain, "named_steps", {}) else ""
        plain.fit(*rows, **{deepest + "logisticregression__sample_weight": weights})
    np.testing.assert_allclose(cleaner.predict_proba(table.X), plain.predict_proba(table.X), rtol=1e-6)
    with pytest.raises(ValueError, match="takes no sample_weight"):
        LabelCleaner(wrap(KNeighborsClassifier())).fit(table.X, table.y)


def test_a_pipeline_under_metadata_routing(table):
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        asked, deaf = (
            make_pipeline(scaler, LogisticRegression().set_fit_request(sample_weight=asks)) for asks in (True, False)
        )
        fitted = LabelCleaner(asked, epochs=1).fit(table.X, table.y, table.X_trusted, table.y_trusted)
        assert fitted.score(table.X, table.true) > 0.7
        with pytest.raises(ValueError, match="takes no sample_weight"):
            LabelCleaner(deaf).fit(table.X, table.y)


@ALONE
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rare_classes_end_the_ranking_and_are_named(rows):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 5)), np.where(np.arange(200) < rows, "rare", "often")
    X[:rows, 0] += 6
    with pytest.warns(RareClassWarning, match="too few rows to be judged by each other: 'rare'"):
        cleaner = LabelCleaner(folds=4, epochs=1, random_state=0).fit(X, y)
    assert sorted(cleaner.scores_["row"][-rows:]) == list(range(rows))
    assert set(cleaner.scores_["label"][-rows:]) == {"rare"} and (cleaner.sample_weight_[:rows] == 1).all()


def test_small_classes_of_equal_size_are_ranked():
    labels, order = np.repeat(np.arange(10), 6), np.arange(60)
    assert rare_classes(labels, [order[order % 5 == fold] for fold in range(5)]).tolist() == []
    one_fold = [order[:6], *(order[6:][order[6:] % 4 == fold] for fold in range(4))]
    assert rare_classes(labels, one_fold).tolist() == [0]  # judges have never seen it
    with pytest.raises(ValueError, match="y: each class has too few rows outside a fold"):
        rare_classes(np.repeat(np.arange(30), 2), [order[order % 2 == fold] for fold in range(2)])


@pytest.mark.parametrize("trusted", [True, False])
@ALONE
def test_sparse_rows_are_never_made_dense(monkeypatch, trusted):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random(290, 30_000, 0.0002, format="csr", random_state=0, dtype=np.float32)
    true = rng.integers(2, size=290)
    X = (
        X + scipy.sparse.csr_matrix((np.ones(290), (np.arange(290), true + 2 * rng.integers(5, size=290))), X.shape)
    ).tocsr()
    y = np.where(np.arange(290) % 5 == 0, 1 - true, true)

    def refuse(*_, **__):
        raise MemoryError("made dense")

    wrong = (y != true)[40:]
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_matrix):
        for method in ("toarray", "todense"):
            monkeypatch.setattr(kind, method, refuse)
    rows = (X[:40], true[:40]) if trusted else ()
    cleaner = LabelCleaner(random_state=0, folds=2).fit(X[40:], y[40:], *rows)
    monkeypatch.undo()  # the metric's own
    assert roc_auc_score(wrong, -cleaner.sample_weight_) > 0.9
    assert cleaner.score(X[40:], true[40:]) > 0.9


def test_a_network_where_a_line_does_not_do():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))
    true = (X.prod(axis=1) > 0).astype(int)
    wrong = rng.random(500) < 0.3
    y = np.where(wrong, 1 - true, true)
    rows = X[100:], y[100:], X[:100], true[:100]
    line, network = (LabelCleaner(hidden=hidden, random_state=0).fit(*rows) for hidden in (None, 16))
    assert roc_auc_score(wrong[100:], -line.sample_weight_) < 0.7
    assert roc_auc_score(wrong[100:], -network.sample_weight_) > 0.9


def test_another_solver(table, cleaner):
    solver = bl.FSLA(upper_step=1.0, lower_step=0.2, adjoint_step=0.2, storm_weight=0.3)
    other = table.cleaned(solver=solver, epochs=10)
    assert table.auroc(other) > 0.93
    assert not np.array_equal(other.sample_weight_, cleaner.sample_weight_)
    with pytest.raises(bl.SolveError, match="step sizes"):
        table.cleaned(solver=bl.SOBA(1e6, 1e6, 1e6))


@ALONE
def test_rows_of_a_group_do_not_vouch_for_each_other():
    """Each row is there ten times, and has nothing to do with any other: what its copies say is all there is."""
    X, y, groups = (np.repeat(part, 10, axis=0) for part in (np.eye(16), np.arange(16) % 2, np.arange(16)))

    def trust(groups):
        return LabelCleaner(random_state=0, epochs=5).fit(X, y, groups=groups).sample_weight_.mean()

    assert trust(None) > 0.9
    assert trust(groups) < 0.6


def test_tables_filled_up():
    X = np.array([[1.0, 5, 0], [3, 5, 0], [5, 5, 6]])
    dense = labeled(DenseTable(X), np.array([0, 1, 1]), np.array([2, 0]), 4)
    standard = np.array([[1.2247, 0, 1.4142], [-1.2247, 0, -0.7071]]) / np.sqrt(2)  # a column says nothing
    np.testing.assert_allclose(dense["features"][:2, :3], standard, atol=1e-4)
    assert dense["features"].shape == (4, 16) and not dense["features"][2:].any()
    assert dense["labels"].tolist() == [1, 0, 0, 0] and dense["keep"].tolist() == [2, 2, 0, 0]
    sparse = labeled(SparseTable(scipy.sparse.csr_matrix(X)), np.array([0, 1, 1]), np.array([2, 0]), 3)
    scale = np.sqrt((X**2).sum() / 3)
    np.testing.assert_allclose(np.sort(sparse["values"][0])[-4:], np.array([0, 5, 5, 6]) / scale, rtol=1e-6)
    lengths = {1: 1024, 1024: 1024, 1025: 2048, 2049: 4096, 4097: 5120, 10_000: 10_240, 1_000_000: 1_048_576}
    assert {n: length_for(n, narrow=True) for n in lengths} == lengths
    assert [length_for(n, narrow=False) for n in (1, 257, 10_000)] == [256, 512, 10_240]


@ALONE
@pytest.mark.parametrize(("trusted", "settings"), [(False, {}), (True, {"batch_size": 50, "hidden": 4})])
def test_what_is_filled_up_changes_nothing(table, monkeypatch, trusted, settings):
    """The same draws, in batches of all rows and in small ones, and from the same start."""
    rows = (table.X_trusted, table.y_trusted) if trusted else ()

    def fit():
        return LabelCleaner(random_state=0, folds=2, epochs=5, **settings).fit(table.X, table.y, *rows)

    filled = fit()
    monkeypatch.setattr("bilevel.estimators._judging.length_for", lambda rows, narrow: rows)
    monkeypatch.setattr("bilevel.estimators._rows._width", lambda columns: columns)
    exact = fit()
    np.testing.assert_allclose(filled.sample_weight_, exact.sample_weight_, atol=2e-5)
    np.testing.assert_allclose(filled.history_["upper loss"], exact.history_["upper loss"], rtol=1e-4)
    assert list(filled.history_["step"]) == list(exact.history_["step"])


@ALONE
def test_a_grid_search_compiles_each_program_once(compiled, table):
    """Folds, settings and the last fit, on all rows, share their programs."""
    grid, X = {"penalty": [0.1, 1.0], "epochs": [2, 3]}, np.tile(table.X, 4)  # of a width that no other test has
    GridSearchCV(LabelCleaner(folds=2, random_state=0), grid, cv=5).fit(X, table.y)
    assert "jit(_advance)" in compiled and len(compiled) == len(set(compiled)) < 10


ERRORS = {
    "X_trusted: missing": {"X_trusted": None},
    "y_trusted: missing": {"y_trusted": None},
    "X_trusted: has 4 columns, but X has 5": {"X_trusted": np.ones((TRUSTED, 4))},
    "X_trusted contains NaN": {"X_trusted": np.full((TRUSTED, 5), np.nan)},
    "X contains NaN": {"X": np.full((N, 5), np.nan)},
    "y_trusted: got 3 labels for the 30": {"y_trusted": [0, 1, 2]},
    r"y_trusted: holds \[7\], which y does not": {"y_trusted": np.full(TRUSTED, 7)},
    r"y_trusted: no row of \[1, 2\]": {"y_trusted": np.zeros(TRUSTED, int)},
    "y: got one class": {"y": np.zeros(N, int)},
    "Unknown label type": {"y": np.linspace(0, 1, N)},
    r"y: 1 label is missing \(row 3\); drop": {"y": [None if row == 3 else "a" for row in range(N)]},
    r"y_trusted: 2 labels are missing \(rows 0, 4\)": {
        "y_trusted": [None if i in (0, 4) else 1 for i in range(TRUSTED)]
    },
    "non-zero|all are zero": {"sample_weight": np.zeros(N)},
    "groups: they define folds": {"groups": np.zeros(N)},
    "groups: got one group": {"groups": np.zeros(N), "X_trusted": None, "y_trusted": None},
    "groups: got 3 groups for the 240 rows": {"groups": np.zeros(3), "X_trusted": None, "y_trusted": None},
    "groups: 240 groups are missing": {"groups": [None] * N, "X_trusted": None, "y_trusted": None},
    "y: got 3 labels for the 240 rows of X": {"y": [0, 1, 2]},
    r"y_trusted: got the shape \(30, 2\)": {"y_trusted": np.zeros((TRUSTED, 2))},
    "X_trusted: got no row": {"X_trusted": np.zeros((0, 5)), "y_trusted": []},
    "y: each row has a single 1": {"y": np.eye(3, dtype=int)[np.arange(N) % 3]},
}


@pytest.mark.parametrize("message", ERRORS)
def test_refuses_rows(table, message):
    rows = dict(X=table.X, y=table.y, X_trusted=table.X_trusted, y_trusted=table.y_trusted) | ERRORS[message]
    with pytest.raises(ValueError, match=message):
        LabelCleaner().fit(**rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": KNeighborsClassifier()}, "estimator: fit of KNeighborsClassifier takes no sample_weight"),
        ({"estimator": LogisticRegression}, "estimator: got the class LogisticRegression; pass"),
        ({"estimator": LinearRegression()}, r"estimator: got LinearRegression\(\), which is no classifier"),
        ({"solver": "soba"}, "solver: got 'soba'"),
        ({"penalty": 0.0}, "penalty"),
        ({"penalty": [1, 2.0]}, "penalty"),
        ({"precision": np.array([0.8, 0.9])}, "precision"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"folds": 1}, "folds"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_refuses_settings(table, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LabelCleaner(**settings).fit(table.X, table.y)


def test_the_start_alone_leaves_weights_where_they_were(table, cleaner):
    """A solver that stands still: the learned weights differ from the start's."""
    still = table.cleaned(solver=bl.SOBA(1e-9, 1e-9, 1e-9), epochs=1)
    assert table.auroc(still) > 0.93
    assert np.abs(still.sample_weight_ - cleaner.sample_weight_).max() > 1e-3
    assert jax.config.jax_enable_x64 is False


@ALONE
@pytest.mark.filterwarnings("error::bilevel.estimators.WeakModelWarning")
def test_features_that_say_little_flag_nothing_and_it_says_so():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=200)
    X = rng.normal(size=(200, 3)) + 0.6 * np.eye(3)[y]
    cleaner = LabelCleaner(random_state=0, epochs=5)
    with pytest.warns(WeakModelWarning, match="no label is flagged"):
        cleaner.fit(X, y)
    assert len(cleaner.suspects_) == 0 == cleaner.wrong_labels_.low and len(cleaner.scores_) == 200
    assert len(cleaner.to_check_) == round(200 * cleaner.wrong_labels_.share) > 0
    with pytest.warns(WeakModelWarning, match="no better than chance"):
        cleaner.fit(rng.normal(size=(200, 3)), y)
