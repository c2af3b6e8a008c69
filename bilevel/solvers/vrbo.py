"""VRBO: SPIDER at both levels, in an inner loop over y, with periodic large batches."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, schedule, step
from bilevel.hypergradients.adjoint import Neumann
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.averages import storm
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class VRBOState(eqx.Module):
    """x, y, the directions d (like x) and s (like y) at (x, y), and the state of x's step rule."""

    x: Tree
    y: Tree
    d: Tree
    s: Tree
    x_rule: Tree


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

    The first difference covers the move x_k → x_{k+1}. After the loop, d and s belong to (x_{k+1}, y_{k+1}).

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`; y's rule restarts in each loop.
    - `inner_steps` (m + 1): the steps of y per iteration.
    - `neumann_order` (Q), `neumann_step` (η).
    - `period` (q). `period_batch_size` (S_1): for both levels; `None` means all rows. S_2 is each level's `batch_size`.

    The inner loop moves all of x by d, and a period reads all of it: a step on a per-row variable costs O(rows).

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

    Differences from the paper: the loop's upper limit is read as the one that leaves d and s at the new point
    (unverified); every batch of an iteration has the full size S_1 or S_2; x may be projected. The last iterate is
    returned; theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count()
    neumann_order: int = count(least=0)
    neumann_step: Any = schedule()
    period: int = count()
    period_batch_size: int | None = count(optional=True, default=None)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[VRBOState, Cost]:
        for level in (problem.upper, problem.lower):
            if level.data is not None and level.batch_size is not None and self.period_batch_size is not None:
                level.data.check(self.period_batch_size, "period_batch_size")
        return VRBOState(x, y, trees.zeros_like(x), trees.zeros_like(y), self.upper_step.init(x)), Cost()

    def step(self, problem: Problem, state: VRBOState, t: Any, *, key: PRNGKeyArray) -> tuple[VRBOState, Cost]:
        x, y = state.x, state.y
        period_key, loop_key = jax.random.split(key)
        large, starts = problem.with_batch_size(self.period_batch_size), t % self.period == 0

        def afresh() -> tuple[Tree, Tree]:
            d, s = self._sample(large, x, y, t, key=period_key)
            return trees.dense(d, x), s

        def follow(d_s: Tree, new: Tree, old: Tree, i: Any) -> Tree:  # (d, s) + φ(new; 𝓑_i) − φ(old; 𝓑_i): SPIDER
            def phi(x: Tree, y: Tree) -> Tree:
                return self._sample(problem, x, y, t, key=jax.random.fold_in(loop_key, i))

            return storm(d_s, phi, new, old, weight=0.0)

        d, s = jax.lax.cond(starts, afresh, lambda: (state.d, state.s))
        new_x, x_rule = self.upper_step(x, d, state.x_rule, t)
        new_x = problem.project(new_x)

        def inner(i: Any, carry: Any) -> Any:
            d_s, new, old, y_rule = carry
            d, s = follow(d_s, new, old, i)
            y, y_rule = self.lower_step(new[1], s, y_rule, t)
            return (d, s), (new_x, y), new, y_rule

        carry = (d, s), (new_x, y), (x, y), self.lower_step.init(y)
        d_s, new, old, _ = jax.lax.fori_loop(0, self.inner_steps, inner, carry)
        d, s = follow(d_s, new, old, self.inner_steps)  # at (x_{k+1}, y_{k+1}), with no step after it

        cost = self._cost(large, jnp.where(starts, 1, 0)) + self._cost(problem, 2 * (self.inner_steps + 1))
        return VRBOState(new[0], new[1], d, s, x_rule), cost

    def _sample(self, problem: Problem, x: Tree, y: Tree, t: Any, *, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """φ(x, y; 𝓑): the hypergradient, and G_y."""
        lower_key, sample_key = jax.random.split(key)
        G_y = oracles.gradient_y(problem.lower, x, y, problem.lower.draw(lower_key))
        method = Neumann(self.neumann_order, self.neumann_step)
        return method.hypergradient(problem, x, y, t=t, key=sample_key).h, G_y

    def _cost(self, problem: Problem, samples: Any) -> Cost:
        f, g = problem.upper.size, problem.lower.size
        return Cost(F=(samples, f), G=(samples, g), H=(samples, self.neumann_order * g), J=(samples, g))

    about = About(
        name="vrbo",
        lower="SPIDER loop",
        adjoint="Neumann series",
        direction="SPIDER",
        source="Yang, Ji & Liang, NeurIPS 2021, Alg. 2",
        unverified="the upper limit of the inner loop",
    )
    tuned = {
        "cleaning": Tuned(200, upper_step=30.0, lower_step=1.0, inner_steps=5, neumann_order=30,
            neumann_step=2.0, period=5),
        "quadratic": Tuned(400, upper_step=0.1, lower_step=0.1, inner_steps=10, neumann_order=100,
            neumann_step=0.1, period=10),
    }  # fmt: skip

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Yang et al. 2021, Alg. 2"
        inner = Choice(3, "only a few, since each costs two hypergradients")
        period = max(1, math.ceil(facts.rows / (2 * (inner.value + 1) * facts.batch)))
        return {
            "lower_step": theory.lower_step(facts, source),
            "inner_steps": inner,
            "neumann_order": theory.neumann_order(facts, source, products=3 * (inner.value + 1)),
            "neumann_step": theory.neumann_step(facts, source),
            "period": Choice(period, "a pass over all rows costs as much as the small batches until the next"),
        }
