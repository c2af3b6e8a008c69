"""The choice of a curve's settings where its paper tunes them: one rule, on rows and seeds that no claim sees."""

import dataclasses
import math
from typing import Any

import numpy as np

from bilevel.compare import settings
from bilevel.compare.records import Run
from bilevel.papers.entry import TUNING_SEED, Curve, Entry, Grid, Setup, Tuning
from bilevel.papers.histories import ENDED_WELL, at_end, mean_along, span
from bilevel.papers.runs import Runner


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The chosen point of a grid, and the `edges`: the names whose value is the least or the largest tried.

    `points`: how many were tried; `broken`: at how many a run broke off. `score`: the mean that decided.
    `wall_seconds`: what it took.
    """

    chosen: dict[str, Any]
    edges: list[str]
    points: int
    broken: int
    score: float
    wall_seconds: float


def tuned(entry: Entry, setup: Setup, curve: Curve, runner: Runner) -> tuple[Curve, Tuned]:
    """The curve with the solver at the best point of its grid, as tried on the curve that the grid names.

    **Raises** `ValueError` if a run broke off at every point.
    """
    grid, rule = curve.solver, setup.tuning
    assert isinstance(grid, Grid), curve.label
    assert rule is not None, curve.label
    tried = curve.tried
    assert isinstance(tried.solver, Grid), tried.label
    trial, solves = _trial(setup, rule), dataclasses.replace(entry, kind="solve")
    axis = "step" if setup.seconds is None else "seconds"
    found, spent = [], 0.0
    for point in grid.points():
        one = tried.solver.at(tried, point)
        arguments = one.arguments | {"split": "validation"} | dict(rule.changes)
        steps = None if setup.seconds is not None else max(1, math.ceil(rule.share * setup.steps_of(tried)))
        one = dataclasses.replace(one, arguments=arguments, steps=steps)
        runs = runner.curve(solves, trial, one)
        spent += sum(run.stats["wall_seconds"] for run in runs)
        ended = all(run.result in ENDED_WELL for run in runs)
        score = float(np.mean([_judged(run, rule, axis) for run in runs])) if ended else math.nan
        found.append((score if rule.highest else -score, point))
    kept = [(score, i) for i, (score, _) in enumerate(found) if math.isfinite(score)]
    if not kept:
        raise ValueError(f"tuning of {curve.label}: a run broke off at each of {len(found)} points of the grid")
    best, i = max(kept)
    point = found[i][1]
    score = best if rule.highest else -best
    chosen = {name: settings.describe(value) for name, value in point.items()}
    result = Tuned(chosen, grid.edges(point), len(found), len(found) - len(kept), score, spent)
    return grid.at(curve, point), result


def _judged(run: Run, rule: Tuning, axis: str) -> float:
    """What a run counts: the metric's mean over the whole axis, or at its end."""
    return mean_along(run, rule.metric, axis, *span(run, axis)) if rule.whole else at_end(run, rule.metric)


def _trial(setup: Setup, rule: Tuning) -> Setup:
    seconds = None if setup.seconds is None else rule.share * setup.seconds
    return dataclasses.replace(setup, seeds=rule.seeds, first_seed=TUNING_SEED, seconds=seconds)
