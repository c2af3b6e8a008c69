"""A paper's claim as one number per seed, above zero if the seed supports it, and the verdict over seeds."""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel.compare.records import Run
from bilevel.cost import KINDS

LEAST_SEEDS = 5
LEVEL = 0.95
HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "does not hold", "undecided", "not tested at this scale"
NOT_JUDGED = "not judged: to be redone"  # for an entry that contradicts its paper
RULE = (
    f"Each claim is a number for each seed, above zero where the seed bears it out. The {LEVEL:.0%} interval of its "
    f"mean (Student's t, at least {LEAST_SEEDS} seeds) above zero: holds; below: does not hold; else undecided."
)

Records = Mapping[str, Run]  # the runs of one seed, by curve


def position(row: Mapping[str, Any], axis: str) -> float:
    """The position of a history row on an axis: a column, or a sum over oracles.

    - `gradients`: gradients of f and g; `calls`: these and the products with H and J; both in samples.
    """
    if axis == "calls":
        return float(sum(row[kind] for kind in KINDS))
    if axis == "gradients":
        return float(row["F"] + row["G"])
    return float(row[axis])


class Check(abc.ABC):
    """A claim as a number, computed from the runs of one seed."""

    @abc.abstractmethod
    def curves(self) -> tuple[str, ...]:
        """The labels of the curves that the check needs."""

    @abc.abstractmethod
    def __call__(self, runs: Records) -> float:
        """The number: above zero if this seed supports the claim."""


def column(run: Run, metric: str) -> np.ndarray:
    return np.array([row[metric] for row in run.rows], float)


def at_end(run: Run, metric: str) -> float:
    """The metric's mean over the last fifth of the history's rows, but over at least one row."""
    return float(np.mean(column(run, metric)[-max(1, len(run.rows) // 5) :]))


@dataclass(frozen=True)
class Exceeds(Check):
    """`metric` at the end of `high`, minus that of `low`, minus `by`. For a loss, name the worse curve `high`.

    `low=None` compares with zero.
    """

    metric: str
    high: str
    low: str | None = None
    by: float = 0.0

    def curves(self) -> tuple[str, ...]:
        return (self.high,) if self.low is None else (self.high, self.low)

    def __call__(self, runs: Records) -> float:
        low = 0.0 if self.low is None else at_end(runs[self.low], self.metric)
        return at_end(runs[self.high], self.metric) - low - self.by


@dataclass(frozen=True)
class Near(Check):
    """`within` minus the distance between the metric's ends on two curves."""

    metric: str
    one: str
    other: str
    within: float

    def curves(self) -> tuple[str, ...]:
        return self.one, self.other

    def __call__(self, runs: Records) -> float:
        return self.within - abs(at_end(runs[self.one], self.metric) - at_end(runs[self.other], self.metric))


@dataclass(frozen=True)
class Above(Check):
    """How far the curve of `high` lies above that of `low`, on average over the part of the axis that both cover.

    "Converges faster" means that it has reached more at equal seconds or equal gradients. `by` is subtracted. For a
    loss, name the slower curve `high`.
    """

    metric: str
    high: str
    low: str
    axis: str
    by: float = 0.0

    def curves(self) -> tuple[str, ...]:
        return self.high, self.low

    def __call__(self, runs: Records) -> float:
        one, other = (
            ([position(row, self.axis) for row in run.rows], column(run, self.metric))
            for run in (runs[self.high], runs[self.low])
        )
        start, end = max(one[0][0], other[0][0]), min(one[0][-1], other[0][-1])
        grid = np.linspace(start, end, 200)
        return float(np.mean(np.interp(grid, *one) - np.interp(grid, *other))) - self.by


@dataclass(frozen=True)
class Diverges(Check):
    """1 if the run stops because it is not finite or not convex, or if its metric ends worse than it began; else −1."""

    curve: str
    metric: str
    rising: bool = True

    def curves(self) -> tuple[str, ...]:
        return (self.curve,)

    def __call__(self, runs: Records) -> float:
        run = runs[self.curve]
        values = column(run, self.metric) * (1.0 if self.rising else -1.0)
        return 1.0 if run.result in ("nonfinite", "not_convex") or not values[-1] >= values[0] else -1.0


@dataclass(frozen=True)
class Slope(Check):
    """The slope of log(metric) against log(axis) over the rows from `start` on, minus `above`; or `below` minus the
    slope."""

    metric: str
    curve: str
    axis: str
    start: float
    above: float | None = None
    below: float | None = None

    def curves(self) -> tuple[str, ...]:
        return (self.curve,)

    def __call__(self, runs: Records) -> float:
        run = runs[self.curve]
        kept = [row for row in run.rows if position(row, self.axis) >= self.start and row[self.metric] > 0]
        at, values = [math.log(position(row, self.axis)) for row in kept], [math.log(row[self.metric]) for row in kept]
        slope = float(np.polyfit(at, values, 1)[0])
        return slope - self.above if self.above is not None else float(self.below or 0.0) - slope


@dataclass(frozen=True)
class Correlates(Check):
    """Spearman's rank correlation of two columns of a run's rows, minus `above`."""

    one: str
    other: str
    curve: str
    above: float = 0.0

    def curves(self) -> tuple[str, ...]:
        return (self.curve,)

    def __call__(self, runs: Records) -> float:
        from scipy.stats import spearmanr

        rows = runs[self.curve].rows
        found = spearmanr([row[self.one] for row in rows], [row[self.other] for row in rows])
        return float(found.statistic) - self.above  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Claim:
    """The claim that a figure or table of a paper supports: a sentence, and checks that must all hold."""

    sentence: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Finding:
    """A check over seeds: its verdict, and the mean of its number with the interval that decides it."""

    check: Check
    verdict: str
    values: tuple[float, ...] = ()
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""


def judge(check: Check, by_seed: Sequence[Records]) -> Finding:
    """The verdict on one check from the runs of each seed."""
    usable = [runs for runs in by_seed if all(label in runs and runs[label].rows for label in check.curves())]
    if len(usable) < LEAST_SEEDS:
        return Finding(check, UNTESTED, reason=f"{len(usable)} of at least {LEAST_SEEDS} seeds have all its runs")
    values = np.array([check(runs) for runs in usable])
    if not np.isfinite(values).all():
        return Finding(check, UNDECIDED, tuple(values), reason="its number is not finite on every seed")
    mean, half = float(values.mean()), half_width(values)
    low, high = mean - half, mean + half
    verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
    return Finding(check, verdict, tuple(map(float, values)), mean, low, high)


def half_width(values: np.ndarray) -> float:
    """Half the width of Student's interval for the mean."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def overall(verdicts: Sequence[str]) -> str:
    """One verdict from those on a claim's parts, or on an entry's claims: all must hold, and one failure decides."""
    for verdict in (FAILS, UNTESTED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return HOLDS
