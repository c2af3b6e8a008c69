"""MRBO: recursive momentum at both levels, with a Neumann series of fixed length and mini-batches."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, schedule, step, weight
from bilevel.hypergradients.adjoint import Neumann
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.averages import storm
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class MRBOState(eqx.Module):
    """The current and the previous point, the directions d (like x) and s (like y), and the state of each step rule."""

    x: Tree
    y: Tree
    x_old: Tree
    y_old: Tree
    d: Tree
    s: Tree
    x_rule: Tree
    y_rule: Tree


class MRBO(AbstractSolver):
    """Momentum-based recursive bilevel optimizer.

    The hypergradient sample, on independent batches 𝓑 = {B_F, B_G, B_1, …, B_Q}:

        h(x, y; 𝓑) = F_x(x, y; B_F) − J(x, y; B_G)[η Σ_{q=0}^{Q} Π (I − η H(x, y; B_i)) F_y(x, y; B_F)]

    At k = 0, 1, …, with B_y independent of 𝓑, and α_0 = β_0 = 1 (the plain samples):

        d_k = h(x_k, y_k; 𝓑) + (1 − α_k)(d_{k−1} − h(x_{k−1}, y_{k−1}; 𝓑))
        s_k = G_y(x_k, y_k; B_y) + (1 − β_k)(s_{k−1} − G_y(x_{k−1}, y_{k−1}; B_y))
        x_{k+1} = x_k − γ η_k d_k;   y_{k+1} = y_k − λ η_k s_k,   both from (x_k, y_k)

    **Arguments**

    - `upper_step` (γ η_k), `lower_step` (λ η_k): a number, a schedule of k or a `Rule`.
    - `neumann_order` (Q), `neumann_step` (η).
    - `upper_storm_weight` (α_k), `lower_storm_weight` (β_k): a number in [0, 1] or a schedule of k, the weight of
      the fresh sample.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.MRBO(
        ...     upper_step=0.02, lower_step=0.5, neumann_order=5, neumann_step=0.5,
        ...     upper_storm_weight=0.5, lower_storm_weight=0.5,
        ... )
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Yang, Ji & Liang, "Provably Faster Algorithms for Bilevel Optimization", NeurIPS 2021
    (arXiv 2106.04692), Algorithm 1.

    Differences from the paper: weights are clipped to 1; x may be projected; every batch of a level has its
    `batch_size`. The last iterate is returned; theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    neumann_order: int = count(least=0)
    neumann_step: Any = schedule()
    upper_storm_weight: Any = weight(first=1.0)
    lower_storm_weight: Any = weight(first=1.0)

    @classmethod
    def from_paper(
        cls,
        *,
        delta: float,
        offset: float,
        c_upper: float,
        c_lower: float,
        c_1: float,
        c_2: float,
        neumann_order: int,
        neumann_step: float,
    ) -> "MRBO":
        """The listing's schedules: η_k = δ/(m+k)^{1/3}; α_{k+1} = c_1 η_k², β_{k+1} = c_2 η_k²; `offset` is m > 1,
        `c_upper` and `c_lower` are γ and λ."""
        for name, value in (("delta", delta), ("c_upper", c_upper), ("c_lower", c_lower), ("c_1", c_1), ("c_2", c_2)):
            checks.positive(name, value)
        checks.above("offset", offset, 1)
        return cls(
            upper_step=inverse_power(c_upper * delta, 1 / 3, offset),
            lower_step=inverse_power(c_lower * delta, 1 / 3, offset),
            neumann_order=neumann_order,
            neumann_step=neumann_step,
            upper_storm_weight=inverse_power(c_1 * delta**2, 2 / 3, offset - 1),
            lower_storm_weight=inverse_power(c_2 * delta**2, 2 / 3, offset - 1),
        )

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[MRBOState, Cost]:
        d, s = trees.zeros_like(x), trees.zeros_like(y)
        return MRBOState(x, y, x, y, d, s, self.upper_step.init(x), self.lower_step.init(y)), Cost()

    def step(self, problem: Problem, state: MRBOState, t: Any, *, key: PRNGKeyArray) -> tuple[MRBOState, Cost]:
        new, old = (state.x, state.y), (state.x_old, state.y_old)
        lower_key, sample_key = jax.random.split(key)
        B_y = problem.lower.draw(lower_key)

        def h(x: Tree, y: Tree) -> Tree:
            method = Neumann(self.neumann_order, self.neumann_step)
            return method.hypergradient(problem, x, y, t=t, key=sample_key).h

        def G(x: Tree, y: Tree) -> Tree:
            return oracles.gradient_y(problem.lower, x, y, B_y)

        d = storm(state.d, h, new, old, self.upper_storm_weight(t))
        s = storm(state.s, G, new, old, self.lower_storm_weight(t))
        x, x_rule = self.upper_step(state.x, d, state.x_rule, t)
        y, y_rule = self.lower_step(state.y, s, state.y_rule, t)

        f, g = problem.upper.size, problem.lower.size
        state = MRBOState(problem.project(x), y, *new, d, s, x_rule, y_rule)
        return state, 2 * Cost(F=f, G=g, H=self.neumann_order * g, J=g)

    like_x = ("x", "x_old", "d")
    about = About(
        name="mrbo",
        lower="recursive momentum",
        adjoint="Neumann series",
        direction="recursive momentum",
        source="Yang, Ji & Liang, NeurIPS 2021, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(1000, upper_step=30.0, lower_step=0.3, neumann_order=50, neumann_step=2.0,
            upper_storm_weight=0.3, lower_storm_weight=0.3),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, neumann_order=100, neumann_step=0.1,
            upper_storm_weight=0.1, lower_storm_weight=0.1),
    }  # fmt: skip
    scaling = 0.5
    power = 1 / 3

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Yang et al. 2021, Alg. 1"
        weight = theory.power_weight(facts, source, "2/3")
        return {
            "lower_step": theory.lower_step(facts, source),
            "neumann_order": theory.neumann_order(facts, source, products=2),
            "neumann_step": theory.neumann_step(facts, source),
            "upper_storm_weight": weight,
            "lower_storm_weight": weight,
        }
