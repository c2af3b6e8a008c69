"""x ↦ y*(x) as a function that JAX differentiates, for your own outer loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._prepare import prepare
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient, RandomNeumann
from bilevel.hypergradients.lower import AbstractLower
from bilevel.oracles import HessianOperator
from bilevel.problem import Level, Problem
from bilevel.trees import Tree


def solution_map(
    lower: Level, inner: AbstractLower | Callable[[Any, Any], Any], adjoint: AbstractAdjoint | None = None
) -> Callable[..., Any]:
    """The function `y_star(x, y0, *, key=None)`: y*(x) = argmin over y of g(x, y), found by `inner` from y0.

    `inner` is not differentiated. The derivative follows from the equation G_y(x, y*(x)) = 0,

        dy* = −H⁻¹ dG_y(x, y),   dG_y: along x and along all that the lower loss closes over, with y held fixed,

    taken at the y that `inner` returned. `jax.grad` of f(x, y_star(x, y0)) is then `hypergradient`. It composes with
    `jit`, `vmap`, forward and reverse mode, and derivatives of any order. With respect to y0 the derivative is zero.

    **Arguments**

    - `lower`: the level of g. Its loss may close over traced arrays. With a `batch_size`, `y_star` needs a `key`, and
      the derivative is taken on one batch.
    - `inner`: `bl.GradientDescent(steps, step)`, `bl.Newton()`, or any JAX function `(x, y0) -> y`, such as a closed
      form.
    - `adjoint`: how systems in H are solved, from zero; default `ConjugateGradient(steps=20)`.

    **Returns** `y_star`, whose value is shaped like y0. It checks its arguments and traces `inner` in each call, so
    apply `jax.jit` to the loop that calls it.

    **Raises** `TypeError` for arguments of another kind, and `ValueError` if `inner` returns another shape than that
    of y0 or a key is missing. Nothing can be raised inside a derivative: it is NaN if the adjoint method meets a
    curvature that is not positive. If `inner` stops early, the derivative has an error of the same order, without
    a warning.

    Example:

        >>> import bilevel as bl, jax
        >>> lower = bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2)
        >>> y_star = bl.solution_map(lower, bl.GradientDescent(steps=50, step=0.5))
        >>> slope = jax.grad(lambda x: 0.5 * (y_star(x, 0.0) - 1.0) ** 2)(1.0)  # (3x − 1) · 3
        >>> round(float(slope), 4)
        6.0

    Reference: Blondel et al., "Efficient and Modular Implicit Differentiation" (NeurIPS 2022), eq. (2).
    """
    adjoint = ConjugateGradient(steps=20) if adjoint is None else adjoint
    if not isinstance(lower, Level):
        raise TypeError(f"lower: got {type(lower).__name__}; pass bl.Level(loss, data=..., batch_size=...)")
    if isinstance(inner, type) or not (isinstance(inner, AbstractLower) or callable(inner)):
        raise TypeError(
            f"inner: got {inner!r}; pass bl.GradientDescent(steps=..., step=...) or a function (x, y0) -> y"
        )
    if not isinstance(adjoint, AbstractAdjoint):
        raise TypeError(f"adjoint: got {adjoint!r}; pass e.g. bl.ConjugateGradient(steps=20)")
    problem = Problem(upper=Level(_zero), lower=lower)

    def y_star(x: Any, y0: Any, *, key: PRNGKeyArray | None = None) -> Any:
        prepared = prepare(problem, x, checks.tree("y0", y0))
        level, x, y0 = prepared.problem.lower, prepared.x, prepared.y
        random = lower.batch_size is not None or isinstance(adjoint, RandomNeumann)
        checked = jax.random.key(0) if key is None and not random else checks.key("key", key)
        inner_key, batch_key, adjoint_key = jax.random.split(checked, 3)
        batch = level.draw(batch_key)

        def run(y0: Tree) -> Tree:
            if isinstance(inner, AbstractLower):
                return inner.solve(level, x, y0, key=inner_key).y
            y = inner(prepared.restore_x(x), prepared.restore_y(y0))
            return _like(y0, eqx.filter(y, eqx.is_inexact_array))

        def gradient(y: Tree) -> Tree:
            return oracles.gradient_y(level, x, y, batch)

        def solve(y: Tree, b: Tree) -> Tree:
            found = adjoint.solve(HessianOperator(level, x, y, batch), b, trees.zeros_like(b), key=adjoint_key)
            return jax.tree.map(lambda leaf: jnp.where(found.convex, leaf, jnp.nan), found.v)

        # what they close over becomes arguments of `_root`, which can then be differentiated and outlive the trace
        convert = eqx.filter_closure_convert
        return prepared.restore_y(_root(y0, convert(run, y0), convert(gradient, y0), convert(solve, y0, y0)))

    return y_star


@eqx.filter_custom_jvp
def _root(y0: Tree, run: Any, gradient: Any, solve: Any) -> Tree:
    return run(y0)


@_root.def_jvp
def _root_jvp(primals: Any, tangents: Any) -> tuple[Tree, Tree]:
    _, _, gradient, solve = primals
    y = _root(*primals)  # `_root` again, so that a second derivative is implicit too
    _, b = eqx.filter_jvp(lambda gradient: gradient(y), (gradient,), (tangents[2],))
    b = eqx.combine(b, trees.zeros_like(y))  # b is None if nothing depends on the differentiated variables
    flat, unravel = ravel_pytree(b)  # one vector: in a tree, all or none of the leaves would have to depend on it

    def hessian(u: Array) -> Array:
        return ravel_pytree(jax.jvp(gradient, (y,), (unravel(u),))[1])[0]

    dy = jax.lax.custom_linear_solve(hessian, flat, lambda _, b: ravel_pytree(solve(y, unravel(b)))[0], symmetric=True)
    return y, trees.scale(-1, unravel(dy))


def _zero(x: Any, y: Any, batch: Any) -> Array:
    return jnp.zeros(())


def _like(y0: Tree, y: Tree) -> Tree:
    """Return y, the value of `inner`, if it is shaped like y0; else raise."""
    wanted, got = (jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (y0, y))
    if got != wanted:
        raise ValueError(f"inner: returned leaves of (shape, dtype) {got}, but y0 has {wanted}; return a point like y0")
    return y
