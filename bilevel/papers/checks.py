"""What a claim says, as one number per seed: above zero if the runs of that seed bear it out."""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bilevel.compare.records import Run
from bilevel.papers.histories import (
    ROUNDING,
    at_end,
    broke_off,
    column,
    diverged,
    mean_along,
    position,
    positions,
    span,
    stood_still,
)

COVERED = 0.7  # the least share of either curve's axis on which `Above` compares the two, unless told otherwise
NEVER = 10.0  # the factor that `Sooner` takes where the curve that should be sooner never arrives

Records = Mapping[str, Run]  # the runs of one seed, by curve


def _minus(number: float | None) -> str:
    return f" {'minus' if number > 0 else 'plus'} {abs(number):g}" if number else ""


class Check(abc.ABC):
    """A number computed from the runs of one seed, and what makes these runs no evidence."""

    metrics: ClassVar[tuple[str, ...]] = ("metric",)  # the fields that name a column which must move
    of_divergence: ClassVar[bool] = False  # whether a run that diverges is what the claim is about

    @abc.abstractmethod
    def curves(self) -> tuple[str, ...]:
        """The labels of the curves that the check needs."""

    @abc.abstractmethod
    def __call__(self, runs: Records) -> float:
        """The number: above zero if this seed supports the claim."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """What the number is."""

    def trouble(self, runs: Records) -> str:
        """Why the runs of a seed are no evidence, or empty: a run broke off or diverged, or its metric never moved.

        A run that broke off is no evidence for another method, nor is a curve that never moved.
        """
        for label in self.curves():
            found = broke_off(runs[label]) or ("" if self.of_divergence else diverged(runs[label]))
            for field in self.metrics:
                found = found or stood_still(runs[label], getattr(self, field))
            if found:
                return found
        return ""

    def over(self, seeds: Sequence[Records]) -> np.ndarray:
        """The numbers of all seeds."""
        return np.array([self(runs) for runs in seeds])


@dataclass(frozen=True)
class Exceeds(Check):
    """`metric` at the end of `high`, minus that of `low`, minus `by`. For a loss, name the worse curve `high`.

    `low=None` compares with zero.
    """

    metric: str
    high: str
    low: str | None = None
    by: float = 0.0

    def __str__(self) -> str:
        low = "" if self.low is None else f" minus {self.low}"
        return f"{self.metric} at the end: {self.high}{low}{_minus(self.by)}"

    def curves(self) -> tuple[str, ...]:
        return (self.high,) if self.low is None else (self.high, self.low)

    def __call__(self, runs: Records) -> float:
        low = 0.0 if self.low is None else at_end(runs[self.low], self.metric)
        return at_end(runs[self.high], self.metric) - low - self.by


@dataclass(frozen=True)
class Near(Check):
    """On par: `within` minus the distance between the metric's ends on two curves."""

    metric: str
    one: str
    other: str
    within: float

    def __str__(self) -> str:
        return f"{self.metric} at the end: {self.within:g} minus the distance of {self.one} and {self.other}"

    def curves(self) -> tuple[str, ...]:
        return self.one, self.other

    def __call__(self, runs: Records) -> float:
        return self.within - abs(at_end(runs[self.one], self.metric) - at_end(runs[self.other], self.metric))


@dataclass(frozen=True)
class Above(Check):
    """How far the curve of `high` lies above that of `low`, on average over the axis.

    "Converges faster" means that it has reached more at equal seconds, iterations or gradients. For a loss, name the
    slower curve `high`. The two must have about the same budget: the part of the axis that both cover is at least 70 %
    of either's, or the seed is no evidence. `part`: the beginning and the end of the stretch of the common axis that is
    compared, as shares of it.

    `covered`: another least share than 70 %. With zero, two runs are compared for as long as the quicker one took.
    """

    metric: str
    high: str
    low: str
    axis: str
    part: tuple[float, float] = (0.0, 1.0)
    covered: float = COVERED

    def __str__(self) -> str:
        part = "" if self.part == (0.0, 1.0) else f" ({self.part[0]:.0%} to {self.part[1]:.0%} of them)"
        return f"{self.metric} over {self.axis}{part}: {self.high} minus {self.low}"

    def curves(self) -> tuple[str, ...]:
        return self.high, self.low

    def trouble(self, runs: Records) -> str:
        if found := super().trouble(runs):
            return found
        (a, b), (c, d) = (span(runs[label], self.axis) for label in self.curves())
        if min(b, d) - max(a, c) >= self.covered * max(b - a, d - c):
            return ""
        return f"{self.high} covers {b - a:.3g} of {self.axis}, {self.low} {d - c:.3g}: not the same budget"

    def __call__(self, runs: Records) -> float:
        (a, b), (c, d) = (span(runs[label], self.axis) for label in self.curves())
        start, end = max(a, c), min(b, d)
        start, end = (start + share * (end - start) for share in self.part)
        high, low = (mean_along(runs[label], self.metric, self.axis, start, end) for label in self.curves())
        return high - low


@dataclass(frozen=True)
class Sooner(Check):
    """`first` reaches `level` of the metric within `factor` times what `other` needs, on an axis.

    The number is log(factor) + log(position of `other`) − log(position of `first`), so that a factor of 1.3 allows
    30 % more and one of 0.5 asks for half. `rising`: whether the level is reached from below. If `other` never reaches
    it, it counts as doing so at its last row, which can only harm the claim. If `first` never does, the number is
    −log 10.
    """

    metric: str
    level: float
    first: str
    other: str
    axis: str
    factor: float = 1.0
    rising: bool = True

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else f"{self.factor:.3g} · "
        level = f"{self.metric} {'≥' if self.rising else '≤'} {self.level:g}"
        return f"log of {self.axis} until {level}: {factor}{self.other} ÷ {self.first}"

    def curves(self) -> tuple[str, ...]:
        return self.first, self.other

    def _reached(self, run: Run) -> float | None:
        """The end of the first step at which the metric is at its level; between two rows as in `along`."""
        steps, where = column(run, "step"), positions(run, self.axis)
        above = (column(run, self.metric) - self.level) * (1.0 if self.rising else -1.0)
        hits = np.flatnonzero(above >= 0)
        if not len(hits):
            return None
        i = int(hits[0])
        step = steps[0] if i == 0 else np.interp(0.0, above[i - 1 : i + 1], steps[i - 1 : i + 1])
        return float(np.interp(np.ceil(step - ROUNDING), steps, where))

    def trouble(self, runs: Records) -> str:
        if found := super().trouble(runs):
            return found
        none = all(self._reached(runs[label]) is None for label in self.curves())
        return f"neither {self.first} nor {self.other} reaches {self.metric} {self.level:g}" if none else ""

    def __call__(self, runs: Records) -> float:
        first, other = (self._reached(runs[label]) for label in self.curves())
        if first is None:
            return -math.log(NEVER)
        other = position(runs[self.other].rows[-1], self.axis) if other is None else other
        return math.log(self.factor) + math.log(max(other, 1e-300)) - math.log(max(first, 1e-300))


@dataclass(frozen=True)
class Drops(Check):
    """A curve's own drop, from its highest row to its end, minus `more`; or `less` minus the drop."""

    metric: str
    curve: str
    more: float | None = None
    less: float | None = None
    of_divergence: ClassVar[bool] = True

    def __str__(self) -> str:
        drop = f"drop of {self.curve} from its best"
        return (
            f"{self.metric}: {drop}{_minus(self.more)}"
            if self.more is not None
            else f"{self.metric}: {self.less:g} minus {drop}"
        )

    def curves(self) -> tuple[str, ...]:
        return (self.curve,)

    def __call__(self, runs: Records) -> float:
        run = runs[self.curve]
        drop = float(np.max(column(run, self.metric))) - at_end(run, self.metric)
        return drop - self.more if self.more is not None else float(self.less or 0.0) - drop


@dataclass(frozen=True)
class Spreads(Check):
    """How much further the ends of `wide` lie from their median over the seeds than those of `narrow` from theirs.

    One number per seed: the two distances' difference, as in the test of Brown and Forsythe.
    """

    metric: str
    wide: str
    narrow: str

    def __str__(self) -> str:
        return f"distance of {self.metric} at the end from its median: {self.wide} minus {self.narrow}"

    def curves(self) -> tuple[str, ...]:
        return self.wide, self.narrow

    def __call__(self, runs: Records) -> float:
        raise TypeError("Spreads: it is no number of one seed; use over")

    def over(self, seeds: Sequence[Records]) -> np.ndarray:
        wide, narrow = (np.array([at_end(runs[label], self.metric) for runs in seeds]) for label in self.curves())
        return np.abs(wide - np.median(wide)) - np.abs(narrow - np.median(narrow))


@dataclass(frozen=True)
class Larger(Check):
    """The number of one check minus that of another: "the improvement is more significant in this case"."""

    one: Check
    other: Check

    def __str__(self) -> str:
        return f"({self.one}) minus ({self.other})"

    def curves(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.one.curves(), *self.other.curves())))

    def trouble(self, runs: Records) -> str:
        return self.one.trouble(runs) or self.other.trouble(runs)

    def __call__(self, runs: Records) -> float:
        return self.one(runs) - self.other(runs)


@dataclass(frozen=True)
class Diverges(Check):
    """1 if the run stops because it is not finite or not convex, or if its loss ends above its first row; else −1."""

    curve: str
    metric: str

    def __str__(self) -> str:
        return f"{self.metric}: 1 if {self.curve} breaks off or ends worse than it began, else −1"

    def curves(self) -> tuple[str, ...]:
        return (self.curve,)

    def trouble(self, runs: Records) -> str:
        run = runs[self.curve]
        if run.result in ("nonfinite", "not_convex"):
            return ""  # that is what it looks for
        return broke_off(run) or stood_still(run, self.metric)

    def __call__(self, runs: Records) -> float:
        run = runs[self.curve]
        below = at_end(run, self.metric) <= column(run, self.metric)[0]
        return 1.0 if run.result in ("nonfinite", "not_convex") or not below else -1.0


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

    def __str__(self) -> str:
        slope = f"slope of log {self.metric} against log {self.axis} from {self.start:g} on, {self.curve}"
        return f"{slope}{_minus(self.above)}" if self.above is not None else f"{self.below:g} minus {slope}"

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
    metrics: ClassVar[tuple[str, ...]] = ("one", "other")

    def __str__(self) -> str:
        return f"rank correlation of {self.one} and {self.other}: {self.curve}{_minus(self.above)}"

    def curves(self) -> tuple[str, ...]:
        return (self.curve,)

    def __call__(self, runs: Records) -> float:
        from scipy.stats import spearmanr

        rows = runs[self.curve].rows
        found = spearmanr([row[self.one] for row in rows], [row[self.other] for row in rows])
        return float(found.statistic) - self.above  # pyright: ignore[reportAttributeAccessIssue]
