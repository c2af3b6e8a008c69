"""Accurate answers to compare with: y*(x) by Newton's method, the hypergradient there, and differences of Φ."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Scalar

from bilevel import oracles, trees
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient, Direct
from bilevel.problem import Level, Problem

Tree = PyTree[Any]

_MOST_DIM = 500  # of y, for the direct solve
_MOST_CG_STEPS = 5000
_NEWTON_STEPS = 50
_HALVINGS = 20


def accurate_solver(y: Tree) -> AbstractAdjoint:
    """`Direct` for a small y, else conjugate gradient to the rounding of the dtype."""
    small = sum(leaf.size for leaf in jax.tree.leaves(y)) <= _MOST_DIM
    return Direct() if small else ConjugateGradient(steps=_MOST_CG_STEPS)


class Hypergradient(eqx.Module):
    """h = F_x − J[v] (dense) and its v.

    `scale` = ‖F_x‖ + ‖J[v]‖, beside which h is small near a solution; `residual` = ‖H v − F_y‖ / ‖F_y‖;
    `lower_residual` = ‖G_y‖.
    """

    h: Tree
    v: Tree
    scale: Float[Scalar, ""]
    residual: Float[Scalar, ""]
    lower_residual: Float[Scalar, ""]


@eqx.filter_jit
def hypergradient_at(problem: Problem, x: Tree, y: Tree, method: AbstractAdjoint, key: PRNGKeyArray) -> Hypergradient:
    """On all rows, v by `method` from zero."""
    upper, lower = problem.upper.everything(), problem.lower.everything()
    F_x, F_y = oracles.upper_gradients(problem.upper, x, y, upper)
    v = method(problem.lower, x, y, F_y, trees.zeros_like(F_y), batch=lower, key=key).v
    F_x, Jv = (trees.dense(part, x) for part in (F_x, method.cross_product(problem.lower, x, y, v, lower)))
    G_y, Hv, _ = oracles.lower_products(problem.lower, x, y, v, lower)
    scale, residual = trees.norm(F_x) + trees.norm(Jv), _ratio(trees.sub(Hv, F_y), F_y)
    return Hypergradient(trees.sub(F_x, Jv), v, scale, residual, trees.norm(G_y))


def _ratio(a: Tree, b: Tree) -> Float[Scalar, ""]:
    size = trees.norm(b)
    return trees.norm(a) / jnp.where(size > 0, size, 1)


@eqx.filter_jit
def newton_step(level: Level, x: Tree, y: Tree, solver: AbstractAdjoint) -> Tree:
    """H⁻¹ G_y: to first order y − y*(x)."""
    return _newton_step(level, x, y, oracles.lower_gradient(level, x, y, level.everything()), solver)


def _newton_step(level: Level, x: Tree, y: Tree, G_y: Tree, solver: AbstractAdjoint) -> Tree:
    key = jax.random.key(0)  # a linear solve draws nothing
    return solver(level, x, y, G_y, trees.zeros_like(y), batch=level.everything(), key=key).v


class LowerSolution(eqx.Module):
    """y*(x), and whether Newton's method got there: its last correction is small beside y."""

    y: Tree
    converged: Bool[Array, ""]


@eqx.filter_jit
def lower_solution(level: Level, x: Tree, y: Tree, solver: AbstractAdjoint) -> LowerSolution:
    """Newton's method from y, its steps halved until ‖G_y‖ falls and g does not rise, but for rounding.

    It ends where rounding lets ‖G_y‖ fall no more: g alone would end it earlier, and ‖G_y‖ alone is deceived where g is
    nearly linear.
    """

    def gradient(y: Tree) -> Tree:
        return oracles.lower_gradient(level, x, y, level.everything())

    def value(y: Tree) -> Array:
        return oracles.loss(level, x, y, level.everything())

    def going_on(carry: Any) -> Bool[Array, ""]:
        i, _, _, size, falls = carry
        return (i < _NEWTON_STEPS) & falls & (size > 0)

    def step(carry: Any) -> Any:
        i, y, G_y, size, _ = carry
        delta = _newton_step(level, x, y, G_y, solver)
        g = value(y)
        highest = g + 10 * jnp.finfo(g.dtype).eps * jnp.abs(g)

        def too_long(trial: Any) -> Bool[Array, ""]:
            k, length, new = trial
            falls = (trees.norm(gradient(new)) <= (1 - length / 4) * size) & (value(new) <= highest)
            return (k < _HALVINGS) & ~falls

        def halve(trial: Any) -> Any:
            k, length, _ = trial
            return k + 1, length / 2, trees.axpy(-length / 2, delta, y)

        start = (0, jnp.ones_like(size), trees.sub(y, delta))
        k, _, new = jax.lax.while_loop(too_long, halve, start)
        falls = k < _HALVINGS
        y = trees.where(falls, new, y)
        G_y = gradient(y)
        return i + 1, y, G_y, trees.norm(G_y), falls

    G_y = gradient(y)
    _, end, G_y, _, _ = jax.lax.while_loop(going_on, step, (0, y, G_y, trees.norm(G_y), jnp.array(True)))
    last = trees.norm(_newton_step(level, x, end, G_y, solver))
    size = trees.norm(end) + trees.norm(trees.sub(y, end))
    epsilon = jnp.finfo(ravel_pytree(y)[0].dtype).eps
    return LowerSolution(end, last <= jnp.sqrt(epsilon) * size)


@eqx.filter_jit
def difference_quotients(
    problem: Problem, x: Tree, y: Tree, directions: Float[Array, "k dim_x"], solver: AbstractAdjoint
) -> Float[Array, " k"]:
    """(Φ(x + εd) − Φ(x − εd)) / 2ε along each direction d, with ε‖d‖ = (machine epsilon)^⅓ (1 + ‖x‖).

    `y` is y*(x), where the lower solutions start.
    """
    flat, unravel = ravel_pytree(x)
    length = jnp.finfo(flat.dtype).eps ** (1 / 3) * (1 + jnp.linalg.norm(flat))

    def phi(flat: Array) -> Array:
        x = unravel(flat)
        solved = lower_solution(problem.lower, x, y, solver)
        return oracles.loss(problem.upper, x, solved.y, problem.upper.everything())

    def quotient(d: Array) -> Array:
        epsilon = length / jnp.linalg.norm(d)
        ends = jax.lax.map(phi, jnp.stack([flat + epsilon * d, flat - epsilon * d]))
        return (ends[0] - ends[1]) / (2 * epsilon)

    return jax.lax.map(quotient, directions)
