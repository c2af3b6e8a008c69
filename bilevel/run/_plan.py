"""Which rows on disk a step reads: its draws alone, as a function of the key and of t.

A draw is a function of the key and of t, so the rows of later steps are known before their iterates are. The jaxpr of a
step is evaluated with the state unknown. What needs an unknown value is left out, and what remains is the indices that
arrive at each `read_rows`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Int

from bilevel.disk import Store, read_rows
from bilevel.run._identity import opened

Found = list[tuple[Store, Array]]  # what is read, and the indices
Plan = Callable[[Int[Array, " steps"]], dict[Store, Int[Array, "steps draws"]]]

_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call"}


class UnplannableError(Exception):
    """Rows depend on the iterates, or on how long a loop goes on."""


class _Unknown:
    """Stands for a value that depends on the iterates."""


_UNKNOWN = _Unknown()


def plan_of(step: Callable[[Any, Any], Any], state: Any) -> Plan:
    """The indices that steps (state, t) read, for a vector of t; −1 stands for a read that is left out.

    **Raises** `UnplannableError`.
    """
    closed = jax.make_jaxpr(step)(state, jnp.int32(0))
    unknown = [_UNKNOWN] * len(jax.tree.leaves(state))

    # as the last trace found them: as keys of a dictionary JAX would sort them, and they have no order
    stores: list[Store] = []

    def of_one(t: Any) -> list[Array]:
        by_store: dict[Store, list[Array]] = {}
        for store, indices in _evaluated(closed, [*unknown, t])[1]:
            by_store.setdefault(store, []).append(indices.ravel())
        stores[:] = by_store
        return [jnp.concatenate(parts) for parts in by_store.values()]

    def plan(steps: Int[Array, " steps"]) -> dict[Store, Array]:
        found = jax.vmap(of_one)(steps)
        return dict(zip(stores, found, strict=True))

    jax.eval_shape(lambda steps: list(plan(steps).values()), jnp.zeros(1, jnp.int32))
    return plan


def _reads(value: Any) -> bool:
    """Whether a parameter of an operation holds a read."""
    if isinstance(value, tuple | list):
        return any(map(_reads, value))
    if not isinstance(value, Jaxpr | ClosedJaxpr):
        return False
    return any(e.primitive is read_rows or any(map(_reads, e.params.values())) for e in opened(value)[0].eqns)


def _known(values: Any) -> bool:
    return not any(value is _UNKNOWN for value in values)


def _evaluated(jaxpr: Any, arguments: list[Any]) -> tuple[list[Any], Found]:
    """The results, some of them unknown, and what is read."""
    body, constants = opened(jaxpr)
    values = dict(zip(body.constvars, constants, strict=True)) | dict(zip(body.invars, arguments, strict=True))
    found: Found = []
    for equation in body.eqns:
        inputs = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        outputs, more = _applied(equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
        found += more
    return [v.val if isinstance(v, Literal) else values[v] for v in body.outvars], found


def _applied(equation: Any, inputs: list[Any]) -> tuple[list[Any], Found]:
    name, parameters = equation.primitive.name, equation.params
    unknown = [_UNKNOWN] * len(equation.outvars)
    if equation.primitive is read_rows:
        if not _known(inputs):
            raise UnplannableError
        return unknown, [(parameters["store"], inputs[0])]
    if name in _CALLS:
        inner = next(value for value in parameters.values() if isinstance(value, Jaxpr | ClosedJaxpr))
        return _evaluated(inner, inputs)
    if any(map(_reads, parameters.values())):
        if name == "scan":
            return _scanned(equation, inputs)
        if name == "cond" and _known(inputs[:1]):
            return _branched(parameters["branches"], inputs[0], inputs[1:])
        raise UnplannableError
    if not _known(inputs):
        return unknown, []
    outputs = equation.primitive.bind(*inputs, **parameters)
    return (list(outputs) if equation.primitive.multiple_results else [outputs]), []


def _scanned(equation: Any, inputs: list[Any]) -> tuple[list[Any], Found]:
    parameters, one = equation.params, opened(equation.params["jaxpr"])[0]
    # what has an axis more outside of the body goes over its slices; releases of JAX count the rest in different ways
    carried = sum(map(_same_rank, equation.outvars, one.outvars))
    constants = sum(map(_same_rank, equation.invars, one.invars)) - carried
    fixed, start, over = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]
    seen: list[Any] = [None, None]  # the results of the body, as it was traced last, and what it reads

    def body(carry: list[Any], slices: list[Any]) -> Any:
        outputs, found = _evaluated(parameters["jaxpr"], [*fixed, *_spread(carry, start), *_spread(slices, over)])
        seen[:] = outputs, [store for store, _ in found]
        kept = [value for value, at in zip(outputs[:carried], start, strict=True) if at is not _UNKNOWN]
        return kept, (_without_unknown(outputs[carried:]), [indices for _, indices in found])

    while True:  # what is carried is known if it is at the start and after each pass
        first = [array[0] for array in _without_unknown(over)]
        jax.eval_shape(lambda carry, slices: _tried(body, carry, slices), _without_unknown(start), first)
        after = seen[0][:carried]
        known = [now is not _UNKNOWN and then is not _UNKNOWN for now, then in zip(start, after, strict=True)]
        if sum(known) == len(_without_unknown(start)):
            break
        start = [value if keep else _UNKNOWN for value, keep in zip(start, known, strict=True)]
    carry, (stacked, found) = jax.lax.scan(
        body, _without_unknown(start), _without_unknown(over), parameters["length"], parameters["reverse"]
    )
    outputs = [*_spread(carry, start), *_spread(stacked, seen[0][carried:])]
    return outputs, list(zip(seen[1], found, strict=True))


def _same_rank(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) == len(inside.aval.shape)


def _tried(body: Any, carry: Any, slices: Any) -> None:
    body(carry, slices)


def _branched(branches: Any, index: Any, inputs: list[Any]) -> tuple[list[Any], Found]:
    traced = []

    def trace(branch: Any) -> None:
        outputs, found = _evaluated(branch, inputs)
        traced.append(([value is not _UNKNOWN for value in outputs], [(store, i.shape, i.dtype) for store, i in found]))

    for branch in branches:
        jax.eval_shape(lambda branch=branch: trace(branch))
    known = [all(flags) for flags in zip(*(flags for flags, _ in traced), strict=True)]

    def taking(k: int) -> Callable[[], Any]:
        def branch() -> Any:
            outputs, found = _evaluated(branches[k], inputs)
            kept = [value for value, keep in zip(outputs, known, strict=True) if keep]
            none = [[jnp.full(shape, -1, dtype) for _, shape, dtype in reads] for _, reads in traced]
            return kept, [*none[:k], [indices for _, indices in found], *none[k + 1 :]]

        return branch

    kept, found = jax.lax.switch(index, [taking(k) for k in range(len(branches))])
    outputs = _spread(kept, [True if keep else _UNKNOWN for keep in known])
    stores = [store for _, reads in traced for store, _, _ in reads]
    return outputs, list(zip(stores, [indices for part in found for indices in part], strict=True))


def _without_unknown(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not _UNKNOWN]


def _spread(values: list[Any], places: list[Any]) -> list[Any]:
    """The values, with unknown ones where `places` has them."""
    left = iter(values)
    return [_UNKNOWN if place is _UNKNOWN else next(left) for place in places]
