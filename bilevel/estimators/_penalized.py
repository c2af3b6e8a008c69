"""Linear models with one penalty per feature, group of features or class, as scikit-learn estimators."""

import copy
import inspect
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from bilevel import _checks as checks
from bilevel.estimators import _penalties as penalties
from bilevel.estimators import _splits as splits
from bilevel.estimators import _tuning as tuning
from bilevel.estimators._common import check_present
from bilevel.estimators._units import new_table
from bilevel.run._solution import History

PER = ("feature", "class")
_DTYPES = [np.float64, np.float32]


class _Penalized(BaseEstimator):
    """The base class of both estimators."""

    coef_: Any
    intercept_: Any

    def __init__(
        self,
        *,
        penalty_groups: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        fit_intercept: bool = True,
        steps: int = 20,
        spread: float = 0.5,
        random_state: Any = None,
    ):
        self.penalty_groups = penalty_groups
        self.cv = cv
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.steps = steps
        self.spread = spread
        self.random_state = random_state

    def _check_parameters(self) -> None:
        splits.check(self.cv)
        if not (self.scoring is None or isinstance(self.scoring, str) or callable(self.scoring)):
            raise TypeError(f"scoring: got {self.scoring!r}; pass the name of one score, a scorer, or None")
        checks.flag("fit_intercept", self.fit_intercept)
        checks.count("steps", self.steps, least=0)
        checks.number("spread", self.spread)
        checks.positive("spread", self.spread)

    def _validate(self, X: Any, y: Any, sample_weight: Any, **how: Any) -> tuple[Any, Any, Float[np.ndarray, " n"]]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=_DTYPES, ensure_min_samples=2, **how)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weights.any():
            raise ValueError("sample_weight: all are zero; some rows must have a positive weight")
        return X, y, weights

    def _draw_splits(
        self, X: Any, y: Any, groups: Any, kept: Bool[np.ndarray, " n"], labels: Int[np.ndarray, " m"] | None
    ) -> splits.Splits:
        """The splits of the kept rows."""
        return splits.draw(self.cv, X, y, groups, kept, labels, check_random_state(self.random_state))

    def _feature_groups(self, features: int) -> Int[np.ndarray, "d 1"]:
        """The index of each feature's penalty."""
        if self.penalty_groups is None:
            return np.arange(features)[:, None]
        groups = np.asarray(self.penalty_groups)
        if groups.shape != (features,):
            raise ValueError(f"penalty_groups: got shape {groups.shape}; pass the group of each of {features} features")
        return np.unique(groups, return_inverse=True)[1].reshape(-1, 1)

    def _judge(self, X: Any, y: Any, weights: Any, parts: splits.Splits, flat: bool = False) -> tuning.Judge | None:
        """The mean of `scoring` over the splits. `weights`: None, or those of the user."""
        if self.scoring is None:
            return None
        scorer: Any = check_scoring(self, scoring=self.scoring)
        takes_weights = "sample_weight" in inspect.signature(getattr(scorer, "_score_func", scorer)).parameters
        rows = []
        for held_out in parts.holds_out.T > 0:
            passed = {"sample_weight": weights[held_out]} if takes_weights and weights is not None else {}
            rows.append((X[held_out], y[held_out], passed))

        def judge(coefficients: np.ndarray, intercepts: np.ndarray) -> float:
            scores = []
            for split, (X, y, passed) in enumerate(rows):
                if not len(y):
                    continue
                model = copy.copy(self)
                model.__dict__.pop("feature_names_in_", None)  # X has none here
                model._keep(coefficients[split], intercepts[split], X.dtype, flat)
                scores.append(scorer(model, X, y, **passed))
                if not np.isfinite(scores[-1]):
                    raise ValueError(
                        f"scoring: {self.scoring!r} is {scores[-1]} on the rows that split {split} holds out; pass "
                        "splits that hold out some rows of each class, or another scoring"
                    )
            return float(np.mean(scores))

        return judge

    def _fit(
        self,
        X: Any,
        targets: Any,
        weights: Any,
        parts: splits.Splits,
        groups: Any,
        loss: Any,
        judge: tuning.Judge | None,
        flat: bool = False,
    ) -> None:
        if not isinstance(X, np.ndarray) and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        table = new_table(X, targets, weights, *parts, intercept=self.fit_intercept)
        tuned = tuning.tune(table, groups, loss, spread=float(self.spread), steps=int(self.steps), judge=judge)
        self._keep(tuned.coefficients, tuned.intercepts, X.dtype, flat)
        if not np.isfinite(self.coef_).all():
            raise ValueError(f"X: coefficients are too large for {X.dtype}; divide columns or targets by their size")
        largest = weights.max()
        self.penalties_ = tuned.penalties[groups.ravel()] * (weights / largest).mean() * largest
        self.scale_ = tuned.scale
        self.history_ = History(tuned.history)

    def _keep(self, coefficients: np.ndarray, intercepts: np.ndarray, dtype: Any, flat: bool) -> None:
        """Keep the coefficients (c, d) and intercepts (c,) of a model, or only those of its one output."""
        coefficients, intercepts = coefficients.astype(dtype), intercepts.astype(dtype)
        self.coef_, self.intercept_ = (coefficients[0], intercepts[0]) if flat else (coefficients, intercepts)

    def _scores(self, X: Any) -> Float[np.ndarray, "n c"]:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=_DTYPES, reset=False)
        return safe_sparse_dot(X, np.atleast_2d(self.coef_).T, dense_output=True) + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class PenalizedLogistic(ClassifierMixin, _Penalized):
    """Logistic regression with one penalty per feature, tuned by hypergradients on held-out rows.

    With the penalties λ, the coefficients w_c and intercepts b_c of the classes c minimize

        Σ_i log-loss_i(w, b) + ½ Σ_jc λ_jc (s_j w_jc)²

    (two classes share one score, as in scikit-learn). There is one λ per feature j, per group of features or per
    class c. s_j is the unit of column j: its deviation over the root of the share of its values that are not zero, so
    that the units of columns do not matter. On columns of deviation one without zeros, λ is 1/C of scikit-learn's
    `LogisticRegression`. The penalties are tuned on the mean log-loss of the rows that each of a few folds holds out:
    all folds are trained in one program, and an adjoint system gives the gradient of that loss in log λ. The tuning
    starts from one common penalty, the best of ten decades.

    This many penalties could overfit the held-out rows, as any model can overfit its training rows. A prior holds them
    together: each log λ is Student-t distributed around their mean, with three degrees of freedom and scale `spread`.
    Most features stay near the common penalty; the few with clear evidence in the held-out rows move far from it.

    **Arguments**

    - `per`: `"feature"` or `"class"` (two classes share one penalty).
    - `penalty_groups`: the group of each feature, (n_features,), for one penalty per group.
    - `cv`: the number of folds; or the share of the rows to hold out once, a float up to 0.5; or a splitter of
      scikit-learn, or a list of (training rows, held-out rows). With a number or a share, classes are spread evenly,
      and rows of one group, if `fit` is given `groups`, stay together.
    - `scoring`: a scikit-learn score, by name or as a scorer. Penalties still move along the hypergradient of the
      log-loss. Of those on the way, the ones with the best mean score over the splits are kept, and `score` gives this
      score. Scores that take weights get those of `fit`.
    - `class_weight`: factors of the weights of classes, as a dict, or `"balanced"`. They count for held-out rows too.
    - `fit_intercept`: without it, columns are not centered, and s_j has their root mean square in place of their
      deviation.
    - `steps`: the number of Adam steps of the tuning. With 0 there is one common penalty.
    - `spread`: the scale of the prior of log λ.
    - `random_state`: draws the folds.

    **Attributes**: `penalties_` (λ of each feature, or of each row of `coef_`); `scale_` (s of each feature); `coef_`
    (classes, n_features), or (1, n_features) for two classes; `intercept_`; `classes_`; `n_features_in_`; `history_`, a
    `bilevel.History` of the tuning: the mean log-loss of the held-out rows, the objective (which adds the prior over
    the number of held-out rows), and the passes over all rows and folds: F, G, H, J.

    A common factor of all weights is a factor of `penalties_`, and changes nothing else. An L1 penalty is not there,
    nor are bounds of coefficients.

    X may be dense or sparse. A sparse X is never made dense. The fit uses single precision, and its compiled programs
    serve every X of nearly the same shape.

    **Raises** `ValueError` or `TypeError`, naming the argument.

    Example:

        >>> from bilevel.estimators import PenalizedLogistic
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> model = PenalizedLogistic(random_state=0).fit(X[:400], y[:400])
        >>> model.penalties_.shape, model.score(X[400:], y[400:]) > 0.95
        ((30,), True)

    Reference: Pedregosa (ICML 2016) for the hypergradient from approximate solutions; Bengio, "Gradient-based
    optimization of hyperparameters" (Neural Computation, 2000), for one penalty per input.
    """

    def __init__(
        self,
        *,
        per: str = "feature",
        penalty_groups: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        class_weight: Any = None,
        fit_intercept: bool = True,
        steps: int = 20,
        spread: float = 0.5,
        random_state: Any = None,
    ):
        super().__init__(
            penalty_groups=penalty_groups,
            cv=cv,
            scoring=scoring,
            fit_intercept=fit_intercept,
            steps=steps,
            spread=spread,
            random_state=random_state,
        )
        self.per = per
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> "PenalizedLogistic":
        """Tune the penalties and fit the model.

        `sample_weight`, (n,), multiplies each row's losses. `groups`, (n,): rows of one group stay in one fold.
        """
        self._check_parameters()
        checks.one_of("per", self.per, PER)
        if self.per == "class" and self.penalty_groups is not None:
            raise ValueError("penalty_groups: got groups of features with per='class'; omit one of them")
        check_present("y", y)
        X, y, weights = self._validate(X, y, sample_weight)
        check_classification_targets(y)
        y, kept = column_or_1d(y), weights > 0
        self.classes_, labels = np.unique(y[kept], return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise ValueError(f"y: holds only one class, {self.classes_.tolist()[0]!r}; a classifier needs two or more")
        parts = self._draw_splits(X, y, groups, kept, labels)
        splits.check_classes(parts, labels, self.classes_)
        rows, own = X if kept.all() else X[kept], weights[kept]
        two = count == 2
        targets = 2.0 * labels[:, None] - 1 if two else np.eye(count)[labels]
        per_class = np.arange(targets.shape[1])[None, :]
        which = per_class if self.per == "class" else self._feature_groups(X.shape[1])
        loss = penalties.BINARY if two else penalties.MULTINOMIAL
        judge = self._judge(rows, y[kept], None if sample_weight is None else own, parts)
        self._fit(rows, targets, own * self._class_weights(labels, own)[labels], parts, which, loss, judge)
        return self

    def _class_weights(
        self, labels: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " k"]:
        """A factor of the weights of each class. "balanced" makes their sums equal."""
        if isinstance(self.class_weight, str):
            checks.one_of("class_weight", self.class_weight, ("balanced",))
            sums = np.bincount(labels, weights)
            return sums.sum() / (len(sums) * sums)
        found = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[labels])
        if not (np.isfinite(found) & (found > 0)).all():
            raise ValueError(f"class_weight: got {self.class_weight}; each weight must be a finite number above zero")
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The `scoring` of the rows; the accuracy where that is None."""
        if self.scoring is None:
            return super().score(X, y, sample_weight)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        scorer: Any = check_scoring(self, scoring=self.scoring)
        return float(scorer(self, X, y, **weights))

    def decision_function(self, X: Any) -> Float[np.ndarray, "..."]:
        """The scores, (n, classes), or (n,) for two classes."""
        scores = self._scores(X)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """The probability of each class."""
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return softmax(scores, axis=1)
        return np.stack([expit(-scores), expit(scores)], axis=1)

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Its logarithm."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row."""
        scores = self.decision_function(X)
        return self.classes_[scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)]


class PenalizedRidge(MultiOutputMixin, RegressorMixin, _Penalized):
    """Ridge regression with one penalty per feature, tuned by hypergradients on held-out rows.

    With the penalties λ, coefficients w and intercepts b minimize

        Σ_i ‖X_i w + b − y_i‖² + Σ_j λ_j ‖s_j w_j‖²

    There is one λ_j per feature or group of features, shared by all targets. On columns of deviation one without zeros,
    it is `alpha` of scikit-learn's `Ridge`. All else is as in `PenalizedLogistic`, with half the
    logarithm of the mean squared error, for each target, as the loss of held-out rows. If a dense X has many more rows
    than features, each fold is first reduced to about as many rows as it has features, with the same sums of squares.

    **Arguments** are those of `PenalizedLogistic`, without `per` and `class_weight`. y is (n,) or (n, targets).

    **Attributes**: `penalties_` (λ of each feature); `scale_` (s of each feature); `coef_` (n_features,) or
    (targets, n_features); `intercept_`; `n_features_in_`; `history_`, a `bilevel.History` of the tuning, whose
    held-out loss is the mean squared error, summed over targets.

    **Raises** `ValueError` or `TypeError`, naming the argument.

    Example:

        >>> import numpy as np
        >>> from bilevel.estimators import PenalizedRidge
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(80, 50))
        >>> y = X[:, :3] @ [3.0, -3.0, 3.0] + rng.normal(size=80)  # three features matter
        >>> model = PenalizedRidge(random_state=0).fit(X, y)
        >>> bool(model.penalties_[:3].max() < 0.5 * np.median(model.penalties_[3:]))
        True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> "PenalizedRidge":
        """Tune the penalties and fit the model.

        `sample_weight`, (n,), multiplies each row's squared errors. `groups`, (n,): rows of one group stay in one fold.
        """
        self._check_parameters()
        check_present("y", y, "target")
        X, y, weights = self._validate(X, y, sample_weight, multi_output=True, y_numeric=True)
        kept = weights > 0
        which, parts = self._feature_groups(X.shape[1]), self._draw_splits(X, y, groups, kept, None)
        rows, own, flat = X if kept.all() else X[kept], weights[kept], y.ndim == 1
        judge = self._judge(rows, y[kept], None if sample_weight is None else own, parts, flat)
        targets = y[kept].reshape(len(own), -1).astype(float)
        self._fit(rows, targets, own, parts, which, penalties.SQUARED, judge, flat)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "..."]:
        """The predicted targets, shaped like those of the fit."""
        scores = self._scores(X)
        return scores if self.coef_.ndim == 2 else scores[:, 0]
