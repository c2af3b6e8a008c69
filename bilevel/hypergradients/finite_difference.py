"""DARTS's hypergradient: one unrolled lower step, with a finite difference of gradients as second-order term."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import number, schedule
from bilevel.hypergradients.adjoint import AbstractAdjoint, Adjoint, Implicit
from bilevel.oracles import HessianOperator
from bilevel.problem import Level, Problem
from bilevel.sampling import Batch
from bilevel.trees import Tree


class FiniteDifference(AbstractAdjoint):
    """v = ξ b, one step of the adjoint from zero, and J[v] by a central difference of G_x along v:

        J[v] ≈ ξ (G_x(x, y⁺) − G_x(x, y⁻)) / (2ε),   y^± = y ± ε F_y,   ε = r / ‖F_y‖

    It needs neither a Hessian nor a cross product, but two G-gradients instead of J. The error of the difference is
    O(r² ‖v‖) (from third derivatives of g), plus the rounding of G_x, magnified by ‖v‖/r.

    **Arguments**: `step` (ξ), the lower step size, a number or a schedule; `radius` (r), how far y is moved.

    Example:

        >>> import bilevel as bl
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> h = bl.hypergradient(problem, 1.0, 3.0, method=bl.FiniteDifference(step=0.5))
        >>> round(float(h), 3)  # 0.5 · (3 − 1) · 3
        3.0

    Reference: Liu, Simonyan & Yang, "DARTS: Differentiable Architecture Search", ICLR 2019 (arXiv 1806.09055),
    eqs. (7) and (8); r = 0.01 is from the footnote there.

    Differences from the paper: F_x, F_y and the difference are all taken at the given y. The paper takes F_x and F_y
    after one step, at y' = y − ξ G_y(x, y), and the difference before it, at y. Given y', this is the paper's estimate
    up to O(ξ²), and equal to it if J does not depend on y.
    """

    step: Any = schedule()
    radius: Any = number(default=0.01)

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        return Adjoint(trees.scale(self.step(t), b), 0)

    def hypergradient(
        self, problem: Problem, x: Tree, y: Tree, v0: Tree | None = None, t: Any = 0, *, key: PRNGKeyArray
    ) -> Implicit:
        upper_key, lower_key, _ = jax.random.split(key, 3)
        xi, zeta_0 = problem.upper.draw(upper_key), problem.lower.draw(lower_key)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, xi)
        v = trees.scale(self.step(t), F_y)
        Jv = self.difference(problem.lower, x, y, v, zeta_0)
        return Implicit(trees.sub(F_x, Jv), Adjoint(v, 0), Cost(F=xi.size, G=2 * zeta_0.size))

    def difference(self, level: Level, x: Tree, y: Tree, v: Tree, batch: Batch) -> Tree:
        """J[v] by the difference along the unit vector v/‖v‖, with two G-gradients."""
        size = trees.largest(v)
        direction = trees.divide(v, jnp.where(size > 0, size, 1))  # the squares of a tiny v would underflow
        norm = trees.norm(direction)
        norm = jnp.where(norm > 0, norm, 1)
        shift = trees.scale(self.radius / norm, direction)
        ahead = oracles.gradient_x(level, x, trees.add(y, shift), batch)
        behind = oracles.gradient_x(level, x, trees.sub(y, shift), batch)
        return trees.scale(size * norm / (2 * self.radius), trees.sub(ahead, behind))
