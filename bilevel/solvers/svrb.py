"""SVRB: recursive momentum on each part of the hypergradient, second derivatives included."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._averages import at_both, from_plain, storm
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.solvers._matrices import check_memory, clipped_eigh, matrix_dtype, solve_eigh
from bilevel.steps import AbstractStep, as_leaf, as_step, as_weight

Tree = PyTree[Any]


class SVRBState(eqx.Module):
    """The present and the previous point; the estimates u of F_x (like x), w of F_y and s of G_y (like y), V of
    ∇²_xy g and M of ∇²_yy g over the raveled x and y; and the state of each step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    x_old: Tree = eqx.field(metadata=OF_X)
    y_old: Tree
    u: Tree = eqx.field(metadata=OF_X)
    w: Tree
    V: Float[Array, "x y"]
    M: Float[Array, "y y"]
    s: Tree
    rules: tuple[Tree, Tree]
    tally: Tally


class SVRB(AbstractSolver):
    """Stochastic variance-reduced bilevel method.

    With STORM(h, φ) = φ(x_k, y_k) + (1 − a_k)(h − φ(x_{k−1}, y_{k−1})), both on one sample (at k = 0 the plain sample,
    a_0 = 1), and independent samples ξ, ζ at k = 0, 1, …:

        u ← STORM(u, F_x(·; ξ));   w ← STORM(w, F_y(·; ξ));   s ← STORM(s, G_y(·; ζ))
        V ← STORM(V, ∇²_xy g(·; ζ));   M ← Proj_{⪰μI}(STORM(M, ∇²_yy g(·; ζ)))
        x_{k+1} = x_k − α_k (u − V M⁻¹ w);   y_{k+1} = y_k − β_k s,   both from (x_k, y_k)

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule of k or a `Rule`. Theory: proportional to
      (c_0 + k)^{−1/3}.
    - `storm_weight` (a_k): a number in [0, 1] or a schedule of k, the weight of the fresh sample; at k = 0 it is 1.
      Theory: a_{k+1} proportional to the squared step.
    - `strong_convexity` (μ > 0).
    - `max_bytes`: the matrices are dense, of dim y · (dim x + dim y) entries, and a step takes O((dim y)³) time:
      for small problems only.

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range, and where the
    matrices would take more than `max_bytes`.

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

    Reference: Guo, Hu, Zhang & Yang, "Randomized Stochastic Variance-Reduced Methods for Stochastic Bilevel
    Optimization", arXiv 2105.02266, Algorithm 1 (one lower problem).

    Differences from the paper: where its details are not settled here, w and V are not projected, M is from its first
    sample on, one ζ serves s, V and M, and all five share a_k; weights are clipped to 1; x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    storm_weight: Any = eqx.field(converter=as_weight)
    strong_convexity: Any = eqx.field(converter=as_leaf)
    max_bytes: int = eqx.field(default=2 * 10**9, static=True)

    def __check_init__(self):
        checks.number("strong_convexity", self.strong_convexity)
        checks.positive("strong_convexity", self.strong_convexity)
        checks.number("max_bytes", self.max_bytes)
        checks.positive("max_bytes", self.max_bytes)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> SVRBState:
        p, q = check_memory("SVRB", x, y, self.max_bytes)
        dtype = matrix_dtype(x, y)
        V, M = jnp.zeros((p, q), dtype), jnp.zeros((q, q), dtype)
        u, w = trees.zeros_like(x), trees.zeros_like(y)
        rules = (self.upper_step.init(x), self.lower_step.init(y))
        return SVRBState(x, y, x, y, u, w, V, M, w, rules, Tally.zero())

    def on_fresh_tasks(self) -> "SVRB":
        """w, s, V and M have nothing to go on from: the plain samples, and u with them."""
        return dataclasses.replace(self, storm_weight=1.0)

    def step(self, problem: Problem, state: SVRBState, t: Any, *, key: PRNGKeyArray) -> SVRBState:
        new = x, y = state.x, state.y
        old = state.x_old, state.y_old
        x_rule, y_rule = state.rules
        lower_key, upper_key = jax.random.split(key)
        zeta, xi = problem.lower.draw(lower_key), problem.upper.draw(upper_key)
        a = from_plain(self.storm_weight, t)

        F_new, F_old = at_both(lambda x, y: oracles.upper_gradients(problem.upper, x, y, xi), new, old)
        lower_new, lower_old = at_both(lambda x, y: oracles.dense_products(problem.lower, x, y, zeta), new, old)
        (G_new, M_new, V_new), (G_old, M_old, V_old) = lower_new, lower_old
        u, w = storm(state.u, F_old[0], F_new[0], a), storm(state.w, F_old[1], F_new[1], a)
        V = storm(state.V, V_old, V_new, a)
        values, vectors, M = clipped_eigh(storm(state.M, M_old, M_new, a), self.strong_convexity)
        s = storm(state.s, G_old, G_new, a)

        x_flat, to_x = ravel_pytree(x)
        correction = V @ solve_eigh(values, vectors, ravel_pytree(w)[0])
        x, x_rule = self.upper_step(x, trees.sub(u, to_x(correction.astype(x_flat.dtype))), x_rule, t)
        y, y_rule = self.lower_step(y, s, y_rule, t)

        f, g, q = xi.size, zeta.size, len(values)
        tally = state.tally.add(F=2 * f, G=2 * g, H=2 * q * g, J=2 * q * g)
        return SVRBState(problem.project(x), y, *new, u, w, V, M, s, (x_rule, y_rule), tally)
