"""SRBA: SOBA's directions by SARAH, with periodic passes over all rows."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, number, step
from bilevel.hypergradients.lower import ball
from bilevel.problem import Problem
from bilevel.sampling import Batch
from bilevel.solvers import theory
from bilevel.solvers.averages import storm
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class SRBAState(eqx.Module):
    """The current and the previous (x, y, v), where v is the adjoint, shaped like y; the direction of each; and the
    state of each one's step rule."""

    x: Tree
    y: Tree
    v: Tree
    x_old: Tree
    y_old: Tree
    v_old: Tree
    d_x: Tree
    d_y: Tree
    d_v: Tree
    x_rule: Tree
    y_rule: Tree
    v_rule: Tree


class SRBA(AbstractSolver):
    """Stochastic recursive bilevel algorithm.

    The directions of SOBA at u = (x, y, v), on lower rows i and upper rows j:

        D(u; i, j) = (F_x(x, y; j) − J(x, y; i)[v],   G_y(x, y; i),   H(x, y; i)[v] − F_y(x, y; j))

    From u_0 = (x_0, y_0, 0), at k = 0, 1, …:

        if q divides k:  Δ = D(u_k) on all rows
        else, on independent lower and upper batches i and j:  Δ ← Δ + D(u_k; i, j) − D(u_{k−1}; i, j)
        x_{k+1} = x_k − γ Δ_x;   y_{k+1} = y_k − ρ Δ_y;   v_{k+1} = Proj_{‖v‖ ≤ R}(v_k − ρ Δ_v)

    **Arguments**

    - `upper_step` (γ), `lower_step` (ρ), `adjoint_step`: a number, a schedule of k or a `Rule`. Theory: constant.
    - `period` (q). Half of the rows of both levels, divided by the batch size, makes a pass about as expensive as all
      batches until the next.
    - `radius` (R): of the ball that holds v. The theory's is a bound on ‖F_y‖ over μ. `None`: no projection.

    Δ_x moves all of x, and a period reads all of it: a step on a per-row variable costs O(rows).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SRBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5, period=10)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=500, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Dagréou, Moreau, Vaiter & Ablin, "A Lower Bound and a Near-Optimal Algorithm for Bilevel Empirical Risk
    Minimization", AISTATS 2024 (arXiv 2302.08766), Algorithm 1.

    Differences from the paper: v has the opposite sign; the adjoint has its own step size (the paper's is ρ); x may be
    projected. The paper counts iterations by two indices, here k counts all. The listing is taken from the authors'
    code (`srba.py` of benchmark_bilevel, which does not project v), not from the paper's text: the projection of v, and
    that a period begins with the step along Δ on all rows, are unverified. The last iterate is returned; theorems for a
    Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()
    period: int = count()
    radius: Any = number(optional=True, default=None)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[SRBAState, Cost]:
        v = trees.zeros_like(y)
        rules = self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(v)
        return SRBAState(x, y, v, x, y, v, trees.zeros_like(x), v, v, *rules), Cost()

    def step(self, problem: Problem, state: SRBAState, t: Any, *, key: PRNGKeyArray) -> tuple[SRBAState, Cost]:
        new, old = (state.x, state.y, state.v), (state.x_old, state.y_old, state.v_old)
        lower_key, upper_key = jax.random.split(key)
        starts = t % self.period == 0

        def D(x: Tree, y: Tree, v: Tree, i: Batch, j: Batch) -> tuple[Tree, Tree, Tree]:
            G_y, Hv, Jv = oracles.lower_products(problem.lower, x, y, v, i)
            F_x, F_y = oracles.upper_gradients(problem.upper, x, y, j)
            return trees.sub(F_x, Jv), G_y, trees.sub(Hv, F_y)

        def afresh() -> tuple[Tree, Tree, Tree]:
            d_x, d_y, d_v = D(*new, problem.lower.all_rows(), problem.upper.all_rows())
            return trees.dense(d_x, state.x), d_y, d_v

        def follow() -> tuple[Tree, Tree, Tree]:  # weight 0: Δ + D(u_k; i, j) − D(u_{k−1}; i, j)
            i, j = problem.lower.draw(lower_key), problem.upper.draw(upper_key)

            def sample(x: Tree, y: Tree, v: Tree) -> tuple[Tree, Tree, Tree]:
                return D(x, y, v, i, j)

            return storm((state.d_x, state.d_y, state.d_v), sample, new, old, weight=0.0)

        d_x, d_y, d_v = jax.lax.cond(starts, afresh, follow)
        x, x_rule = self.upper_step(state.x, d_x, state.x_rule, t)
        y, y_rule = self.lower_step(state.y, d_y, state.y_rule, t)
        v, v_rule = self.adjoint_step(state.v, d_v, state.v_rule, t)
        v = v if self.radius is None else ball(trees.zeros_like(v), self.radius)(v)

        passes, calls = jnp.where(starts, 1, 0), jnp.where(starts, 0, 2)
        (n, b), (m, c) = ((level.length, level.size) for level in (problem.lower, problem.upper))
        cost = Cost(F=(passes, m), G=(passes, n), H=(passes, n), J=(passes, n))
        cost += Cost(F=(calls, c), G=(calls, b), H=(calls, b), J=(calls, b))
        return SRBAState(problem.project(x), y, v, *new, d_x, d_y, d_v, x_rule, y_rule, v_rule), cost

    about = About(
        name="srba",
        lower="one SARAH step",
        adjoint="one SARAH step",
        direction="SARAH",
        source="Dagréou et al., AISTATS 2024, Alg. 1",
        unverified="the projection of v, and where a period begins",
    )

    tuned = {
        "cleaning": Tuned(4000, upper_step=10.0, lower_step=0.3, adjoint_step=0.3, period=10),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, adjoint_step=0.1, period=10),
    }

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Dagréou et al. 2024, Alg. 1"
        step = theory.lower_step(facts, source)
        period = max(1, math.ceil(facts.rows / (2 * facts.batch)))
        return {
            "lower_step": step,
            "adjoint_step": Choice(step.value, f"{source}: the lower step"),
            "period": Choice(period, "a pass over all rows costs as much as the batches until the next"),
        }
