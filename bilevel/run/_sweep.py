"""Many settings and seeds of a solver, run at once."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from bilevel.run._solution import History, name_of, numbers
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.registry import asked


@dataclass
class SweptRun:
    """One setting with one seed. `result` is a name of `RESULTS`; x and y of a run that diverged are not finite."""

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
    - `every`: steps between two rows of the history, with `metrics(x, y)`; default: only at the end.
    - `devices`: each runs an equal share; default: all local devices. On a CPU,
      `jax.config.update("jax_num_cpu_devices", n)`, called before anything else of JAX, makes n of them: with one per
      core all cores work, while `vmap` alone uses one.

    **Returns** a `Sweep`. A run that diverges is recorded as such, and the others continue.

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
    programs: dict[Any, list[int]] = {}  # the settings of each compiled program
    for i, solver in enumerate(solvers):
        arrays, alike = eqx.partition(solver, is_array)
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(arrays))
        leaves, structure = jax.tree.flatten(alike)
        programs.setdefault((structure, tuple(leaves), shapes), []).append(i)
    found: dict[tuple[int, int], SweptRun] = {}

    def measured(record: Record, row: dict[str, Any]) -> dict[str, float]:
        solution = record.solution
        return {} if metrics is None else numbers(metrics(solution.x, solution.y))

    compiling = running = 0.0
    for chosen in programs.values():
        cells = [(i, seed) for i in chosen for seed in seeds]
        keys = [jax.random.fold_in(key, seed) for _, seed in cells]
        ensemble = Ensemble([solvers[i] for i, _ in cells], problem, x, y, keys, devices)
        loop(ensemble, steps, every, measured)
        stats = ensemble.records[0].stats
        compiling += stats["compile_seconds"]
        running += stats["run_seconds"] * len(cells)
        for (i, seed), record in zip(cells, ensemble.records, strict=True):
            last = record.solution
            found[i, seed] = SweptRun(settings[i], seed, name_of(record.result), last.history, last.x, last.y)
    return Sweep([found[i, seed] for i in range(len(settings)) for seed in seeds], compiling, running)


def _solvers(make_solver: Any, grid: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[AbstractSolver]]:
    """All settings, those in brackets included, and a solver for each."""
    settings, solvers = [], []
    for one in asked(make_solver, "make_solver"):
        for setting in grid:
            for name in one.given:
                if name in setting:
                    raise ValueError(f"grid: {name} is also in {make_solver!r}; give it in one place")
            settings.append({**one.given, **setting})
            solvers.append(one.make(setting, argument="make_solver"))
    return settings, solvers


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
