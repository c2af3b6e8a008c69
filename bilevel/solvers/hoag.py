"""HOAG: a lower problem and an adjoint system solved to tolerances that shrink."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_leaf, as_schedule, as_step

Tree = PyTree[Any]


class HOAGState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the state of x's step rule, and whether every solve found H positive."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    v: Tree
    rule: Tree = eqx.field(metadata=OF_X)
    convex: Bool[Array, ""] = eqx.field(metadata=OF_X)
    tally: Tally


def _geometric(k: Any) -> Any:
    """ε_k = 0.1 · 0.9^k."""
    return 0.1 * 0.9**k


class HOAG(AbstractSolver):
    """Hyperparameter optimization with approximate gradient. All of it on all rows, whatever the `batch_size`.

        y_k:  ‖y_k − y*(x_k)‖ ≤ ε_k, from y_{k−1}: gradient steps until ‖G_y(x_k, y)‖ ≤ μ ε_k
        v_k:  ‖H(x_k, y_k)[v] − F_y(x_k, y_k)‖ ≤ ε_k, by conjugate gradient from v_{k−1}
        x_{k+1} = Proj_D(x_k − (F_x(x_k, y_k) − J(x_k, y_k)[v_k])/L)

    **Arguments**

    - `upper_step` (1/L, L the smoothness of Φ): a number, a schedule of k or a `Rule`.
    - `lower_step`: of the gradient steps, a number, a schedule of k or a `Rule` (which starts anew in each loop).
    - `strong_convexity` (μ > 0).
    - `tolerance` (ε_k): a number or a schedule of k = 0, 1, …, summable; default 0.1 · 0.9^k. Others of the paper's:
      `lambda k: 0.1 / (k + 1) ** 2`.
    - `inner_steps`, `adjoint_steps`: at most so many of each in an iteration, as a safeguard: a loop that comes to it
      ends before its tolerance is met.

    Where conjugate gradient meets a curvature that is not positive, `solve` stops and says so.

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.HOAG(upper_step=0.1, lower_step=0.5, strong_convexity=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=50, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Pedregosa, "Hyperparameter Optimization with Approximate Gradient", ICML 2016 (arXiv 1602.02355),
    Algorithm 1.

    Differences from the paper: its adaptive choice of L, a heuristic beside the listing, is left out; the lower solver,
    free there (L-BFGS in its experiments), is gradient descent or a rule; both inner loops have a cap, and end where
    a step is rounding; the first tolerance, 0.1 at k = 0, is from memory of the paper.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    strong_convexity: Any = eqx.field(converter=as_leaf)
    tolerance: Any = eqx.field(default=_geometric, converter=as_schedule)
    inner_steps: int = eqx.field(default=1000, static=True)
    adjoint_steps: int = eqx.field(default=100, static=True)

    def __check_init__(self):
        checks.number("strong_convexity", self.strong_convexity)
        checks.positive("strong_convexity", self.strong_convexity)
        checks.count("inner_steps", self.inner_steps)
        checks.count("adjoint_steps", self.adjoint_steps)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> HOAGState:
        return HOAGState(x, y, trees.zeros_like(y), self.upper_step.init(x), jnp.array(True), Tally.zero())

    def step(self, problem: Problem, state: HOAGState, t: Any, *, key: PRNGKeyArray) -> HOAGState:
        x, upper, lower = state.x, problem.upper, problem.lower
        upper_rows, rows = upper.everything(), lower.everything()
        epsilon = jnp.asarray(self.tolerance(t))

        y, calls = self._solve_lower(problem, x, state.y, epsilon, t)
        F_x, F_y = oracles.upper_gradients(upper, x, y, upper_rows)
        method = ConjugateGradient(self.adjoint_steps, absolute_tolerance=epsilon)
        adjoint = method(lower, x, y, F_y, state.v, batch=rows, key=key)
        Jv = oracles.cross_product(lower, x, y, adjoint.v, rows)
        x, rule = self.upper_step(x, trees.sub(F_x, Jv), state.rule, t)

        n = rows.size
        tally = state.tally.add(F=upper_rows.size, G=(calls, n), H=adjoint.products, J=n)
        return HOAGState(problem.project(x), y, adjoint.v, rule, state.convex & adjoint.convex, tally)

    def _solve_lower(self, problem: Problem, x: Tree, y: Tree, epsilon: Any, t: Any) -> tuple[Tree, Any]:
        """Gradient steps until ‖G_y‖ ≤ μ ε or a step is rounding, and the gradients that they took."""
        rows, bound = problem.lower.everything(), jnp.asarray(self.strong_convexity) * epsilon

        def gradient(y: Tree) -> Tree:
            return oracles.lower_gradient(problem.lower, x, y, rows)

        def going_on(carry: Any) -> Bool[Array, ""]:
            i, _, G_y, _, moves = carry
            return (i < self.inner_steps) & ~(trees.norm(G_y) <= bound) & moves

        def step(carry: Any) -> Any:
            i, y, G_y, rule, _ = carry
            new, rule = self.lower_step(y, G_y, rule, t)
            moves = ~(trees.norm(trees.sub(new, y)) <= epsilon_of_dtype * trees.norm(new))
            return i + 1, new, gradient(new), rule, moves

        epsilon_of_dtype = jnp.finfo(jnp.result_type(*jax.tree.leaves(y))).eps
        carry = (0, y, gradient(y), self.lower_step.init(y), jnp.array(True))
        i, y, *_ = jax.lax.while_loop(going_on, step, carry)
        return y, i + 1

    def is_convex(self, state: HOAGState) -> Bool[Array, ""]:
        return state.convex
