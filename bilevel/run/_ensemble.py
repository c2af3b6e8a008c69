"""Runs side by side in one compiled program, spread over the devices at hand."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel.oracles import Tally
from bilevel.problem import Problem, prepare
from bilevel.run._advance import advance, begin, status
from bilevel.run._solution import RESULTS, name_of
from bilevel.solvers._base import AbstractSolver

Tree = PyTree[Any]
_RUNS, _SAME = PartitionSpec("runs"), PartitionSpec()


def _begin(each: Any, same: Any, t0: Any, n: Any) -> Any:
    solver, problem, x, y, key = eqx.combine(each, same)
    return begin(solver, problem, x, y, key)


def _advance(each: Any, same: Any, t0: Any, n: Any) -> Any:
    (solver, problem, key), state = eqx.combine(each[0], same), each[1]
    return advance(solver, problem, state, key, t0, n)


def _sound(each: Any, same: Any, t0: Any, n: Any) -> Bool[Array, ""]:
    (solver, _, _), state = eqx.combine(each[0], same), each[1]
    finite, convex = status(solver, state)
    return finite & convex


@eqx.filter_jit
def _spread(function: Callable[..., Any], mesh: Mesh, each: Any, same: Any, t0: Any, n: Any) -> Any:
    """`function` for each run: every device has an equal share of them, under `vmap`, and a whole copy of `same`."""
    arrays, static = eqx.partition(same, eqx.is_array)

    def share(each: Any, arrays: Any, t0: Any, n: Any) -> Any:
        return jax.vmap(lambda one: function(one, eqx.combine(arrays, static), t0, n))(each)

    specs = (_RUNS, _SAME, _SAME, _SAME)
    # the loops of the devices end apart from each other, so nothing in them is the same on all by proof
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=_RUNS, check_vma=False)(each, arrays, t0, n)


@dataclass
class EnsembleRun:
    """One run of an ensemble: how it ended, its history, its counts, and its last x and y."""

    result: str = "successful"
    message: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    point: tuple[Any, Any] = (None, None)


class Ensemble:
    """Runs of one solver, whose numbers may differ, in one compiled program. What all have in common is kept once.

    `problem`: one for all runs, or a list with one a run, alike but for their arrays; `x`, `y` accordingly.
    """

    def __init__(
        self,
        solvers: Sequence[AbstractSolver],
        problem: Problem | Sequence[Problem],
        x: Any,
        y: Any,
        keys: Sequence[PRNGKeyArray],
        devices: Sequence[Any] | None = None,
    ):
        devices = list(jax.local_devices() if devices is None else devices)[: len(keys)]
        self.runs, self._mesh = len(keys), Mesh(np.array(devices), ("runs",))
        pad = -len(keys) % len(devices)  # the last run again, on devices that would have less to do
        many = not isinstance(problem, Problem)
        parts = [prepare(*part) for part in (zip(problem, x, y, strict=True) if many else [(problem, x, y)])]
        self._restores = [part[3] for part in parts]
        solver, solver_alike = _stacked([*solvers, *[solvers[-1]] * pad])
        key = jnp.stack([*keys, *[keys[-1]] * pad])
        if many:
            points, points_alike = _stacked([*(part[:3] for part in parts), *[parts[-1][:3]] * pad])
        else:  # kept once, on each device
            points, points_alike = (None, None, None), parts[0][:3]
        each = (solver, *points, key)
        same = (solver_alike, *points_alike, None)
        each = jax.device_put(each, NamedSharding(self._mesh, _RUNS))
        arrays, static = eqx.partition(same, eqx.is_array)
        same = eqx.combine(jax.device_put(arrays, NamedSharding(self._mesh, _SAME)), static)
        self._start, self._each, self._same = (each, same), (each[0], each[1], each[4]), (same[0], same[1], None)
        self.state: Any = None
        self.step, self.compile_seconds, self.run_seconds = 0, 0.0, 0.0
        self.counts: list[dict[str, int]] = [dict.fromkeys(Tally.KINDS, 0) for _ in keys]

    def _call(self, function: Any, each: Any, same: Any, n: int = 0) -> Any:
        numbers = (jnp.asarray(self.step, jnp.int32), jnp.asarray(n, jnp.int32))
        return jax.block_until_ready(_spread(function, self._mesh, each, same, *numbers))

    def start(self) -> None:
        """The solvers' starts, and the program compiled."""
        clock = time.perf_counter()
        self.state = self._call(_begin, *self._start)
        self._call(_advance, (self._each, self.state), self._same)
        self.sound()
        self.compile_seconds = time.perf_counter() - clock
        self._take_tallies()

    def advance(self, n: int) -> None:
        clock = time.perf_counter()
        self.state = self._call(_advance, (self._each, self.state), self._same, n)
        self.run_seconds += time.perf_counter() - clock
        self.step += n
        self._take_tallies()

    def sound(self) -> Bool[np.ndarray, " runs"]:
        """Which runs have finite numbers and, as far as they have seen, a convex lower level."""
        return np.asarray(self._call(_sound, (self._each, self.state), self._same))[: self.runs]

    def _take_tallies(self) -> None:
        digits = np.asarray(self.state.tally.digits)
        for i, count in enumerate(self.counts):
            for kind, n in Tally(digits[i]).to_dict().items():
                count[kind] += n
        self.state = eqx.tree_at(lambda s: s.tally.digits, self.state, jnp.zeros_like(self.state.tally.digits))

    def point(self, i: int) -> tuple[Any, Any]:
        """x and y of a run, like the starts."""
        restore = self._restores[i if len(self._restores) > 1 else 0]
        return restore(*jax.tree.map(lambda leaf: leaf[i], (self.state.x, self.state.y)))

    def run(self, steps: int, every: int, metrics: Callable[[int, Any, Any], dict[str, float]]) -> list[EnsembleRun]:
        """All steps, with `metrics(i, x, y)` of each run after every so many. `seconds` is the time of all, divided by
        their number. A run that is no longer sound has no further rows; the others go on."""
        runs = [EnsembleRun() for _ in range(self.runs)]
        self.start()
        while True:
            sound = self.sound()
            for i, run in enumerate(runs):
                if run.result != "successful":
                    continue
                run.point = self.point(i)
                if sound[i]:
                    row = {"step": self.step, "seconds": self.run_seconds / self.runs, **self.counts[i]}
                    run.rows.append(row | metrics(i, *run.point))
                else:
                    run.result = name_of(RESULTS.nonfinite)
                    run.message = f"not finite, or not convex, by step {self.step}"
                run.stats = {"steps": run.rows[-1]["step"] if run.rows else 0, "compile_seconds": self.compile_seconds}
                run.stats |= {"run_seconds": self.run_seconds / self.runs} | self.counts[i]
            if self.step == steps or not any(run.result == "successful" for run in runs):
                return runs
            self.advance(min(every, steps - self.step))


def _stacked(trees: Sequence[Tree]) -> tuple[Tree, Tree]:
    """The arrays, stacked over the runs; and all else, which must be alike."""
    arrays, rest = zip(*(eqx.partition(tree, is_array) for tree in trees), strict=True)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0]


def is_array(leaf: Any) -> bool:
    """Solvers hold their numbers as NumPy arrays."""
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)
