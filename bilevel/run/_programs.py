"""The compiled programs of one run."""

import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import _processes as processes
from bilevel import _random, trees
from bilevel._placement import Places, mesh_of, pinned, places, put, shapes_of
from bilevel.cost import Total
from bilevel.problem import Episodes, Problem, stores_of
from bilevel.run._advance import advance, initial_state, status
from bilevel.run._identity import computation
from bilevel.run._plan import UnplannableError, plan_of
from bilevel.run._prefetch import Prefetch, Window, holding
from bilevel.solvers.base import AbstractSolver
from bilevel.trees import Tree


class Programs:
    """What advances, checks and copies the states of a solver on a problem.

    The arguments that stay the same are taken apart once, not at each call. What belongs to x or y stays where x or y
    is: see `bilevel._placement`. Rows on disk are read ahead for steps before `end`, whose numbers are the same if they
    are cut after each `unit` steps; then call `close`.
    """

    def __init__(
        self,
        solver: AbstractSolver,
        problem: Problem | Episodes,
        key: PRNGKeyArray,
        x: Tree,
        y: Tree,
        *,
        unit: int = 1,
        end: int = 0,
    ):
        self.key, self._start_at, self.unit = key, (x, y), unit
        mesh = mesh_of(problem, x, y)
        self.shared = processes.shared(mesh)  # with other processes
        leaves, structure = jax.tree.flatten((solver, problem, key))
        self._arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
        self._static = _Static(structure, tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves), ())
        if mesh is not None:
            self._static = self._static.at(places(self._state()[0], mesh, (x, y)))
        self._whole, self.stores = (solver, problem, key), stores_of(problem)
        self.prefetch = self._prefetch(unit, end) if self.stores else None

    def _prefetch(self, unit: int, end: int) -> Prefetch | None:
        """None if it is not known ahead which rows are read, or if it is too much at once: then they are read when
        they are drawn."""
        if self.shared:
            raise ValueError("data: rows on disk are read by one process; pass arrays to a run of several processes")

        def planned(steps: Any) -> list[Array]:
            return _planned(self._static, self._arrays, self._start_at, steps)

        try:
            draws = [found.shape[1] for found in jax.eval_shape(planned, np.zeros(1, np.int32))]
        except UnplannableError:
            return None
        except ValueError as error:
            error.add_note(f"It arose in a step of {type(self._whole[0]).__name__}.")
            raise
        prefetch = Prefetch(self.stores, planned, draws, unit, end)
        return prefetch if prefetch.fits else None

    def _holding(self, window: Window) -> tuple["_Static", list[Any]]:
        solver, problem, key = self._whole
        assert isinstance(problem, Problem)
        leaves, structure = jax.tree.flatten((solver, holding(problem, self.stores, window), key))
        static = _Static(structure, tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves), self._static.places)
        return static, [leaf if eqx.is_array(leaf) else None for leaf in leaves]

    def close(self) -> None:
        if self.prefetch is not None:
            self.prefetch.close()
        for store in self.stores:
            store.release()

    def _state(self) -> tuple[Any, Total]:
        """The shapes of a state and a cost."""
        return eqx.filter_eval_shape(functools.partial(_start, self._static, self._arrays), *self._start_at, False)

    def start(self, *, compute: bool) -> tuple[Any, Total]:
        """The solver's initial state and its cost; or zeros in its shape, to compile without computing it."""
        return _start(self._static, self._arrays, *self._start_at, compute)

    def advance(self, state: Any, t0: int, n: int) -> tuple[Any, Total]:
        """`n` steps in place: the arrays of `state` are overwritten."""
        total = None
        for static, arrays, t, m in self._parts(t0, n):
            state, cost = jax.block_until_ready(_advance(static, arrays, state, np.int32(t), np.int32(m)))
            total = cost if total is None else _added(total, cost)
        assert total is not None
        return state, total

    def _parts(self, t0: int, n: int) -> Iterator[tuple["_Static", list[Any], int, int]]:
        """What to advance by, from which step and for how many: with rows on disk, by those of some steps."""
        if self.prefetch is None:
            yield self._static, self._arrays, t0, n
        elif n == 0:
            yield *self._holding(self.prefetch.blank()), t0, 0
        else:
            for window, t, m in self.prefetch.parts(t0, n):
                yield *self._holding(window), t, m

    def advance_while_sound(self, state: Any, t0: int, n: int) -> tuple[Any, Total, int]:
        """The last sound state within `n` steps, the cost, and the number of steps."""
        total, taken = Total.zero(), 0
        for static, arrays, t, m in self._parts(t0, n):
            state, cost, steps = _advance_while_sound(static, arrays, state, np.int32(t), np.int32(m))
            total, taken = _added(total, cost), taken + int(steps)
            if int(steps) < m:
                break
        return state, total, taken

    def status(self, state: Any) -> tuple[bool, bool]:
        """Whether all numbers are finite, and whether the adjoint method has met only positive curvature."""
        finite, convex = _status(self._static, self._arrays, state)
        return bool(finite), bool(convex)

    def copy(self, state: Any) -> Any:
        return put(_copy(state), self._static.places)

    def computation(self) -> str:
        """A hash of what a run computes, wherever its arrays are: the start, a chunk, and whether a state is sound. JAX
        keeps the traces for the run on one device."""
        static = self._static.at(())

        def run(arrays: Any, start: Any, state: Any, t: Any) -> Any:
            started, chunk = _start(static, arrays, *start, True), _advance(static, arrays, state, t, t)
            return started, chunk, _status(static, arrays, state)

        return computation(run, *shapes_of((self._arrays, self._start_at, self._state()[0])), np.int32(0))


class _Static:
    """What a program is compiled for: the structure of its arguments, the leaves that are not arrays, and the places of
    the state's leaves."""

    def __init__(self, structure: Any, leaves: tuple[Any, ...], places: Places):
        self._structure, self._leaves, self.places = structure, leaves, places
        self._hash = hash((structure, leaves, places))

    def at(self, places: Places) -> "_Static":
        return _Static(self._structure, self._leaves, places)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: Any) -> bool:
        return self is other or self._all == other._all

    @property
    def _all(self) -> tuple[Any, ...]:
        return self._structure, self._leaves, self.places

    def with_arrays(self, arrays: Any) -> Any:
        return jax.tree.unflatten(
            self._structure,
            [leaf if array is None else array for leaf, array in zip(self._leaves, arrays, strict=True)],
        )


@functools.partial(jax.jit, static_argnums=0)
def _start(static: _Static, arrays: Any, x: Tree, y: Tree, compute: Any) -> tuple[Any, Total]:
    solver, problem, key = static.with_arrays(arrays)

    def start() -> Any:
        return initial_state(solver, problem, x, y, key)

    state, cost = jax.lax.cond(compute, start, lambda: trees.zeros_like(jax.eval_shape(start)))
    return pinned(state, static.places), cost


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(static: _Static, arrays: Any, state: Any, t0: Any, n: Any) -> tuple[Any, Total]:
    solver, problem, key = static.with_arrays(arrays)
    state, cost = advance(solver, problem, state, key, t0, n)
    return pinned(state, static.places), cost


@functools.partial(jax.jit, static_argnums=0)
def _advance_while_sound(static: _Static, arrays: Any, state: Any, t0: Any, n: Any) -> tuple[Any, Total, Any]:
    solver, problem, key = static.with_arrays(arrays)

    def going_on(carry: Any) -> Bool[Array, ""]:
        t, _, _, sound = carry
        return sound & (t < t0 + n)

    def body(carry: Any) -> Any:
        t, state, cost, _ = carry
        new, spent = advance(solver, problem, state, key, t, 1)
        finite, convex = status(solver, new)
        sound = finite & convex
        return jnp.where(sound, t + 1, t), *trees.where(sound, (new, cost + spent), (state, cost)), sound

    t, state, cost, _ = jax.lax.while_loop(going_on, body, (t0, state, Total.zero(), jnp.array(True)))
    return pinned(state, static.places), cost, t - t0


@functools.partial(jax.jit, static_argnums=0)
def _status(static: _Static, arrays: Any, state: Any) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    solver, _, _ = static.with_arrays(arrays)
    return status(solver, state)


@functools.partial(jax.jit, static_argnums=0)
def _planned(static: _Static, arrays: Any, start: Any, steps: Any) -> list[Array]:
    """Of each store, the indices that each of the steps reads."""
    solver, problem, key = static.with_arrays(arrays)
    x, y = start
    state = jax.eval_shape(lambda: initial_state(solver, problem, x, y, key)[0])
    light = _random.light(key)
    plan = plan_of(lambda state, t: solver.step(problem, state, t, key=_random.at(light, t)), state)
    found = plan(steps)
    none = jnp.zeros((len(steps), 0), jnp.int32)
    return [found.get(store, none) for store in stores_of(problem)]


@jax.jit
def _added(total: Total, cost: Total) -> Total:
    return total + cost


@jax.jit
def _copy(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)
