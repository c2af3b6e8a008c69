"""STABLE: recursive momentum on the second derivatives, and a lower step that follows the move of x."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, number, step, weight
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.averages import storm
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.matrices import Spectral, clipped_svd, times, zero_matrices
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class STABLEState(eqx.Module):
    """The current and the previous point, the estimates of ∇²_xy g and ∇²_yy g over the raveled x and y, and the
    state of each step rule."""

    x: Tree
    y: Tree
    x_old: Tree
    y_old: Tree
    Hxy: Float[Array, "x y"]
    Hyy: Float[Array, "y y"]
    x_rule: Tree
    y_rule: Tree


class STABLE(AbstractSolver):
    """Single-timescale stochastic bilevel method.

    With independent samples φ, ξ at k = 0, 1, … (at k = 0 the plain samples, τ_0 = 1):

        Hxy ← Proj_{‖·‖≤C}(∇²_xy g(x_k, y_k; φ) + (1 − τ_k)(Hxy − ∇²_xy g(x_{k−1}, y_{k−1}; φ)))
        Hyy ← Proj_{⪰μI}  (∇²_yy g(x_k, y_k; φ) + (1 − τ_k)(Hyy − ∇²_yy g(x_{k−1}, y_{k−1}; φ)))
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, y_k; ξ) − Hxy Hyy⁻¹ F_y(x_k, y_k; ξ)))
        y_{k+1} = y_k − β_k G_y(x_k, y_k; φ) − Hyy⁻¹ Hxyᵀ (x_{k+1} − x_k)

    Proj_{⪰μI} symmetrizes and raises eigenvalues to μ; Proj_{‖·‖≤C} lowers singular values to C.

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`.
    - `storm_weight` (τ_k): a number in [0, 1] or a schedule of k, the weight of the fresh sample; at k = 0 it is 1.
      Theory: α, β and τ proportional to K^{−1/2} over a run of K steps.
    - `strong_convexity` (μ > 0), `cross_bound` (C; None: no projection).
    - `max_bytes`: the matrices are dense, with dim y · (dim x + dim y) entries, and a step takes O((dim y)³) time, so
      this solver is for small problems only.

    **Raises** `ValueError` if the matrices would take more than `max_bytes`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.STABLE(upper_step=0.02, lower_step=0.5, storm_weight=0.5, strong_convexity=0.1)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Chen, Sun, Xiao & Yin, "A Single-Timescale Method for Stochastic Bilevel Optimization", AISTATS 2022
    (arXiv 2102.04671), Algorithm 1.

    Differences from the paper: G_y shares φ with the matrices, and the projected estimates are kept (both are
    unverified against the listing); weights are clipped to 1. The last iterate is returned; theorems for a Φ that is
    not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    storm_weight: Any = weight(first=1.0)
    strong_convexity: Any = number()
    cross_bound: Any = number(optional=True, default=None)
    max_bytes: int = count(most=None, default=2 * 10**9)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[STABLEState, Cost]:
        Hxy, Hyy = zero_matrices("STABLE", x, y, self.max_bytes)
        return STABLEState(x, y, x, y, Hxy, Hyy, self.upper_step.init(x), self.lower_step.init(y)), Cost()

    def step(self, problem: Problem, state: STABLEState, t: Any, *, key: PRNGKeyArray) -> tuple[STABLEState, Cost]:
        x, y = state.x, state.y
        new, old = (x, y), (state.x_old, state.y_old)
        lower_key, upper_key = jax.random.split(key)
        phi, xi = problem.lower.draw(lower_key), problem.upper.draw(upper_key)

        def matrices(x: Tree, y: Tree) -> tuple[Array, Array]:
            return oracles.dense_products(problem.lower, x, y, phi)[1:]

        Hyy, Hxy = storm((state.Hyy, state.Hxy), matrices, new, old, self.storm_weight(t))
        Hxy = Hxy if self.cross_bound is None else clipped_svd(Hxy, self.cross_bound)
        Hyy = Spectral.nearest(Hyy, self.strong_convexity)

        G_y = oracles.gradient_y(problem.lower, x, y, phi)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, xi)
        direction = trees.sub(F_x, times(Hxy, Hyy.solve(F_y), like=x))
        new_x, x_rule = self.upper_step(x, direction, state.x_rule, t)
        new_x = problem.project(new_x)
        new_y, y_rule = self.lower_step(y, G_y, state.y_rule, t)
        new_y = trees.sub(new_y, Hyy.solve(times(Hxy.T, trees.sub(new_x, x), like=y)))

        b, q = phi.size, len(Hyy.values)
        state = STABLEState(new_x, new_y, x, y, Hxy, Hyy.matrix, x_rule, y_rule)
        return state, Cost(F=xi.size, G=b, H=2 * q * b, J=2 * q * b)

    about = About(
        name="stable",
        lower="step + correction for x's move",
        adjoint="recursive momentum on matrices",
        direction="plain",
        source="Chen et al., AISTATS 2022, Alg. 1",
        unverified="which samples G_y and the matrices share, and which estimates are kept",
    )
    tuned = {
        # few steps: each needs an eigendecomposition of 650 x 650 entries, and these runs are still the longest of all
        "cleaning": Tuned(100, upper_step=30.0, lower_step=0.5, storm_weight=0.3, strong_convexity=0.03),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, storm_weight=0.1, strong_convexity=1.0),
    }  # fmt: skip
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Chen et al. 2022, Alg. 1"
        return {
            "lower_step": theory.lower_step(facts, source),
            "storm_weight": theory.power_weight(facts, source, "1/2"),
            "strong_convexity": Choice(facts.mu, "measured μ"),
        }
