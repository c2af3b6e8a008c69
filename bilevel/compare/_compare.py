"""Run solvers on the same seeds of a task, one at a time, and keep every run that has finished."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bilevel import _extras as extras
from bilevel._output import terminal
from bilevel._output.files import make_directory
from bilevel._output.tables import short
from bilevel._output.terminal import Show
from bilevel._suggest._suggest import Suggestion, suggest
from bilevel.compare import files, settings
from bilevel.compare.records import Comparison, Run
from bilevel.compare.references import references
from bilevel.compare.store import Store
from bilevel.run._ensemble import Ensemble
from bilevel.run._loop import Record, loop
from bilevel.run._solution import RESERVED, RESULTS, Solution
from bilevel.run._solve import solve
from bilevel.solvers.base import AbstractSolver, Tuned
from bilevel.solvers.registry import SOLVERS

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
) -> Solution:
    """Run one solver on one task for `steps` steps or for `seconds` of stepping, with about `rows` history rows.

    A run of `steps` steps can have a `checkpoint`, as in `solve`. It never raises `SolveError`: the solution's result
    says how it ended.
    """
    callbacks = () if on_chunk is None else (on_chunk,)
    options: dict[str, Any] = {"metrics": task.metrics, "callbacks": callbacks, "progress": progress, "throw": False}
    if seconds is not None:
        return _run_for(task, solver, seconds, key=run_key(seed), **options)
    assert steps is not None
    options |= {"every": math.ceil(steps / rows), "checkpoint": checkpoint}
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
        return of[record].metrics(solution.x, solution.y)

    loop(ensemble, steps, math.ceil(steps / rows), measured)
    return [Run.of(label, seed, record.solution) for seed, record in zip(seeds, ensemble.records, strict=True)]


def _run_for(task: Any, solver: AbstractSolver, seconds: float, *, key: jax.Array, **options: Any) -> Solution:
    """Run in chunks. The speed of the last chunk gives the size of the next; the last one takes the remaining time."""
    solution = solve(task.problem, solver, task.x, task.y, steps=1, key=key, **options)
    while solution.result == RESULTS.successful and solution.stats["run_seconds"] < seconds:
        before, last = solution.history.rows[-2:]
        speed = (last["step"] - before["step"]) / (last["seconds"] - before["seconds"])
        wanted = 1.01 * speed * min(seconds / ROWS, seconds - last["seconds"])
        n = max(1, min(math.ceil(wanted), 10 * last["step"]))  # the first few steps give only a rough speed
        try:
            solution = solve(task.problem, solver, solution, steps=n, every=n, **options)
        except BaseException as error:
            if not hasattr(error, "solution"):
                error.solution = solution  # pyright: ignore[reportAttributeAccessIssue]
            raise
    return solution


def compare(
    task_name: str,
    solvers: Sequence[str] | None = None,
    *,
    seeds: int | Sequence[int] = 10,
    steps: int | None = None,
    seconds: float | None = None,
    task_settings: dict[str, Any] | None = None,
    suggested: bool = False,
    untimed: bool = False,
    checkpoint: Any = None,
    out: Any = None,
    console: Any = None,
) -> Comparison:
    """Compare solvers on a task.

    **Arguments**

    - `solvers`: names; default: all that have settings for the task and its data set.
    - `seeds`: their number, or the seeds. Each seed redraws the task's random choices (split, noise) and the run's key.
    - `steps` for each solver, or `seconds` of stepping without compilation; default: the settings' steps.
    - `task_settings`: changed arguments of the task. They override those that a solver's own settings ask for.
    - `suggested`: use the settings of `suggest` on the first seed's problem instead of the table's, and its steps
      unless `steps` or `seconds` is given; the reasons go to `suggestions.txt` and `summary.json`.
    - `untimed`: run all seeds of a solver at once, in one program over all devices, if time is not compared. `seconds`
      is then the total time divided by the number of seeds.
    - `checkpoint`: a directory where each run is kept when it has finished and, if it has a number of steps and is not
      `untimed`, while it runs. The same comparison takes its runs from there. Comparisons can share the directory.
    - `out`: a directory for `report.html`, `results.csv`, `summary.json` and `curves.png`.
    - `console`: a `rich` console that shows the progress; None is silent.

    A run that fails is recorded as failed, and the others continue. Ctrl-C ends the comparison: finished runs
    are kept and written, and `interrupted` is set.
    """
    extras.require("jinja2", "matplotlib", "plotly", "rich", "sklearn", extra="compare")
    changes = dict(task_settings or {})
    known = settings.settings_of(task_name, changes)
    if not known:
        raise ValueError(
            f"task: {task_name!r} has no solver settings to compare; its experiments are entries of `bilevel reproduce`"
        )
    names = [name for name in SOLVERS if name in known] if solvers is None else list(dict.fromkeys(solvers))
    built = {name: settings.settings(task_name, name, changes) for name in names}
    suggestions: dict[str, Suggestion] = {}
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    budget = _budget({name: known[name].steps for name in names}, seeds, steps, seconds)
    if untimed and seconds is not None:
        raise ValueError("untimed: got seconds too; pass steps, or leave it out")
    store = None if checkpoint is None else Store(checkpoint, "checkpoint")
    own = {name: known[name].task | changes for name in names if known[name].task}
    first = settings.make_task(task_name, seeds[0], changes)  # wrong arguments fail before any run
    if out is not None:
        make_directory(out)
    if suggested:
        suggestions = {name: _suggest(first, task_name, name, own, seeds[0], console) for name in names}
        built = {name: suggestion.solver for name, suggestion in suggestions.items()}
        if steps is None and seconds is None:
            budget = {"steps": {name: suggestion.steps for name, suggestion in suggestions.items()}}
    comparison = Comparison(
        task=task_name,
        arguments=settings.task_arguments(task_name) | changes,
        score=first.score,
        solvers={name: settings.describe(solver) | _asked(known[name], changes) for name, solver in built.items()},
        seeds=seeds,
        budget=budget,
        suggestions=suggestions,
        untimed=untimed,
    )
    try:
        with terminal.progress(console, len(names) * len(seeds)) as show:
            tasks = []  # those of all seeds, if they run at once
            for seed in seeds:
                task = first if seed == seeds[0] else settings.make_task(task_name, seed, changes)
                _refer(comparison, task, seed, store, show)
                if untimed:
                    tasks.append(task)
                else:
                    _run_seed(comparison, task, built, own, seed, store, show)
            for name in names if untimed else ():
                _run_seeds(comparison, tasks, name, built[name], own, store, show)
    except KeyboardInterrupt:
        comparison.interrupted = True
    finally:
        if out is not None:
            files.write(comparison, out)
    return comparison


def _suggest(
    shared: Any, task_name: str, name: str, own: dict[str, dict[str, Any]], seed: int, console: Any
) -> Suggestion:
    """Settings for one solver, from the task that it will run on; the test rows are not used."""
    task = settings.make_task(task_name, seed, own[name]) if name in own else shared
    try:
        found = suggest(task.problem, task.x, task.y, solver=name, key=jax.random.fold_in(jax.random.key(seed), 2))
    except ValueError as error:
        raise ValueError(f"{name}: no settings to suggest: {error}") from error
    if console is not None:
        console.print(f"{name}: {found}", markup=False, soft_wrap=True)
    return found


def _asked(setting: Tuned, changes: dict[str, Any]) -> dict[str, Any]:
    """The task arguments that the solver's own settings ask for, unless the user changed them."""
    return {name: changes.get(name, value) for name, value in setting.task.items()}


def _budget(defaults: dict[str, int], seeds: Sequence[int], steps: int | None, seconds: float | None) -> dict[str, Any]:
    if steps is not None and seconds is not None:
        raise ValueError("steps and seconds: got both; pass one of them")
    if not seeds:
        raise ValueError("seeds: got none; pass at least 1")
    if not defaults:
        raise ValueError("solvers: got none; name at least one")
    if seconds is not None:
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"seconds: got {seconds}; it must be a finite number above zero")
        return {"seconds": seconds}
    if steps is not None and steps < 1:
        raise ValueError(f"steps: got {steps}; it must be at least 1")
    return {"steps": {name: steps or default for name, default in defaults.items()}}


def _about(comparison: Comparison, solver: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything that determines the runs of a solver."""
    budget = {kind: part[solver] if kind == "steps" else part for kind, part in comparison.budget.items()}
    about = {"task": comparison.task, "arguments": comparison.arguments, "solver": solver, "seeds": list(seeds)}
    return about | budget | {"settings": comparison.solvers[solver]}


def _refer(comparison: Comparison, task: Any, seed: int, store: Store | None, show: Show) -> None:
    """Add the reference rows of a seed; the store keeps them as the only row of a run."""
    show(f"seed {seed}  reference rows")
    about = {"task": comparison.task, "arguments": comparison.arguments, "references of seed": seed}
    kept = None if store is None else store.find(about)
    scores = references(comparison.task, task) if kept is None else kept[0].rows[0]
    if store is not None and kept is None:
        store.keep(about, [Run("references", seed, "successful", rows=[scores])])
    for name, score in scores.items():
        comparison.references.setdefault(name, {})[seed] = score


def _run_seed(
    comparison: Comparison,
    shared: Any,
    solvers: dict[str, AbstractSolver],
    own: dict[str, dict[str, Any]],
    seed: int,
    store: Store | None,
    show: Show,
) -> None:
    """Run all solvers on the shared task, except for those with task arguments of their own."""
    for name, solver in solvers.items():
        head = f"seed {seed}  {name:8}"
        show(head)

        def on_chunk(solution: Solution, head: str = head) -> None:
            row = solution.history.rows[-1]
            show(f"{head} step {row['step']}  {comparison.score} {short(row[comparison.score], 4)}")

        steps = comparison.budget.get("steps", {}).get(name)
        seconds = comparison.budget.get("seconds")
        about = _about(comparison, name, [seed])
        if (kept := None if store is None else store.find(about)) is not None:
            comparison.runs += kept
            show(f"{head} {_outcome(kept[0])}  (kept)", len(comparison.runs))
            continue
        underway = None if store is None or steps is None else store.underway(about)
        try:
            task = settings.make_task(comparison.task, seed, own[name]) if name in own else shared
            solution = run(
                task, solver, seed=seed, steps=steps, seconds=seconds, on_chunk=on_chunk, checkpoint=underway
            )
            done = Run.of(name, seed, solution)
            if store is not None:
                store.keep(about, [done])
        except KeyboardInterrupt as interruption:
            comparison.runs.append(_broken(name, seed, interruption, "interrupted"))
            raise
        except Exception as error:
            done = _broken(name, seed, error, "error")
        comparison.runs.append(done)
        show(f"{head} {_outcome(done)}", len(comparison.runs))


def _run_seeds(
    comparison: Comparison,
    shared: Sequence[Any],
    name: str,
    solver: AbstractSolver,
    own: dict[str, dict[str, Any]],
    store: Store | None,
    show: Show,
) -> None:
    """Run all seeds of a solver in one program, on the shared tasks unless it has task arguments of its own."""
    seeds, steps = comparison.seeds, comparison.budget["steps"][name]
    show(f"{name:8} {len(seeds)} seeds")
    about = _about(comparison, name, seeds) | {"untimed": True}
    done = None if store is None else store.find(about)
    if done is None:
        try:
            tasks = [settings.make_task(comparison.task, s, own[name]) for s in seeds] if name in own else shared
            done = together(tasks, solver, label=name, seeds=seeds, steps=steps)
            if store is not None:
                store.keep(about, done)
        except Exception as error:
            done = [_broken(name, seed, error, "error") for seed in seeds]
    for run in done:
        comparison.runs.append(run)
        show(f"seed {run.seed}  {name:8} {_outcome(run)}", len(comparison.runs))


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
