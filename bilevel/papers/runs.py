"""The runs of an entry's curves: how they are made, and the description under which they are kept on disk."""

import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from bilevel.compare import _compare as compare
from bilevel.compare import settings
from bilevel.compare.records import Run
from bilevel.papers.entry import Curve, Entry, Setup
from bilevel.run._solution import Solution
from bilevel.run._solve import solve


def description(entry: Entry, setup: Setup, curve: Curve) -> dict[str, Any]:
    """Everything that determines a curve's runs; curves with the same description share their runs."""
    return {
        "kind": entry.kind,
        "task": curve.task,
        "arguments": curve.arguments,
        "solver": curve.label if curve.solver is None else type(curve.solver).__name__,
        "settings": settings.describe(curve.solver),
        "steps": curve.steps or setup.steps,
        "rows": setup.rows,
        "seeds": setup.seeds,
        "timed": setup.timed,
    }


def make(entry: Entry, setup: Setup, curve: Curve, checkpoint: pathlib.Path | None = None) -> list[Run]:
    """A curve's runs, one per seed. Those that are solved one by one are saved in `checkpoint` while they run."""
    return KINDS[entry.kind](setup, curve, checkpoint)


def _tasks(setup: Setup, curve: Curve) -> Iterator[Any]:
    for seed in range(setup.seeds):
        yield settings.make_task(curve.task, seed, curve.arguments)


def _solved(setup: Setup, curve: Curve, checkpoint: pathlib.Path | None) -> list[Run]:
    steps, runs = curve.steps or setup.steps, []
    if not setup.timed:
        tasks, seeds = list(_tasks(setup, curve)), range(setup.seeds)
        return compare.together(tasks, curve.solver, label=curve.label, seeds=seeds, steps=steps, rows=setup.rows)
    for seed, task in enumerate(_tasks(setup, curve)):
        folder = None if checkpoint is None else checkpoint / str(seed)
        solution = compare.run(task, curve.solver, seed=seed, steps=steps, rows=setup.rows, checkpoint=folder)
        runs.append(Run.of(curve.label, seed, solution))
    return runs


def _smoothness(setup: Setup, curve: Curve, _: pathlib.Path | None) -> list[Run]:
    """One row per chunk of the run: the local smoothness of Φ and the norm of its gradient."""
    from bilevel.diagnostics.smoothness import SmoothnessRecorder

    runs, every = [], math.ceil((curve.steps or setup.steps) / setup.rows)
    for seed, task in enumerate(_tasks(setup, curve)):
        recorder = SmoothnessRecorder(task.problem)
        steps = curve.steps or setup.steps
        solution: Solution = solve(
            task.problem, curve.solver, task.x, task.y,
            steps=steps, every=every, key=compare.run_key(seed), recorders=[recorder], progress=False, signs=False,
            throw=False,
        )  # fmt: skip
        run = Run.of(curve.label, seed, solution)
        run.rows = [row for row in run.rows if math.isfinite(row["smoothness"])]
        runs.append(run)
    return runs


def _estimated(setup: Setup, curve: Curve, _: pathlib.Path | None) -> list[Run]:
    """One row per iteration k: the squared error of an estimate of the hypergradient, over its squared norm."""
    panel, estimator, a = ("descent", curve.label, None)
    if curve.label.startswith("a = "):
        panel, estimator, a = "sequence", "backward", float(curve.label.removeprefix("a = "))
    runs = [Run(curve.label, seed, "successful") for seed in range(setup.seeds)]
    for row in _errors(setup.seeds, **curve.arguments):
        if (row["panel"], row["estimator"], row["a"]) == (panel, estimator, a):
            error = row["relative"]
            numbers = {
                "step": row["k"],
                "relative error": error,
                "log10 relative error": math.log10(max(error, 1e-300)),
            }
            runs[row["seed"]].rows.append(numbers)
    return runs


@functools.cache
def _errors(seeds: int, **arguments: int) -> list[dict[str, Any]]:
    """The errors of all estimators."""
    from bilevel.papers.fsla_figure1 import estimator_errors

    return estimator_errors(range(seeds), **arguments)


KINDS: dict[str, Callable[[Setup, Curve, pathlib.Path | None], list[Run]]] = {
    "solve": _solved,
    "smoothness": _smoothness,
    "estimators": _estimated,
}


def projection(setup: Setup) -> dict[str, float]:
    """The projected seconds of each curve's runs, from three executed steps on the first seed."""
    seconds = {}
    for curve in setup.curves:
        task = next(_tasks(setup, curve))
        start = time.perf_counter()
        solution = compare.run(task, curve.solver, seed=0, steps=3)
        whole = time.perf_counter() - start
        each = solution.stats["run_seconds"] / max(1, solution.stats["steps"])
        metrics = max(0.0, whole - solution.stats["compile_seconds"] - solution.stats["run_seconds"]) / 4
        steps = curve.steps or setup.steps
        seconds[curve.label] = setup.seeds * (each * steps + metrics * setup.rows) + solution.stats["compile_seconds"]
    return seconds


def by_seed(curves: dict[str, list[Run]]) -> list[dict[str, Run]]:
    """The runs of each seed, by curve."""
    seeds = sorted({run.seed for runs in curves.values() for run in runs})
    return [{label: run for label, runs in curves.items() for run in runs if run.seed == seed} for seed in seeds]
