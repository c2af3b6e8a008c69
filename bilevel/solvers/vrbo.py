"""VRBO: SPIDER at both levels, in an inner loop over y with periodic large batches."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import Neumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._averages import at_both
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_schedule, as_step

Tree = PyTree[Any]


class VRBOState(eqx.Module):
    """x, y, the directions d (like x) and s (like y) at (x, y), and the state of x's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    d: Tree = eqx.field(metadata=OF_X)
    s: Tree
    rule: Tree = eqx.field(metadata=OF_X)
    tally: Tally


class VRBO(AbstractSolver):
    """Variance-reduced bilevel optimizer.

    The sample φ = (h, G_y), on independent batches 𝓑 = {B_y, B_F, B_G, B_1, …, B_Q}, all of one size:

        h(x, y; 𝓑) = F_x(x, y; B_F) − J(x, y; B_G)[η Σ_{q=0}^{Q} Π (I − η H(x, y; B_i)) F_y(x, y; B_F)]

    At k = 0, 1, …:

        if q divides k:  (d, s) = φ(x_k, y_k; 𝓑) on large batches, of size S_1
        x_{k+1} = x_k − α d
        (x̃, ỹ)_{−1} = (x_k, y_k);   (x̃, ỹ)_0 = (x_{k+1}, y_k)
        for t = 0, …, m + 1, on fresh batches of size S_2:
            (d, s) ← (d, s) + φ((x̃, ỹ)_t; 𝓑) − φ((x̃, ỹ)_{t−1}; 𝓑)
            ỹ_{t+1} = ỹ_t − β s;   x̃_{t+1} = x̃_t
        y_{k+1} = ỹ_{m+1}

    The first difference spans x_k → x_{k+1}, and d, s leave the loop at (x_{k+1}, y_{k+1}).

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`; y's rule starts anew in each loop.
    - `inner_steps` (m + 1): the steps of y in an iteration.
    - `neumann_order` (Q), `neumann_step` (η).
    - `period` (q); `period_batch_size` (S_1): of both levels, `None` for all rows. S_2 is each level's `batch_size`.

    d spans all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.VRBO(
        ...     upper_step=0.02, lower_step=0.5, inner_steps=3, neumann_order=5, neumann_step=0.5, period=4
        ... )
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Yang, Ji & Liang, "Provably Faster Algorithms for Bilevel Optimization", NeurIPS 2021
    (arXiv 2106.04692), Algorithm 2.

    Differences from the paper: the loop's upper limit is read as the one that leaves d and s at the new point; every
    batch of an iteration has the full size S_1 or S_2; x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    inner_steps: int = eqx.field(static=True)
    neumann_order: int = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)
    period: int = eqx.field(static=True)
    period_batch_size: int | None = eqx.field(default=None, static=True, converter=checks.integers)

    def __check_init__(self):
        checks.count("inner_steps", self.inner_steps)
        checks.count("neumann_order", self.neumann_order, least=0)
        checks.count("period", self.period)
        if self.period_batch_size is not None:
            checks.count("period_batch_size", self.period_batch_size)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> VRBOState:
        for level in (problem.upper, problem.lower):
            if level.data is not None and level.batch_size is not None and self.period_batch_size is not None:
                level.data.check(self.period_batch_size, "period_batch_size")
        return VRBOState(x, y, trees.zeros_like(x), trees.zeros_like(y), self.upper_step.init(x), Tally.zero())

    def on_fresh_tasks(self) -> "VRBO":
        """s has nothing to go on from: large batches in each iteration, for d too."""
        return dataclasses.replace(self, period=1)

    def step(self, problem: Problem, state: VRBOState, t: Any, *, key: PRNGKeyArray) -> VRBOState:
        x, y = state.x, state.y
        period_key, loop_key = jax.random.split(key)
        large, starts = problem.with_batch_size(self.period_batch_size), t % self.period == 0

        def afresh() -> tuple[Tree, Tree]:
            h, G_y = self._sample(large, x, y, t, key=period_key)
            return trees.dense(h, x), G_y

        d, s = jax.lax.cond(starts, afresh, lambda: (state.d, state.s))
        new_x, rule = self.upper_step(x, d, state.rule, t)
        new_x = problem.project(new_x)

        def inner(i: Any, carry: Any) -> Any:
            old, new, d_s, y_rule = carry
            i_key = jax.random.fold_in(loop_key, i)
            phi_new, phi_old = at_both(lambda x, y: self._sample(problem, x, y, t, key=i_key), new, old)
            d, s = trees.add(d_s, trees.sub(phi_new, phi_old))
            next_y, y_rule = self.lower_step(new[1], s, y_rule, t)  # the last one is thrown away
            return new, (new_x, next_y), (d, s), y_rule

        start = ((x, y), (new_x, y), (d, s), self.lower_step.init(y))
        (_, new_y), _, (d, s), _ = jax.lax.fori_loop(0, self.inner_steps + 1, inner, start)

        tally = self._count(large, state.tally, jnp.where(starts, 1, 0))
        tally = self._count(problem, tally, 2 * (self.inner_steps + 1))
        return VRBOState(new_x, new_y, d, s, rule, tally)

    def _sample(self, problem: Problem, x: Tree, y: Tree, t: Any, *, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """φ(x, y; 𝓑)."""
        lower_key, sample_key = jax.random.split(key)
        G_y = oracles.lower_gradient(problem.lower, x, y, problem.lower.draw(lower_key))
        return implicit(problem, x, y, Neumann(self.neumann_order, self.neumann_step), t=t, key=sample_key).h, G_y

    def _count(self, problem: Problem, tally: Tally, samples: Any) -> Tally:
        f, g = problem.upper.size, problem.lower.size
        return tally.add(F=(samples, f), G=(samples, g), H=(samples, self.neumann_order * g), J=(samples, g))
