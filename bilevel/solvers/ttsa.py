"""TTSA: one lower step and one x step an iteration, x on the slower time scale."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import RandomNeumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_schedule, as_step, check_count, inverse_power

Tree = PyTree[Any]


class TTSAState(eqx.Module):
    """x, y, and the state of each one's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    rules: tuple[Tree, Tree]
    tally: Tally


class TTSA(AbstractSolver):
    """Two-timescale stochastic approximation.

        y_{k+1} = y_k − β_k G_y(x_k, y_k; ζ)
        p ~ U{0, …, K_k − 1};   v = (K_k c_h/L) Π_{i=1}^{p} (I − c_h H(x_k, y_{k+1}; ζ'_i)/L) F_y(x_k, y_{k+1}; ξ)
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, y_{k+1}; ξ) − J(x_k, y_{k+1}; ζ'_0)[v]))

    on independent samples ζ, ξ, ζ'_0, ζ'_1, …. x uses the new y.

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`; α/β → 0. Theory: α ∝ K^{−3/5},
      β ∝ K^{−2/5}, constant over a run of K steps (Φ weakly convex); `from_paper` for a strongly convex Φ.
    - `neumann_order` (K_k, the paper's t_max(k)): an integer or a function of k, traced; theory: of order log k.
      `neumann_step` (c_h/L ≤ 1/L; theory: c_h of order μ/(μ² + σ²)).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

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

    Differences from the paper: none. Its exact c_h, t_max(k) and offsets k_α, k_β are left to the user.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    neumann_order: int | Callable[[Any], Any] = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)

    def __check_init__(self):
        check_count("neumann_order", self.neumann_order)

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

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> TTSAState:
        return TTSAState(x, y, (self.upper_step.init(x), self.lower_step.init(y)), Tally.zero())

    def step(self, problem: Problem, state: TTSAState, t: Any, *, key: PRNGKeyArray) -> TTSAState:
        x_rule, y_rule = state.rules
        lower_key, sample_key = jax.random.split(key)

        zeta = problem.lower.draw(lower_key)
        G_y = oracles.lower_gradient(problem.lower, state.x, state.y, zeta)
        y, y_rule = self.lower_step(state.y, G_y, y_rule, t)

        method = RandomNeumann(self.neumann_order, self.neumann_step)
        sample = implicit(problem, state.x, y, method, t=t, key=sample_key)
        x, x_rule = self.upper_step(state.x, sample.h, x_rule, t)

        tally = state.tally.add(G=zeta.size).add(**sample.cost)
        return TTSAState(problem.project(x), y, (x_rule, y_rule), tally)
