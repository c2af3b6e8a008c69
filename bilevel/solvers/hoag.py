"""HOAG: the lower problem and the adjoint system are solved to decreasing tolerances."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, number, schedule, step
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.hypergradients.lower import GradientDescent
from bilevel.oracles import HessianOperator
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, as_float
from bilevel.trees import Tree


class HOAGState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the state of x's step rule, whether every solve found H positive, and
    whether the last lower loop or solve ended at its cap."""

    x: Tree
    y: Tree
    v: Tree
    x_rule: Tree
    convex: Bool[Array, ""]
    capped: Bool[Array, ""]


def _geometric(k: Any) -> Any:
    """ε_k = 0.1 · 0.9^k."""
    return 0.1 * 0.9 ** as_float(k)


class HOAG(AbstractSolver):
    """Hyperparameter optimization with approximate gradient. Every oracle uses all rows, whatever the `batch_size`.

        y_k:  ‖y_k − y*(x_k)‖ ≤ ε_k, from y_{k−1}: gradient steps until ‖G_y(x_k, y)‖ ≤ μ ε_k
        v_k:  ‖H(x_k, y_k)[v] − F_y(x_k, y_k)‖ ≤ ε_k, by conjugate gradient from v_{k−1}
        x_{k+1} = Proj_D(x_k − (F_x(x_k, y_k) − J(x_k, y_k)[v_k])/L)

    **Arguments**

    - `upper_step` (1/L, L the smoothness of Φ): a number, a schedule of k or a `Rule`.
    - `lower_step`: the size of the gradient steps, a number, a schedule of k or a `Rule` (which restarts in each loop).
    - `strong_convexity` (μ > 0).
    - `tolerance` (ε_k): a number or a summable schedule of k = 0, 1, …; default 0.1 · 0.9^k. The author's code also
      has `lambda k: 0.1 / (k + 1) ** 2`.
    - `inner_steps`, `adjoint_steps`: the largest number of each per iteration, as a safeguard: a loop that reaches it
      ends before its tolerance is met, and `solve` warns if the last one did.

    If conjugate gradient meets a curvature that is not positive, `solve` stops and says so.

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

    Differences from the paper: its adaptive choice of L, a heuristic outside the listing, is left out; the lower
    solver, which the paper leaves open (L-BFGS in its experiments), is gradient descent or a rule; both inner loops are
    capped, and end once a step is only rounding error. The default tolerance 0.1 · 0.9^k has the start of the author's
    first release and a later factor (fabianp/hoag now starts at 10⁻³); that the paper has this pair is unverified.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    strong_convexity: Any = number()
    tolerance: Any = schedule(default=_geometric)
    inner_steps: int = count(default=1000)
    adjoint_steps: int = count(default=100)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[HOAGState, Cost]:
        return HOAGState(x, y, trees.zeros_like(y), self.upper_step.init(x), jnp.array(True), jnp.array(False)), Cost()

    def step(self, problem: Problem, state: HOAGState, t: Any, *, key: PRNGKeyArray) -> tuple[HOAGState, Cost]:
        x, whole = state.x, problem.with_batch_size(None)
        upper_rows, rows = whole.upper.all_rows(), whole.lower.all_rows()
        epsilon = jnp.asarray(self.tolerance(t))

        bound = jnp.asarray(self.strong_convexity) * epsilon
        lower = GradientDescent(self.inner_steps, self.lower_step, bound).solve(whole.lower, x, state.y, key=key, t=t)
        y = lower.y
        F_x, F_y = oracles.upper_gradients(whole.upper, x, y, upper_rows)
        method = ConjugateGradient(self.adjoint_steps, absolute_tolerance=epsilon)
        adjoint = method.solve(HessianOperator(whole.lower, x, y, rows), F_y, state.v, key=key)
        Jv = oracles.cross_product(whole.lower, x, y, adjoint.v, rows)
        x, x_rule = self.upper_step(x, trees.sub(F_x, Jv), state.x_rule, t)

        steps = adjoint.products[0] - 1  # one product is that of the start
        capped = ~jnp.asarray(lower.converged) & (lower.cost.G[0].calls >= self.inner_steps) | (
            steps >= self.adjoint_steps
        )
        state = HOAGState(problem.project(x), y, adjoint.v, x_rule, state.convex & adjoint.convex, capped)
        return state, lower.cost + Cost(F=upper_rows.size, H=adjoint.products, J=rows.size)

    of_x = ("x", "x_rule", "convex")
    about = About(
        name="hoag",
        lower="to a tolerance",
        adjoint="conjugate gradient to a tolerance",
        direction="plain",
        source="Pedregosa, ICML 2016, Alg. 1",
        unverified="that the paper's text pairs the tolerance's 0.1 and 0.9",
    )
    tuned = {
        "cleaning": Tuned(100, upper_step=100.0, lower_step=2.0, strong_convexity=2e-3, inner_steps=100,
            adjoint_steps=20),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, strong_convexity=1.0),
    }  # fmt: skip

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Pedregosa 2016, Alg. 1"
        return {
            "lower_step": theory.lower_step(facts, source),
            "strong_convexity": Choice(facts.mu, "measured μ"),
            "inner_steps": theory.inner_steps(facts, source, "κ log κ"),
            "adjoint_steps": theory.cg_steps(facts, source, "√κ log κ"),
        }
