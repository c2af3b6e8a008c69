"""A paper's claims, and the verdict on each from the runs of several seeds."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilevel.papers.checks import Check, Records
from bilevel.papers.histories import at_end

LEAST_SEEDS = 5
CONFIDENCE = 0.95
HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "does not hold", "undecided", "not tested"
VERDICTS = (HOLDS, FAILS, UNDECIDED, UNTESTED)
RULE = (
    "Each claim is one or more numbers per seed, above zero where the seed bears it out. A metric “over” an axis is "
    "its mean along the part of the axis that both curves cover; “at the end”, in the tables too, it is its mean over "
    f"the last fifth of the rows. The {CONFIDENCE:.0%} interval of a number's mean (Student's t, at least "
    f"{LEAST_SEEDS} seeds) above zero: holds; below: does not hold; else undecided. A claim of several numbers holds "
    "if all of them do, and fails if one does. A seed on which a run broke off or diverged, or a curve never moved, "
    "is no evidence for or against; with too few other seeds, or where no method ends at the threshold that the "
    "comparison needs, the claim is not tested. Nor is it where it would fail at a size that is harder for it than "
    "the paper's: a full-batch step costs little on few rows, and what comes late is not seen in a short run. Which "
    "claims these are was decided after runs had been seen; their numbers are shown."
)


@dataclass(frozen=True)
class Threshold:
    """What the best of a claim's curves must end at on average over the seeds, for the claim to mean something: at
    `least`, or at `most` for a loss."""

    metric: str
    least: float | None = None
    most: float | None = None

    def unmet(self, labels: Sequence[str], seeds: Sequence[Records]) -> str:
        """Why the threshold is not reached, or empty."""
        sign = 1.0 if self.least is not None else -1.0
        best = -math.inf
        for label in labels:
            runs = [runs[label] for runs in seeds if label in runs and runs[label].rows]
            if runs:
                best = np.fmax(best, float(np.mean([sign * at_end(run, self.metric) for run in runs])))
        wanted = self.least if self.least is not None else float(self.most or 0.0)
        if best >= sign * wanted or best == -math.inf:  # without any run, the checks say so themselves
            return ""
        return f"the best method ends at {self.metric} {sign * best:.3g}; the comparison needs {wanted:g}"


@dataclass(frozen=True)
class Claim:
    """What a paper says of a figure or a table.

    - `quote`: its sentence, with section or caption.
    - `sentence`: what is checked, as one would say it aloud. `checks`: the same as numbers, which must all hold.
    - `needs`: the threshold below which the comparison means nothing.
    - `sizes`: the only sizes at which it is judged, if what it says depends on the size.
    - `fails_at`: the only sizes at which it can fail, if smaller ones are harder for it.
    """

    quote: str
    sentence: str
    checks: tuple[Check, ...]
    needs: Threshold | None = None
    sizes: tuple[str, ...] = ()
    fails_at: tuple[str, ...] = ()

    def curves(self) -> tuple[str, ...]:
        """The labels of the curves of all checks."""
        return tuple(dict.fromkeys(label for check in self.checks for label in check.curves()))


@dataclass(frozen=True)
class Finding:
    """A check over seeds: its verdict, and the mean of its number with the interval that decides it.

    `reason`: why there is no number, or how many seeds are no evidence.
    """

    check: Check
    verdict: str
    values: tuple[float, ...] = ()
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""


def judged(claim: Claim, seeds: Sequence[Records]) -> list[Finding]:
    """The findings on a claim from the runs of each seed."""
    unmet = "" if claim.needs is None else claim.needs.unmet(claim.curves(), seeds)
    return [Finding(check, UNTESTED, reason=unmet) if unmet else judge(check, seeds) for check in claim.checks]


def judge(check: Check, seeds: Sequence[Records]) -> Finding:
    """The verdict on one check from the runs of each seed."""
    troubles = [_trouble(check, runs) for runs in seeds]
    usable = [runs for runs, trouble in zip(seeds, troubles, strict=True) if not trouble]
    reason = "; ".join(f"{n} of {len(seeds)} seeds: {text}" for text, n in Counter(filter(None, troubles)).items())
    if len(usable) < LEAST_SEEDS:
        few = f"{len(usable)} seeds are evidence, and {LEAST_SEEDS} are needed"
        return Finding(check, UNTESTED, reason=f"{few} ({reason})" if reason else few)
    values = check.over(usable)
    if not np.isfinite(values).all():
        return Finding(check, UNDECIDED, tuple(values), reason="its number is not finite on every seed")
    mean, half = float(values.mean()), half_width(values)
    low, high = mean - half, mean + half
    verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
    return Finding(check, verdict, tuple(map(float, values)), mean, low, high, reason)


def _trouble(check: Check, runs: Records) -> str:
    for label in check.curves():
        if label not in runs or not runs[label].rows:
            return f"no run of {label}"
    return check.trouble(runs)


def half_width(values: np.ndarray) -> float:
    """Half the width of Student's interval for the mean."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def overall(verdicts: Sequence[str]) -> str:
    """One verdict from those on a claim's parts: all must hold, and one failure decides."""
    for verdict in (FAILS, UNTESTED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return HOLDS
