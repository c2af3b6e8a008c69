"""AID-BiO: hypergradients by solving the adjoint system at the end of the lower loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import trees
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractEstimator, descend
from bilevel.steps import AbstractStep, as_step, check_count, count_at

Tree = PyTree[Any]


class AIDState(eqx.Module):
    """x, y, the adjoint v and where each loop starts if not at the last y (both shaped like y), the state of x's
    step rule, and whether every solve found H positive."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    v: Tree
    start: Tree | None
    rule: Tree = eqx.field(metadata=OF_X)
    convex: Bool[Array, ""] = eqx.field(metadata=OF_X)
    tally: Tally


class AIDBiO(AbstractEstimator):
    """Bilevel optimizer by approximate implicit differentiation.

        y⁰ = y_{k−1}^D;   y^t = y^{t−1} − α G_y(x_k, y^{t−1}),   t = 1..D
        v_k: N conjugate-gradient steps on H(x_k, y^D) v = F_y(x_k, y^D), started at v_{k−1}
        x_{k+1} = x_k − β (F_x(x_k, y^D) − J(x_k, y^D)[v_k])

    **Arguments**

    - `upper_step` (β), `lower_step` (α): a number, a schedule of k or a `Rule`.
    - `inner_steps` (D): an integer, or a function of k, traced (AID-BiO-increasing:
      `lambda k: jnp.ceil((k + 1) ** 0.25).astype(int)`).
    - `adjoint`: how the system is solved; default 10 conjugate-gradient steps.
    - `warm_start`: `False` starts each loop at the y that `solve` was given.
    - `adjoint_warm_start`: `False` starts each solve at zero.

    Where conjugate gradient meets a curvature that is not positive, `solve` stops and says so.

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.AIDBiO(upper_step=0.05, lower_step=0.5, inner_steps=5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
    Algorithm 1 (AID-BiO).

    Differences from the paper: x may be projected; conjugate gradient stops early once its residual is rounding;
    a lower level with a `batch_size` draws a fresh batch for each inner step, and one for the whole solve and J.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    inner_steps: int | Callable[[Any], Any] = eqx.field(static=True)
    adjoint: AbstractAdjoint = ConjugateGradient(steps=10)
    warm_start: bool = eqx.field(default=True, static=True)
    adjoint_warm_start: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        checks.flag("warm_start", self.warm_start)
        checks.flag("adjoint_warm_start", self.adjoint_warm_start)
        check_count("inner_steps", self.inner_steps)
        if not isinstance(self.adjoint, AbstractAdjoint):
            raise TypeError(f"adjoint: got {self.adjoint!r}; pass e.g. bl.ConjugateGradient(steps=10)")

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> AIDState:
        start = None if self.warm_start else y
        rule = self.upper_step.init(x)
        return AIDState(x, y, trees.zeros_like(y), start, rule, jnp.array(True), Tally.zero())

    def estimate(self, problem: Problem, state: AIDState, t: Any, *, key: PRNGKeyArray) -> tuple[Tree, AIDState]:
        loop_key, adjoint_key = jax.random.split(key)
        y = state.y if self.warm_start else state.start
        v = state.v if self.adjoint_warm_start else None

        inner_steps = count_at(self.inner_steps, t)
        y = descend(problem.lower, state.x, y, self.lower_step, inner_steps, t, key=loop_key)
        sample = implicit(problem, state.x, y, self.adjoint, v, t, key=adjoint_key)

        tally = state.tally.add(G=(inner_steps, problem.lower.size)).add(**sample.cost)
        convex = state.convex & sample.adjoint.convex
        return sample.h, AIDState(state.x, y, sample.adjoint.v, state.start, state.rule, convex, tally)

    def is_convex(self, state: AIDState) -> Bool[Array, ""]:
        return state.convex
