"""ALSET: alternating SGD on both levels, on one time scale."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import RandomNeumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractSolver, descend
from bilevel.steps import AbstractStep, as_schedule, as_step

Tree = PyTree[Any]


class ALSETState(eqx.Module):
    """x, y, and the state of x's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    rule: Tree = eqx.field(metadata=OF_X)
    tally: Tally


class ALSET(AbstractSolver):
    """Alternating stochastic gradient descent.

        y⁰ = y_k;   y^{t+1} = y^t − β_k G_y(x_k, y^t; φ^t),   t = 0..T − 1;   y_{k+1} = y^T
        p ~ U{0, …, N − 1};   v = (N/L) Π_{i=1}^{p} (I − H(x_k, y_{k+1}; φ_i)/L) F_y(x_k, y_{k+1}; ξ)
        x_{k+1} = x_k − α_k (F_x(x_k, y_{k+1}; ξ) − J(x_k, y_{k+1}; φ_0)[v])

    on independent samples φ^t, ξ, φ_0, φ_1, ….

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`. Theory: both constant and
      proportional to K^{−1/2} over a run of K steps, β to 1/T besides.
    - `inner_steps` (T): 1 suffices for the rate. A lower `Rule` starts anew in each loop.
    - `neumann_order` (N, of order log K), `neumann_step` (1/L).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

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

    Differences from the paper: p is drawn from {0, …, N − 1}; the submission prints {1, …, N}, which loses the
    identity term of the series. x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    inner_steps: int = eqx.field(static=True)
    neumann_order: int = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)

    def __check_init__(self):
        checks.count("inner_steps", self.inner_steps)
        checks.count("neumann_order", self.neumann_order)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> ALSETState:
        return ALSETState(x, y, self.upper_step.init(x), Tally.zero())

    def step(self, problem: Problem, state: ALSETState, t: Any, *, key: PRNGKeyArray) -> ALSETState:
        loop_key, sample_key = jax.random.split(key)
        y = descend(problem.lower, state.x, state.y, self.lower_step, self.inner_steps, t, key=loop_key)

        method = RandomNeumann(self.neumann_order, self.neumann_step)
        sample = implicit(problem, state.x, y, method, t=t, key=sample_key)
        x, rule = self.upper_step(state.x, sample.h, state.rule, t)

        tally = state.tally.add(G=self.inner_steps * problem.lower.size).add(**sample.cost)
        return ALSETState(problem.project(x), y, rule, tally)
