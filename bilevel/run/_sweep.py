"""Many settings and seeds of a solver, run at once."""

import itertools
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel._prepare import prepare
from bilevel.problem import Episodes, Problem
from bilevel.run._ensemble import Ensemble, is_array
from bilevel.run._loop import Record, loop
from bilevel.run._solution import RESERVED, History, name_of, numbers
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.registry import asked

_COLUMNS = ("seed", "result", *RESERVED)  # of the table, beside settings and metrics


@dataclass
class SweptRun:
    """One setting with one seed. `result` is a name of `RESULTS`; x and y of a run that diverged are not finite.

    `"interrupted"`: an error or Ctrl-C ended the sweep before the run's last row; x and y are the last that it reached.
    """

    setting: dict[str, Any]
    seed: int
    result: str
    history: History
    x: Any
    y: Any


@dataclass
class Sweep:
    """What `sweep` returns: `runs`, and the seconds that all of them took together."""

    runs: list[SweptRun]
    compile_seconds: float
    run_seconds: float

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row per run: its setting, seed and result, and the last row of its history."""
        return [
            {
                **run.setting,
                "seed": run.seed,
                "result": run.result,
                **(run.history.rows[-1] if run.history.rows else {}),
            }
            for run in self.runs
        ]

    def to_pandas(self) -> Any:
        """`table` as a `pandas.DataFrame`."""
        import pandas

        return pandas.DataFrame(self.table)

    def best(self, metric: str, *, largest: bool) -> dict[str, Any]:
        """The setting with the largest, or least, mean of the metric over its seeds. Settings with a run that did
        not reach its end are excluded.

        **Raises** `ValueError` for an unknown metric, or if no setting is left.
        """
        settings: list[dict[str, Any]] = []
        for run in self.runs:
            if run.setting not in settings:
                settings.append(run.setting)
        means = []
        for setting in settings:
            runs = [run for run in self.runs if run.setting == setting]
            if all(run.result == "successful" for run in runs):
                checks.one_of("metric", metric, runs[0].history.columns)
                value = statistics.fmean(run.history.rows[-1][metric] for run in runs)
                if np.isfinite(value):
                    means.append((value, setting))
        if not means:
            raise ValueError(f"metric: no setting has a finite {metric!r} at the end of all its runs; see `table`")
        return (max if largest else min)(means, key=lambda pair: pair[0])[1]


def sweep(
    make_solver: Callable[..., AbstractSolver] | AbstractSolver | str,
    grid: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]],
    problem: Problem | Episodes,
    x: Any,
    y: Any = None,
    *,
    steps: int,
    seeds: int | Iterable[int] = 1,
    key: PRNGKeyArray,
    every: int | None = None,
    metrics: Callable[[Any, Any], dict[str, Any]] | None = None,
    devices: Sequence[Any] | None = None,
) -> Sweep:
    """Run a solver at many settings and seeds, all at once in one compiled program.

    The run of seed s is, to rounding, `solve(problem, make_solver(**setting), x, y, key=jax.random.fold_in(key, s))`.
    Settings that change shapes or loop lengths (inner steps, orders) have one program each; other numbers share one.

    **Arguments**

    - `make_solver`: a solver's class, or any function that makes a solver from a setting; a solver, whose other
      settings stay; a name such as `"soba"`, or `"FILE.py:NAME"`. A name may have settings in brackets, and several
      values of one: `"soba[lower_step=0.5,adjoint_step=0.1,0.5]"`.
    - `grid`: the values of each argument, to be combined in all ways, or a list of settings.
    - `seeds`: the number of seeds, or the seeds themselves.
    - `every`: steps between two rows of the history, with `metrics(x, y)`; default: only at the end. Settings and
      metrics have names of their own: not `seed`, `result`, nor those of the history's columns, `step`, `seconds`, ….
    - `devices`: each runs an equal share; default: all local devices. On a CPU,
      `jax.config.update("jax_num_cpu_devices", n)`, called before anything else of JAX, makes n of them: with one per
      core all cores work, while `vmap` alone uses one.

    **Returns** a `Sweep`. A run that diverges is recorded as such, and the others continue. If a metric raises, or on
    Ctrl-C (which is heard after each `every` steps), the exception has `.sweep`: the runs that have finished, and those
    of the same program as far as their rows go, as `"interrupted"` (absent before the first row).

    **Raises** `ValueError` or `TypeError`, naming the argument, for bad input.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> def make(upper_step):
        ...     return bl.SOBA(upper_step=upper_step, lower_step=0.5, adjoint_step=0.5)
        >>> found = bl.sweep(
        ...     make, {"upper_step": [0.001, 0.01, 1e9]}, problem, 1.0, 0.0, steps=100, key=jax.random.key(0),
        ...     metrics=lambda x, y: {"distance": abs(x - 1 / 3)},
        ... )
        >>> [row["result"] for row in found.table]
        ['successful', 'successful', 'nonfinite']
        >>> found.best("distance", largest=False)
        {'upper_step': 0.01}
    """
    every = steps if every is None else every
    for name, value in (("steps", steps), ("every", every)):
        checks.count(name, value)
    checks.metrics(metrics)
    seeds, key, devices = checks.seeds("seeds", seeds), checks.key("key", key), _devices(devices)
    settings, solvers = _solvers(make_solver, _settings(grid))
    prepare(problem, x, y)
    runs = _Runs(settings, seeds, steps)
    taken = {*_COLUMNS, *(name for setting in settings for name in setting)}

    def measured(record: Record, row: dict[str, Any]) -> dict[str, float]:
        if metrics is None:
            return {}
        solution = record.solution
        return numbers(metrics(solution.x, solution.y), taken=taken)

    try:
        for chosen in _programs(solvers):
            cells = [(i, seed) for i in chosen for seed in seeds]
            keys = [jax.random.fold_in(key, seed) for _, seed in cells]
            ensemble = Ensemble([solvers[i] for i, _ in cells], problem, x, y, keys, devices)
            try:
                loop(ensemble, steps, every, measured)
            finally:
                runs.take(cells, ensemble)
    except BaseException as error:
        runs.leave(error)
        raise
    return runs.sweep


def _programs(solvers: list[AbstractSolver]) -> Collection[list[int]]:
    """The settings of each compiled program."""
    programs: dict[Any, list[int]] = {}
    for i, solver in enumerate(solvers):
        arrays, alike = eqx.partition(solver, is_array)
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(arrays))
        leaves, structure = jax.tree.flatten(alike)
        programs.setdefault((structure, tuple(leaves), shapes), []).append(i)
    return programs.values()


class _Runs:
    """The runs of a sweep that have a row, whether or not they have come to their end."""

    def __init__(self, settings: list[dict[str, Any]], seeds: list[int], steps: int):
        self._settings, self._seeds, self._steps = settings, seeds, steps
        self._found: dict[tuple[int, int], SweptRun] = {}
        self._compile_seconds = self._run_seconds = 0.0

    def take(self, cells: list[tuple[int, int]], ensemble: Ensemble) -> None:
        """Add the runs of a program, each with the number of its setting and its seed."""
        stats = ensemble.records[0].stats
        self._compile_seconds += stats["compile_seconds"]
        self._run_seconds += stats["run_seconds"] * len(cells)
        for (i, seed), record in zip(cells, ensemble.records, strict=True):
            if record.rows:
                ended = not record.goes_on or record.rows[-1]["step"] == self._steps
                result, last = name_of(record.result) if ended else "interrupted", record.solution
                self._found[i, seed] = SweptRun(self._settings[i], seed, result, last.history, last.x, last.y)

    @property
    def sweep(self) -> Sweep:
        places = [(i, seed) for i in range(len(self._settings)) for seed in self._seeds]
        found = [self._found[place] for place in places if place in self._found]
        return Sweep(found, self._compile_seconds, self._run_seconds)

    def leave(self, error: BaseException) -> None:
        """Attach what there is to the error that ends the sweep."""
        if not self._found:
            return
        begun = sum(run.result == "interrupted" for run in self._found.values())
        others = f", and the rows so far of {begun} others" if begun else ""
        total = len(self._settings) * len(self._seeds)
        error.add_note(f"`.sweep` of this exception has {len(self._found) - begun} of the {total} runs{others}")
        error.sweep = self.sweep  # pyright: ignore[reportAttributeAccessIssue]


def _solvers(make_solver: Any, grid: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[AbstractSolver]]:
    """All settings, those in brackets included, and a solver for each."""
    settings, solvers = [], []
    for one in asked(make_solver, "make_solver"):
        _refuse_taken("make_solver", one.given)
        for setting in grid:
            _refuse_taken("grid", setting)
            for name in one.given:
                if name in setting:
                    raise ValueError(f"grid: {name} is also in {make_solver!r}; give it in one place")
            settings.append({**one.given, **setting})
            solvers.append(one.make(setting, argument="make_solver"))
    return settings, solvers


def _refuse_taken(argument: str, names: Iterable[str]) -> None:
    """In a row of the table, one of two columns of the same name would be lost."""
    for name in names:
        if name in _COLUMNS:
            raise ValueError(
                f"{argument}: {name!r} is a column of the table already; pass a function that makes the solver from an "
                "argument of another name"
            )


def _devices(devices: Any) -> list[Any]:
    found = jax.local_devices() if devices is None else list(devices) if isinstance(devices, Sequence) else []
    if not found or len(set(found)) < len(found) or not all(isinstance(device, jax.Device) for device in found):
        raise TypeError(f"devices: got {devices!r}; pass a list of different devices, such as jax.devices()[:2]")
    return found


def _settings(grid: Any) -> list[dict[str, Any]]:
    """One dictionary per setting."""
    if isinstance(grid, Mapping):
        values = {name: _listed(f"grid: {name} is", given) for name, given in grid.items()}
        settings = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    else:
        settings = _listed("grid: got", grid)
    for setting in settings:
        if not (isinstance(setting, Mapping) and all(isinstance(name, str) for name in setting)):
            raise TypeError(f"grid: got the setting {setting!r}; pass dictionaries from names of settings")
    if not settings:
        raise ValueError("grid: got no setting; pass e.g. {'upper_step': [0.1, 1.0]}")
    return [dict(setting) for setting in settings]


def _listed(got: str, values: Any) -> list[Any]:
    """The values of a list, or of anything else that has them in an order."""
    try:
        if not isinstance(values, str | bytes | Mapping):
            return list(values)
    except TypeError:  # a single value
        pass
    raise TypeError(f"{got} {values!r}; pass a list of values, as in {{'upper_step': [0.1, 1.0]}}")
