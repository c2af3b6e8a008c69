"""The page of a comparison: tables to sort, curves to hover over, and how to run it again."""

import shlex
from typing import Any

import numpy as np

from bilevel._output.figures import DASHES, look
from bilevel._output.files import environment
from bilevel._output.pages import render
from bilevel.compare.figures import Position, label_places, mean_curve, needs_log, plotted, score_range
from bilevel.compare.records import RULE, Comparison, spread
from bilevel.compare.tables import cost_table, notes, results_table
from bilevel.cost import KINDS

AXES: dict[str, Position] = {
    "steps": lambda row: row["step"],
    "seconds of stepping, without compilation": lambda row: row["seconds"],
    "oracle calls, in samples": lambda row: sum(row[kind] for kind in KINDS),
    "gradients of the upper loss, in samples": lambda row: row["F"],
    "gradients of the lower loss, in samples": lambda row: row["G"],
    "products with the lower Hessian, in samples": lambda row: row["H"],
    "products with the cross derivative, in samples": lambda row: row["J"],
}
_DASHES = dict(zip(DASHES, ("solid", "dash", "dashdot", "dot"), strict=True))  # as Plotly calls them


def report(comparison: Comparison) -> str:
    """The comparison as one HTML page, which needs no other file and no network.

    It has the tables of `bilevel compare` with every metric, the mean curve of each solver against each of `AXES` with
    a band of one standard error over seeds, the settings, the task's arguments, the versions and the command that
    repeats the comparison.
    """
    from plotly.offline import get_plotlyjs

    seeds = len(comparison.seeds)
    return render(
        "compare.html",
        title=f"{comparison.task}: {len(comparison.solvers)} solvers, {seeds} seed{'s' if seeds > 1 else ''}",
        tables=[results_table(comparison, comparison.metrics), cost_table(comparison)],
        notes=notes(comparison),
        rule=RULE if comparison.references else "",
        axes=list(AXES),
        chart=_chart(comparison),
        settings=comparison.solvers,
        suggestions={name: str(found) for name, found in comparison.suggestions.items()},
        arguments=comparison.arguments,
        budget=comparison.budget,
        environment=environment(),
        command=command(comparison),
        metrics=comparison.metrics,
        plotly=get_plotlyjs(),
    )


def _chart(comparison: Comparison) -> dict[str, Any]:
    """The data for the page's script."""
    log = {axis: needs_log(comparison, position) for axis, position in AXES.items()}
    curves = {
        axis: {metric: _curves(comparison, position, metric) for metric in comparison.metrics}
        for axis, position in AXES.items()
    }
    references = {name: spread(scores.values())["mean"] for name, scores in comparison.references.items()}
    limits = score_range(comparison)
    return {
        "curves": curves,
        "log": log,
        "score": comparison.score,
        "range": limits,
        "references": references,
        "places": references if limits is None else label_places(references, limits),
        "seeds": len(comparison.seeds),
    }


def _curves(comparison: Comparison, position: Position, metric: str) -> list[dict[str, Any]]:
    curves = []
    for i, name in enumerate(comparison.solvers):
        runs = plotted(comparison, name)
        if not runs:
            continue
        x, mean, error = mean_curve(runs, position, metric)
        numbers = {"x": _plain(x), "mean": _plain(mean), "error": _plain(error)}
        curves.append({"name": name, "color": look(i).color, "dash": _DASHES[look(i).dashes], **numbers})
    return curves


def _plain(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, to 6 digits; None if they are not finite."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def command(comparison: Comparison) -> str:
    """The command that repeats the comparison. It is a call in Python if the seeds are not 0, 1, …, or if the user gave
    objects of a program, which stand there as `...`."""
    asked, seeds, seconds = comparison.request, comparison.seeds, comparison.budget.get("seconds")
    if seeds != list(range(len(seeds))) or asked.task is None or None in asked.solvers:
        given = {"seeds": seeds, "steps": asked.steps, "seconds": seconds, "task_settings": asked.changes}
        given |= {"suggested": bool(comparison.suggestions), "untimed": comparison.untimed, "search": asked.search}
        options = "".join(f", {name}={value!r}" for name, value in given.items() if value)
        task = "..." if asked.task is None else repr(asked.task)
        return f"from bilevel.compare import compare\ncompare({task}, {_solvers(comparison)}{options})"
    words = ["bilevel", "compare", asked.task, "--solvers", ",".join(map(str, asked.solvers))]
    words += ["--seeds", str(len(seeds))]
    words += ["--steps", str(asked.steps)] if asked.steps else []
    words += ["--seconds", repr(seconds)] if seconds else []
    words += ["--suggest"] if comparison.suggestions else []
    words += ["--untimed"] if comparison.untimed else []
    words += ["--search"] if asked.search else []
    for name, value in asked.changes.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def _solvers(comparison: Comparison) -> str:
    """The solvers in Python."""
    texts = comparison.request.solvers
    if None not in texts:
        return repr(texts)
    given = zip(comparison.solvers, texts, strict=True)
    return "{" + ", ".join(f"{label!r}: {'...' if text is None else repr(text)}" for label, text in given) + "}"
