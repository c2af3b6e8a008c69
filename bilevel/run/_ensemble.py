"""Runs side by side in one compiled program, spread over the available devices."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel._placement import mesh_of
from bilevel._prepare import prepare
from bilevel.cost import Total
from bilevel.disk import reading
from bilevel.problem import Episodes, Problem, stores_of
from bilevel.run._advance import advance, check_episodes, initial_state, status
from bilevel.run._loop import AbstractRuns, Record
from bilevel.run._solution import RESULTS, Solution
from bilevel.solvers.base import AbstractSolver
from bilevel.trees import Tree

_RUNS, _SAME = PartitionSpec("runs"), PartitionSpec()


def _begin(each: Any, same: Any, t0: Any, n: Any) -> Any:
    solver, problem, x, y, key = eqx.combine(each, same)
    return initial_state(solver, problem, x, y, key)


def _advance(each: Any, same: Any, t0: Any, n: Any) -> Any:
    (solver, problem, key), state = eqx.combine(each[0], same), each[1]
    return advance(solver, problem, state, key, t0, n)


def _status(each: Any, same: Any, t0: Any, n: Any) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    (solver, _, _), state = eqx.combine(each[0], same), each[1]
    return status(solver, state)


@eqx.filter_jit
def _spread(function: Callable[..., Any], mesh: Mesh | None, each: Any, same: Any, t0: Any, n: Any) -> Any:
    """`function` for each run. Every device has an equal share of the runs, under `vmap`, and a full copy of `same`.

    Without a `mesh`, each run is on all devices over which its arrays are split.
    """
    arrays, static = eqx.partition(same, eqx.is_array)

    def share(each: Any, arrays: Any, t0: Any, n: Any) -> Any:
        return jax.vmap(lambda one: function(one, eqx.combine(arrays, static), t0, n))(each)

    if mesh is None:
        return share(each, arrays, t0, n)
    specs = (_RUNS, _SAME, _SAME, _SAME)
    # while-loops run for different lengths per device, so replication cannot be verified
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=_RUNS, check_vma=False)(each, arrays, t0, n)


class Ensemble(AbstractRuns):
    """Runs of one solver, whose numbers may differ, in one compiled program. What they share is stored once.

    `problem`: one for all runs, or a list with one per run, which differ only in their arrays; `x` and `y` likewise.
    The seconds of a run are those of all runs, divided by their number. A run that is no longer sound gets no further
    rows, and its x and y are not finite; the others continue.
    """

    def __init__(
        self,
        solvers: Sequence[AbstractSolver],
        problem: Problem | Episodes | Sequence[Problem | Episodes],
        x: Any,
        y: Any,
        keys: Sequence[PRNGKeyArray],
        devices: Sequence[Any] | None = None,
    ):
        split = mesh_of(problem, x, y) is not None
        devices = [None] if split else list(jax.local_devices() if devices is None else devices)[: len(keys)]
        self._mesh = None if split else Mesh(np.array(devices), ("runs",))
        pad = -len(keys) % len(devices)  # repeat the last run on devices that would have less to do
        many = not isinstance(problem, Problem | Episodes)
        parts = [prepare(*part) for part in (zip(problem, x, y, strict=True) if many else [(problem, x, y)])]
        for part in parts:
            check_episodes(solvers[0], part.problem)
        self._stores = [store for part in parts for store in stores_of(part.problem)]
        points = [(part.problem, part.x, part.y) for part in parts]
        solver, solver_alike = _stacked([*solvers, *[solvers[-1]] * pad])
        self._keys = jnp.stack([*keys, *[keys[-1]] * pad])
        if many:
            own, alike = _stacked([*points, *[points[-1]] * pad])
        else:  # stored once per device
            own, alike = (None, None, None), points[0]
        each, same = (solver, *own, self._keys), (solver_alike, *alike, None)
        if self._mesh is not None:
            each = jax.device_put(each, NamedSharding(self._mesh, _RUNS))
            arrays, static = eqx.partition(same, eqx.is_array)
            same = eqx.combine(jax.device_put(arrays, NamedSharding(self._mesh, _SAME)), static)
        self._each, self._same = (each[0], each[1], each[4]), (same[0], same[1], None)
        self._parts, self._step = parts, 0
        self.records = [Record(self, i) for i in range(len(keys))]

        clock = time.perf_counter()
        self._states, cost = self._call(_begin, each, same)
        self._call(_advance, (self._each, self._states), self._same)
        self._check()
        compile_seconds = time.perf_counter() - clock
        self._count(cost)
        for record in self.records:
            record.stats["compile_seconds"] = compile_seconds

    @property
    def step(self) -> int:
        return self._step

    def _call(self, function: Any, each: Any, same: Any, n: int = 0) -> Any:
        numbers = (jnp.asarray(self._step, jnp.int32), jnp.asarray(n, jnp.int32))
        with reading(self._stores):
            return jax.block_until_ready(_spread(function, self._mesh, each, same, *numbers))

    def advance(self, n: int) -> None:
        clock = time.perf_counter()
        self._states, cost = self._call(_advance, (self._each, self._states), self._same, n)
        seconds = (time.perf_counter() - clock) / len(self.records)
        self._step += n
        self._count(cost)
        self._check()
        for record in self.records:
            record.stats["run_seconds"] += seconds
            if record.sound:
                record.stats["steps"] = self._step

    def _count(self, cost: Total) -> None:
        digits = np.asarray(cost.digits)
        for i, record in enumerate(self.records):
            if record.sound:
                record.count(Total(digits[i]).to_dict())

    def _check(self) -> None:
        finite, convex = self._call(_status, (self._each, self._states), self._same)
        for i, record in enumerate(self.records):
            if record.sound and not (finite[i] and convex[i]):
                record.sound = False
                record.result = RESULTS.nonfinite if convex[i] else RESULTS.not_convex

    def state(self, i: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[i], self._states)

    def solution(self, i: int, record: Record) -> Solution:
        part, state = self._parts[i if len(self._parts) > 1 else 0], self.state(i)
        x, y = part.restore_x(state.x), part.restore_y(state.y)
        return Solution(x, y, record.result, record.history, state, dict(record.stats), self._keys[i])


def _stacked(trees: Sequence[Tree]) -> tuple[Tree, Tree]:
    """The arrays, stacked over the runs, and all else, which must be the same for all."""
    arrays, rest = zip(*(eqx.partition(tree, is_array) for tree in trees), strict=True)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0]


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array. Solvers hold their numbers as NumPy arrays."""
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)
