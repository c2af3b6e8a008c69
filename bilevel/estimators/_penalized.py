"""Linear models with one penalty per feature, group of features or class, as scikit-learn estimators."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from bilevel import _checks as checks
from bilevel.estimators import _penalties as penalties
from bilevel.estimators import _tuning as tuning
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
        cv: int | float = 5,
        steps: int = 20,
        spread: float = 0.5,
        random_state: Any = None,
    ):
        self.penalty_groups = penalty_groups
        self.cv = cv
        self.steps = steps
        self.spread = spread
        self.random_state = random_state

    def _check_parameters(self) -> None:
        if isinstance(self.cv, float | np.floating):
            if not 0 < self.cv <= 0.5:
                raise ValueError(f"cv: got {self.cv}; a share of the rows must be above 0 and at most 0.5")
        else:
            checks.count("cv", self.cv, least=2)
        checks.count("steps", self.steps, least=0)
        checks.number("spread", self.spread)
        checks.positive("spread", self.spread)

    def _validate(self, X: Any, y: Any, sample_weight: Any, **how: Any) -> tuple[Any, Any, Float[np.ndarray, " n"]]:
        """The rows of nonzero weight, with their targets."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=_DTYPES, ensure_min_samples=2, **how)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weights.any():
            raise ValueError("sample_weight: all are zero; some rows must have a positive weight")
        if not weights.all():
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        if not isinstance(X, np.ndarray) and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        return X, y, weights

    def _folds(self, labels: Int[np.ndarray, " n"] | None, rows: int) -> Int[np.ndarray, " n"]:
        """The folds, drawn with `random_state`."""
        if not isinstance(self.cv, float | np.floating) and self.cv > rows:
            raise ValueError(f"cv: got {self.cv} folds for {rows} rows; pass fewer folds or more rows")
        folds = tuning.draw_folds(rows, self.cv, check_random_state(self.random_state), labels)
        if (folds < 0).all():
            few = "" if labels is None else " of classes with two rows or more"
            raise ValueError(f"cv: got {self.cv}, which holds out none of the {rows} rows{few}; pass more rows")
        return folds

    def _feature_groups(self, features: int) -> Int[np.ndarray, "d 1"]:
        """The index of each feature's penalty."""
        if self.penalty_groups is None:
            return np.arange(features)[:, None]
        groups = np.asarray(self.penalty_groups)
        if groups.shape != (features,):
            raise ValueError(f"penalty_groups: got shape {groups.shape}; pass the group of each of {features} features")
        return np.unique(groups, return_inverse=True)[1].reshape(-1, 1)

    def _tune(self, X: Any, targets: Any, weights: Any, folds: Any, groups: Any, loss: Any) -> tuning.Tuned:
        count = 1 if isinstance(self.cv, float | np.floating) else int(self.cv)
        table = tuning.new_table(X, targets, weights, folds)
        tuned = tuning.tune(table, groups, loss, folds=count, spread=float(self.spread), steps=int(self.steps))
        self.penalties_ = tuned.penalties[groups.ravel()].astype(X.dtype)
        self.history_ = History(tuned.history)
        return tuned

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

        Σ_i log-loss_i(w, b) + ½ Σ_jc λ_jc w_jc²

    (two classes share one score, as in scikit-learn). There is one λ per feature j, per group of features or per
    class c, in the units of 1/C of scikit-learn's `LogisticRegression`. The penalties are tuned on the mean log-loss of
    the rows that each of a few folds holds out: all folds are trained in one program, and an adjoint system gives the
    gradient of that loss in log λ. The tuning starts from one common penalty, the best of a few decades.

    This many penalties could overfit the held-out rows, as any model can overfit its training rows. A prior holds them
    together: each log λ is Student-t distributed around their mean, with three degrees of freedom and scale `spread`.
    Most features stay near the common penalty; the few with clear evidence in the held-out rows move far from it.

    **Arguments**

    - `per`: `"feature"` or `"class"` (two classes share one penalty).
    - `penalty_groups`: the group of each feature, (n_features,), for one penalty per group.
    - `cv`: the number of folds, or the share of the rows to hold out once, a float up to 0.5. Classes are spread
      evenly.
    - `steps`: the number of Adam steps of the tuning. With 0 there is one common penalty.
    - `spread`: the scale of the prior of log λ.
    - `random_state`: draws the folds.

    **Attributes**: `penalties_` (λ of each feature, or of each row of `coef_`); `coef_` (classes, n_features), or
    (1, n_features) for two classes; `intercept_`; `classes_`; `n_features_in_`; `history_`, a `bilevel.History` of the
    tuning: the mean log-loss of the held-out rows, the objective (which adds the prior over the number of held-out
    rows), and the passes over all rows and folds: F, G, H, J.

    X may be dense or sparse. A sparse X is never made dense. The fit uses single precision, and its compiled programs
    serve every X of nearly the same shape.

    **Raises** `ValueError` or `TypeError`, naming the argument.

    Example:

        >>> from bilevel.estimators import PenalizedLogistic
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> model = PenalizedLogistic(random_state=0).fit(X[:400] / X.std(axis=0), y[:400])
        >>> model.penalties_.shape, model.score(X[400:] / X.std(axis=0), y[400:]) > 0.95
        ((30,), True)

    Reference: Pedregosa (ICML 2016) for the hypergradient from approximate solutions; Bengio, "Gradient-based
    optimization of hyperparameters" (Neural Computation, 2000), for one penalty per input.
    """

    def __init__(
        self,
        *,
        per: str = "feature",
        penalty_groups: Any = None,
        cv: int | float = 5,
        steps: int = 20,
        spread: float = 0.5,
        random_state: Any = None,
    ):
        super().__init__(penalty_groups=penalty_groups, cv=cv, steps=steps, spread=spread, random_state=random_state)
        self.per = per

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "PenalizedLogistic":
        """Tune the penalties and fit the model. `sample_weight`, (n,), multiplies each row's losses."""
        self._check_parameters()
        checks.one_of("per", self.per, PER)
        if self.per == "class" and self.penalty_groups is not None:
            raise ValueError("penalty_groups: got groups of features with per='class'; omit one of them")
        X, y, weights = self._validate(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, labels = np.unique(column_or_1d(y), return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise ValueError(f"y: holds only one class, {self.classes_[0]!r}; a classifier needs two or more")
        two = count == 2
        targets = 2.0 * labels[:, None] - 1 if two else np.eye(count)[labels]
        per_class = np.arange(targets.shape[1])[None, :]
        groups = per_class if self.per == "class" else self._feature_groups(X.shape[1])
        loss = penalties.BINARY if two else penalties.MULTINOMIAL
        tuned = self._tune(X, targets, weights, self._folds(labels, len(labels)), groups, loss)
        self.coef_, self.intercept_ = tuned.coefficients.astype(X.dtype), tuned.intercepts.astype(X.dtype)
        return self

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

        Σ_i ‖X_i w + b − y_i‖² + Σ_j λ_j ‖w_j‖²

    There is one λ_j per feature or group of features, shared by all targets, in the units of `alpha` of scikit-learn's
    `Ridge`. All else is as in `PenalizedLogistic`, with half the logarithm of the mean squared error, for each target,
    as the loss of held-out rows. If a dense X has many more rows than features, each fold is first reduced to about as
    many rows as it has features, with the same sums of squares.

    **Arguments** are those of `PenalizedLogistic`, without `per`. y is (n,) or (n, targets).

    **Attributes**: `penalties_` (λ of each feature); `coef_` (n_features,) or (targets, n_features); `intercept_`;
    `n_features_in_`; `history_`, a `bilevel.History` of the tuning, whose held-out loss is the mean squared error,
    summed over targets.

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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "PenalizedRidge":
        """Tune the penalties and fit the model. `sample_weight`, (n,), multiplies each row's squared errors."""
        self._check_parameters()
        X, y, weights = self._validate(X, y, sample_weight, multi_output=True, y_numeric=True)
        targets = y.reshape(len(y), -1).astype(float)
        groups, folds = self._feature_groups(X.shape[1]), self._folds(None, len(y))
        tuned = self._tune(X, targets, weights, folds, groups, penalties.SQUARED)
        coefficients, intercepts = tuned.coefficients.astype(X.dtype), tuned.intercepts.astype(X.dtype)
        self.coef_, self.intercept_ = (coefficients, intercepts) if y.ndim == 2 else (coefficients[0], intercepts[0])
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "..."]:
        """The predicted targets, shaped like those of the fit."""
        scores = self._scores(X)
        return scores if self.coef_.ndim == 2 else scores[:, 0]
