"""The runs of an entry's curves: how they are made, kept one by one, and found again."""

import dataclasses
import functools
import math
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bilevel import datasets
from bilevel.compare import _compare as compare
from bilevel.compare import settings
from bilevel.compare.records import Run
from bilevel.compare.store import Store
from bilevel.papers._smoothness import UpperSmoothness
from bilevel.papers.entry import Curve, Entry, Grid, Setup
from bilevel.papers.fsla_figure1 import estimator_errors
from bilevel.run._checkpoint import can_checkpoint
from bilevel.run._solution import Solution
from bilevel.run._solve import solve

ROWS = 60  # the most rows of a run that are judged, drawn and kept
DIGITS = 6  # the significant digits of their numbers
KEPT_TASKS = 12  # ten seeds of a curve, and two of its tuning
_made: dict[tuple[str, int, str], Any] = {}


def description(entry: Entry, setup: Setup, curve: Curve) -> dict[str, Any]:
    """Everything but the seed that determines a curve's runs; curves with the same description share their runs."""
    about = {
        "kind": entry.kind,
        "task": curve.task,
        "arguments": curve.arguments,
        "rows": setup.rows,
        "together": setup.together,
    }
    about |= {"seconds": setup.seconds} if setup.seconds is not None else {"steps": setup.steps_of(curve)}
    if isinstance(curve.solver, Grid):
        assert setup.tuning is not None, curve.label
        grid = {name: [settings.describe(value) for value in values] for name, values in curve.solver.values.items()}
        first = curve.solver.make(**curve.solver.points()[0])
        about |= {"grid": grid, "tuning": dataclasses.asdict(setup.tuning)}
        about |= {} if curve.solver.of is None else {"tuned on": curve.solver.of.arguments}
        about |= {} if not curve.solver.arguments else {"of the grid": dict(curve.solver.arguments)}
        return about | {"solver": type(first).__name__, "first point": settings.describe(first)}
    solver = curve.label if curve.solver is None else type(curve.solver).__name__
    return about | {"solver": solver, "settings": settings.describe(curve.solver)}


@functools.lru_cache(maxsize=2)
def _dataset(name: str) -> Any:
    """A data set, read once for the runs that follow each other: 20 Newsgroups takes seconds."""
    return datasets.read(name)


def _task(curve: Curve, seed: int) -> Any:
    """The task of a curve, which the next curve on the same seeds uses again: word vectors take seconds to learn."""
    about = curve.task, seed, repr(curve.arguments)
    if about not in _made:
        name = curve.arguments.get("dataset")
        changes = {"dataset": _dataset(name)} if isinstance(name, str) else {}
        task = settings.make_task(curve.task, seed, curve.arguments | changes)
        while len(_made) >= KEPT_TASKS:
            _made.pop(next(iter(_made)))
        _made[about] = task
    return _made[about]


def _solved(setup: Setup, curve: Curve, seed: int, checkpoint: pathlib.Path | None) -> Run:
    task = _task(curve, seed)
    if setup.seconds is not None:
        solution = compare.run(task, curve.solver, seed=seed, seconds=setup.seconds, rows=setup.rows)
    else:
        steps = setup.steps_of(curve)
        solution = compare.run(task, curve.solver, seed=seed, steps=steps, rows=setup.rows, checkpoint=checkpoint)
    return Run.of(curve.label, seed, solution)


def _together(setup: Setup, curve: Curve, seeds: range) -> list[Run]:
    tasks, steps = [_task(curve, seed) for seed in seeds], setup.steps_of(curve)
    return compare.together(tasks, curve.solver, label=curve.label, seeds=seeds, steps=steps, rows=setup.rows)


def _smoothness(setup: Setup, curve: Curve, seed: int, _: pathlib.Path | None) -> Run:
    """The local smoothness of f in x and in y, and the norms of its gradients, in each step; 60 of these rows are kept
    and judged."""
    task, steps = _task(curve, seed), setup.steps_of(curve)
    solution: Solution = solve(
        task.problem, curve.solver, task.x, task.y,
        steps=steps, every=1, key=compare.run_key(seed), recorders=[UpperSmoothness(task.problem)],
        progress=False, signs=False, throw=False,
    )  # fmt: skip
    run = Run.of(curve.label, seed, solution)
    run.rows = [row for row in run.rows if math.isfinite(row["smoothness in x"])]
    return run


def _estimated(setup: Setup, curve: Curve, seed: int, _: pathlib.Path | None) -> Run:
    """Some rows along k: the squared error of an estimate of the hypergradient, and what the estimates took."""
    rows: list[dict[str, Any]] = [*estimator_errors(curve.label, seed, **curve.arguments)]
    return Run(curve.label, seed, "successful", rows=rows)


MAKERS: dict[str, Callable[[Setup, Curve, int, pathlib.Path | None], Run]] = {
    "solve": _solved,
    "smoothness": _smoothness,
    "estimators": _estimated,
}


class Runner:
    """Makes runs and keeps each as soon as it has ended; those that it made, or that it may `resume`, are not repeated.

    A run that was interrupted goes on from its last checkpoint, where orbax is installed and the run has a number of
    steps.
    """

    def __init__(self, folder: pathlib.Path, resume: bool):
        self._store, self._resume = Store(folder), resume
        self._known: set[str] = set()

    def curve(self, entry: Entry, setup: Setup, curve: Curve) -> list[Run]:
        """A run per seed."""
        seeds = range(setup.first_seed, setup.first_seed + setup.seeds)
        about = description(entry, setup, curve)
        if setup.together:
            runs = self._found(about | {"seeds": list(seeds)}, lambda _: _together(setup, curve, seeds))
        else:
            make = MAKERS[entry.kind]
            runs = [
                self._found(about | {"seed": seed}, lambda folder, seed=seed: [make(setup, curve, seed, folder)])[0]
                for seed in seeds
            ]
        return [thinned(dataclasses.replace(run, solver=curve.label)) for run in runs]

    def _found(self, about: dict[str, Any], make: Callable[[pathlib.Path | None], list[Run]]) -> list[Run]:
        runs = self._store.find(about) if self._resume or str(about) in self._known else None
        if runs is None:
            underway = self._store.underway(about)
            if not self._resume:
                shutil.rmtree(underway, ignore_errors=True)
            start = time.perf_counter()
            runs = make(underway if can_checkpoint() else None)
            for run in runs:
                run.stats["wall_seconds"] = (time.perf_counter() - start) / len(runs)
            self._store.keep(about, runs)
        self._known.add(str(about))
        return runs


def thinned(run: Run) -> Run:
    """The run with at most 60 rows, the first and the last among them, and 6 digits of each number: what is judged is
    what is kept."""
    places = np.unique(np.linspace(0, len(run.rows) - 1, min(ROWS, len(run.rows))).round().astype(int))
    rows = [{name: rounded(value) for name, value in run.rows[i].items()} for i in places]
    stats = {name: rounded(value) for name, value in run.stats.items() if isinstance(value, int | float)}
    return dataclasses.replace(run, rows=rows, stats=stats)


def rounded(value: Any) -> Any:
    """The number with a few digits. What is not finite is NaN, which a file can keep."""
    if isinstance(value, int):
        return value
    return float(f"{float(value):.{DIGITS}g}") if math.isfinite(value) else math.nan


@dataclasses.dataclass(frozen=True)
class Projection:
    """What a curve's runs will take, those of its tuning included, and what one step takes, in seconds."""

    seconds: float
    per_step: float


def projection(entry: Entry, setup: Setup) -> dict[str, Projection]:
    """What each curve will take, from three executed steps on the first seed."""
    found = {}
    for curve in setup.curves:
        if curve.solver is None:
            continue
        grid, tuned = curve.solver, 0.0
        if isinstance(grid, Grid):
            assert setup.tuning is not None
            tuned = len(grid.points()) * setup.tuning.seeds * setup.tuning.share
            curve = grid.at(curve, grid.points()[0])
        task, start = _task(curve, setup.first_seed), time.perf_counter()
        solution = compare.run(task, curve.solver, seed=setup.first_seed, steps=3)
        whole = time.perf_counter() - start
        each = solution.stats["run_seconds"] / max(1, solution.stats["steps"])
        metrics = max(0.0, whole - solution.stats["compile_seconds"] - solution.stats["run_seconds"]) / 4
        budget = setup.seconds if setup.seconds is not None else each * setup.steps_of(curve)
        runs = setup.seeds + tuned
        whole = runs * (budget + metrics * setup.rows) + solution.stats["compile_seconds"]
        found[curve.label] = Projection(whole, each)
    return found


def by_seed(curves: dict[str, list[Run]]) -> list[dict[str, Run]]:
    """The runs of each seed, by curve."""
    seeds = sorted({run.seed for runs in curves.values() for run in runs})
    return [{label: run for label, runs in curves.items() for run in runs if run.seed == seed} for seed in seeds]
