"""MRBO: recursive momentum at both levels, with a Neumann series of fixed length and mini-batches."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import Neumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._averages import at_both, from_plain, storm
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_schedule, as_step, as_weight, inverse_power

Tree = PyTree[Any]


class MRBOState(eqx.Module):
    """The present and the previous point, the directions d (like x) and s (like y), and the state of each step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    x_old: Tree = eqx.field(metadata=OF_X)
    y_old: Tree
    d: Tree = eqx.field(metadata=OF_X)
    s: Tree
    rules: tuple[Tree, Tree]
    tally: Tally


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

    The directions span all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

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
    `batch_size`.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    neumann_order: int = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)
    upper_storm_weight: Any = eqx.field(converter=as_weight)
    lower_storm_weight: Any = eqx.field(converter=as_weight)

    def __check_init__(self):
        checks.count("neumann_order", self.neumann_order, least=0)

    @classmethod
    def from_paper(
        cls,
        *,
        delta: float,
        offset: float,
        gamma: float,
        lambda_: float,
        c_1: float,
        c_2: float,
        neumann_order: int,
        neumann_step: float,
    ) -> "MRBO":
        """The listing's schedules: η_k = δ/(m+k)^{1/3}; α_{k+1} = c_1 η_k², β_{k+1} = c_2 η_k²; `offset` is m > 1."""
        for name, value in (("delta", delta), ("gamma", gamma), ("lambda_", lambda_), ("c_1", c_1), ("c_2", c_2)):
            checks.positive(name, value)
        checks.above("offset", offset, 1)
        return cls(
            upper_step=inverse_power(gamma * delta, 1 / 3, offset),
            lower_step=inverse_power(lambda_ * delta, 1 / 3, offset),
            neumann_order=neumann_order,
            neumann_step=neumann_step,
            upper_storm_weight=inverse_power(c_1 * delta**2, 2 / 3, offset - 1),
            lower_storm_weight=inverse_power(c_2 * delta**2, 2 / 3, offset - 1),
        )

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> MRBOState:
        rules = (self.upper_step.init(x), self.lower_step.init(y))
        return MRBOState(x, y, x, y, trees.zeros_like(x), trees.zeros_like(y), rules, Tally.zero())

    def on_fresh_tasks(self) -> "MRBO":
        """s has nothing to go on from: the plain sample."""
        return dataclasses.replace(self, lower_storm_weight=1.0)

    def step(self, problem: Problem, state: MRBOState, t: Any, *, key: PRNGKeyArray) -> MRBOState:
        new, old = (state.x, state.y), (state.x_old, state.y_old)
        lower_key, sample_key = jax.random.split(key)
        B_y = problem.lower.draw(lower_key)

        def gradient(x: Tree, y: Tree) -> Tree:
            return oracles.lower_gradient(problem.lower, x, y, B_y)

        def sample(x: Tree, y: Tree) -> Tree:
            return implicit(problem, x, y, Neumann(self.neumann_order, self.neumann_step), t=t, key=sample_key).h

        h_new, h_old = at_both(sample, new, old)
        d = storm(state.d, h_old, h_new, from_plain(self.upper_storm_weight, t))
        G_new, G_old = at_both(gradient, new, old)
        s = storm(state.s, G_old, G_new, from_plain(self.lower_storm_weight, t))

        x_rule, y_rule = state.rules
        x, x_rule = self.upper_step(state.x, d, x_rule, t)
        y, y_rule = self.lower_step(state.y, s, y_rule, t)

        f, g = problem.upper.size, problem.lower.size
        tally = state.tally.add(F=2 * f, G=2 * g, H=2 * self.neumann_order * g, J=2 * g)
        return MRBOState(problem.project(x), y, *new, d, s, (x_rule, y_rule), tally)
