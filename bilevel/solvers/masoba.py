"""MA-SOBA: SOBA with a moving average of the upper direction."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import step, weight
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.averages import moving_average
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class MASOBAState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the average h of directions (like x), and the state of each step rule."""

    x: Tree
    y: Tree
    v: Tree
    h: Tree
    x_rule: Tree
    y_rule: Tree
    v_rule: Tree


class MASOBA(AbstractSolver):
    """Moving-average stochastic bilevel algorithm.

    At k = 0, 1, …, draw independent lower and upper batches i and j. Then, all from the old (x, y, v, h):

        x_{k+1} = x_k − α_k h_k
        y_{k+1} = y_k − β_k G_y(x_k, y_k; i)
        v_{k+1} = v_k − γ_k (H(x_k, y_k; i)[v_k] − F_y(x_k, y_k; j))
        h_{k+1} = (1 − θ_k) h_k + θ_k (F_x(x_k, y_k; j) − J(x_k, y_k; i)[v_k])

    from v_0 = h_0 = 0. x moves along the average of the step before; in the first step it does not move.

    **Arguments**

    - `upper_step` (α), `lower_step` (β), `adjoint_step` (γ): a number, a schedule of k or a `Rule`. Theory: all of
      them, and θ, are proportional to K^{−1/2} over a run of K steps.
    - `average_weight` (θ): a number in [0, 1] or a schedule of k, the weight of the fresh direction.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.MASOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5, average_weight=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=500, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Chen, Xiao & Balasubramanian, "Optimal Algorithms for Stochastic Bilevel Optimization under Relaxed
    Smoothness Conditions", JMLR 25, 2024 (arXiv 2306.12067), Algorithm 1.

    Differences from the paper: G_y, H and J share one sample, and F_x and F_y share another; this and h_0 = 0 are
    unverified against the listing. θ is clipped to 1; x may be projected. The last iterate is returned; theorems for a
    Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()
    average_weight: Any = weight()

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[MASOBAState, Cost]:
        v, h = trees.zeros_like(y), trees.zeros_like(x)
        rules = self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(v)
        return MASOBAState(x, y, v, h, *rules), Cost()

    def step(self, problem: Problem, state: MASOBAState, t: Any, *, key: PRNGKeyArray) -> tuple[MASOBAState, Cost]:
        x, y, v = state.x, state.y, state.v
        lower_key, upper_key = jax.random.split(key)
        i, j = problem.lower.draw(lower_key), problem.upper.draw(upper_key)

        G_y, Hv, Jv = oracles.lower_products(problem.lower, x, y, v, i)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, j)

        x, x_rule = self.upper_step(x, state.h, state.x_rule, t)
        y, y_rule = self.lower_step(y, G_y, state.y_rule, t)
        v, v_rule = self.adjoint_step(v, trees.sub(Hv, F_y), state.v_rule, t)
        h = moving_average(state.h, trees.sub(F_x, Jv), self.average_weight(t))

        state = MASOBAState(problem.project(x), y, v, h, x_rule, y_rule, v_rule)
        return state, Cost(F=j.size, G=i.size, H=i.size, J=i.size)

    like_x = ("x", "h")
    about = About(
        name="masoba",
        lower="one SGD step",
        adjoint="one SGD step",
        direction="moving average",
        source="Chen, Xiao & Balasubramanian, JMLR 2024, Alg. 1",
        unverified="which samples the oracles share, and h_0",
    )
    tuned = {
        "cleaning": Tuned(8000, upper_step=1.0, lower_step=0.1, adjoint_step=0.03, average_weight=0.1),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, adjoint_step=0.1, average_weight=0.1),
    }  # fmt: skip
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Chen et al. 2024, Alg. 1"
        step = theory.lower_step(facts, source)
        weight = theory.power_weight(facts, source, "1/2")
        return {
            "lower_step": step,
            "adjoint_step": Choice(step.value, f"{source}: the lower step"),
            "average_weight": weight,
        }
