"""BA and BSA: the first methods with a rate, a lower loop from a fixed start and an adjoint at its end."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import AbstractAdjoint, Direct, RandomNeumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractSolver, descend
from bilevel.steps import AbstractStep, as_schedule, as_step, check_count, count_at

Tree = PyTree[Any]


class BAState(eqx.Module):
    """x, y, where each lower loop starts if not at the last y (shaped like y), the state of x's step rule, and
    whether every solve found H positive."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    start: Tree | None
    rule: Tree = eqx.field(metadata=OF_X)
    convex: Bool[Array, ""] = eqx.field(metadata=OF_X)
    tally: Tally


def _quarter_power(k: Any) -> Any:
    """t_k = ⌈(k + 1)^{1/4}/2⌉."""
    return jnp.ceil((k + 1) ** 0.25 / 2).astype(int)


class BA(AbstractSolver):
    """Bilevel approximation method.

        y⁰ = y_0;   y^{t+1} = y^t − β_t G_y(x_k, y^t),   t = 0..t_k − 1;   ȳ = y^{t_k}
        v = H(x_k, ȳ)⁻¹ F_y(x_k, ȳ)
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, ȳ) − J(x_k, ȳ)[v]))

    **Arguments**

    - `upper_step` (α): a number, a schedule of k or a `Rule`. `lower_step` (β_t): the same, a schedule of the
      inner iteration t. Theory: α ≤ 1/L_Φ, β = 2/(L + μ).
    - `inner_steps` (t_k): an integer or a function of k, traced; default ⌈(k+1)^{1/4}/2⌉, for a nonconvex Φ.
    - `adjoint`: how the system is solved; default `Direct()`, exact.
    - `warm_start`: `True` starts each loop at the last ȳ, as the experiments of later papers do; `False`, the
      listing, at the y_0 that `solve` was given.

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range; `ValueError`
    from `Direct` where y is too large for a dense matrix.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.BA(upper_step=0.05, lower_step=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ghadimi & Wang, "Approximation Methods for Bilevel Programming", arXiv 1802.02246, Algorithm 1.

    Differences from the paper: a level with a `batch_size` draws a fresh batch for each inner step, and one for H and
    J; `warm_start` and another `adjoint` may be asked for. y_0 is read as fixed, its listing giving it no index, and
    the constant ½ in t_k is from memory of the paper.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    inner_steps: int | Callable[[Any], Any] = eqx.field(default=_quarter_power, static=True)
    adjoint: AbstractAdjoint = Direct()
    warm_start: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        checks.flag("warm_start", self.warm_start)
        check_count("inner_steps", self.inner_steps)
        if not isinstance(self.adjoint, AbstractAdjoint):
            raise TypeError(f"adjoint: got {self.adjoint!r}; pass e.g. bl.Direct()")

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> BAState:
        start = None if self.warm_start else y
        return BAState(x, y, start, self.upper_step.init(x), jnp.array(True), Tally.zero())

    def step(self, problem: Problem, state: BAState, t: Any, *, key: PRNGKeyArray) -> BAState:
        loop_key, sample_key = jax.random.split(key)
        start = state.y if self.warm_start else state.start

        inner_steps = count_at(self.inner_steps, t)
        y = descend(problem.lower, state.x, start, self.lower_step, inner_steps, key=loop_key)
        sample = implicit(problem, state.x, y, self.adjoint, t=t, key=sample_key)
        x, rule = self.upper_step(state.x, sample.h, state.rule, t)

        tally = state.tally.add(G=(inner_steps, problem.lower.size)).add(**sample.cost)
        return BAState(problem.project(x), y, state.start, rule, state.convex & sample.adjoint.convex, tally)

    def is_convex(self, state: BAState) -> Bool[Array, ""]:
        return state.convex


def _square_root(k: Any) -> Any:
    """t_k = ⌈(k + 1)^{1/2}⌉."""
    return jnp.ceil((k + 1) ** 0.5).astype(int)


class BSAState(eqx.Module):
    """x, y, where each lower loop starts if not at the last y (shaped like y), and the state of x's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    start: Tree | None
    rule: Tree = eqx.field(metadata=OF_X)
    tally: Tally


class BSA(AbstractSolver):
    """Bilevel stochastic approximation method.

        y⁰ = y_0;   y^{t+1} = y^t − β_t G_y(x_k, y^t; ζ_t),   t = 0..t_k − 1;   ȳ = y^{t_k}
        p ~ U{0, …, b_k − 1};   v = (b_k/L) Π_{i=1}^{p} (I − H(x_k, ȳ; ζ'_i)/L) F_y(x_k, ȳ; ξ)
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, ȳ; ξ) − J(x_k, ȳ; ζ'_0)[v]))

    on independent samples ζ_t, ξ, ζ'_0, ζ'_1, …; F_x and F_y share ξ.

    **Arguments**

    - `upper_step` (α): a number, a schedule of k or a `Rule`; theory: constant, proportional to K^{−1/2} over a run of
      K steps. `lower_step` (β_t): the same, a schedule of the inner iteration t, which starts anew in each loop;
      theory: `bl.inverse_power(1/μ, 1, offset=2)`.
    - `neumann_order` (b_k): an integer or a function of k, traced; theory: of order κ log(k + 1).
      `neumann_step` (1/L).
    - `inner_steps` (t_k): an integer or a function of k, traced; default ⌈√(k+1)⌉.
    - `warm_start`: `True` starts each loop at the last ȳ; `False`, the listing, at the y_0 that `solve` was given.

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.BSA(upper_step=0.05, lower_step=0.9, neumann_order=1, neumann_step=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ghadimi & Wang, "Approximation Methods for Bilevel Programming", arXiv 1802.02246; its inverse (HIA)
    is Algorithm 3 there.

    Differences from the paper: `warm_start` may be asked for; y_0 is read as fixed; the constants of t_k and b_k are
    choices (the paper's orders are √(k+1) and κ log(k+1)).
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    neumann_order: int | Callable[[Any], Any] = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)
    inner_steps: int | Callable[[Any], Any] = eqx.field(default=_square_root, static=True)
    warm_start: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        checks.flag("warm_start", self.warm_start)
        check_count("inner_steps", self.inner_steps)
        check_count("neumann_order", self.neumann_order)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> BSAState:
        return BSAState(x, y, None if self.warm_start else y, self.upper_step.init(x), Tally.zero())

    def step(self, problem: Problem, state: BSAState, t: Any, *, key: PRNGKeyArray) -> BSAState:
        loop_key, sample_key = jax.random.split(key)
        start = state.y if self.warm_start else state.start

        inner_steps = count_at(self.inner_steps, t)
        y = descend(problem.lower, state.x, start, self.lower_step, inner_steps, key=loop_key)
        method = RandomNeumann(self.neumann_order, self.neumann_step)
        sample = implicit(problem, state.x, y, method, t=t, key=sample_key)
        x, rule = self.upper_step(state.x, sample.h, state.rule, t)

        tally = state.tally.add(G=(inner_steps, problem.lower.size)).add(**sample.cost)
        return BSAState(problem.project(x), y, state.start, rule, tally)
