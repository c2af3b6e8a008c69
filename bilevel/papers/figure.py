"""An entry's figure: our curves in the paper's axes."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from bilevel._output.figures import COLORS, MARKERS, line, tidy
from bilevel.compare.figures import mean_curve
from bilevel.compare.records import Run, spread
from bilevel.papers.entry import Curve, Panel
from bilevel.papers.histories import at_end, broke_off, position
from bilevel.papers.outcome import Outcome

WIDE = 3  # more panels than this take two rows
LABELS = {
    "seconds": "time stepping, in seconds (without compilation)",
    "step": "iteration",
    "calls": "oracle calls, in samples",
    "gradients": "gradients of f and g, in samples",
    "outer gradients": "outer gradients, in samples",
    "products": "products with H and J of the whole problem",
    "x-gradient norm": r"$\|\nabla_x f\|$",
    "y-gradient norm": r"$\|\nabla_y f\|$",
}


def draw(outcome: Outcome) -> Figure:
    """One pair of axes per panel, with the mean over seeds and a band of one standard error. More than three panels
    fill two rows, column by column."""
    entry, curves, runs = outcome.entry, outcome.setup.curves, outcome.runs
    panels = [panel for panel in entry.panels if panel.curves is None or not runs.keys().isdisjoint(panel.curves)]
    rows = 1 if len(panels) <= WIDE else 2
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(5.6 * columns + 0.4, 4.1 * rows + 0.8), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).T.flat)
    for axes in places[len(panels) :]:
        figure.delaxes(axes)
    for axes, panel in zip(places, panels, strict=False):
        shown = [curve for curve in curves if panel.curves is None or curve.label in panel.curves]
        kind = _values if panel.x == "value" else _scatter if panel.x.endswith("gradient norm") else _lines
        kind(axes, panel, curves, shown, runs)
        tidy(axes)
        axes.set_ylabel(LABELS.get(panel.y, panel.y))
        axes.set_title("" if panel.x == "value" else panel.title, fontsize=10)
        if panel.log_x:
            _logarithmic(axes)
        if panel.log_y:
            axes.set_yscale("log")
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    handles = {_ended(label, panels, runs): handle for label, handle in handles.items()}
    if len(handles) > 1:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(4, len(handles)),
            handlelength=3.5,
            frameon=False,
        )
    seeds = len({run.seed for found in runs.values() for run in found})
    title = f"{entry.id}: {entry.title} ({outcome.size}, {seeds} seeds)"
    figure.suptitle(textwrap.fill(title, 70 * columns), fontsize=11)
    return figure


def _logarithmic(axes: Axes) -> None:
    """A logarithmic x axis; where it has less than two decades, with more numbers than the powers of ten."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high < 100 * low:
        few = high < 10 * low
        axes.xaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1, 2, 5), numticks=20))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name(label: str, panel: Panel) -> str:
    """A curve's label in a panel."""
    return label.replace(panel.strip, "")


def _ended(label: str, panels: Sequence[Panel], runs: Mapping[str, Sequence[Run]]) -> str:
    """A curve's label, which says if one of its runs broke off."""
    names = {name for name in runs for panel in panels if _name(name, panel) == label}
    found = [any(broke_off(run) for run in runs[name]) for name in names]
    if not any(found):
        return label
    return f"{label} (breaks off{'' if all(found) else ' in a panel'})"


def _lines(
    axes: Axes, panel: Panel, curves: Sequence[Curve], shown: Sequence[Curve], runs: Mapping[str, Sequence[Run]]
) -> None:
    whole, broken = [], []
    for i, curve in enumerate(shown if panel.strip else curves):
        found = [run for run in runs.get(curve.label, ()) if len(run.rows) > 1]
        if curve not in shown or not found:
            continue
        where, mean, error = mean_curve(found, lambda row: position(row, panel.x), panel.y)
        if panel.log_x:  # it cannot show the start, which has taken no time and no samples
            where, mean, error = where[1:], mean[1:], error[1:]
        (broken if any(broke_off(run) for run in found) else whole).append(mean)
        line(axes, i, _name(curve.label, panel), where, mean, error, crowded=len(shown) > 7)
    axes.set_xlabel(LABELS.get(panel.x, panel.x))
    if not panel.log_x:
        axes.set_xlim(left=0)
    if whole and broken:
        _cut(axes, np.concatenate(whole))


def _cut(axes: Axes, values: np.ndarray) -> None:
    """Leave out what broken runs did far from the values of the others."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - (high - low)), min(top, high + (high - low)))


def _values(
    axes: Axes, panel: Panel, curves: Sequence[Curve], shown: Sequence[Curve], runs: Mapping[str, Sequence[Run]]
) -> None:
    """The end of each curve against its value, and the numbers that the paper prints."""
    points = [(curve, spread(at_end(run, panel.y) for run in runs.get(curve.label, ()) if run.rows)) for curve in shown]
    points = [(curve, end) for curve, end in points if curve.value is not None and math.isfinite(end["mean"])]
    at = [curve.value or 0.0 for curve, _ in points]
    means, errors = [end["mean"] for _, end in points], [end["standard_error"] for _, end in points]
    axes.errorbar(at, means, np.nan_to_num(errors), color=COLORS[0], marker=MARKERS[0], capsize=3, label="ours")
    printed = [(curve.value, curve.paper[panel.y]) for curve in shown if panel.y in curve.paper]
    if printed:
        axes.plot(*zip(*printed, strict=True), color=COLORS[1], marker=MARKERS[1], linestyle="--", label="paper")
    axes.set_xlabel(panel.title or "value")


def _scatter(
    axes: Axes, panel: Panel, curves: Sequence[Curve], shown: Sequence[Curve], runs: Mapping[str, Sequence[Run]]
) -> None:
    """One point per row of each run."""
    for i, curve in enumerate(curves):
        rows = [row for run in runs.get(curve.label, ()) for row in run.rows]
        if curve in shown and rows:
            at, values = ([row[name] for row in rows] for name in (panel.x, panel.y))
            axes.scatter(at, values, s=12, color=COLORS[i % len(COLORS)], alpha=0.6, label=curve.label)
    axes.set_xlabel(LABELS.get(panel.x, panel.x))
