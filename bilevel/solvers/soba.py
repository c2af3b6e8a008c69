"""SOBA: one step each of x, y and the adjoint v, together."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import oracles, trees
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_step

Tree = PyTree[Any]


class SOBAState(eqx.Module):
    """x, y, the adjoint v (shaped like y), and the state of each one's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    v: Tree
    rules: tuple[Tree, Tree, Tree]
    tally: Tally


class SOBA(AbstractSolver):
    """Stochastic bilevel algorithm in a single loop: the simplest there is.

    Draw a lower batch i and an upper batch j, independent; then, all from the old (x, y, v),

        x ← x − γ (F_x(x, y; j) − J(x, y; i)[v])
        y ← y − ρ G_y(x, y; i)
        v ← v − ρ (H(x, y; i)[v] − F_y(x, y; j))

    from v = 0. G_y, H[v] and J[v] come from one pass.

    **Arguments**

    - `upper_step` (γ), `lower_step` (ρ), `adjoint_step`: a number, a schedule or a `Rule`. Theory: γ and ρ
      proportional to t^(−1/2).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

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

    Differences from the paper: v has the opposite sign; the adjoint may take a step of its own (the paper's is ρ);
    x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    adjoint_step: AbstractStep = eqx.field(converter=as_step)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> SOBAState:
        rules = (self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(y))
        return SOBAState(x, y, trees.zeros_like(y), rules, Tally.zero())

    def step(self, problem: Problem, state: SOBAState, t: Any, *, key: PRNGKeyArray) -> SOBAState:
        x, y, v = state.x, state.y, state.v
        x_rule, y_rule, v_rule = state.rules
        lower_key, upper_key = jax.random.split(key)
        lower_batch = problem.lower.draw(lower_key)
        upper_batch = problem.upper.draw(upper_key)

        G_y, Hv, Jv = oracles.lower_products(problem.lower, x, y, v, lower_batch)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, upper_batch)

        x, x_rule = self.upper_step(x, trees.sub(F_x, Jv), x_rule, t)
        y, y_rule = self.lower_step(y, G_y, y_rule, t)
        v, v_rule = self.adjoint_step(v, trees.sub(Hv, F_y), v_rule, t)

        b = lower_batch.size
        tally = state.tally.add(F=upper_batch.size, G=b, H=b, J=b)
        return SOBAState(problem.project(x), y, v, (x_rule, y_rule, v_rule), tally)
