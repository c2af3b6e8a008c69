"""One solver on several seeds of a task in one compiled program."""

import math
import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from bilevel import trees
from bilevel.experiments.compare import run_key
from bilevel.experiments.records import Run
from bilevel.oracles import Tally
from bilevel.problem import prepare
from bilevel.solve import advance, begin
from bilevel.solvers.base import AbstractSolver

Tree = PyTree[Any]
_SEEDS = eqx.if_array(0)


def _sound(solver: AbstractSolver, state: Any) -> Array:
    return trees.all_finite(state) & jnp.asarray(solver.is_convex(state))


_begin = eqx.filter_jit(eqx.filter_vmap(begin, in_axes=(None, _SEEDS, 0, 0, 0)))
_advance = eqx.filter_jit(eqx.filter_vmap(advance, in_axes=(None, _SEEDS, _SEEDS, 0, None, None)))
_check = eqx.filter_jit(eqx.filter_vmap(_sound, in_axes=(None, _SEEDS)))


def together(
    tasks: Sequence[Any], solver: AbstractSolver, *, label: str, seeds: Sequence[int], steps: int, rows: int
) -> list[Run]:
    """The runs of `compare.run` on each seed's task, all at once: equal to them to rounding.

    `seconds` is the time of all, divided by their number. A seed whose iterates are no longer finite at a row has no
    further rows; the others go on.
    """
    parts = [prepare(task.problem, task.x, task.y) for task in tasks]
    restores = [part[3] for part in parts]
    problem, x, y = (_stacked([part[i] for part in parts]) for i in range(3))
    key = jnp.stack([run_key(seed) for seed in seeds])
    clock = time.perf_counter()
    state = jax.block_until_ready(_begin(solver, problem, x, y, key))
    jax.block_until_ready(_advance(solver, problem, state, key, jnp.asarray(0, jnp.int32), jnp.asarray(0, jnp.int32)))
    compile_seconds = time.perf_counter() - clock
    runs = [Run(label, seed, "successful") for seed in seeds]
    counts: list[dict[str, int]] = [dict.fromkeys(Tally.KINDS, 0) for _ in seeds]
    step, seconds, every = 0, 0.0, math.ceil(steps / rows)
    while True:
        sound = np.asarray(_check(solver, state))
        state = _record(runs, counts, state, sound, tasks, restores, step, seconds / len(seeds))
        if step == steps or not any(run.result == "successful" for run in runs):
            break
        n = min(every, steps - step)
        clock = time.perf_counter()
        at, length = jnp.asarray(step, jnp.int32), jnp.asarray(n, jnp.int32)
        state = jax.block_until_ready(_advance(solver, problem, state, key, at, length))
        seconds += time.perf_counter() - clock
        step += n
    for run, count in zip(runs, counts, strict=True):
        done = run.rows[-1]["step"] if run.rows else 0
        run.stats = {"steps": done, "compile_seconds": compile_seconds, "run_seconds": seconds / len(seeds)} | count
    return runs


def _stacked(trees_: Sequence[Tree]) -> Tree:
    """Arrays stacked over seeds; what else there is must be alike."""
    arrays, static = zip(*(eqx.partition(tree, eqx.is_array) for tree in trees_), strict=True)
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), static[0])


def _record(
    runs: list[Run],
    counts: list[dict[str, int]],
    state: Any,
    sound: np.ndarray,
    tasks: Sequence[Any],
    restores: Sequence[Any],
    step: int,
    seconds: float,
) -> Any:
    """A history row for each seed that is sound; its tally moves into Python integers."""
    for i, (run, count) in enumerate(zip(runs, counts, strict=True)):
        if run.result != "successful":
            continue
        for kind, n in Tally(state.tally.digits[i]).to_dict().items():
            count[kind] += n
        if not sound[i]:
            run.result, run.message = "nonfinite", f"not finite, or not convex, by step {step}"
            continue
        x, y = restores[i](*jax.tree.map(lambda leaf, i=i: leaf[i], (state.x, state.y)))
        run.rows.append({"step": step, "seconds": seconds} | count | tasks[i].metrics(x, y))
    return eqx.tree_at(lambda s: s.tally, state, Tally(jnp.zeros_like(state.tally.digits)))
