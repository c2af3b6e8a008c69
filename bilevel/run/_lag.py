"""Steps of a solver whose per-row fields lag: see `bilevel._lagged`."""

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bilevel import _lagged
from bilevel._lagged import Rows
from bilevel.cost import Total
from bilevel.problem import Problem, identity, per_row_flags
from bilevel.solvers.base import AbstractSolver
from bilevel.trees import NotLinearError

Step = Callable[[Any, Any], Any]  # (state, t) -> (state, cost)


class Lag(eqx.Module):
    """Which leaves of a state lag, and which entries of their tables are constant."""

    structure: Any = eqx.field(static=True)  # of x
    fields: tuple[tuple[int, tuple[str, ...]], ...] = eqx.field(static=True)  # a leaf of x, and the fields that have it
    constants: tuple[Any, ...] = eqx.field(static=True)
    pending: Any  # of each, the shapes of what a step writes
    products: bool = eqx.field(static=True)  # whether a step takes inner products

    def take(self, state: Any) -> list[list[Any]]:
        """Per lagging leaf of x: this leaf of each field."""
        return [[_leaves(self.structure, state, name)[i] for name in names] for i, names in self.fields]

    def put(self, state: Any, new: list[list[Any]]) -> Any:
        """The state with other leaves there."""
        for (i, names), parts in zip(self.fields, new, strict=True):
            for name, leaf in zip(names, parts, strict=True):
                leaves = _leaves(self.structure, state, name)
                leaves[i] = leaf
                state = _replaced(state, name.split("."), jax.tree.unflatten(self.structure, leaves))
        return state

    def without(self, state: Any) -> Any:
        return self.put(state, [[None for _ in names] for _, names in self.fields])


def _leaves(structure: Any, state: Any, name: str) -> list[Any]:
    """A field's leaves, and None where it has none."""
    return structure.flatten_up_to(attrgetter(name)(state))


def _replaced(module: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(module, **{name: _replaced(getattr(module, name), rest, value) if rest else value})


def lag_of(solver: AbstractSolver, problem: Problem, state: Any, step: Step) -> Lag | None:
    """None: a dense step is as fast, or the step is not linear in the rows that it does not read."""
    structure, lagging = jax.tree.structure(state.x), may_lag(solver, problem, state.x)
    if not lagging:
        return None
    names = [tuple(name for name in solver.like_x if _leaves(structure, state, name)[i] is not None) for i in lagging]
    unknown = tuple(((None,) * len(of),) * len(of) for of in names)
    lag = Lag(structure, tuple(zip(lagging, names, strict=True)), unknown, [None] * len(lagging), False)
    maps: list[Any] = []

    def probe(state: Any) -> Any:
        sources, rest = _sources(lag, state)
        new, _ = step(lag.put(rest, [_lagged.fields(source) for source in sources]), jnp.asarray(0))
        taken = lag.take(new)
        pending = [_lagged.advanced(*pair, jnp.asarray(0)).pending for pair in zip(sources, taken, strict=True)]
        maps.extend([[w if isinstance(w, float) else None for w in field.weights] for field in of] for of in taken)
        return pending

    try:
        try:
            pending = jax.eval_shape(probe, state)
        except _lagged.NeedsProductsError:
            lag = dataclasses.replace(lag, products=True)
            pending = jax.eval_shape(probe, state)
    except (NotLinearError, TypeError):  # a TypeError of JAX: it was given what is no array
        return None
    constants = tuple(_lagged.constants_of(of_leaf) for of_leaf in maps)
    return dataclasses.replace(lag, constants=constants, pending=pending)


def may_lag(solver: AbstractSolver, problem: Problem, x: Any) -> list[int]:
    """The leaves of x whose rows lag, if the step is linear in the rows that it does not read."""
    leaves = jax.tree.leaves(x)
    flags = [False] * len(leaves)
    for level in (problem.upper, problem.lower):
        if level.batch_size is not None:
            flags = [a or b for a, b in zip(flags, per_row_flags(level, x), strict=True)]
    if len(solver.like_x) < 2 or problem.project is not identity:
        return []
    return [i for i, leaf in enumerate(leaves) if flags[i] and leaf.size >= _lagged.LEAST]


def _sources(lag: Lag, state: Any) -> tuple[list[Rows], Any]:
    values = lag.take(state)
    sources = [Rows.of(*of, lag.products) for of in zip(values, lag.constants, strict=True)]
    return [source.waiting(shapes) for source, shapes in zip(sources, lag.pending, strict=True)], lag.without(state)


def advance_lagging(lag: Lag, step: Step, state: Any, t0: Any, n: Any) -> tuple[Any, Total]:
    """`n` steps from iteration t0, in blocks, after each of which all rows are brought up to date."""

    def block(carry: tuple[Any, Any, Total]) -> tuple[Any, Any, Total]:
        t, state, cost = carry
        sources, rest = _sources(lag, state)

        def body(s: Any, carry: tuple[list[Rows], Any, Total]) -> tuple[list[Rows], Any, Total]:
            sources, rest, cost = carry
            sources = [source.settled() for source in sources]
            new, spent = step(lag.put(rest, [_lagged.fields(source) for source in sources]), t + s)
            sources = [
                _lagged.advanced(source, fields, s) for source, fields in zip(sources, lag.take(new), strict=True)
            ]
            return sources, lag.without(new), cost + spent

        m = jnp.minimum(_lagged.BLOCK, t0 + n - t)
        sources, rest, cost = jax.lax.fori_loop(0, m, body, (sources, rest, cost))
        return t + m, lag.put(rest, [source.all() for source in sources]), cost

    start = (jnp.asarray(t0), state, Total.zero())
    _, state, cost = jax.lax.while_loop(lambda carry: carry[0] < t0 + n, block, start)
    return state, cost
