"""SUSTAIN: recursive momentum at both levels, in a single loop."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import RandomNeumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._averages import at_both, from_plain, storm
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_schedule, as_step, as_weight, inverse_power

Tree = PyTree[Any]


class SUSTAINState(eqx.Module):
    """The present and the previous point, the directions hf (shaped like x) and hg (like y), the last hypergradient
    sample (like x; option 2 alone), and the state of each step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    x_old: Tree = eqx.field(metadata=OF_X)
    y_old: Tree
    hf: Tree = eqx.field(metadata=OF_X)
    hg: Tree
    sample: Tree | None = eqx.field(metadata=OF_X)
    rules: tuple[Tree, Tree]
    tally: Tally


class SUSTAIN(AbstractSolver):
    """Single-timescale double-momentum stochastic approximation.

    The hypergradient sample, with k uniform on {0, …, K − 1} and independent ζ_0, …, ζ_k, ξ:

        h(x, y; ξ̄) = F_x(ξ) − (K/L_g) J(ζ_0) Π_{i=1}^{k} (I − H(ζ_i)/L_g) F_y(ξ)                            (7)

    At t = 0, 1, …, with η_0 = 1, both terms of a difference on the same sample, k included:

        hg_t = η^g_t G_y(x_t, y_t; ζ_t) + (1 − η^g_t)(hg_{t−1} + G_y(x_t, y_t; ζ_t) − G_y(x_{t−1}, y_{t−1}; ζ_t))   (13)
        hf_t = η^f_t h(x_t, y_t; ξ̄_t) + (1 − η^f_t)(hf_{t−1} + h(x_t, y_t; ξ̄_t) − h(x_{t−1}, y_{t−1}; ξ̄_t))         (14)
        y_{t+1} = y_t − β_t hg_t;   x_{t+1} = x_t − α_t hf_t,   both from (x_t, y_t)

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule or a `Rule`. Adam-SUSTAIN (appendix,
      Algorithm 2) is `upper_step=Rule(optax.adam, …)`: the recursion of hf stays apart from Adam's moments.
    - `neumann_order` (K), `neumann_step` (1/L_g).
    - `upper_storm_weight` (η^f), `lower_storm_weight` (η^g): a number or a schedule of t, the weight of the
      fresh sample. At t = 0 it is 1, and never more.
    - `option`: 1 is (14). 2 is Adam-SUSTAIN's option II, which reuses the stored last sample,
      hf_t = h_t + (1 − η)(hf_{t−1} − h_{t−1}): one hypergradient an iteration. As the listing has it this
      telescopes: from η_0 = 1 on, hf_t is the plain sample h_t whatever the weight.

    The directions span all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SUSTAIN(
        ...     upper_step=0.02, lower_step=0.5, neumann_order=1, neumann_step=1.0,
        ...     upper_storm_weight=0.5, lower_storm_weight=0.5,
        ... )
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Khanduri, Zeng, Hong, Wai, Wang & Yang, "A Near-Optimal Algorithm for Stochastic Bilevel
    Optimization via Double-Momentum", NeurIPS 2021, Algorithm 1 with (7), (13), (14); Adam-SUSTAIN is
    Algorithm 2 of its appendix, whose options I and II are 1 and 2 here.

    Differences from the paper: the point before the first is (x_0, y_0) and not zero, which η_0 = 1 makes the
    same; weights are clipped to 1; Adam's moments are the standard ones (Algorithm 2 overwrites m_t and v_t by
    their bias-corrected values); x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    neumann_order: int = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)
    upper_storm_weight: Any = eqx.field(converter=as_weight)
    lower_storm_weight: Any = eqx.field(converter=as_weight)
    option: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        checks.count("neumann_order", self.neumann_order)
        if self.option not in (1, 2):
            raise ValueError(f"option: got {self.option!r}; pass 1 (eq. 14) or 2 (one hypergradient an iteration)")

    @classmethod
    def from_paper(
        cls, *, offset: float, c_beta: float, c_upper: float, c_lower: float, neumann_order: int, neumann_step: float
    ) -> "SUSTAIN":
        """The schedules of Theorem 3.2: α_t = (w + t)^{−1/3}, β_t = c_β α_t, η^{f,g}_{t+1} = c_{f,g} α_t².

        `offset` is w > 1, `c_upper` and `c_lower` are c_f and c_g. (The theorem prints η_t, which contradicts
        η_0 = 1; its proof uses t + 1.)
        """
        for name, value in (("c_beta", c_beta), ("c_upper", c_upper), ("c_lower", c_lower)):
            checks.positive(name, value)
        checks.above("offset", offset, 1)
        return cls(
            upper_step=inverse_power(1.0, 1 / 3, offset),
            lower_step=inverse_power(c_beta, 1 / 3, offset),
            neumann_order=neumann_order,
            neumann_step=neumann_step,
            upper_storm_weight=inverse_power(c_upper, 2 / 3, offset - 1),
            lower_storm_weight=inverse_power(c_lower, 2 / 3, offset - 1),
        )

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> SUSTAINState:
        hf, hg = trees.zeros_like(x), trees.zeros_like(y)
        sample = hf if self.option == 2 else None
        rules = (self.upper_step.init(x), self.lower_step.init(y))
        return SUSTAINState(x, y, x, y, hf, hg, sample, rules, Tally.zero())

    def on_fresh_tasks(self) -> "SUSTAIN":
        """hg has nothing to go on from: the plain sample."""
        return dataclasses.replace(self, lower_storm_weight=1.0)

    def step(self, problem: Problem, state: SUSTAINState, t: Any, *, key: PRNGKeyArray) -> SUSTAINState:
        new, old = (state.x, state.y), (state.x_old, state.y_old)
        lower_key, sample_key = jax.random.split(key)
        zeta = problem.lower.draw(lower_key)

        def gradient(x: Tree, y: Tree) -> Tree:
            return oracles.lower_gradient(problem.lower, x, y, zeta)

        G_new, G_old = at_both(gradient, new, old)
        hg = storm(state.hg, G_old, G_new, from_plain(self.lower_storm_weight, t))

        def sample(x: Tree, y: Tree) -> tuple[Tree, Any]:
            method = RandomNeumann(self.neumann_order, self.neumann_step)
            drawn = implicit(problem, x, y, method, t=t, key=sample_key)
            return drawn.h, drawn.adjoint.products[0]

        if self.option == 1:
            (h_new, k), (h_old, _) = at_both(sample, new, old)
        else:
            h_new, k = sample(*new)
            h_old = state.sample
        hf = storm(state.hf, h_old, h_new, from_plain(self.upper_storm_weight, t))

        x_rule, y_rule = state.rules
        x, x_rule = self.upper_step(state.x, hf, x_rule, t)
        y, y_rule = self.lower_step(state.y, hg, y_rule, t)
        last = trees.dense(h_new, x) if self.option == 2 else None
        tally = self._count(problem, state.tally, k)
        return SUSTAINState(problem.project(x), y, *new, hf, hg, last, (x_rule, y_rule), tally)

    def _count(self, problem: Problem, tally: Tally, k: Any) -> Tally:
        points = 2 if self.option == 1 else 1
        f, g = (level.size for level in (problem.upper, problem.lower))
        return tally.add(F=points * f, G=2 * g, H=(k, points * g), J=points * g)
