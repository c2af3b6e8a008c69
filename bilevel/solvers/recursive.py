"""Recursive momentum on x around a solver that estimates hypergradients."""

import dataclasses
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import trees
from bilevel.cost import Cost
from bilevel.fields import part, weight
from bilevel.problem import Problem
from bilevel.solvers.averages import storm
from bilevel.solvers.base import AbstractHypergradientSolver, AbstractSolver
from bilevel.trees import Tree


class RecursiveMomentumState(eqx.Module):
    """The state of the inner solver, the previous x, and the direction d (like x)."""

    inside: Any
    x_old: Tree
    d: Tree

    @property
    def x(self) -> Tree:
        return self.inside.x

    @property
    def y(self) -> Tree:
        return self.inside.y

    @property
    def v(self) -> Tree | None:
        return getattr(self.inside, "v", None)


class RecursiveMomentum(AbstractSolver):
    """Recursive momentum on a solver's hypergradients: BP-T, NS-T-K and CG-T-K, as in FSLA's experiments.

    h(x; ξ_t) is the solver's estimate at x on the draws ξ_t of step t, from the y (and adjoint) at the start of the
    step. At t = 0, 1, …:

        d_t = h(x_t; ξ_t) + (1 − η_t)(d_{t−1} − h(x_{t−1}; ξ_t)),   η_0 = 1
        x_{t+1} = x_t − β_t d_t,   y_{t+1} (and the adjoint) those of h(x_t; ξ_t)

    d_0 is the plain estimate. Both estimates run the lower loop, in one batched pass.

    **Arguments**

    - `solver`: `ITDBiO` (BP-T), `StocBiO` (NS-T-K), `AIDBiO` (CG-T-K) or `MAML`; β is its `upper_step`.
    - `storm_weight` (η): a number in [0, 1] or a schedule of t, the weight of the fresh sample. It is 1 at t = 0, and
      never more.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.RecursiveMomentum(bl.ITDBiO(0.05, 0.5, inner_steps=5), storm_weight=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse",
    AAAI 2022, section 6, whose baselines use line 9 of its Algorithm 1; Khanduri et al., "A Near-Optimal Algorithm for
    Stochastic Bilevel Optimization via Double-Momentum", NeurIPS 2021, whose meta-learning uses eq. (14).

    Differences from the papers: neither lists the combination. Here both estimates start from the y of step t, so that
    they differ only by x; x may be projected.
    """

    solver: AbstractHypergradientSolver = part(
        AbstractHypergradientSolver,
        "one that estimates a hypergradient in each step: bl.ITDBiO, bl.AIDBiO, bl.StocBiO or bl.MAML",
    )
    storm_weight: Any = weight(first=1.0)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[RecursiveMomentumState, Cost]:
        inside, cost = self.solver.init(problem, x, y, key=key)
        return RecursiveMomentumState(inside, x, trees.zeros_like(x)), cost

    def step(
        self, problem: Problem, state: RecursiveMomentumState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[RecursiveMomentumState, Cost]:
        def h(x: Tree) -> tuple[Tree, tuple[Any, Cost]]:
            at_x = dataclasses.replace(state.inside, x=x)
            h, inside, cost = self.solver.hypergradient(problem, at_x, t, key=key)
            return h, (dataclasses.replace(inside, x=None), cost)

        weight = self.storm_weight(t)
        d, ((inside, cost), (_, other)) = storm(state.d, h, (state.x,), (state.x_old,), weight, has_aux=True)
        inside = dataclasses.replace(inside, x=state.x)
        return RecursiveMomentumState(self.solver.step_x(problem, inside, d, t), state.x, d), cost + other

    like_x = ("inside.x", "x_old", "d")

    @property
    def on_episodes(self) -> bool:
        return self.solver.on_episodes

    def restart(
        self, problem: Problem, state: RecursiveMomentumState, y: Tree, *, key: PRNGKeyArray
    ) -> tuple[RecursiveMomentumState, Cost]:
        inside, cost = self.solver.restart(problem, state.inside, y, key=key)
        return dataclasses.replace(state, inside=inside), cost

    def is_convex(self, state: RecursiveMomentumState) -> Bool[Array, ""] | bool:
        return self.solver.is_convex(state.inside)
