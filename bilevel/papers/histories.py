"""What is read off a run's history: positions on an axis, a metric along it and at its end, and how the run ended."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bilevel.compare.records import Run
from bilevel.cost import KINDS

ENDED_WELL = ("successful", "target_reached")
LEAST_MOVE = 1e-6  # relative to its largest value: a metric that varies less along a run has not moved
DIVERGED = 2.0  # times the test loss at the start
ROUNDING = 1e-6  # of the number of steps done
POINTS = 200  # of an axis, over which a mean along a run is taken

SUMS = {"calls": KINDS, "gradients": ("F", "G"), "products": ("H", "J"), "outer gradients": ("F",)}


def position(row: Mapping[str, Any], axis: str) -> float:
    """The position of a history row on an axis: a column, or a sum over oracles, in samples.

    - `outer gradients`: gradients of f; `gradients`: of f and g; `products`: with H and J; `calls`: all four.
    """
    return float(sum(row[kind] for kind in SUMS[axis])) if axis in SUMS else float(row[axis])


def column(run: Run, metric: str) -> np.ndarray:
    return np.array([row[metric] for row in run.rows], float)


def positions(run: Run, axis: str) -> np.ndarray:
    return np.array([position(row, axis) for row in run.rows])


def along(run: Run, metric: str, axis: str, points: np.ndarray) -> np.ndarray:
    """The metric at points of an axis. Between two rows it changes by as much in each step, and within a step it keeps
    its value, as nobody has the step's result before its end."""
    steps = column(run, "step")
    done = np.floor(np.interp(points, positions(run, axis), steps) + ROUNDING)
    return np.interp(done, steps, column(run, metric))


def span(run: Run, axis: str) -> tuple[float, float]:
    """The positions of its first and its last row."""
    return position(run.rows[0], axis), position(run.rows[-1], axis)


def mean_along(run: Run, metric: str, axis: str, start: float, end: float) -> float:
    """The metric's mean over a stretch of an axis."""
    return float(np.mean(along(run, metric, axis, np.linspace(start, end, POINTS))))


def at_end(run: Run, metric: str) -> float:
    """The metric's mean over the last fifth of the history's rows, but over at least one row."""
    return float(np.mean(column(run, metric)[-max(1, len(run.rows) // 5) :]))


def broke_off(run: Run) -> str:
    """How the run ended, if it could not take all its steps; else empty."""
    return "" if run.result in ENDED_WELL else f"{run.solver} broke off ({run.result})"


def stood_still(run: Run, metric: str) -> str:
    """Empty if the metric moved along the run."""
    values = column(run, metric)
    largest = np.max(np.abs(values), initial=0.0)
    moved = len(values) > 1 and not np.ptp(values) <= LEAST_MOVE * largest
    return "" if moved else f"{run.solver} never moved in {metric}"


def diverged(run: Run) -> str:
    """Empty, unless the test loss ended far above its start. Where a method rests on a solution of the lower level that
    its steps no longer reach, this is how it breaks off, with numbers that are finite."""
    if "test loss" not in run.rows[0]:
        return ""
    first, last = column(run, "test loss")[0], at_end(run, "test loss")
    return f"{run.solver} diverged" if last > DIVERGED * first else ""
