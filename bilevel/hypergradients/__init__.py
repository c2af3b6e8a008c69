"""Hypergradients without a solver: ∇Φ(x) = F_x − J[v] with H v = F_y, at a given (x, y)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from bilevel import trees
from bilevel._prepare import prepare
from bilevel.disk import reading
from bilevel.hypergradients._not_finite import check_finite
from bilevel.hypergradients._root import fixed_point, root
from bilevel.hypergradients._solution_map import solution_map
from bilevel.hypergradients.adjoint import (
    AbstractAdjoint,
    Adjoint,
    ConjugateGradient,
    Direct,
    FixedPoint,
    Neumann,
    RandomNeumann,
)
from bilevel.hypergradients.finite_difference import FiniteDifference
from bilevel.hypergradients.general import general_hypergradient
from bilevel.hypergradients.lower import GradientDescent, Newton
from bilevel.hypergradients.nystrom import Nystrom
from bilevel.hypergradients.unrolled import key_if_random, unrolled_hypergradient
from bilevel.problem import Episodes, Problem, drawn_once, stores_of
from bilevel.trees import Tree

__all__ = [
    "AbstractAdjoint",
    "Adjoint",
    "ConjugateGradient",
    "Direct",
    "FiniteDifference",
    "FixedPoint",
    "GradientDescent",
    "Neumann",
    "Newton",
    "Nystrom",
    "RandomNeumann",
    "fixed_point",
    "general_hypergradient",
    "hypergradient",
    "root",
    "solution_map",
    "unrolled_hypergradient",
]


_METHOD = ConjugateGradient(steps=20)  # to make it anew takes as long as a third of a small hypergradient


def hypergradient(
    problem: Problem | Episodes,
    x: Tree,
    y: Tree,
    *,
    method: AbstractAdjoint | None = None,
    key: PRNGKeyArray | None = None,
) -> Tree:
    """The hypergradient F_x(x, y) − J(x, y)[v] with v ≈ H(x, y)⁻¹ F_y(x, y), by implicit differentiation.

    It equals the gradient of Φ(x) = f(x, y*(x)) if y = y*(x) and v is exact. The error grows with ‖y − y*(x)‖
    and with the error of the adjoint.

    **Arguments**

    - `x`, `y`: the point. y should be close to a minimizer of g(x, ·).
    - `method`: how H v = F_y is solved; default `ConjugateGradient(steps=20)`.
    - `key`: required if a level has a `batch_size`, the method is random or the problem is `Episodes`. f and g
      are then taken on independent batches; a level with `batch_size=None` uses all of its rows.

    **Returns** a pytree like x.

    **Raises** `ValueError` if the adjoint method finds that H is not positive definite, if a series in I − ηH grows,
    and if the result is not finite; then the error names the loss whose derivative is not finite at (x, y). Under
    `jit`, where nothing can be raised, the result is NaN in these cases. In your own loop, apply `eqx.filter_jit` to
    the loop, as each call checks its arguments.

    Example:

        >>> import bilevel as bl, jax.numpy as jnp
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> float(bl.hypergradient(problem, 1.0, 3.0))  # (3x − 1) · 3
        6.0

    Reference: Ji, Yang & Liang (ICML 2021), Proposition 1; Grazzi, Franceschi, Pontil & Salzo (ICML 2020).
    """
    method = _METHOD if method is None else method
    if not isinstance(method, AbstractAdjoint):
        raise TypeError(f"method: got {method!r}; pass e.g. bl.ConjugateGradient(steps=20)")
    prepared = prepare(problem, x, y)
    key = key_if_random(prepared.problem, key, needed=isinstance(method, RandomNeumann))
    drawn, key = drawn_once(prepared.problem, key)
    with reading(stores_of(drawn)):
        h, ended = _hypergradient(drawn, prepared.x, prepared.y, method, key)
        if not isinstance(ended, Tracer) and (how := int(ended)) != _FINE:
            _refuse(how, drawn, prepared.x, prepared.y, key)
    return prepared.restore_x(h)


_FINE, _FLAT, _GREW, _NOT_FINITE = range(4)


@eqx.filter_jit
def _hypergradient(problem: Problem, x: Tree, y: Tree, method: AbstractAdjoint, key: PRNGKeyArray) -> Any:
    """The hypergradient, and one number on how it ended."""
    found = method.hypergradient(problem, x, y, key=key)
    h, flat, grew = trees.dense(found.h, x), ~jnp.asarray(found.adjoint.convex), jnp.asarray(found.adjoint.grew)
    ended = jnp.where(flat, _FLAT, jnp.where(grew, _GREW, jnp.where(trees.all_finite(h), _FINE, _NOT_FINITE)))
    return jax.tree.map(lambda leaf: jnp.where(flat | grew, jnp.nan, leaf), h), ended


def _refuse(ended: int, problem: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> None:
    if ended == _FLAT:
        raise ValueError(
            "method: it found that the lower level's curvature is not positive in every direction; "
            "add a regularizer to the lower loss, or check that y is near its minimizer"
        )
    if ended == _GREW:
        raise ValueError(
            "method: its series in I − step · H grows: the step is above 2/L, where L is the largest curvature of the "
            "lower loss, or a curvature is negative; reduce the step, or add a regularizer to the lower loss"
        )
    check_finite(False, problem, x, y, key, "method: reduce its step, scale the losses, or use float64")
