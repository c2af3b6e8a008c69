"""LabelCleaner: which labels of a table are wrong, and a classifier that gives them little weight."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted, validate_data

from bilevel import _checks as checks
from bilevel.estimators import _flags as flags
from bilevel.estimators._common import check_estimator, weight_argument
from bilevel.estimators._crowd import evidence, is_crowd, joined, judged
from bilevel.estimators._given import from_probabilities, one_column
from bilevel.estimators._judging import Judge, Judged
from bilevel.estimators._rows import DenseTable, SparseTable, encoded, features_for
from bilevel.estimators._splits import draw_parts, rare_classes
from bilevel.solvers.base import AbstractSolver

_ACCEPTED: Any = {"accept_sparse": "csr", "dtype": [np.float32, np.float64]}


class NoTrustedRowsWarning(UserWarning):
    """Labels were cleaned without trusted rows, so that some errors cannot be found."""


class RareClassWarning(UserWarning):
    """Some classes have too few rows to be judged by each other."""


class WeakModelWarning(UserWarning):
    """The models cannot tell their own errors from wrong labels, so that no label is flagged."""


def _estimator_has(name: str) -> Any:
    def check(self: Any) -> bool:
        chosen = self.estimator_ if hasattr(self, "estimator_") else self._default()
        getattr(chosen, name)  # its own AttributeError says more than ours
        return True

    return check


class LabelCleaner(ClassifierMixin, BaseEstimator):
    """Learn a weight for each row of a table with doubtful labels, then fit a classifier with these weights.

    A few trusted rows judge the others: x_i, the logit of row i's weight, solves

        upper:  f(x, y) = mean over trusted rows of CE_j(y)
        lower:  g(x, y) = mean over rows of σ(x_i) · CE_i(y) + c ‖y‖²

    CE is the cross-entropy of a model y: multinomial logistic regression or, with `hidden`, a network. In steps:

    1. **Scale.** Dense columns get mean 0 and variance 1, and are then divided by the root of their number. Sparse rows
       are divided by one number, and keep at most their 500 largest entries. Rows then have mean square 1, and the
       default steps suit any table.
    2. **Start.** Models of the doubtful labels, applied to the trusted rows of each class t, show how often the label l
       is given: the confusion P(l | t). Few trusted rows show it badly, and the models' own doubt looks like confusion.
       So it is drawn toward 0.8 I + 0.2/k, wholly, half or not at all, as held-out trusted rows are predicted best. A
       model is then fitted to the doubtful rows through this confusion, jointly with the trusted rows. It gives the
       log-odds that label i is right, given its features. x_i starts at these, squashed by 4 tanh(·/4). If there are
       more than 20,480 rows, this many are drawn for the start.
    3. **Weights.** From there, `solver` makes `epochs` passes over all rows.
    4. **Score.** The score is the mean of x_i and the log-odds that label i is right, by the learned y and the
       confusion. It ranks the rows.
    5. **Probability.** Models that have not seen a row give P(given label | features), for a temperature that is
       fitted to the given labels. P(given label | true class) is counted among the tenth of the rows that the models
       are surest of, where labels that differ are taken as wrong; with trusted rows, others are tried, such as powers
       of the confusion, and one that explains the trusted labels much better is taken. Classes of few rows are drawn to
       the pooled error rate. Division by it gives P(true class | features), and Bayes' rule P(label i is right).
       `sample_weight_` is the σ(a · score + b) nearest to that. If the models predict given labels no better than by
       chance, they say nothing of them; with trusted rows it is then σ(score).
    6. **Flags.** A row is flagged if the weight and Bayes' rule both find another label more probable than not. Of
       these, the most doubtful are taken while the mean probability of the proposed labels is at least `precision`.
       That holds if the models are right where they are surest. If they predict far fewer of all labels than of those,
       they are too weak to tell their own errors from wrong labels: then nothing is flagged, the interval of the share
       of wrong labels begins at zero, and a `WeakModelWarning` says so.
    7. **Fit.** A clone of `estimator` is fitted to all rows with `sample_weight_`, and to trusted rows with weight 1.

    **Without trusted rows** the table cleans itself: it is cut into `folds`, and the weights of each fold are judged by
    the other folds with their given labels. Labels that contradict their neighbors are found. Noise that looks like
    truth is not: if most rows of one kind have the same wrong label, the right ones will be doubted. A
    `NoTrustedRowsWarning` says so. It is worth the work to check a hundred rows, some of each class. A class of one or
    two rows cannot be judged, nor one with fewer than two per fold and less than half an equal share of the rows: its
    rows would be the most doubtful, whatever their labels. They get weight 1 and end the ranking, and a
    `RareClassWarning` names the class.

    **A crowd.** If y has several people's labels per row, `crowd_labels` turns them into one label per row, which is
    cleaned. The score is then the sum of the log-odds by the features and of those by the answers, less those of the
    class, which are in both: given the true class, features and answers are taken as independent.

    **Arguments**

    - `estimator`: a scikit-learn classifier whose `fit` takes `sample_weight`, or a pipeline or a grid search that ends
      with one; default `LogisticRegression(max_iter=1000)`. With scikit-learn's metadata routing, the last step must
      request `sample_weight`.
    - `solver`: a solver of this package, such as `bl.FSLA(...)`. Default: `bl.SOBA` with lower and adjoint steps of ½,
      half the largest step that is sure to converge for rows of mean square 1, and a step of 0.1 · (rows in a batch)
      for x. Each draw of row i then moves x_i by −0.1 · n ∂Φ/∂x_i on average, for n rows in all. With the default,
      tables of similar size share their compiled programs; a solver of your own is compiled for each number of rows.
    - `hidden`: the width of a network's hidden layer; by default, the model is linear.
    - `penalty`: c is `penalty` divided by the number of rows. Without trusted rows the factors 1, 5 and 25 are tried,
      and the one whose start predicts the labels of the first fold best is used.
    - `epochs`: passes that learn the weights. `batch_size`: the number of rows in a step, at most all rows.
    - `folds`: the number of folds, at most the number of rows or groups.
    - `precision`: the share of flags that shall be right, by the learned probabilities; at least 0.5 and below 1.
    - `random_state`: for the draws of rows, folds, and a network's initial weights. With a number, a fit can be
      repeated bit for bit.

    **Attributes**

    - `sample_weight_`: (n,), in [0, 1]: the probability that the label is right.
    - `scores_`: all n rows, the most doubtful first, as an array with the fields `row` (its place in X), `label` (the
      most probable label, which may be the given one) and `weight`.
    - `suspects_`: the flagged rows of `scores_`. Their label is the proposed one, never the given one. Of a data frame,
      `X.iloc[cleaner.suspects_["row"]]` are the rows, and `X.index[cleaner.suspects_["row"]]` is their index.
    - `to_check_`: the rows to check by hand, whether another label is proposed or not: the first of `scores_`, as many
      as labels are estimated to be wrong.
    - `wrong_labels_`: the estimated `share` of wrong labels, its 90 % interval `low` to `high`, and `classes`, an array
      with the same fields for the rows of each given label. It holds if the model does; it cannot see what it warns of.
    - `estimator_`: the classifier, whose `predict`, `predict_proba`, `decision_function` and `score` are used.
    - `confusion_`: P(given label | true class) of the start, as a matrix (k, k); `None` without trusted rows.
    - `history_`: a `bilevel.History` of the runs that learn the weights, with `upper loss` and
      `mean weight`; without trusted rows, one run per `fold`.
    - `crowd_`: the `CrowdLabels` of a crowd's answers; else `None`.
    - `rare_classes_`: classes of too few rows to be judged, whose rows end the ranking; none with trusted rows.
    - `features_`: the `bilevel.clean.TableFeatures` that turned a data frame into numbers, with what was read from each
      column; `None` if X has nothing but numbers. `estimator_` is fitted to these features.
    - `classes_`, `n_features_in_`, `feature_names_in_` (if X has names).

    **Raises** `ValueError` or `TypeError`, naming the argument: see `fit`.

    Example:

        >>> import numpy as np
        >>> from sklearn.datasets import make_blobs
        >>> from bilevel.estimators import LabelCleaner
        >>> X, y = make_blobs(300, centers=3, cluster_std=0.6, random_state=0)
        >>> doubtful, wrong = y[30:].copy(), np.arange(0, 270, 3)
        >>> doubtful[wrong] = (doubtful[wrong] + 1) % 3
        >>> cleaner = LabelCleaner(random_state=0).fit(X[30:], doubtful, X[:30], y[:30])
        >>> worst = cleaner.suspects_
        >>> bool(np.isin(worst["row"], wrong).mean() > 0.9)
        True
        >>> bool((worst["label"] == y[30:][worst["row"]]).mean() > 0.9)
        True

    Reference: the bilevel problem is that of Franceschi et al. (ICML 2017, Section 5.1). The confusion is Hendrycks,
    Mazeika, Wilson & Gimpel's "gold loss correction" (NeurIPS 2018, Algorithm 1), and the loss through it is that of
    Patrini et al. (CVPR 2017, Theorem 2); to count it among the surest rows is near their Section 4.1. The
    temperature is that of Guo et al. (ICML 2017, Section 4.2), the weights' map that of Platt (1999).
    """

    _callbacks: Any = ()  # of each run of the solver: `bilevel clean` shows how far it is

    def __init__(
        self,
        estimator: Any = None,
        *,
        solver: AbstractSolver | None = None,
        hidden: int | None = None,
        penalty: float = 0.25,
        epochs: int = 50,
        batch_size: int = 256,
        folds: int = 5,
        precision: float = 0.8,
        random_state: Any = None,
    ):
        self.estimator = estimator
        self.solver = solver
        self.hidden = hidden
        self.penalty = penalty
        self.epochs = epochs
        self.batch_size = batch_size
        self.folds = folds
        self.precision = precision
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        X_trusted: Any = None,
        y_trusted: Any = None,
        groups: Any = None,
        sample_weight: Any = None,
        pred_probs: Any = None,
        pred_probs_trusted: Any = None,
    ) -> "LabelCleaner":
        """Learn the weights, then fit the estimator.

        **Arguments**

        - `X` (n, d), `y` (n,): the table. X is dense or sparse, or a data frame, whose columns may hold text, dates,
          categories and missing values. y holds any labels that scikit-learn accepts. Or y (n, people) has the labels
          of several people per row, as `crowd_labels` takes them.
        - `X_trusted` (m, d), `y_trusted` (m,): rows whose labels are right and which are not in X. Each class of y must
          have some.
        - `groups` (n,): without trusted rows, rows of one group stay in one fold.
        - `sample_weight` (n,): weights of your own. Divided by their mean, they are factors of the weights with which
          the estimator is fitted. They do not change which labels are doubted.
        - `pred_probs` (n, k): P(given label | features) by a model of your own that has not seen the row, as
          `cross_val_predict(model, X, y, method="predict_proba")` gives it, with the classes sorted, or as a data
          frame whose columns have their names. The labels are then judged by log(`pred_probs` + 0.01) in the place of
          X, to which `estimator` is fitted as ever. `pred_probs_trusted` (m, k): the same of trusted rows, if there
          are any.

        **Raises** `ValueError` for a single class, NaN, trusted rows without labels, with another width or with other
        classes than y, groups together with trusted rows, fewer than two groups, `pred_probs` of another shape or that
        do not sum to one, or that are missing for some rows, and an `estimator` that takes no `sample_weight`;
        `SolveError` if a solver that you pass diverges.
        """
        self._check_settings()
        self.crowd_ = judged("y", y) if is_crowd(y) else None
        if self.crowd_ is not None:
            y = self.crowd_.labels
        index = X.index if hasattr(X, "iloc") else None
        X, y, X_trusted = self._numbers(X, y, X_trusted)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: got one class, {self.classes_.tolist()[0]!r}; cleaning needs at least two classes")
        own = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not own.any():
            raise ValueError("sample_weight: all are zero; some rows must have a positive weight")
        trusted = self._trusted(X_trusted, y_trusted, X)
        if trusted is not None and groups is not None:
            raise ValueError("groups: they define folds, which are not used with trusted rows; omit them")
        groups = None if groups is None else one_column("groups", groups, len(labels), what="group")
        seen, judges = X, trusted
        if pred_probs is not None or pred_probs_trusted is not None:
            known = labels, self.classes_
            seen, judges = from_probabilities(*known, pred_probs, pred_probs_trusted, trusted, index)
        found = self._judge(seen, labels, judges, groups)
        self.confusion_, self.history_ = found.confusion, found.history
        said = None if self.crowd_ is None else evidence(self.crowd_, self.classes_)
        score = found.score if self.crowd_ is None else joined(self.crowd_, found.score)
        self._keep(score, labels, flags.beliefs(found.channels, labels, said))
        self._fit_estimator(X, y, trusted, own)
        return self

    def _judge(self, X: Any, labels: np.ndarray, trusted: Any, groups: Any) -> Judged:
        """The judgment of all rows, with warnings of what it cannot see. Sets `rare_classes_`."""
        table = SparseTable(X) if scipy.sparse.issparse(X) else DenseTable(X)
        settings = self.solver, self.hidden, self.penalty, self.epochs, self.batch_size, self._callbacks
        judge, rng = Judge(table, labels, len(self.classes_), *settings), check_random_state(self.random_state)
        folds = draw_parts(labels, groups, self.folds, rng)
        self.rare_classes_ = self.classes_[:0]
        if trusted is not None:
            return judge.by_trusted(trusted, folds, rng)
        warnings.warn(
            "LabelCleaner: without trusted rows, labels are judged by each other. Scattered errors are found, but "
            "a wrong label that most rows of one kind share looks right. Pass X_trusted too.",
            NoTrustedRowsWarning,
            stacklevel=3,
        )
        self.rare_classes_ = self.classes_[rare_classes(labels, folds)]
        if len(self.rare_classes_):
            names = ", ".join(map(repr, self.rare_classes_[:5].tolist())) + ", …" * (len(self.rare_classes_) > 5)
            warnings.warn(
                f"LabelCleaner: these classes have too few rows to be judged by each other: {names}. Their rows "
                "get weight 1 and end the ranking. Look at them yourself, or pass X_trusted.",
                RareClassWarning,
                stacklevel=3,
            )
        return judge.by_each_other(folds, rng)

    def _numbers(self, X: Any, y: Any, X_trusted: Any) -> tuple[Any, Any, Any]:
        """X and y as scikit-learn checks them, and X_trusted. Of data frames with more than numbers, the features."""
        self.features_ = features_for(X)
        y = None if y is None else one_column("y", y, _num_samples(X))
        if self.features_ is None:
            X, y = validate_data(self, X, y, **_ACCEPTED)
            return X, y, X_trusted
        validate_data(self, X, skip_check_array=True)  # keeps the columns' names
        X, y = check_X_y(encoded(self.features_, "X", X), y, **_ACCEPTED, estimator=self)
        return X, y, None if X_trusted is None else encoded(self.features_, "X_trusted", X_trusted)

    def _check_settings(self) -> None:
        check_estimator(self._default())
        if not (self.solver is None or isinstance(self.solver, AbstractSolver)):
            raise TypeError(f"solver: got {self.solver!r}; pass one of this package, such as bl.SOBA(...), or None")
        for name, least in (("epochs", 1), ("batch_size", 1), ("folds", 2)):
            checks.count(name, getattr(self, name), least)
        if self.hidden is not None:
            checks.count("hidden", self.hidden)
        checks.positive("penalty", self.penalty)
        checks.number("precision", self.precision)
        if not 0.5 <= self.precision < 1:
            raise ValueError(f"precision: got {self.precision}; pass a share of right flags, at least 0.5 and below 1")

    def _default(self) -> Any:
        return LogisticRegression(max_iter=1000) if self.estimator is None else self.estimator

    def _trusted(self, X: Any, y: Any, table: Any) -> tuple[Any, Int[np.ndarray, " m"]] | None:
        """The trusted rows, sparse or dense like the table, and the numbers of their classes."""
        if X is None and y is None:
            return None
        if X is None or y is None:
            missing, other = ("X_trusted", "y_trusted") if X is None else ("y_trusted", "X_trusted")
            raise ValueError(f"{missing}: missing, but {other} is given; pass both or neither")
        if not _num_samples(X):
            raise ValueError("X_trusted: got no row; pass rows whose labels are right, or neither rows nor labels")
        checked: Any = check_array(X, **_ACCEPTED, input_name="X_trusted", estimator=self)
        y = one_column("y_trusted", y, checked.shape[0], "X_trusted")
        if checked.shape[1] != table.shape[1]:
            raise ValueError(f"X_trusted: has {checked.shape[1]} columns, but X has {table.shape[1]}")
        if self.features_ is None:
            validate_data(self, X, reset=False, skip_check_array=True)  # checks the columns' names
        present = np.isin(self.classes_, y)
        unseen = np.setdiff1d(y, self.classes_)
        if len(unseen):
            raise ValueError(f"y_trusted: holds {unseen[:5].tolist()}, which y does not; its labels must be among y's")
        if not present.all():
            raise ValueError(
                f"y_trusted: no row of {self.classes_[~present][:5].tolist()}; each class of y needs a trusted row"
            )
        sparse = scipy.sparse.issparse(table)
        if sparse != scipy.sparse.issparse(checked):
            checked = scipy.sparse.csr_array(checked) if sparse else checked.toarray()
        return checked, np.searchsorted(self.classes_, y)

    def _keep(self, score: np.ndarray, labels: np.ndarray, found: flags.Beliefs) -> None:
        rare = np.isin(self.classes_[labels], self.rare_classes_)
        self.sample_weight_, right = np.ones(len(score)), np.where(rare, 1.0, found.right)
        if found.strength or self.confusion_ is None:
            self.sample_weight_[~rare] = flags.weights(score[~rare], right[~rare])
        else:
            self.sample_weight_[~rare] = expit(score[~rare])
        found = found._replace(right=right, wrong=np.where(rare, 0.0, found.wrong))
        self.wrong_labels_ = flags.wrong_labels(found, labels, self.classes_)
        order = np.argsort(np.where(rare, np.inf, score), kind="stable")
        is_flagged = flags.flagged(self.sample_weight_, found, order, self.precision)
        label = self.classes_[np.where(is_flagged | (right < 0.5), found.other, labels)]
        self.scores_ = np.empty(len(score), [("row", np.int64), ("label", self.classes_.dtype), ("weight", float)])
        self.scores_["row"], self.scores_["label"] = order, label[order]
        self.scores_["weight"] = self.sample_weight_[order]
        self.suspects_ = self.scores_[is_flagged[order]]
        self.to_check_ = self.scores_[: round(self.wrong_labels_.share * len(score))]
        if not found.credible:
            few = f"too few of the given labels (of right ones, it would be about {found.strength:.0%})"
            few = few if found.strength else "labels no better than chance"
            warnings.warn(
                f"LabelCleaner: no label is flagged. From these features, models predict {few}: their own errors look "
                "like wrong labels. scores_ ranks all rows, and to_check_ has the first. For flags, pass more telling "
                "features, or hidden=50 for a network.",
                WeakModelWarning,
                stacklevel=3,
            )

    def _fit_estimator(self, X: Any, y: np.ndarray, trusted: Any, own: Float[np.ndarray, " n"]) -> None:
        own = own / own.max()
        weights = self.sample_weight_ * (own / own.mean())
        if trusted is not None:
            stack = scipy.sparse.vstack if scipy.sparse.issparse(X) else np.concatenate
            X, y = stack([X, trusted[0]]), np.concatenate([y, self.classes_[trusted[1]]])
            weights = np.concatenate([weights, np.ones(len(trusted[1]))])
        chosen: Any = clone(self._default())
        self.estimator_ = chosen.fit(X, y, **{str(weight_argument(chosen)): weights})

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        if self.features_ is not None:
            return encoded(self.features_, "X", X)
        return validate_data(self, X, **_ACCEPTED, reset=False)

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, by `estimator_`."""
        X = self._checked(X)
        return self.estimator_.predict(X)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """The probability of each class, by `estimator_`."""
        X = self._checked(X)
        return self.estimator_.predict_proba(X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: Any) -> Float[np.ndarray, "..."]:
        """The decision function of `estimator_`."""
        X = self._checked(X)
        return self.estimator_.decision_function(X)
