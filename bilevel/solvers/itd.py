"""ITD-BiO: hypergradients by back-propagation through the lower loop."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel.hypergradients.unrolled import check_differentiable, unroll
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractEstimator
from bilevel.steps import AbstractStep, as_step

Tree = PyTree[Any]


class ITDState(eqx.Module):
    """x, y, where each lower loop starts if not at the last y (shaped like y), and the state of x's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    start: Tree | None
    rule: Tree = eqx.field(metadata=OF_X)
    tally: Tally


class ITDBiO(AbstractEstimator):
    """Bilevel optimizer by iterative differentiation.

        y⁰ = y_{k−1}^D;   y^t = y^{t−1} − α G_y(x_k, y^{t−1}),   t = 1..D
        h   = d/dx f(x_k, y^D(x_k)),   y⁰ held constant
            = F_x(x_k, y^D) − α Σ_{t=0}^{D−1} J(x_k, y^t) Π_{j=t+1}^{D−1} (I − α H(x_k, y^j)) F_y(x_k, y^D)
        x_{k+1} = x_k − β h

    **Arguments**

    - `upper_step` (β), `lower_step` (α ≤ 1/L): a number, a schedule of k or a `Rule`. A lower `Rule` starts
      anew in each loop and must have a derivative at a zero gradient (Adam needs `eps_root`).
    - `inner_steps` (D): the iterates are kept in memory.
    - `truncation` (K ≤ D): back-propagate through the last K steps alone, of which the iterates are kept.
    - `warm_start`: `True` starts each loop at the last y; `False` at the y that `solve` was given
      (deterBiO with its own starts).

    h spans all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.ITDBiO(upper_step=0.05, lower_step=0.5, inner_steps=5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
    Algorithm 1 (ITD-BiO); deterBiO is Algorithm 1 of its first draft.

    Differences from the paper: the reverse pass may be truncated (Franceschi et al., ICML 2017); x may be projected;
    a lower level with a `batch_size` draws a fresh batch for each inner step, and the reverse pass sees the same ones.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    inner_steps: int = eqx.field(static=True)
    truncation: int | None = eqx.field(default=None, static=True)
    warm_start: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        checks.flag("warm_start", self.warm_start)
        checks.count("inner_steps", self.inner_steps)
        if self.truncation is not None:
            checks.count("truncation", self.truncation)
            if self.truncation > self.inner_steps:
                raise ValueError(
                    f"truncation: got {self.truncation} for {self.inner_steps} inner steps; pass at most that"
                )
        check_differentiable(self.lower_step)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> ITDState:
        start = None if self.warm_start else y
        return ITDState(x, y, start, self.upper_step.init(x), Tally.zero())

    def estimate(self, problem: Problem, state: ITDState, t: Any, *, key: PRNGKeyArray) -> tuple[Tree, ITDState]:
        lower_key, upper_key = jax.random.split(key)
        upper_batch = problem.upper.draw(upper_key)
        start = state.y if self.warm_start else state.start

        steps, kept = self.inner_steps, self.truncation
        unrolled = unroll(
            problem, state.x, start, upper_batch,
            steps=steps, lower_step=self.lower_step, truncation=kept, t=t, key=lower_key,
        )  # fmt: skip

        b, kept = problem.lower.size, steps if kept is None else kept
        tally = state.tally.add(F=upper_batch.size, G=steps * b, H=kept * b, J=kept * b)
        return unrolled.h, ITDState(state.x, unrolled.y, state.start, state.rule, tally)
