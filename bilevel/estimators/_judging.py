"""How `LabelCleaner` judges labels: by trusted rows, or by the other rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bilevel.estimators import _cleaning as cleaning
from bilevel.estimators import _flags as flags
from bilevel.estimators._cleaning import on_device
from bilevel.estimators._rows import DenseTable, SparseTable, labeled, length_for
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
_FACTORS = (1.0, 5.0, 25.0)  # of the penalty, for models that no trusted row judges: unknown noise needs a larger one
_CHUNKS = 5  # rows of a run's history after the first


class Judged(NamedTuple):
    """For each row the log-odds that its label is right; the channels; the runs; the confusion of the start, if any."""

    score: Float[np.ndarray, " n"]
    channels: flags.Channels
    history: History
    confusion: Float[np.ndarray, "k k"] | None = None


@dataclasses.dataclass(frozen=True)
class Judge:
    """The settings of `LabelCleaner` on which learning depends, for a table of so many classes."""

    table: DenseTable | SparseTable
    labels: Int[np.ndarray, " n"]
    classes: int
    solver: AbstractSolver | None
    hidden: int | None
    penalty: float
    epochs: int
    batch_size: int
    callbacks: Sequence[Any]

    def by_trusted(self, trusted: tuple[Any, Any], folds: list[np.ndarray], rng: np.random.RandomState) -> Judged:
        """All rows, judged by trusted rows. In the folds, models are fitted that have not seen the rows."""
        X_trusted, y_trusted = trusted
        n, m = len(self.labels), len(y_trusted)
        order = rng.permutation(n)
        lower = self._rows(self.labels, order, self._length(n))
        order_trusted = rng.permutation(m)
        upper = self._rows(y_trusted, order_trusted, self._length(m), X_trusted)
        y = self._begin(rng)
        part, judges = _few(lower), _few(upper)
        log_p, log_q = self._unseen(lower, part, upper, [np.isin(order, fold) for fold in folds], y)
        back = np.argsort(order)
        found = flags.channels(log_p[back], self.labels, (log_q[np.argsort(order_trusted)], y_trusted))
        share = on_device(m / (min(n, _START_ROWS) + m))
        penalty = self._penalty(n)
        confusion = _confusion(np.exp(log_q), upper, _few(part, _CHOICE_ROWS), share, penalty, y)
        channel = on_device(np.log(confusion))
        y = cleaning.fit(cleaning.Start(judges, share, part, channel, penalty), y)
        score, history = self._learn(lower, upper, channel, y, n, _key(rng))
        return Judged(score[back], found, History(history), confusion)

    def by_each_other(self, folds: list[np.ndarray], rng: np.random.RandomState) -> Judged:
        """Each fold, judged by the others, in one program."""
        n = len(self.labels)
        longest = tuple(self._length(size) for size in (max(map(len, folds)), n - min(map(len, folds))))
        score, log_p, rows = np.empty(n), np.empty((n, self.classes)), []
        start = self._begin(rng)
        flat = on_device(np.zeros((self.classes,) * 2))  # so that odds are p/(1 − p), p being the label's probability
        factors = _FACTORS
        for number, fold in enumerate(folds):
            others = rng.permutation(np.concatenate([part for part in folds if part is not fold]))
            lower = self._rows(self.labels, fold, longest[0])
            upper = self._rows(self.labels, others, longest[1])
            factor, y = self._best(_few(upper), lower, factors, len(others), start)
            factors = (factor,)  # the choice of the first fold
            log_p[fold] = np.asarray(cleaning.log_probabilities(y, lower))[: len(fold)]
            score[fold], history = self._learn(lower, upper, flat, y, len(fold), _key(rng), factor)
            rows += [{**row, "fold": number} for row in history]
        return Judged(score, flags.channels(log_p, self.labels), History(rows))

    def _unseen(
        self, lower: Any, part: Any, upper: Any, folds: list[Bool[np.ndarray, " n"]], start: cleaning.Model
    ) -> tuple[Any, Any]:
        """log P(given label) of doubtful rows, each by a model that has not seen its fold, and of trusted rows."""
        n, m = len(folds[0]), np.count_nonzero(upper["keep"])
        keep, log_p, of_trusted, factors = np.asarray(lower["keep"]), np.empty((n, self.classes)), [], _FACTORS
        for fold in folds:
            held = np.zeros(len(keep), bool)
            held[:n] = fold
            others = np.where(held, 0, keep)[: len(part["keep"])]
            others = part | {"keep": on_device(others / others.mean())}
            held_rows = lower | {"keep": on_device(np.where(held, keep, 0))}
            factor, y = self._best(others, held_rows, factors, n, start)
            factors = (factor,)  # the choice of the first fold
            log_p[fold] = np.asarray(cleaning.log_probabilities(y, lower))[held]
            of_trusted.append(np.asarray(cleaning.log_probabilities(y, upper), float)[:m])
        return log_p, np.log(np.mean(np.exp(of_trusted), axis=0) + _TINY)

    def _best(
        self, rows: Any, held: Any, factors: tuple[float, ...], n: int, start: cleaning.Model
    ) -> tuple[float, cleaning.Model]:
        """The factor of the penalty whose model of the rows predicts the held ones best, and that model."""
        tried = []
        for factor in factors:
            y = cleaning.fit(cleaning.Start(rows, on_device(1.0), None, None, self._penalty(n, factor)), start)
            tried.append((float(cleaning.measure(held["keep"], y, held, held["keep"])[0]), factor, y))
        return min(tried, key=lambda one: one[0])[1:]

    def _penalty(self, n: int, factor: float = 1.0) -> Any:
        return on_device(factor * self.penalty / min(n, _START_ROWS))

    def _length(self, rows: int) -> int:
        """The padded number of rows. A solver of the user's own may look at all rows, and gets none that are not."""
        return length_for(rows, self.table.narrow) if self.solver is None else rows

    def _rows(self, *arguments: Any) -> cleaning.Rows:
        return {name: on_device(array) for name, array in labeled(self.table, *arguments).items()}

    def _begin(self, rng: np.random.RandomState) -> cleaning.Model:
        return cleaning.new_model(self.table.width, self.table.X.shape[1], self.classes, self.hidden, _key(rng))

    def _learn(
        self, lower: Any, upper: Any, channel: Any, y: cleaning.Model, n: int, key: Any, factor: float = 1.0
    ) -> tuple[Float[np.ndarray, " n"], list[dict[str, Any]]]:
        """The bilevel problem: the scores of the n lower rows, judged by the upper ones, and the run's history."""
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
        solution = solve(problem, solver, start, y, steps=steps, key=key, callbacks=self.callbacks, **shown)
        odds = cleaning.log_odds(solution.y, channel, lower)
        score = (np.asarray(solution.x, float) + np.asarray(odds, float)) / 2
        return score[:n], solution.history.rows


def _confusion(
    q: Float[np.ndarray, "m k"], upper: Any, few: Any, share: Any, penalty: Any, start: cleaning.Model
) -> Float[np.ndarray, "k k"]:
    """P(given | true) for the start: the mean of P(given | features) over the trusted rows of each class, drawn toward
    a right label as far as makes the start predict trusted rows best that it has not seen."""
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
            y = cleaning.fit(cleaning.Start(_few(judges), share, few, channel, penalty), start)
            unseen = upper | {"keep": on_device(np.where(held, keep, 0))}
            total += float(cleaning.measure(few["keep"], y, unseen, few["keep"])[0])
        return total

    return drawn(np.arange(len(q)), min(_DRAWN, key=loss))


def _few(rows: cleaning.Rows, most: int = _START_ROWS) -> cleaning.Rows:
    return rows if len(rows["keep"]) <= most else cleaning.first_rows(rows, most)


def _key(rng: np.random.RandomState) -> Any:
    return jax.random.key(rng.randint(2**31 - 1))
