"""The figure of a comparison."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel._output.figures import COLORS, GRAY, line, tidy
from bilevel.compare.records import Comparison, Run, spread
from bilevel.cost import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID_POINTS = 100
LOG_FROM = 4.0  # the axes are logarithmic if the solvers' budgets differ by more than this factor

Position = Callable[[dict[str, Any]], float]


def _calls(row: dict[str, Any]) -> float:
    return sum(row[kind] for kind in KINDS)


def _seconds(row: dict[str, Any]) -> float:
    return row["seconds"]


def curves(comparison: Comparison) -> "Figure":
    """The score against oracle calls and against seconds: mean over seeds, and a band of one standard error."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(12, 5 + 0.25 * (len(comparison.solvers) // len(COLORS))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    log = needs_log(comparison, _calls) or needs_log(comparison, _seconds)
    _panel(left, comparison, _calls, log)
    _panel(right, comparison, _seconds, log)
    left.set_xlabel("oracle calls: gradients and products, in samples")
    right.set_xlabel("time stepping, in seconds (without compilation)")
    if not log:
        left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.set_ylabel(comparison.score)
    if (limits := score_range(comparison)) is not None:
        left.set_ylim(*limits)
    _reference_lines(left, comparison, labeled=False)
    _reference_lines(right, comparison, labeled=True)
    handles, labels = left.get_legend_handles_labels()
    if handles:
        columns = min(len(COLORS), len(labels))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.5, frameon=False)
    seeds = len(comparison.seeds)
    band = "" if len(comparison.solvers) > len(COLORS) else " ± one standard error"
    over = f"mean{band} over {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{comparison.task}{_short_arguments(comparison)}: {over}")
    return figure


def _short_arguments(comparison: Comparison) -> str:
    shown = [name for name in ("dataset", "corruption", "trusted") if name in comparison.arguments]
    return "".join(f", {name} {comparison.arguments[name]}" for name in shown)


def plotted(comparison: Comparison, solver: str) -> list[Run]:
    return [run for run in comparison.of(solver) if len(run.rows) > 1]


def needs_log(comparison: Comparison, position: Position) -> bool:
    """Whether the solvers end too far apart for one linear axis."""
    ends = [position(run.rows[-1]) for name in comparison.solvers for run in plotted(comparison, name)]
    return bool(ends) and max(ends) > LOG_FROM * min(ends)


def _panel(axes: "Axes", comparison: Comparison, position: Position, log: bool) -> None:
    crowded = len(comparison.solvers) > len(COLORS)
    for i, name in enumerate(comparison.solvers):
        runs = plotted(comparison, name)
        if not runs:
            continue
        where, mean, error = mean_curve(runs, position, comparison.score)
        if log:  # a logarithmic axis cannot show the start
            where, mean, error = where[1:], mean[1:], error[1:]
        line(axes, i, name, where, mean, error, crowded=crowded)
    tidy(axes)
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)


def mean_curve(runs: Sequence[Run], position: Position, score: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, mean and standard error over runs, row by row if all runs have rows at the same steps."""
    positions = [np.array([position(row) for row in run.rows], float) for run in runs]
    values = [np.array([row[score] for row in run.rows], float) for run in runs]
    steps = [[row["step"] for row in run.rows] for run in runs]
    if all(other == steps[0] for other in steps):
        where = np.mean(positions, axis=0)
    else:
        where = np.linspace(max(p[0] for p in positions), min(p[-1] for p in positions), GRID_POINTS)
        values = [np.interp(where, p, value) for p, value in zip(positions, values, strict=True)]
    error = np.std(values, axis=0, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else np.zeros(len(where))
    return where, np.mean(values, axis=0), error


def score_range(comparison: Comparison) -> tuple[float, float] | None:
    """The range of the score to show. It cuts off the first steep rise, which would flatten the rest."""
    levels = [spread(scores.values())["mean"] for scores in comparison.references.values()]
    ends = [run.rows[-1][comparison.score] for name in comparison.solvers for run in comparison.of(name)]
    levels += [end for end in ends if math.isfinite(end)]
    if not comparison.references or not ends:
        return None
    low, high = min(levels), max(levels)
    space = max(high - low, 1e-3)
    return low - 0.35 * space, high + 0.1 * space


def label_places(levels: dict[str, float], limits: tuple[float, float]) -> dict[str, float]:
    """The places of the names of horizontal lines: at their levels, moved apart if they would touch."""
    gap, place, places = 0.045 * (limits[1] - limits[0]), -math.inf, {}
    for name in sorted(levels, key=lambda name: levels[name]):
        places[name] = place = max(levels[name], place + gap)
    return places


def _reference_lines(axes: "Axes", comparison: Comparison, *, labeled: bool) -> None:
    """Draw horizontal lines; their names are to the right of the axes."""
    levels = {name: spread(scores.values())["mean"] for name, scores in comparison.references.items()}
    for level in levels.values():
        axes.axhline(level, color=GRAY, linewidth=1.0, linestyle=":", zorder=0)
    if not labeled:
        return
    for name, place in label_places(levels, axes.get_ylim()).items():
        axes.annotate(
            f"{name} {levels[name]:.3f}",
            xy=(1.0, levels[name]),
            xytext=(1.02, place),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=GRAY,
            annotation_clip=False,
        )
