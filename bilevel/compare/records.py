"""The records of a comparison: its runs and their statistics."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bilevel._suggest._suggest import Suggestion
from bilevel.compare.references import ATTAINABLE
from bilevel.compare.search import SEARCHES
from bilevel.cost import KINDS
from bilevel.run._solution import RESERVED, RESULTS, Solution, name_of

LEAST_MARGIN = 2.0  # standard errors above the best attainable reference
LEAST_AUROC = 0.9
LEAST_SEEDS = 3  # fewer say too little about their spread
RULE = (
    f"beats: a margin of at least {LEAST_MARGIN:g} standard errors over at least {LEAST_SEEDS} seeds and, where it is "
    f"measured, AUROC >= {LEAST_AUROC}"
)


@dataclasses.dataclass
class Run:
    """One solver on one seed.

    `result` is a name of `RESULTS`, or "error" for any other exception; `message` is empty when all went well.
    """

    solver: str
    seed: int
    result: str
    message: str = ""
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, solver: str, seed: int, solution: Solution) -> "Run":
        advice = RESULTS[solution.result]
        message = "" if solution.result == RESULTS.successful else f"after step {solution.stats['steps']}: {advice}"
        return cls(solver, seed, name_of(solution.result), message, solution.history.rows, solution.stats)

    @property
    def counts(self) -> bool:
        """Whether its last row is the solver's result: not if the user interrupted it or nothing ran."""
        return bool(self.rows) and self.result not in ("interrupted", "error")


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for, to ask it again: the task and the solvers as text (None for objects of a program), the
    steps, the task's arguments that were changed, and whether rows of a search were asked for."""

    task: str | None
    solvers: list[str | None]
    steps: int | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    search: bool = False


@dataclasses.dataclass
class Comparison:
    """Solvers on the same seeds of one task.

    `solvers` holds the settings of each solver, `budget` its steps or seconds, `references` one score per row and seed,
    `suggestions` the source of the settings if `suggest` found them, and `left_out` why it found none for others.
    `untimed`: all seeds ran at once. `trials`: their number in each row of a search, by seed. `dataset`: what was read.
    """

    task: str
    arguments: dict[str, Any]
    score: str
    solvers: dict[str, dict[str, Any]]
    seeds: list[int]
    budget: dict[str, Any]
    request: Request
    runs: list[Run] = dataclasses.field(default_factory=list)
    references: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    interrupted: bool = False
    suggestions: dict[str, Suggestion] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    untimed: bool = False
    trials: dict[str, dict[int, int]] = dataclasses.field(default_factory=dict)
    dataset: str = ""

    def of(self, solver: str) -> list[Run]:
        """The solver's runs that count."""
        return [run for run in self.runs if run.solver == solver and run.counts]

    @property
    def metrics(self) -> list[str]:
        """The metrics' names, the score first."""
        first = next((run.rows[-1] for run in self.runs if run.rows), {self.score: math.nan})
        names = [name for name in first if name not in RESERVED]
        return sorted(names, key=lambda name: name != self.score)

    @property
    def best_reference(self) -> str | None:
        """The attainable reference row with the highest mean score."""
        attainable = [name for name in (*ATTAINABLE, *SEARCHES) if self.references.get(name)]
        return max(attainable, key=lambda name: _mean(self.references[name].values()), default=None)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else math.nan


def spread(values: Iterable[float]) -> dict[str, float]:
    """The mean, and its standard error (NaN for fewer than two values)."""
    values = list(values)
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return {"mean": _mean(values), "standard_error": error}


def statistics(comparison: Comparison, solver: str) -> dict[str, Any]:
    """A solver's row of the tables."""
    runs = comparison.of(solver)
    margin = _margin(comparison, runs)
    auroc = _mean(run.rows[-1].get("AUROC", math.nan) for run in runs)  # NaN without wrong labels to find
    return {
        "runs": len(runs),
        "metrics": {name: spread(run.rows[-1][name] for run in runs) for name in comparison.metrics},
        "steps": _mean(run.stats["steps"] for run in runs),
        "oracles": {kind: _mean(run.stats[kind] for run in runs) for kind in KINDS},
        # all seeds share one program, so only the first run compiles
        "compile_seconds": max((run.stats["compile_seconds"] for run in runs), default=math.nan),
        "run_seconds": _mean(run.stats["run_seconds"] for run in runs),
        "target": _target(comparison, runs),
        "margin": margin,
        "beats": margin is not None and len(runs) >= LEAST_SEEDS and _beats(margin, auroc),
        "verdict": _verdict(comparison, runs, margin, auroc),
        "trouble": _trouble(comparison, solver),
    }


def _target(comparison: Comparison, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Seconds until the score first reaches the best attainable reference's mean."""
    if comparison.best_reference is None:
        return None
    value = _mean(comparison.references[comparison.best_reference].values())
    firsts = [next((r["seconds"] for r in run.rows if r[comparison.score] >= value), None) for run in runs]
    reached = [seconds for seconds in firsts if seconds is not None]
    return {"value": value, "reached": len(reached), "runs": len(runs), "seconds": _mean(reached)}


def _margin(comparison: Comparison, runs: Sequence[Run]) -> dict[str, float] | None:
    """The paired difference of the final score to the best attainable reference."""
    if comparison.best_reference is None:
        return None
    reference = comparison.references[comparison.best_reference]
    margin = spread(run.rows[-1][comparison.score] - reference[run.seed] for run in runs if run.seed in reference)
    mean, error = margin["mean"], margin["standard_error"]
    if error == 0:
        margin["in_standard_errors"] = math.copysign(math.inf, mean) if mean else 0.0
    else:
        margin["in_standard_errors"] = mean / error
    return margin


def _beats(margin: dict[str, float], auroc: float) -> bool:
    return margin["in_standard_errors"] >= LEAST_MARGIN and not auroc < LEAST_AUROC


def _verdict(comparison: Comparison, runs: Sequence[Run], margin: dict[str, float] | None, auroc: float) -> str:
    """Whether the rows show a gain, in words."""
    if not runs:
        return "no result"
    if margin is None:
        return ""
    distance = margin["in_standard_errors"]
    if len(runs) < LEAST_SEEDS:
        return f"no verdict from {len(runs)} seed{'s' if len(runs) > 1 else ''}"
    if _beats(margin, auroc):
        return f"beats by {distance:.1f} s.e." if distance < 100 else "beats by over 100 s.e."
    failures = []
    if distance < LEAST_MARGIN:
        failures.append(f"{distance:+.1f} s.e.")
    if auroc < LEAST_AUROC:
        failures.append(f"AUROC {auroc:.3f} < {LEAST_AUROC}")
    return f"does not beat: {', '.join(failures)}"


def _trouble(comparison: Comparison, solver: str) -> dict[str, int]:
    """The number of runs that ended abnormally, by result."""
    results = [run.result for run in comparison.runs if run.solver == solver and run.message]
    return {result: results.count(result) for result in sorted(set(results))}
