"""The tables of a comparison, of a run and of all names; on a terminal they are at most 100 columns wide."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from bilevel import _loading as loading
from bilevel import datasets
from bilevel._output.tables import Cell, Table, count, number, with_error
from bilevel.compare.records import Comparison, Run, spread, statistics
from bilevel.compare.references import CEILING
from bilevel.cost import KINDS
from bilevel.datasets import Card

_IN_THE_FILES_ALONE = ("test loss", "lower loss")  # a line has 100 columns


def results_table(comparison: Comparison, metrics: Sequence[str] | None = None) -> Table:
    """The metrics at the end (default: those that fit on a line), and the verdict."""
    seeds = len(comparison.seeds)
    title = f"{comparison.task}: at the end, mean ± standard error over {seeds} seed{'s' if seeds > 1 else ''}"
    metrics = metrics or [name for name in comparison.metrics if name not in _IN_THE_FILES_ALONE]
    judged = [] if comparison.best_reference is None else ["margin"]
    width = len(metrics) + len(judged) + 1
    columns = ("solver", *metrics, *judged, "verdict" if judged else "remarks")
    table = Table(title, *columns, left=(0, width), first_width=_width(comparison))
    for name in comparison.solvers:
        row = statistics(comparison, name)
        ends = [row["metrics"][metric] for metric in metrics]
        cells = [with_error(end["mean"], end["standard_error"]) for end in ends]
        trouble = [f"{times} of {seeds} runs: {result}" for result, times in row["trouble"].items()]
        verdict = "\n".join(part for part in (row["verdict"], *trouble) if part)
        margin = [_margin(row) for _ in judged]
        style = "" if not judged else "green" if row["beats"] else "yellow"
        table.add_row(name, *cells, *margin, Cell(verdict, verdict, style))
    for name, scores in comparison.references.items():
        kind = "best reference" if name == comparison.best_reference else "reference"
        blanks = [""] * (len(metrics) - 1 + len(judged))
        kind = "unattainable" if name == CEILING else kind
        end = spread(scores.values())
        table.add_row(name, with_error(end["mean"], end["standard_error"]), *blanks, kind, dim=True)
    return table


def cost_table(comparison: Comparison) -> Table:
    """Oracle calls and time."""
    rows = {name: statistics(comparison, name) for name in comparison.solvers}
    target = next((row["target"] for row in rows.values()), None)
    columns = ["solver", "steps", *KINDS, "compile s", "run s"]
    if target is not None:
        columns.append(f"s to {comparison.score} {target['value']:.3f}")
    table = Table("Cost of a run: oracle calls in samples, seconds", *columns, first_width=_width(comparison))
    for name, row in rows.items():
        cells = [count(row["steps"]), *(count(row["oracles"][kind]) for kind in KINDS)]
        cells += [number(row["compile_seconds"], 1), number(row["run_seconds"], 2)]
        table.add_row(name, *cells, *([_reached(row["target"])] if target is not None else []))
    return table


def _width(comparison: Comparison) -> int:
    """Room for the names of the package's solvers, and more for names with settings."""
    return min(32, max(15, *map(len, comparison.solvers)))


def _margin(row: dict[str, Any]) -> Cell:
    mean = row["margin"]["mean"]
    return Cell(f"{mean:+.3f}", mean) if row["runs"] else Cell("–", None)


def _reached(target: dict[str, Any]) -> Cell:
    if target["reached"] == 0:
        return Cell("not reached", None)
    seconds = number(target["seconds"], 2)
    return Cell(f"{seconds.text} ({target['reached']} of {target['runs']} seeds)", seconds.value)


def notes(comparison: Comparison) -> list[str]:
    """The errors, and how to read the tables."""
    lines = []
    if comparison.interrupted:
        wanted = len(comparison.solvers) * len(comparison.seeds)
        finished = sum(run.counts for run in comparison.runs)
        lines.append(f"Interrupted: {finished} of {wanted} runs had finished; the tables show only those.")
    seen: dict[tuple[str, str], Run] = {}
    for run in comparison.runs:
        if run.message and run.result != "interrupted":
            seen.setdefault((run.solver, run.result), run)
    lines += [f"{run.solver}, seed {run.seed}: {run.message}" for run in seen.values()]
    lines += [f"Left out: {why}" for why in comparison.left_out.values()]
    if comparison.untimed:
        lines.append("The seeds of a solver ran at once: seconds are the total time divided by their number.")
    for name, trials in comparison.trials.items():
        lines.append(
            f"{name}: {sum(trials.values()) / len(trials):.0f} trials per seed in the box that the task declares, on "
            "as many oracle samples as the solver that used most."
        )
    if comparison.dataset:
        lines.append(f"Data: {comparison.dataset}.")
    lines.append("F, G: gradients of the upper and lower loss. H, J: products with ∇²_yy g and ∇²_xy g.")
    if comparison.best_reference is not None:
        lines.append(f"Margin: the paired difference to {comparison.best_reference!r}, seed by seed.")
    return lines


def run_table(run: Run, task: str) -> Table:
    """A single run: its start and its end."""
    table = Table(f"{run.solver} on {task}, seed {run.seed}", "", "start", "end")
    first, last = run.rows[0], run.rows[-1]
    for name in last:
        show = count if name in ("step", *KINDS) else number
        label = {"seconds": "run seconds"}.get(name, f"{name} (samples)" if name in KINDS else name)
        table.add_row(label, show(first[name]), show(last[name]))
    table.add_row("compile seconds", "", number(run.stats["compile_seconds"], 2))
    return table


def catalog() -> list[Table]:
    """Solvers, tasks and data sets."""
    from bilevel.solvers import registry
    from bilevel.solvers.registry import SOLVERS
    from bilevel.tasks.registry import ENTRY_POINTS, TASKS

    solvers = Table("Solvers", "name", "in Python", "what it does", "source", left=(0, 1, 2, 3))
    for name, solver in SOLVERS.items():
        source, about = reference(solver), solver.about
        if about is not None and about.unverified:
            source += f" Unverified detail: {about.unverified}."
        solvers.add_row(name, f"bl.{solver.__name__}", first_line(solver), source)
    for name, place, found in _declared(registry.ENTRY_POINTS):
        solvers.add_row(name, place, found if isinstance(found, str) else first_line(found), "")
    tasks = Table("Tasks", "name", "what it is", left=(0, 1))
    for name, factory in TASKS.items():
        tasks.add_row(name, first_line(factory))
    for name, _, found in _declared(ENTRY_POINTS):
        tasks.add_row(name, found if isinstance(found, str) else first_line(found))
    sets = Table("Data sets; more by `bilevel data`", "name", "kind", left=(0, 1))
    for name, kind in datasets.KINDS.items():
        sets.add_row(name, kind)
    return [solvers, tasks, sets]


def _declared(group: str) -> list[tuple[str, str, Any]]:
    """The entry points of other packages: name, place, and what is there, or why it cannot be loaded."""
    declared = []
    for name, points in loading.entry_points(group).items():
        try:
            found = loading.from_entry_point("list", name, points)
        except ValueError as error:
            found = str(error)
        declared.append((name, points[0].value, found))
    return declared


def datasets_table() -> Table:
    """All data sets and whether they are present; reads only the small ones in the package."""
    columns = ("name", "kind", "rows", "classes", "present", "license", "source")
    table = Table("Data sets", *columns, left=(0, 1, 4, 5, 6), first_width=17)
    for name, kind in datasets.KINDS.items():
        card = datasets.card(name)
        present = "built in" if name in datasets.BUILT_IN else "yes" if datasets.find(name) else "no"
        rows = f"{card.rows:,}" if card.rows else "–"
        table.add_row(name, kind, rows, str(card.classes), present, card.license, card.source)
    return table


def card_table(card: Card) -> Table:
    """The content of a data set's card."""
    unit = "classes" if card.name in datasets.FEWSHOT_NAMES else "rows"
    place = "built in" if card.name in datasets.BUILT_IN else str(datasets.find(card.name))
    table = Table(card.name, "", "", left=(0, 1))
    table.add_row("kind", datasets.KINDS[card.name])
    table.add_row("rows", f"{card.rows:,}")
    table.add_row("classes", str(card.classes))
    table.add_row("parts", "\n".join(f"{part}: {size:,} {unit}" for part, size in card.splits.items()))
    table.add_row("license", card.license)
    table.add_row("source", card.source)
    table.add_row("read from", place)
    return table


def first_line(thing: Any) -> str:
    """The docstring's summary."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def reference(thing: Any) -> str:
    """The docstring's paragraph that names the paper, without the title."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    found = next((paragraph for paragraph in paragraphs if paragraph.startswith("Reference:")), "")
    return re.sub('"[^"]*", ', "", " ".join(found.removeprefix("Reference:").split()))
