"""Implicit differentiation: one sample of the hypergradient F_x − J[v], v ≈ H⁻¹ F_y."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import oracles, trees
from bilevel.hypergradients.adjoint import AbstractAdjoint, Adjoint
from bilevel.problem import Problem

Tree = PyTree[Any]


class Implicit(eqx.Module):
    """A hypergradient h, the adjoint behind it, and what it cost, as `Tally.add` takes it."""

    h: Tree
    adjoint: Adjoint
    cost: dict[str, Any]


def implicit(
    problem: Problem,
    x: Tree,
    y: Tree,
    method: AbstractAdjoint,
    start: Tree | None = None,
    t: Any = 0,
    *,
    key: PRNGKeyArray,
) -> Implicit:
    """h = F_x(x, y; ξ) − J(x, y; ζ_0)[v], where `method` solves H(x, y) v = F_y(x, y; ξ) from `start` (None: 0).

    ξ and ζ_0 are independent batches; a method that needs one H throughout takes it on ζ_0, the others draw their own.
    The leaves of h may be `SparseRows`.
    """
    upper_key, lower_key, adjoint_key = jax.random.split(key, 3)
    xi, zeta_0 = problem.upper.draw(upper_key), problem.lower.draw(lower_key)
    F_x, F_y = oracles.upper_gradients(problem.upper, x, y, xi)
    lower, z, pull = oracles.at_fixed_x(problem.lower, x)
    adjoint = method(lower, z, y, F_y, start, batch=zeta_0, key=adjoint_key, t=t)
    Jv = pull(method.cross_product(lower, z, y, adjoint.v, zeta_0))
    cost = {"F": xi.size, "H": adjoint.products, **method.cross_cost(zeta_0.size)}
    return Implicit(trees.sub(F_x, Jv), adjoint, cost)
