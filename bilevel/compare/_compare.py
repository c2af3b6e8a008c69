"""Run solvers on the same seeds of a task, one at a time, and keep every run that has finished."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bilevel import _checks as checks
from bilevel import _extras as extras
from bilevel._output import terminal
from bilevel._output.files import make_directory
from bilevel._output.tables import short
from bilevel._output.terminal import Show
from bilevel.compare import entrants, files, settings
from bilevel.compare import search as searches
from bilevel.compare.keeper import Keeper, computation_of
from bilevel.compare.records import Comparison, Request, Run
from bilevel.compare.references import references
from bilevel.cost import KINDS
from bilevel.run._ensemble import Ensemble
from bilevel.run._loop import Record, loop
from bilevel.run._solution import RESERVED, RESULTS, Solution, numbers
from bilevel.run._solve import solve
from bilevel.solvers.base import AbstractSolver
from bilevel.tasks import Task
from bilevel.tasks.registry import AskedTask, asked_task

ROWS = 20  # default number of history rows of a run


def run_key(seed: int) -> jax.Array:
    """The solver's key for a seed, independent of what a task draws with the same seed."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def run(
    task: Any,
    solver: AbstractSolver,
    *,
    seed: int,
    steps: int | None = None,
    seconds: float | None = None,
    rows: int = ROWS,
    on_chunk: Callable[[Solution], Any] | None = None,
    progress: bool | None = False,
    checkpoint: Any = None,
    signs: bool = False,
) -> Solution:
    """Run one solver on one task for `steps` steps or for `seconds` of stepping, with about `rows` history rows.

    A run of `steps` steps can have a `checkpoint` and a look for `signs`, as in `solve`. It never raises `SolveError`:
    the solution's result says how it ended.
    """
    callbacks = () if on_chunk is None else (on_chunk,)
    options: dict[str, Any] = {"metrics": task.metrics, "callbacks": callbacks, "progress": progress, "throw": False}
    if seconds is not None:
        return _run_for(task, solver, seconds, rows, key=run_key(seed), signs=False, **options)
    assert steps is not None
    options |= {"every": math.ceil(steps / rows), "checkpoint": checkpoint, "signs": signs}
    return solve(task.problem, solver, task.x, task.y, steps=steps, key=run_key(seed), **options)


def together(
    tasks: Sequence[Any], solver: AbstractSolver, *, label: str, seeds: Sequence[int], steps: int, rows: int = ROWS
) -> list[Run]:
    """The runs of `run` on each seed's task, all in one compiled program; they differ only by rounding.

    `seconds` is the total time divided by the number of runs. A seed whose iterates are no longer finite at a row has
    no further rows; the others continue.
    """
    problems, x, y = zip(*((task.problem, task.x, task.y) for task in tasks), strict=True)
    ensemble = Ensemble([solver] * len(seeds), problems, x, y, [run_key(seed) for seed in seeds])
    of = dict(zip(ensemble.records, tasks, strict=True))

    def measured(record: Record, row: dict[str, Any]) -> dict[str, float]:
        solution = record.solution
        return numbers(of[record].metrics(solution.x, solution.y))

    loop(ensemble, steps, math.ceil(steps / rows), measured)
    return [Run.of(label, seed, record.solution) for seed, record in zip(seeds, ensemble.records, strict=True)]


def _run_for(
    task: Any, solver: AbstractSolver, seconds: float, rows: int, *, key: jax.Array, **options: Any
) -> Solution:
    """Run in chunks. The speed of the last chunk gives the size of the next; the last one takes the remaining time."""
    solution = solve(task.problem, solver, task.x, task.y, steps=1, key=key, **options)
    while solution.result == RESULTS.successful and solution.stats["run_seconds"] < seconds:
        before, last = solution.history.rows[-2:]
        speed = (last["step"] - before["step"]) / (last["seconds"] - before["seconds"])
        wanted = 1.01 * speed * min(seconds / rows, seconds - last["seconds"])
        n = max(1, min(math.ceil(wanted), 10 * last["step"]))  # the first few steps give only a rough speed
        try:
            solution = solve(task.problem, solver, solution, steps=n, every=n, **options)
        except BaseException as error:
            if not hasattr(error, "solution"):
                error.solution = solution  # pyright: ignore[reportAttributeAccessIssue]
            raise
    return solution


def compare(
    task: Any,
    solvers: Any = None,
    *,
    seeds: int | Sequence[int] = 10,
    steps: int | None = None,
    seconds: float | None = None,
    task_settings: Mapping[str, Any] | None = None,
    suggested: bool = False,
    untimed: bool = False,
    search: bool = False,
    checkpoint: Any = None,
    out: Any = None,
    console: Any = None,
) -> Comparison:
    """Compare solvers on a task.

    **Arguments**

    - `task`: the name of a task, `"FILE.py:NAME"`, a `bilevel.tasks.Task`, or a function that makes one. A function
      gets the seed as its argument `seed`; without one, and for a `Task`, the seed is that of the run alone.
    - `solvers`: a list of names, of `"FILE.py:NAME"`, of solvers, or of classes and functions that make them; or a
      dictionary from names of your own to these. Text may have settings in brackets, and several values of a setting
      are several solvers: `"soba[upper_step=0.1,1]"`. By default, all that have settings for the task and its data set.
    - `seeds`: their number, or the seeds. Each seed redraws the task's random choices (split, noise) and the run's key.
    - `steps` for each solver, or `seconds` of stepping without compilation; default: the settings' steps.
    - `task_settings`: changed arguments of the task. They override those that a solver's own settings ask for.
    - `suggested`: use the settings of `suggest` on the first seed's problem instead of the known ones, and its steps
      unless `steps` or `seconds` is given; the reasons go to `suggestions.txt` and `summary.json`.
    - `untimed`: run all seeds of a solver at once, in one program over all devices, if time is not compared. `seconds`
      is then the total time divided by the number of seeds.
    - `search`: add reference rows of a search without gradients, over the few numbers that the task declares as its
      `search`: random search and, where it is installed, Optuna's sampler. Each has as many oracle samples per seed as
      the solver that used most; a trial solves the lower level by Newton's method on all rows.
    - `checkpoint`: a directory where each run is kept when it has finished and, if it has a number of steps and is not
      `untimed`, while it runs. The same comparison takes its runs from there, and comparisons can share the directory:
      a run is known by what solver and losses compute, all arrays, the code of the metrics with what it refers to, and
      the versions of Python, JAX and this package; reference rows likewise. Of metrics nobody knows what they read or
      import when they are called, nor code that is not Python's: if such a thing changes, pass another directory. If
      metrics change what they refer to (a log of their calls), other seeds may run again. Machines are not told apart.
    - `out`: a directory for `report.html`, `results.csv`, `summary.json` and `curves.png`.
    - `console`: a `rich` console that shows the progress; None is silent.

    Settings come from the solver itself or from the brackets after its name; then from the solver's `tuned` for a task
    of the package, or the task's `tuned` for a task of your own; then from the solver's defaults.

    A run that fails is recorded as failed, and the others continue. Ctrl-C ends the comparison: finished runs
    are kept and written, and `interrupted` is set.

    **Raises** `ValueError` or `TypeError`, naming the argument, before any run: for names that are unknown, files that
    cannot be imported, and settings that are missing.
    """
    extras.require("jinja2", "matplotlib", "plotly", "rich", "sklearn", extra="compare")
    asked, changes = asked_task(task), dict(task_settings or {})
    named = None if solvers is None else entrants.named(solvers)
    seeds = checks.seeds("seeds", seeds)
    _check_budget(steps, seconds, untimed)
    first = settings.make_task(asked, seeds[0], changes)  # wrong arguments fail before any run
    if search:
        searches.check(first)
    chosen = entrants.defaults(asked, first, changes, suggested) if named is None else named
    if not chosen:
        raise ValueError("solvers: got none; name at least one")
    left_out: dict[str, str] = {}
    if suggested:
        make_directory(out) if out is not None else None
        entered, left_out = entrants.all_suggested(
            asked, first, chosen, changes, seed=seeds[0], all_must=named is not None, console=console
        )
    else:
        entered = {label: entrants.enter(asked, first, one, changes) for label, one in chosen.items()}
    comparison = Comparison(
        task=asked.label,
        arguments=asked.arguments | changes,
        score=first.score,
        dataset=first.dataset,
        solvers={label: entrant.description for label, entrant in entered.items()},
        seeds=seeds,
        budget={"seconds": seconds} if seconds is not None else {"steps": steps_of(entered, asked.label, steps)},
        suggestions={label: entrant.suggestion for label, entrant in entered.items() if entrant.suggestion},
        untimed=untimed,
        left_out=left_out,
        request=Request(asked.text, [entrant.asked.text for entrant in entered.values()], steps, changes, search),
    )
    store = None if checkpoint is None else Keeper(checkpoint, comparison, asked)
    if out is not None:
        make_directory(out)
    try:
        with terminal.progress(console, len(entered) * len(seeds)) as show:
            tasks = []  # those of all seeds, if they run at once
            for seed in seeds:
                made = first if seed == seeds[0] else settings.make_task(asked, seed, changes)
                _refer(comparison, asked, made, seed, store, show)
                if untimed:
                    tasks.append(made)
                else:
                    _run_seed(comparison, asked, made, entered, seed, store, show)
                    _search(comparison, made, seed, store, show)
            for label in entered if untimed else ():
                _run_seeds(comparison, asked, tasks, label, entered[label], store, show)
            for seed, made in zip(seeds, tasks, strict=True) if untimed else ():
                _search(comparison, made, seed, store, show)
    except KeyboardInterrupt:
        comparison.interrupted = True
    finally:
        if out is not None:
            files.write(comparison, out)
    return comparison


def _check_budget(steps: int | None, seconds: float | None, untimed: bool) -> None:
    if steps is not None and seconds is not None:
        raise ValueError("steps and seconds: got both; pass one of them")
    if seconds is not None:
        checks.positive("seconds", seconds)
    if steps is not None:
        checks.count("steps", steps)
    if untimed and seconds is not None:
        raise ValueError("untimed: got seconds too; pass steps, or leave it out")


def steps_of(entered: Mapping[str, entrants.Entrant], task: str, steps: int | None) -> dict[str, int]:
    """The steps of each solver: those asked for, or of its settings."""
    found = {label: steps or entrant.steps for label, entrant in entered.items()}
    unknown = [label for label, number in found.items() if number is None]
    if unknown:
        raise ValueError(f"steps: none are known for {', '.join(unknown)} on {task}; pass steps or seconds")
    return {label: number for label, number in found.items() if number is not None}


def _found(
    store: Keeper | None,
    about: Callable[[Keeper], dict[str, Any]],
    make: Callable[[pathlib.Path | None], list[Run]],
) -> tuple[list[Run], bool]:
    """The runs that the store keeps under this description, or that are made and kept now; and whether it had them.

    `make` gets the folder in which unfinished runs may be saved.
    """
    if store is None:
        return make(None), False
    described = about(store)
    kept = store.find(described)
    if kept is not None:
        return kept, True
    runs = make(store.underway(described))
    store.keep(described, runs)
    return runs, False


def _refer(comparison: Comparison, asked: AskedTask, task: Task, seed: int, store: Keeper | None, show: Show) -> None:
    """Add the reference rows of a seed; the store keeps them as the only row of a run."""
    if not asked.of_the_package:
        return
    show(f"seed {seed}  reference rows")

    def make(_: Any) -> list[Run]:
        return [Run("references", seed, "successful", rows=[references(comparison.task, task)])]

    (run,), _ = _found(store, lambda store: store.of_references(task, seed), make)
    for name, score in run.rows[0].items():
        comparison.references.setdefault(name, {})[seed] = score


def _search(comparison: Comparison, task: Task, seed: int, store: Keeper | None, show: Show) -> None:
    """Add the rows of a search on a seed, if they were asked for, on the samples of the solver that used most."""
    spent = [sum(run.stats[kind] for kind in KINDS) for run in comparison.runs if run.seed == seed and run.counts]
    if not comparison.request.search or not spent:
        return
    show(f"seed {seed}  search without gradients", len(comparison.runs))
    samples = max(spent)

    def make(_: Any) -> list[Run]:
        found = searches.search(task, samples, seed)
        return [Run(name, seed, "successful", rows=[dataclasses.asdict(one)]) for name, one in found.items()]

    try:
        runs, _ = _found(store, lambda store: store.of_search(task, seed, samples), make)
    except ValueError as error:
        comparison.left_out["search"] = str(error)
        return
    for run in runs:
        comparison.references.setdefault(run.solver, {})[seed] = run.rows[0]["score"]
        comparison.trials.setdefault(run.solver, {})[seed] = run.rows[0]["trials"]


def _run_seed(
    comparison: Comparison,
    asked: AskedTask,
    shared: Task,
    entered: Mapping[str, entrants.Entrant],
    seed: int,
    store: Keeper | None,
    show: Show,
) -> None:
    """Run all solvers on the shared task, except for those with task arguments of their own."""
    for label, entrant in entered.items():
        head, kept = f"seed {seed}  {label:8}", False
        show(head)
        try:
            task = _own(comparison, asked, entrant, seed) or shared
            done, kept = _run_one(comparison, task, label, entrant, seed, store, show)
        except KeyboardInterrupt as interruption:
            comparison.runs.append(_broken(label, seed, interruption, "interrupted"))
            raise
        except Exception as error:
            done = _broken(label, seed, error, "error")
        comparison.runs.append(done)
        show(f"{head} {_outcome(done)}{'  (kept)' if kept else ''}", len(comparison.runs))


def _run_one(
    comparison: Comparison,
    task: Task,
    label: str,
    entrant: entrants.Entrant,
    seed: int,
    store: Keeper | None,
    show: Show,
) -> tuple[Run, bool]:
    """The run of a solver on a seed, and whether the store had it."""
    steps, seconds = comparison.budget.get("steps", {}).get(label), comparison.budget.get("seconds")

    def on_chunk(solution: Solution) -> None:
        row = solution.history.rows[-1]
        show(f"seed {seed}  {label:8} step {row['step']}  {comparison.score} {short(row[comparison.score], 4)}")

    def make(underway: Any) -> list[Run]:
        options: dict[str, Any] = {"seconds": seconds} if steps is None else {"steps": steps, "checkpoint": underway}
        return [Run.of(label, seed, run(task, entrant.solver, seed=seed, on_chunk=on_chunk, **options))]

    def about(store: Keeper) -> dict[str, Any]:
        return store.of_runs([task], [computation_of(entrant.solver, task)], label, entrant, [seed])

    (done,), kept = _found(store, about, make)
    return done, kept


def _own(comparison: Comparison, asked: AskedTask, entrant: entrants.Entrant, seed: int) -> Task | None:
    """The task with the arguments that a solver's settings ask for, if they do."""
    if not entrant.task:
        return None
    return settings.make_task(asked, seed, comparison.request.changes | entrant.task)


def _run_seeds(
    comparison: Comparison,
    asked: AskedTask,
    shared: Sequence[Task],
    label: str,
    entrant: entrants.Entrant,
    store: Keeper | None,
    show: Show,
) -> None:
    """Run all seeds of a solver in one program, on the shared tasks unless it has task arguments of its own."""
    seeds, steps = comparison.seeds, comparison.budget["steps"][label]
    show(f"{label:8} {len(seeds)} seeds")
    try:
        tasks = [_own(comparison, asked, entrant, seed) or made for seed, made in zip(seeds, shared, strict=True)]
        of_the_package = asked.of_the_package
        computed = [] if of_the_package and store is None else [computation_of(entrant.solver, task) for task in tasks]
        if not of_the_package and len(set(computed)) > 1:
            raise ValueError(
                "untimed: the seeds' losses differ in more than their arrays, and one program runs them all; pass what "
                "differs as data of a level, or leave out untimed"
            )
        done, _ = _found(
            store,
            lambda store: store.of_runs(tasks, computed, label, entrant, seeds) | {"untimed": True},
            lambda _: together(tasks, entrant.solver, label=label, seeds=seeds, steps=steps),
        )
    except Exception as error:
        done = [_broken(label, seed, error, "error") for seed in seeds]
    for run in done:
        comparison.runs.append(run)
        show(f"seed {run.seed}  {label:8} {_outcome(run)}", len(comparison.runs))


def _broken(name: str, seed: int, error: BaseException, result: str) -> Run:
    """The part of a run that was done before an exception."""
    solution = getattr(error, "solution", None)
    text = " ".join(str(error).split()) or "by the user"
    message = text if result == "interrupted" else f"{type(error).__name__}: {text}"
    if solution is None:
        return Run(name, seed, result, message)
    return Run(name, seed, result, message, solution.history.rows, solution.stats)


def _outcome(run: Run) -> str:
    if not run.counts:
        return f"{run.result}: {run.message}"
    values = "  ".join(f"{name} {short(value, 4)}" for name, value in run.rows[-1].items() if name not in RESERVED)
    trouble = f"  {run.result}: {run.message}" if run.message else ""
    return f"{values}  {run.stats['run_seconds']:.2f} s{trouble}"
