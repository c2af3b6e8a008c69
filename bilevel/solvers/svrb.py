"""SVRB: recursive momentum on each part of the hypergradient, second derivatives included."""

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
from bilevel.solvers.matrices import Spectral, times, zero_matrices
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class SVRBState(eqx.Module):
    """The current and the previous point; the estimates u of F_x (like x), w of F_y and s of G_y (like y), V of
    ∇²_xy g and M of ∇²_yy g over the raveled x and y; and the state of each step rule."""

    x: Tree
    y: Tree
    x_old: Tree
    y_old: Tree
    u: Tree
    w: Tree
    V: Float[Array, "x y"]
    M: Float[Array, "y y"]
    s: Tree
    x_rule: Tree
    y_rule: Tree


class SVRB(AbstractSolver):
    """Stochastic variance-reduced bilevel method.

    With STORM(h, φ) = φ(x_k, y_k) + (1 − a_k)(h − φ(x_{k−1}, y_{k−1})), both on one sample (the plain sample at k = 0,
    since a_0 = 1), and independent samples ξ, ζ at k = 0, 1, …:

        u ← STORM(u, F_x(·; ξ));   w ← STORM(w, F_y(·; ξ));   s ← STORM(s, G_y(·; ζ))
        V ← STORM(V, ∇²_xy g(·; ζ));   M ← Proj_{⪰μI}(STORM(M, ∇²_yy g(·; ζ)))
        x_{k+1} = x_k − α_k (u − V M⁻¹ w);   y_{k+1} = y_k − β_k s,   both from (x_k, y_k)

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`. Theory: proportional to
      (c_0 + k)^{−1/3}.
    - `storm_weight` (a_k): a number in [0, 1] or a schedule of k, the weight of the fresh sample; at k = 0 it is 1.
      Theory: a_{k+1} proportional to the squared step.
    - `strong_convexity` (μ > 0).
    - `max_bytes`: the matrices are dense, with dim y · (dim x + dim y) entries, and a step takes O((dim y)³) time, so
      this solver is for small problems only.

    **Raises** `ValueError` if the matrices would take more than `max_bytes`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SVRB(upper_step=0.02, lower_step=0.5, storm_weight=0.5, strong_convexity=0.1)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Guo, Hu, Zhang & Yang, "Randomized Stochastic Variance-Reduced Methods for Multi-Task Stochastic Bilevel
    Optimization", arXiv 2105.02266, its method for one lower problem.

    Differences from the paper: as in the authors' code of the multi-task version (quanqihu/BSVRB_ICML2023, `RSVRB`), w
    and V are not projected, s, V and M share one ζ, and all five share a_k. M is projected by its eigenvalues, from its
    first sample on. Whether the listing itself projects w and V is unverified. Weights are clipped to 1; x may be
    projected. The last iterate is returned; theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    storm_weight: Any = weight(first=1.0)
    strong_convexity: Any = number()
    max_bytes: int = count(most=None, default=2 * 10**9)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[SVRBState, Cost]:
        V, M = zero_matrices("SVRB", x, y, self.max_bytes)
        u, w = trees.zeros_like(x), trees.zeros_like(y)
        return SVRBState(x, y, x, y, u, w, V, M, w, self.upper_step.init(x), self.lower_step.init(y)), Cost()

    def step(self, problem: Problem, state: SVRBState, t: Any, *, key: PRNGKeyArray) -> tuple[SVRBState, Cost]:
        new, old = (state.x, state.y), (state.x_old, state.y_old)
        lower_key, upper_key = jax.random.split(key)
        zeta, xi = problem.lower.draw(lower_key), problem.upper.draw(upper_key)
        a = self.storm_weight(t)

        def F(x: Tree, y: Tree) -> tuple[Tree, Tree]:
            return oracles.upper_gradients(problem.upper, x, y, xi)

        def G(x: Tree, y: Tree) -> tuple[Tree, Array, Array]:
            return oracles.dense_products(problem.lower, x, y, zeta)

        u, w = storm((state.u, state.w), F, new, old, a)
        s, M, V = storm((state.s, state.M, state.V), G, new, old, a)
        M = Spectral.nearest(M, self.strong_convexity)
        direction = trees.sub(u, times(V, M.solve(w), like=state.x))
        x, x_rule = self.upper_step(state.x, direction, state.x_rule, t)
        y, y_rule = self.lower_step(state.y, s, state.y_rule, t)

        f, g, q = xi.size, zeta.size, len(M.values)
        state = SVRBState(problem.project(x), y, *new, u, w, V, M.matrix, s, x_rule, y_rule)
        return state, 2 * Cost(F=f, G=g, H=q * g, J=q * g)

    about = About(
        name="svrb",
        lower="recursive momentum",
        adjoint="recursive momentum",
        direction="recursive momentum",
        source="Guo et al., 2021",
        unverified="whether w and V are projected",
    )
    tuned = {
        "cleaning": Tuned(100, upper_step=100.0, lower_step=2.0, storm_weight=0.1, strong_convexity=0.01),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, storm_weight=0.1, strong_convexity=1.0),
    }  # fmt: skip
    power = 1 / 3

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Guo et al. 2021, Alg. 1"
        return {
            "lower_step": theory.lower_step(facts, source),
            "storm_weight": theory.power_weight(facts, source, "2/3"),
            "strong_convexity": Choice(facts.mu, "measured μ"),
        }
