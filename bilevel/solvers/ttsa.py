"""TTSA: one step of y and one of x per iteration, with x on the slower time scale."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles
from bilevel.cost import Cost
from bilevel.fields import count, schedule, step
from bilevel.hypergradients.adjoint import RandomNeumann
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class TTSAState(eqx.Module):
    """x, y, and the state of each one's step rule."""

    x: Tree
    y: Tree
    x_rule: Tree
    y_rule: Tree


class TTSA(AbstractSolver):
    """Two-timescale stochastic approximation.

        y_{k+1} = y_k − β_k G_y(x_k, y_k; ζ)
        p ~ U{0, …, K_k − 1};   v = (K_k c_h/L) Π_{i=1}^{p} (I − c_h H(x_k, y_{k+1}; ζ'_i)/L) F_y(x_k, y_{k+1}; ξ)
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, y_{k+1}; ξ) − J(x_k, y_{k+1}; ζ'_0)[v]))

    on independent samples ζ, ξ, ζ'_0, ζ'_1, …. x uses the new y.

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`; α/β → 0. Theory: α ∝ K^{−3/5},
      β ∝ K^{−2/5}, constant over a run of K steps (Φ weakly convex); `from_paper` for a strongly convex Φ.
    - `neumann_order` (K_k, the paper's t_max(k)): an integer or a traced function of k; theory: of order log k.
      `neumann_step` (c_h/L ≤ 1/L; theory: c_h of order μ/(μ² + σ²)).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.TTSA(upper_step=0.02, lower_step=0.5, neumann_order=1, neumann_step=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Hong, Wai, Wang & Yang, "A Two-Timescale Stochastic Algorithm Framework for Bilevel Optimization",
    SIAM J. Optim. 2023 (arXiv 2007.05170), Algorithm 1.

    Differences from the paper: none in a step. c_h and t_max(k) are left to the user. Unverified: whether the two steps
    have one offset k_α or two. The last iterate is returned; theorems for a Φ that is not convex are about all k
    together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    neumann_order: int | Callable[[Any], Any] = count(of_t=True)
    neumann_step: Any = schedule()

    @classmethod
    def from_paper(
        cls,
        *,
        c_alpha: float,
        c_beta: float,
        k_alpha: float,
        k_beta: float,
        neumann_order: int | Callable[[Any], Any],
        neumann_step: float,
    ) -> "TTSA":
        """The schedules for a strongly convex Φ: α_k = c_α/(k + k_α), β_k = c_β/(k + k_β)^{2/3}."""
        for name, value in (("c_alpha", c_alpha), ("c_beta", c_beta), ("k_alpha", k_alpha), ("k_beta", k_beta)):
            checks.positive(name, value)
        return cls(
            upper_step=inverse_power(c_alpha, 1.0, k_alpha),
            lower_step=inverse_power(c_beta, 2 / 3, k_beta),
            neumann_order=neumann_order,
            neumann_step=neumann_step,
        )

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[TTSAState, Cost]:
        return TTSAState(x, y, self.upper_step.init(x), self.lower_step.init(y)), Cost()

    def step(self, problem: Problem, state: TTSAState, t: Any, *, key: PRNGKeyArray) -> tuple[TTSAState, Cost]:
        lower_key, sample_key = jax.random.split(key)

        zeta = problem.lower.draw(lower_key)
        G_y = oracles.gradient_y(problem.lower, state.x, state.y, zeta)
        y, y_rule = self.lower_step(state.y, G_y, state.y_rule, t)

        method = RandomNeumann(self.neumann_order, self.neumann_step)
        found = method.hypergradient(problem, state.x, y, t=t, key=sample_key)
        x, x_rule = self.upper_step(state.x, found.h, state.x_rule, t)

        return TTSAState(problem.project(x), y, x_rule, y_rule), Cost(G=zeta.size) + found.cost

    about = About(
        name="ttsa",
        lower="one SGD step",
        adjoint="one random Neumann term",
        direction="plain, slower",
        source="Hong et al., SIAM J. Optim. 2023, Alg. 1",
        unverified="whether the two steps have one offset or two",
    )
    tuned = {
        "cleaning": Tuned(2000, upper_step=3.0, lower_step=0.1, neumann_order=50, neumann_step=2.0),
        "quadratic": Tuned(8000, upper_step=inverse_power(4.0, 1.0, 400.0), lower_step=0.1, neumann_order=50,
            neumann_step=0.1),
    }  # fmt: skip
    scaling = 0.25
    power = 3 / 5

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Hong et al. 2023, Alg. 1"
        return {
            "lower_step": theory.lower_step(facts, source),
            "neumann_order": theory.neumann_order(facts, source),
            "neumann_step": theory.neumann_step(facts, source),
        }
