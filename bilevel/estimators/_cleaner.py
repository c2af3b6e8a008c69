"""LabelCleaner: which labels of a table are wrong, and a classifier that gives them little weight."""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from bilevel import _checks as checks
from bilevel.estimators import _cleaning as cleaning
from bilevel.estimators import _flags as flags
from bilevel.estimators._cleaning import on_device
from bilevel.estimators._common import check_present, weight_argument
from bilevel.estimators._crowd import evidence, is_crowd, joined, judged
from bilevel.estimators._rows import DenseTable, SparseTable, encoded, features_for, labeled, length_for
from bilevel.estimators._splits import draw_parts, rare_classes
from bilevel.problem import Level, Problem
from bilevel.run._solution import History
from bilevel.run._solve import solve
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.soba import SOBA
from bilevel.tasks.networks.losses import WeightedLoss

# One draw of row i by SOBA moves x_i by this · n ∂Φ/∂x_i.
_VISIT = 0.1
_EXTREME = 4.0  # the initial log-odds are squashed into ±4: beyond, σ hardly changes
_START_ROWS = 20_480  # at most this many rows are used for the start; the weights of all rows are learned
_TINY = 1e-12
_DRAWN = (0.0, 0.5, 1.0)  # shares of the confusion that trusted rows show
_USUAL = 0.8  # of a label that is right, and of one that is redrawn, the rest: the other part of the confusion
_CHOICE_ROWS, _CHOICE_FOLDS = 2048, 3  # for the choice of the share: doubtful rows, and folds of trusted ones
_FACTORS = (1.0, 5.0, 25.0)  # of the penalty, without trusted rows: unknown noise needs a larger one
_ACCEPTED: Any = {"accept_sparse": "csr", "dtype": [np.float32, np.float64]}
_CHUNKS = 5  # rows of a run's history after the first


class NoTrustedRowsWarning(UserWarning):
    """Labels were cleaned without trusted rows, so that some errors cannot be found."""


class RareClassWarning(UserWarning):
    """Some classes have too few rows to be judged by each other."""


class WeakModelWarning(UserWarning):
    """The models cannot tell their own errors from wrong labels, so that no label is flagged."""


class _Learned(NamedTuple):
    """For each row of a part: log P(right)/P(wrong)."""

    score: Float[np.ndarray, " n"]
    history: list[dict[str, Any]]


def _key(rng: np.random.RandomState) -> Any:
    return jax.random.key(rng.randint(2**31 - 1))


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
       `sample_weight_` is the σ(a · score + b) nearest to that.
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
    - `wrong_labels_`: the estimated `share` of wrong labels, its 90 % interval `low` to `high`, and `classes`, an array
      with the same fields for the rows of each given label. It holds if the model does; it cannot see what it warns of.
    - `estimator_`: the classifier, whose `predict`, `predict_proba`, `decision_function` and `score` are used.
    - `confusion_`: P(given label | true class) of the start, as a matrix (k, k); `None` without trusted rows.
    - `history_`: a `bilevel.run._solution.History` of the runs that learn the weights, with `upper loss` and
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

        **Raises** `ValueError` for a single class, NaN, trusted rows without labels, with another width or with other
        classes than y, groups together with trusted rows, fewer than two groups, and an `estimator` that takes no
        `sample_weight`; `SolveError` if a solver that you pass diverges.
        """
        self._check_settings()
        self.crowd_ = judged("y", y) if is_crowd(y) else None
        if self.crowd_ is not None:
            y = self.crowd_.labels
        check_present("y", y)
        X, y, X_trusted = self._numbers(X, y, X_trusted)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: got one class, {self.classes_[0]!r}; cleaning needs at least two classes")
        own = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not own.any():
            raise ValueError("sample_weight: all are zero; some rows must have a positive weight")
        rng = check_random_state(self.random_state)
        trusted = self._trusted(X_trusted, y_trusted, X)
        if trusted is not None and groups is not None:
            raise ValueError("groups: they define folds, which are not used with trusted rows; omit them")
        table = SparseTable(X) if scipy.sparse.issparse(X) else DenseTable(X)
        said = None if self.crowd_ is None else evidence(self.crowd_, self.classes_)
        if trusted is None:
            folds = draw_parts(labels, groups, self.folds, rng)
            warnings.warn(
                "LabelCleaner: without trusted rows, labels are judged by each other. Scattered errors are found, but "
                "a wrong label that most rows of one kind share looks right. Pass X_trusted too.",
                NoTrustedRowsWarning,
                stacklevel=2,
            )
            rare = rare_classes(labels, folds)
            self.rare_classes_ = self.classes_[rare]
            score, log_p = self._clean_each_other(table, labels, folds, rng)
            channels = flags.channels(log_p, labels)
            if len(rare):
                names = ", ".join(map(repr, self.rare_classes_[:5].tolist())) + ", …" * (len(rare) > 5)
                warnings.warn(
                    f"LabelCleaner: these classes have too few rows to be judged by each other: {names}. Their rows "
                    "get weight 1 and end the ranking. Look at them yourself, or pass X_trusted.",
                    RareClassWarning,
                    stacklevel=2,
                )
        else:
            self.rare_classes_ = self.classes_[:0]
            folds = draw_parts(labels, None, self.folds, rng)
            score, channels = self._clean(table, labels, trusted, folds, rng)
        if self.crowd_ is not None:
            score = joined(self.crowd_, score)
        self._keep(score, labels, flags.beliefs(channels, labels, said))
        self._fit_estimator(X, y, trusted, own)
        return self

    def _numbers(self, X: Any, y: Any, X_trusted: Any) -> tuple[Any, Any, Any]:
        """X and y as scikit-learn checks them, and X_trusted. Of data frames with more than numbers, the features."""
        self.features_ = features_for(X)
        if self.features_ is None:
            X, y = validate_data(self, X, y, **_ACCEPTED)
            return X, y, X_trusted
        validate_data(self, X, skip_check_array=True)  # keeps the columns' names
        X, y = check_X_y(encoded(self.features_, "X", X), y, **_ACCEPTED, estimator=self)
        return X, y, None if X_trusted is None else encoded(self.features_, "X_trusted", X_trusted)

    def _check_settings(self) -> None:
        if weight_argument(self._default()) is None:
            raise ValueError(
                f"estimator: fit of {type(self._default()).__name__} takes no sample_weight; pass a classifier that "
                "does, such as LogisticRegression() or RandomForestClassifier(), or a pipeline that ends with one"
            )
        if not (self.solver is None or isinstance(self.solver, AbstractSolver)):
            raise TypeError(f"solver: got {self.solver!r}; pass one of this package, such as bl.SOBA(...), or None")
        for name, least in (("epochs", 1), ("batch_size", 1), ("folds", 2)):
            checks.count(name, getattr(self, name), least)
        if self.hidden is not None:
            checks.count("hidden", self.hidden)
        checks.positive("penalty", self.penalty)
        checks.positive("precision", self.precision)
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
        checked: Any = check_array(X, **_ACCEPTED, input_name="X_trusted", estimator=self)
        check_present("y_trusted", y)
        y = column_or_1d(y)
        if len(y) != checked.shape[0]:
            raise ValueError(f"y_trusted: got {len(y)} labels for the {checked.shape[0]} rows of X_trusted")
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

    def _clean(
        self, table: Any, labels: np.ndarray, trusted: Any, folds: list[np.ndarray], rng: np.random.RandomState
    ) -> tuple[Any, Any]:
        """The scores of all rows, judged by trusted rows, and the channels."""
        X_trusted, y_trusted = trusted
        order, n, m = rng.permutation(len(labels)), len(labels), len(y_trusted)
        lower = self._rows(table, labels, order, self._length(table, n))
        order_trusted = rng.permutation(m)
        upper = self._rows(table, y_trusted, order_trusted, self._length(table, m), X_trusted)
        y = self._begin(table, rng)
        part, judges = self._few(lower), self._few(upper)
        log_p, log_q = self._unseen(lower, part, upper, [np.isin(order, fold) for fold in folds], y)
        back = np.argsort(order)
        log_p = log_p[back]
        found = flags.channels(log_p, labels, (log_q[np.argsort(order_trusted)], y_trusted))
        share = on_device(m / (min(n, _START_ROWS) + m))
        penalty = on_device(self.penalty / min(n, _START_ROWS))
        few = self._few(part, _CHOICE_ROWS)
        self.confusion_ = self._confusion(np.exp(log_q), upper, few, share, penalty, y)
        channel = on_device(np.log(self.confusion_))
        y = cleaning.fit(cleaning.Start(judges, share, part, channel, penalty), y)
        learned = self._learn(lower, upper, channel, y, n, _key(rng))
        self.history_ = History(learned.history)
        return learned.score[back], found

    def _confusion(
        self, q: Float[np.ndarray, "m k"], upper: Any, few: Any, share: Any, penalty: Any, start: cleaning.Model
    ) -> Float[np.ndarray, "k k"]:
        """P(given | true) for the start: the mean of P(given | features) over the trusted rows of each class, drawn
        toward a right label as far as makes the start predict trusted rows best that it has not seen."""
        labels, keep = np.asarray(upper["labels"])[: len(q)], np.asarray(upper["keep"])
        k, part = q.shape[1], np.arange(len(keep)) % _CHOICE_FOLDS
        usual = _USUAL * np.eye(k) + (1 - _USUAL) / k

        def drawn(rows: np.ndarray, by: float) -> Float[np.ndarray, "k k"]:
            members = np.eye(k)[labels[rows]].T
            counts = members.sum(axis=1, keepdims=True)
            seen = np.where(counts > 0, members @ q[rows] / np.maximum(counts, 1), usual)
            return by * seen + (1 - by) * usual

        def loss(by: float) -> float:
            total = 0.0
            for fold in range(_CHOICE_FOLDS):
                held = (part == fold) & (keep > 0)
                seen = np.where(held, 0, keep)
                if not held.any() or not seen.any():
                    continue
                judges = upper | {"keep": on_device(seen / seen.mean())}
                channel = on_device(np.log(drawn(np.flatnonzero(seen[: len(q)]), by)))
                y = cleaning.fit(cleaning.Start(self._few(judges), share, few, channel, penalty), start)
                unseen = upper | {"keep": on_device(np.where(held, keep, 0))}
                total += float(cleaning.measure(few["keep"], y, unseen, few["keep"])[0])
            return total

        return drawn(np.arange(len(q)), min(_DRAWN, key=loss))

    def _unseen(
        self, lower: Any, part: Any, upper: Any, folds: list[np.ndarray], start: cleaning.Model
    ) -> tuple[Any, Any]:
        """log P(given label) of doubtful rows, each by a model that has not seen its fold, and of trusted rows."""
        n, m = len(folds[0]), np.count_nonzero(upper["keep"])
        keep, log_p, of_trusted, factors = np.asarray(lower["keep"]), np.empty((n, len(self.classes_))), [], _FACTORS
        for fold in folds:
            held, tried = np.zeros(len(keep), bool), []
            held[:n] = fold
            others = np.where(held, 0, keep)[: len(part["keep"])]
            others = part | {"keep": on_device(others / others.mean())}
            held_rows = lower | {"keep": on_device(np.where(held, keep, 0))}
            for factor in factors:
                penalty = on_device(factor * self.penalty / min(n, _START_ROWS))
                y = cleaning.fit(cleaning.Start(others, on_device(1.0), None, None, penalty), start)
                tried.append((float(cleaning.measure(lower["keep"], y, held_rows, lower["keep"])[0]), factor, y))
            _, factor, y = min(tried, key=lambda one: one[0])
            factors = (factor,)  # the choice of the first fold
            log_p[fold] = np.asarray(cleaning.log_probabilities(y, lower))[held]
            of_trusted.append(np.asarray(cleaning.log_probabilities(y, upper), float)[:m])
        return log_p, np.log(np.mean(np.exp(of_trusted), axis=0) + _TINY)

    def _clean_each_other(
        self, table: Any, labels: np.ndarray, folds: list[np.ndarray], rng: np.random.RandomState
    ) -> tuple[Any, Any]:
        """The scores of all rows and log P(given label), each fold judged by the others, in one program."""
        n = len(labels)
        longest = tuple(self._length(table, size) for size in (max(map(len, folds)), n - min(map(len, folds))))
        score, log_p, rows = np.empty(n), np.empty((n, len(self.classes_))), []
        start = self._begin(table, rng)
        # so that odds are p/(1 − p), p being the label's probability
        flat = on_device(np.zeros((len(self.classes_),) * 2))
        factors = _FACTORS
        for number, fold in enumerate(folds):
            others = rng.permutation(np.concatenate([part for part in folds if part is not fold]))
            lower = self._rows(table, labels, fold, longest[0])
            upper = self._rows(table, labels, others, longest[1])
            judges, tried = self._few(upper), []
            for factor in factors:
                penalty = on_device(factor * self.penalty / min(len(others), _START_ROWS))
                y = cleaning.fit(cleaning.Start(judges, on_device(1.0), None, None, penalty), start)
                tried.append((float(cleaning.measure(lower["keep"], y, lower, lower["keep"])[0]), factor, y))
            _, factor, y = min(tried, key=lambda one: one[0])
            factors = (factor,)  # the choice of the first fold
            log_p[fold] = np.asarray(cleaning.log_probabilities(y, lower))[: len(fold)]
            learned = self._learn(lower, upper, flat, y, len(fold), _key(rng), factor)
            score[fold] = learned.score
            rows += [{**row, "fold": number} for row in learned.history]
        self.confusion_, self.history_ = None, History(rows)
        return score, log_p

    def _length(self, table: Any, rows: int) -> int:
        """The padded number of rows. A solver of the user's own may look at all rows, and gets none that are not."""
        return length_for(rows, table.narrow) if self.solver is None else rows

    def _rows(self, *arguments: Any) -> cleaning.Rows:
        return {name: on_device(array) for name, array in labeled(*arguments).items()}

    def _few(self, rows: cleaning.Rows, most: int = _START_ROWS) -> cleaning.Rows:
        return rows if len(rows["keep"]) <= most else cleaning.first_rows(rows, most)

    def _begin(self, table: Any, rng: np.random.RandomState) -> cleaning.Model:
        return cleaning.new_model(table.width, table.X.shape[1], len(self.classes_), self.hidden, _key(rng))

    def _learn(
        self, lower: Any, upper: Any, channel: Any, y: cleaning.Model, n: int, key: Any, factor: float = 1.0
    ) -> _Learned:
        """The bilevel problem: weights of the n lower rows, judged by the upper ones."""
        length, step, solver = len(lower["keep"]), cleaning.STEP / 2, self.solver
        source, passed = (cleaning.TrueRows, n) if solver is None else (dict, length)
        if solver is None:
            solver = SOBA(upper_step=_VISIT * min(self.batch_size, n), lower_step=step, adjoint_step=step)
        loss = WeightedLoss(cleaning.losses, on_device(factor * self.penalty / n))
        sizes = [None if len(rows["keep"]) <= self.batch_size else self.batch_size for rows in (upper, lower)]
        problem = Problem(
            upper=Level(cleaning.trusted_loss, data=source(upper), batch_size=sizes[0]),
            lower=Level(loss, data=source(lower), batch_size=sizes[1], per_row=True),
        )

        def metrics(x: Any, y: Any) -> dict[str, Any]:
            found = cleaning.measure(x, y, upper, lower["keep"])
            return dict(zip(("upper loss", "mean weight"), map(float, found), strict=True))

        start = on_device(_EXTREME * np.tanh(np.asarray(cleaning.log_odds(y, channel, lower)) / _EXTREME))
        steps = self.epochs * -(-passed // self.batch_size)
        every = -(-steps // _CHUNKS)
        shown: Any = dict(every=every, metrics=metrics, progress=False, signs=False)  # a network's loss is not convex
        solution = solve(problem, solver, start, y, steps=steps, key=key, callbacks=self._callbacks, **shown)
        odds = cleaning.log_odds(solution.y, channel, lower)
        score = (np.asarray(solution.x, float) + np.asarray(odds, float)) / 2
        return _Learned(score[:n], solution.history.rows)

    def _keep(self, score: np.ndarray, labels: np.ndarray, found: flags.Beliefs) -> None:
        rare = np.isin(self.classes_[labels], self.rare_classes_)
        self.sample_weight_, right = np.ones(len(score)), np.where(rare, 1.0, found.right)
        self.sample_weight_[~rare] = flags.weights(score[~rare], right[~rare])
        found = found._replace(right=right, wrong=np.where(rare, 0.0, found.wrong))
        self.wrong_labels_ = flags.wrong_labels(found, labels, self.classes_)
        order = np.argsort(np.where(rare, np.inf, score), kind="stable")
        is_flagged = flags.flagged(self.sample_weight_, found, order, self.precision)
        label = self.classes_[np.where(is_flagged | (right < 0.5), found.other, labels)]
        self.scores_ = np.empty(len(score), [("row", np.int64), ("label", self.classes_.dtype), ("weight", float)])
        self.scores_["row"], self.scores_["label"] = order, label[order]
        self.scores_["weight"] = self.sample_weight_[order]
        self.suspects_ = self.scores_[is_flagged[order]]
        if not found.credible:
            warnings.warn(
                "LabelCleaner: no label is flagged. From these features, models predict too few of the given labels "
                f"(of right ones, it would be about {found.strength:.0%}): their own errors look like wrong labels. "
                "scores_ ranks all rows. For flags, pass more telling features, or hidden=50 for a network.",
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
