"""STABLE: recursive momentum on the second derivatives, and a lower step that follows the move of x."""

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
from bilevel.solvers._matrices import check_memory, clipped_eigh, clipped_svd, matrix_dtype, solve_eigh
from bilevel.steps import AbstractStep, as_leaf, as_step, as_weight

Tree = PyTree[Any]


class STABLEState(eqx.Module):
    """The present and the previous point, the estimates of ∇²_xy g and ∇²_yy g over the raveled x and y, and the
    state of each step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    x_old: Tree = eqx.field(metadata=OF_X)
    y_old: Tree
    Hxy: Float[Array, "x y"]
    Hyy: Float[Array, "y y"]
    rules: tuple[Tree, Tree]
    tally: Tally


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
        >>> solver = bl.STABLE(upper_step=0.02, lower_step=0.5, storm_weight=0.5, strong_convexity=0.1)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Chen, Sun, Xiao & Yin, "A Single-Timescale Method for Stochastic Bilevel Optimization", AISTATS 2022
    (arXiv 2102.04671), Algorithm 1.

    Differences from the paper: G_y shares φ with the matrices, and the projected estimates are the ones kept, both of
    which the listing leaves open; weights are clipped to 1.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    storm_weight: Any = eqx.field(converter=as_weight)
    strong_convexity: Any = eqx.field(converter=as_leaf)
    cross_bound: Any = eqx.field(default=None, converter=lambda bound: None if bound is None else as_leaf(bound))
    max_bytes: int = eqx.field(default=2 * 10**9, static=True)

    def __check_init__(self):
        checks.number("strong_convexity", self.strong_convexity)
        checks.positive("strong_convexity", self.strong_convexity)
        if self.cross_bound is not None:
            checks.number("cross_bound", self.cross_bound)
            checks.positive("cross_bound", self.cross_bound)
        checks.number("max_bytes", self.max_bytes)
        checks.positive("max_bytes", self.max_bytes)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> STABLEState:
        p, q = check_memory("STABLE", x, y, self.max_bytes)
        dtype = matrix_dtype(x, y)
        Hxy, Hyy = jnp.zeros((p, q), dtype), jnp.zeros((q, q), dtype)
        return STABLEState(x, y, x, y, Hxy, Hyy, (self.upper_step.init(x), self.lower_step.init(y)), Tally.zero())

    def on_fresh_tasks(self) -> "STABLE":
        """The matrices have nothing to go on from: the plain samples."""
        return dataclasses.replace(self, storm_weight=1.0)

    def step(self, problem: Problem, state: STABLEState, t: Any, *, key: PRNGKeyArray) -> STABLEState:
        x, y = state.x, state.y
        x_rule, y_rule = state.rules
        lower_key, upper_key = jax.random.split(key)
        phi, xi = problem.lower.draw(lower_key), problem.upper.draw(upper_key)
        (x_flat, to_x), (y_flat, to_y) = ravel_pytree(x), ravel_pytree(y)

        def matrices(x: Tree, y: Tree) -> tuple[Array, Array]:
            return oracles.dense_products(problem.lower, x, y, phi)[1:]

        (Hyy_new, Hxy_new), (Hyy_old, Hxy_old) = at_both(matrices, (x, y), (state.x_old, state.y_old))
        tau = from_plain(self.storm_weight, t)
        Hxy = storm(state.Hxy, Hxy_old, Hxy_new, tau)
        Hxy = Hxy if self.cross_bound is None else clipped_svd(Hxy, self.cross_bound)
        values, vectors, Hyy = clipped_eigh(storm(state.Hyy, Hyy_old, Hyy_new, tau), self.strong_convexity)

        G_y = oracles.lower_gradient(problem.lower, x, y, phi)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, xi)
        correction = Hxy @ solve_eigh(values, vectors, ravel_pytree(F_y)[0])
        new_x, x_rule = self.upper_step(x, trees.sub(F_x, to_x(correction.astype(x_flat.dtype))), x_rule, t)
        new_x = problem.project(new_x)
        moved = ravel_pytree(new_x)[0] - x_flat
        new_y, y_rule = self.lower_step(y, G_y, y_rule, t)
        shift = solve_eigh(values, vectors, Hxy.T @ moved)
        new_y = trees.sub(new_y, to_y(shift.astype(y_flat.dtype)))

        b, q = phi.size, len(values)
        tally = state.tally.add(F=xi.size, G=b, H=2 * q * b, J=2 * q * b)
        return STABLEState(new_x, new_y, x, y, Hxy, Hyy, (x_rule, y_rule), tally)
