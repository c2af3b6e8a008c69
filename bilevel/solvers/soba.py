"""SOBA: one simultaneous step of x, y and the adjoint v."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import step
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class SOBAState(eqx.Module):
    """x, y, the adjoint v (shaped like y), and the state of each one's step rule."""

    x: Tree
    y: Tree
    v: Tree
    x_rule: Tree
    y_rule: Tree
    v_rule: Tree


class SOBA(AbstractSolver):
    """Stochastic bilevel algorithm, the simplest single loop.

    Draw independent lower and upper batches i and j. Then, all from the old (x, y, v):

        x ← x − γ (F_x(x, y; j) − J(x, y; i)[v])
        y ← y − ρ G_y(x, y; i)
        v ← v − ρ (H(x, y; i)[v] − F_y(x, y; j))

    from v = 0. G_y, H[v] and J[v] come from one pass.

    **Arguments**

    - `upper_step` (γ), `lower_step` (ρ), `adjoint_step`: a number, a schedule or a `Rule`. Theory: γ and ρ
      proportional to t^(−1/2).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=500, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Dagréou, Ablin, Vaiter & Moreau, "A framework for bilevel optimization that enables stochastic
    and global variance reduction algorithms", NeurIPS 2022 (arXiv 2201.13409), Algorithm 1 with (10a)–(10c).

    Differences from the paper: v has the opposite sign; the adjoint has its own step size (the paper's is ρ); x may be
    projected. The last iterate is returned; theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[SOBAState, Cost]:
        v = trees.zeros_like(y)
        rules = self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(v)
        return SOBAState(x, y, v, *rules), Cost()

    def step(self, problem: Problem, state: SOBAState, t: Any, *, key: PRNGKeyArray) -> tuple[SOBAState, Cost]:
        x, y, v = state.x, state.y, state.v
        lower_key, upper_key = jax.random.split(key)
        i, j = problem.lower.draw(lower_key), problem.upper.draw(upper_key)

        G_y, Hv, Jv = oracles.lower_products(problem.lower, x, y, v, i)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, j)

        x, x_rule = self.upper_step(x, trees.sub(F_x, Jv), state.x_rule, t)
        y, y_rule = self.lower_step(y, G_y, state.y_rule, t)
        v, v_rule = self.adjoint_step(v, trees.sub(Hv, F_y), state.v_rule, t)

        state = SOBAState(problem.project(x), y, v, x_rule, y_rule, v_rule)
        return state, Cost(F=j.size, G=i.size, H=i.size, J=i.size)

    about = About(
        name="soba",
        lower="one SGD step",
        adjoint="one SGD step",
        direction="plain",
        source="Dagréou et al., NeurIPS 2022, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(8000, upper_step=1.0, lower_step=0.1, adjoint_step=0.03),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, adjoint_step=0.1),
        "cleaning mnist": Tuned(10000, upper_step=100.0, lower_step=0.03, adjoint_step=0.03),
        # by no grid: the steps of Hao et al. (ICLR 2024), appendix F
        "weight-decay": Tuned(500, upper_step=1e-4, lower_step=0.05, adjoint_step=0.05),
        "representation": Tuned(300, upper_step=0.05, lower_step=0.05, adjoint_step=0.01),
    }  # fmt: skip
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Dagréou et al. 2022, Alg. 1"
        step = theory.lower_step(facts, source)
        return {"lower_step": step, "adjoint_step": Choice(step.value, f"{source}: the lower step")}
