"""Accurate values to compare with: y*(x) by Newton's method, the hypergradient there, and differences of Φ."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from bilevel import oracles, trees
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient, Direct
from bilevel.hypergradients.lower import LowerSolution, Newton
from bilevel.oracles import HessianOperator
from bilevel.problem import Level, Problem
from bilevel.trees import Tree

_MOST_DIM = 500  # the largest dim y for the direct solve
_MOST_CG_STEPS = 5000


def accurate_solver(y: Tree) -> AbstractAdjoint:
    """`Direct` for a small y, else conjugate gradient to the rounding of the dtype."""
    small = trees.size(y) <= _MOST_DIM
    return Direct() if small else ConjugateGradient(steps=_MOST_CG_STEPS)


class Hypergradient(eqx.Module):
    """h = F_x − J[v] (dense) and its v.

    `scale` = ‖F_x‖ + ‖J[v]‖, compared with which h is small near a solution; `residual` = ‖H v − F_y‖ / ‖F_y‖;
    `lower_residual` = ‖G_y‖.
    """

    h: Tree
    v: Tree
    scale: Float[Scalar, ""]
    residual: Float[Scalar, ""]
    lower_residual: Float[Scalar, ""]


@eqx.filter_jit
def hypergradient_at(problem: Problem, x: Tree, y: Tree, method: AbstractAdjoint, key: PRNGKeyArray) -> Hypergradient:
    """The hypergradient on all rows, with v by `method` from zero."""
    upper, lower = problem.upper.all_rows(), problem.lower.all_rows()
    found = method.hypergradient(problem, x, y, trees.zeros_like(y), key=key)
    h, v = trees.dense(found.h, x), found.adjoint.v
    F_x, F_y = oracles.upper_gradients(problem.upper, x, y, upper)
    G_y, Hv, _ = oracles.lower_products(problem.lower, x, y, v, lower)
    F_x = trees.dense(F_x, x)
    scale = trees.norm(F_x) + trees.norm(trees.sub(F_x, h))  # F_x − h = J[v]
    return Hypergradient(h, v, scale, _ratio(trees.sub(Hv, F_y), F_y), trees.norm(G_y))


def _ratio(a: Tree, b: Tree) -> Float[Scalar, ""]:
    size = trees.norm(b)
    return trees.norm(a) / jnp.where(size > 0, size, 1)


@eqx.filter_jit
def newton_step(level: Level, x: Tree, y: Tree, solver: AbstractAdjoint) -> Tree:
    """H⁻¹ G_y, which to first order is y − y*(x)."""
    rows, key = level.all_rows(), jax.random.key(0)  # a linear solve draws nothing from it
    return solver.solve(HessianOperator(level, x, y, rows), oracles.gradient_y(level, x, y, rows), None, key=key).v


@eqx.filter_jit
def lower_solution(level: Level, x: Tree, y: Tree, solver: AbstractAdjoint) -> LowerSolution:
    """y*(x) by Newton's method from y, to rounding; `converged` if its last correction is small relative to y."""
    found = Newton(linear=solver).solve(level, x, y, key=jax.random.key(0))
    last = trees.norm(newton_step(level, x, found.y, solver))
    size = trees.norm(found.y) + trees.norm(trees.sub(y, found.y))
    epsilon = jnp.finfo(ravel_pytree(y)[0].dtype).eps
    return LowerSolution(found.y, found.cost, last <= jnp.sqrt(epsilon) * size, found.steps)


@eqx.filter_jit
def difference_quotients(
    problem: Problem, x: Tree, y: Tree, directions: Float[Array, "k dim_x"], solver: AbstractAdjoint
) -> Float[Array, " k"]:
    """(Φ(x + εd) − Φ(x − εd)) / 2ε along each direction d, with ε‖d‖ = (machine epsilon)^⅓ (1 + ‖x‖).

    `y` is y*(x), from which the lower solutions start.
    """
    flat, unravel = ravel_pytree(x)
    length = jnp.finfo(flat.dtype).eps ** (1 / 3) * (1 + jnp.linalg.norm(flat))

    def phi(flat: Array) -> Array:
        x = unravel(flat)
        solved = lower_solution(problem.lower, x, y, solver)
        return oracles.loss(problem.upper, x, solved.y, problem.upper.all_rows())

    def quotient(d: Array) -> Array:
        epsilon = length / jnp.linalg.norm(d)
        ends = jax.lax.map(phi, jnp.stack([flat + epsilon * d, flat - epsilon * d]))
        return (ends[0] - ends[1]) / (2 * epsilon)

    return jax.lax.map(quotient, directions)
