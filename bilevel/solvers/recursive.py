"""Recursive momentum on x around a solver that estimates hypergradients."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import trees
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._averages import at_both, from_plain, storm
from bilevel.solvers._base import OF_X, AbstractEstimator, AbstractSolver
from bilevel.steps import as_weight

Tree = PyTree[Any]


class RecursiveMomentumState(eqx.Module):
    """The state of the solver inside, the previous x, and the direction d (like x)."""

    inside: Any
    x_old: Tree = eqx.field(metadata=OF_X)
    d: Tree = eqx.field(metadata=OF_X)

    @property
    def x(self) -> Tree:
        return self.inside.x

    @property
    def y(self) -> Tree:
        return self.inside.y

    @property
    def v(self) -> Tree | None:
        return getattr(self.inside, "v", None)

    @property
    def tally(self) -> Tally:
        return self.inside.tally


class RecursiveMomentum(AbstractSolver):
    """Recursive momentum on the hypergradients of a solver: BP-T, NS-T-K and CG-T-K as FSLA's experiments run them.

    With h(x; ξ_t) the solver's estimate at x on the draws ξ_t of step t, from the y (and adjoint) that the step starts
    from, at t = 0, 1, …:

        d_t = h(x_t; ξ_t) + (1 − η_t)(d_{t−1} − h(x_{t−1}; ξ_t)),   η_0 = 1
        x_{t+1} = x_t − β_t d_t,   y_{t+1} (and the adjoint) those of h(x_t; ξ_t)

    so that d_0 is the plain estimate. Both estimates run the lower loop, together in one batched pass.

    **Arguments**

    - `solver`: `ITDBiO` (BP-T), `StocBiO` (NS-T-K), `AIDBiO` (CG-T-K) or `MAML`; β is its `upper_step`.
    - `storm_weight` (η): a number in [0, 1] or a schedule of t, the weight of the fresh sample; at t = 0 it is 1, and
      never more.

    d spans all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

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
    AAAI 2022, section 6, whose baselines take line 9 of its Algorithm 1; Khanduri et al., "A Near-Optimal Algorithm for
    Stochastic Bilevel Optimization via Double-Momentum", NeurIPS 2021, whose meta-learning takes eq. (14).

    Differences from the papers: neither lists the combination. Here both estimates start from the y of step t, so that
    they differ by x alone; x may be projected.
    """

    solver: AbstractEstimator
    storm_weight: Any = eqx.field(converter=as_weight)

    def __check_init__(self):
        if not isinstance(self.solver, AbstractEstimator):
            raise TypeError(
                f"solver: got {self.solver!r}; pass one that estimates a hypergradient in each step: bl.ITDBiO, "
                "bl.AIDBiO, bl.StocBiO or bl.MAML"
            )

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> RecursiveMomentumState:
        return RecursiveMomentumState(self.solver.init(problem, x, y, key=key), x, trees.zeros_like(x))

    def restart(self, problem: Problem, state: RecursiveMomentumState, *, key: PRNGKeyArray) -> RecursiveMomentumState:
        return RecursiveMomentumState(self.solver.restart(problem, state.inside, key=key), state.x_old, state.d)

    def step(
        self, problem: Problem, state: RecursiveMomentumState, t: Any, *, key: PRNGKeyArray
    ) -> RecursiveMomentumState:
        def estimate(x: Tree) -> tuple[Tree, Any]:
            at_x = eqx.tree_at(lambda inside: (inside.x, inside.tally), state.inside, (x, Tally.zero()))
            return self.solver.estimate(problem, at_x, t, key=key)

        (h_new, inside), (h_old, other) = at_both(estimate, (state.x,), (state.x_old,))
        d = storm(state.d, h_old, h_new, from_plain(self.storm_weight, t))

        tally = state.tally + inside.tally + other.tally
        inside = eqx.tree_at(lambda inside: inside.tally, inside, tally)
        return RecursiveMomentumState(self.solver.move(problem, inside, d, t), state.x, d)

    def is_convex(self, state: RecursiveMomentumState) -> Bool[Array, ""] | bool:
        return self.solver.is_convex(state.inside)
