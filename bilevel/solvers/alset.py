"""ALSET: alternating SGD on both levels, on one time scale."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel.cost import Cost
from bilevel.fields import count, schedule, step
from bilevel.hypergradients.adjoint import RandomNeumann
from bilevel.hypergradients.lower import descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class ALSETState(eqx.Module):
    """x, y, and the state of x's step rule."""

    x: Tree
    y: Tree
    x_rule: Tree


class ALSET(AbstractSolver):
    """Alternating stochastic gradient descent.

        y⁰ = y_k;   y^{t+1} = y^t − β_k G_y(x_k, y^t; φ^t),   t = 0..T − 1;   y_{k+1} = y^T
        p ~ U{0, …, N − 1};   v = (N/L) Π_{i=1}^{p} (I − H(x_k, y_{k+1}; φ_i)/L) F_y(x_k, y_{k+1}; ξ)
        x_{k+1} = x_k − α_k (F_x(x_k, y_{k+1}; ξ) − J(x_k, y_{k+1}; φ_0)[v])

    on independent samples φ^t, ξ, φ_0, φ_1, ….

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`. Theory: both are constant and
      proportional to K^{−1/2} over a run of K steps; β is also proportional to 1/T.
    - `inner_steps` (T): 1 suffices for the rate. A lower `Rule` restarts in each loop.
    - `neumann_order` (N, of order log K), `neumann_step` (1/L).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.ALSET(upper_step=0.02, lower_step=0.5, inner_steps=1, neumann_order=1, neumann_step=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Chen, Sun & Yin, "Closing the Gap: Tighter Analysis of Alternating Stochastic Gradient Methods for
    Bilevel Problems", NeurIPS 2021 (arXiv 2106.13781), Algorithm 1, (8)–(10), (12).

    Differences from the paper: p is drawn from {0, …, N − 1}; the submission prints {1, …, N}, which loses the identity
    term of the series. x may be projected. The last iterate is returned; theorems for a Φ that is not convex are about
    all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count()
    neumann_order: int = count()
    neumann_step: Any = schedule()

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[ALSETState, Cost]:
        return ALSETState(x, y, self.upper_step.init(x)), Cost()

    def step(self, problem: Problem, state: ALSETState, t: Any, *, key: PRNGKeyArray) -> tuple[ALSETState, Cost]:
        loop_key, sample_key = jax.random.split(key)
        y = descend(problem.lower, state.x, state.y, self.lower_step, self.inner_steps, t, key=loop_key)

        method = RandomNeumann(self.neumann_order, self.neumann_step)
        found = method.hypergradient(problem, state.x, y, t=t, key=sample_key)
        x, x_rule = self.upper_step(state.x, found.h, state.x_rule, t)

        cost = Cost(G=self.inner_steps * problem.lower.size) + found.cost
        return ALSETState(problem.project(x), y, x_rule), cost

    of_x = ("x", "x_rule")
    about = About(
        name="alset",
        lower="T SGD steps",
        adjoint="one random Neumann term",
        direction="plain",
        source="Chen, Sun & Yin, NeurIPS 2021, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(1500, upper_step=3.0, lower_step=0.3, inner_steps=3, neumann_order=50,
            neumann_step=2.0),
        "quadratic": Tuned(8000, upper_step=inverse_power(4.0, 1.0, 400.0), lower_step=0.1, inner_steps=1,
            neumann_order=50, neumann_step=0.1),
    }  # fmt: skip
    scaling = 0.25
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Chen et al. 2021, Alg. 1"
        return {
            "lower_step": theory.lower_step(facts, source),
            "inner_steps": Choice(1, f"{source}: 1 suffices for the rate"),
            "neumann_order": theory.neumann_order(facts, source),
            "neumann_step": theory.neumann_step(facts, source),
        }
