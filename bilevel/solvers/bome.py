"""BOME: gradients of both levels, with a multiplier that keeps the lower loss falling."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, schedule, step
from bilevel.hypergradients.lower import descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class BOMEState(eqx.Module):
    """x, y, and the states of their step rules."""

    x: Tree
    y: Tree
    x_rule: Tree
    y_rule: Tree


class BOME(AbstractSolver):
    """Bilevel optimization made easy: a first-order method with a dynamic barrier.

    With y^T the end of T steps y ← y − α G_y(x_k, y) from y_k, and q = (G_x(x_k, y_k) − G_x(x_k, y^T), G_y(x_k, y_k)),

        λ = max(η − ⟨∇f, q⟩/‖q‖², 0), at (x_k, y_k)
        (x_{k+1}, y_{k+1}) = (x_k, y_k) − ξ (∇f + λ q)

    **Arguments**

    - `upper_step` (ξ for x), `penalized_step` (ξ for y), `lower_step` (α): a number, a schedule of k or a `Rule`.
    - `inner_steps` (T).
    - `barrier` (η): a number or a schedule of k.

    λ needs all of x: a step on a per-row variable costs O(rows).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.BOME(upper_step=0.05, penalized_step=0.05, lower_step=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=500, key=jax.random.key(0))
        >>> round(float(solution.x), 2)
        0.33

    Reference: Ye, Liu, Wright, Stone & Liu, "BOME! Bilevel Optimization Made Easy: A Simple First-Order Approach",
    NeurIPS 2022 (arXiv 2209.08709), Algorithm 1.

    Differences from the paper: x and y may have different step sizes. Levels may have batches, which the listing does
    not have: one for ∇f, one for q, and a fresh one for each inner step. x may be projected. The last iterate is
    returned; theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    penalized_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count(default=10)
    barrier: Any = schedule(default=0.5)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[BOMEState, Cost]:
        return BOMEState(x, y, self.upper_step.init(x), self.penalized_step.init(y)), Cost()

    def step(self, problem: Problem, state: BOMEState, t: Any, *, key: PRNGKeyArray) -> tuple[BOMEState, Cost]:
        x, y, upper, lower = state.x, state.y, problem.upper, problem.lower
        loop_key, f_key, q_key = jax.random.split(key, 3)
        y_T = descend(lower, x, y, self.lower_step, self.inner_steps, t, key=loop_key)

        F_x, F_y = oracles.upper_gradients(upper, x, y, upper.draw(f_key))
        batch = lower.draw(q_key)
        q_x = trees.sub(oracles.gradient_x(lower, x, y, batch), oracles.gradient_x(lower, x, y_T, batch))
        q_y = oracles.gradient_y(lower, x, y, batch)

        f, q = (trees.dense(F_x, x), F_y), (trees.dense(q_x, x), q_y)
        squared = trees.dot(q, q)
        ratio = trees.dot(f, q) / jnp.where(squared > 0, squared, 1)
        lam = jnp.where(squared > 0, jnp.maximum(self.barrier(t) - ratio, 0), 0)
        x_direction, y_direction = trees.axpy(lam, q, f)
        x, x_rule = self.upper_step(x, x_direction, state.x_rule, t)
        y, y_rule = self.penalized_step(y, y_direction, state.y_rule, t)

        state = BOMEState(problem.project(x), y, x_rule, y_rule)
        return state, Cost(F=upper.size, G=(self.inner_steps + 3) * lower.size)

    about = About(
        name="bome",
        lower="one step with x",
        adjoint="none: a dynamic barrier",
        direction="first-order",
        source="Ye et al., NeurIPS 2022, Alg. 1",
    )

    tuned = {
        "cleaning": Tuned(2000, upper_step=100.0, penalized_step=0.1, lower_step=1.0, inner_steps=10),
        "quadratic": Tuned(8000, upper_step=inverse_power(0.3, 0.5), penalized_step=inverse_power(0.1, 0.5),
            lower_step=0.1, inner_steps=100),
    }  # fmt: skip

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ye et al. 2022, Alg. 1"
        return {
            "lower_step": theory.lower_step(facts, source),
            "inner_steps": theory.inner_steps(facts, source),
            "penalized_step": theory.lower_step(facts, source),
        }
