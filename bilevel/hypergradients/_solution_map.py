"""x ↦ y*(x) as a function that JAX differentiates, for your own outer loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._prepare import Prepared, prepare
from bilevel.hypergradients import implicit
from bilevel.hypergradients._projected import ProjectedHessian, step_length
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient, RandomNeumann
from bilevel.hypergradients.implicit import SolutionMap, Solved
from bilevel.hypergradients.lower import AbstractLower, GradientDescent
from bilevel.oracles import HessianOperator
from bilevel.problem import Level, Problem
from bilevel.sampling import Batch
from bilevel.trees import Tree

_FAR = (
    "inner: it ended at a point that is not stationary{}, where the derivative would be wrong; let it take more or "
    "other steps. throw=False returns the point as it is, and solve() says how far it is"
)
_NOT_CONVEX = (
    "adjoint: it found that the lower level's curvature is not positive in every direction, or its series grew; add a "
    "regularizer to the lower loss, or use another adjoint method"
)


def solution_map(
    lower: Level,
    inner: Any,
    adjoint: AbstractAdjoint | None = None,
    *,
    project: Callable[[Any, Any], Any] | None = None,
    has_aux: bool = False,
    tolerance: Any = 1e-3,
    throw: bool = True,
) -> SolutionMap:
    """The function `y_star(x, y0, *, key=None)`: y*(x) = argmin over y of g(x, y), found by `inner` from y0.

    `inner` is not differentiated. The derivative follows from the equation G_y(x, y*(x)) = 0,

        dy* = −H⁻¹ dG_y(x, y),   dG_y: along x and along all that the lower loss closes over, with y held fixed,

    taken at the y that `inner` returned. `jax.grad` of f(x, y_star(x, y0)) is then `hypergradient`. It composes with
    `jit`, `vmap`, forward and reverse mode, and derivatives of any order. With respect to y0 the derivative is zero.

    With `project`, the Euclidean projection P(x, ·) onto a closed convex set, y* is the minimizer in the set. It is a
    fixed point, for any η > 0, and the derivative follows from that:

        y* = P(x, y* − η G_y(x, y*)),   (I − D + ηDH) dy* = −ηD dG_y + dP,   D = ∂P / ∂y at y* − η G_y.

    D is symmetric, so with u = b + Dw this is the symmetric system (DHD + D(I − D)/η) w = D(b/η − Hb), where b is the
    right-hand side: `adjoint` solves it on the range of D. Where y* is at the edge of the set and a small change of x
    would free it, there is no derivative, and D is what JAX makes of P there.

    **Arguments**

    - `lower`: the level of g. Its loss may close over traced arrays. With a `batch_size`, `y_star` needs a `key`, and
      the derivative is taken on one batch.
    - `inner`: `bl.GradientDescent(steps, step)`, `bl.Newton()`, a minimizer or a root finder of optimistix, such as
      `optimistix.LBFGS(rtol, atol)` (at most 10,000 steps, on all rows), or any JAX function `(x, y0) -> y`, such as a
      closed form. A solver outside of JAX goes through `jax.pure_callback`.
    - `adjoint`: how systems in H are solved, from zero; default `ConjugateGradient(steps=20)`.
    - `project`: the function (x, y) ↦ P(x, y), such as those of `optax.projections`. `bl.GradientDescent` applies it
      after each step; `inner` may be a function, but no other solver.
    - `has_aux`: whether the function `inner` returns a pair (y, aux).
    - `tolerance`: the largest relative distance of y from the solution, as `Solved` estimates it, that counts as
      solved; never below 100 roundings of the dtype.
    - `throw`: whether it is an error if y is not solved, or if the adjoint method finds that H is not positive
      definite. Without it the derivative is NaN in the second case, and `y_star.solve` tells the first.

    **Returns** a `SolutionMap`: `y_star(x, y0)` is shaped like y0, and `y_star.solve(x, y0)` also tells how the inner
    solve ended. Each call checks its arguments and traces `inner`, so apply `jax.jit` to the loop that calls it.

    **Raises** `TypeError` for arguments of another kind, and for an `inner` that JAX cannot trace. `ValueError` if
    `inner` or `project` returns another shape than that of y0, if a key is missing, and with `throw`. Under `jit` and
    inside a derivative the last is an error of `equinox.error_if` at run time; with `EQX_ON_ERROR=nan` in the
    environment, y is NaN instead. It is not raised where nothing depends on the value of y. With a `batch_size`, y
    moves about y*: `solve` tells its distance on all rows, but that is no error.

    Example:

        >>> import bilevel as bl, jax
        >>> lower = bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2)
        >>> y_star = bl.solution_map(lower, bl.GradientDescent(steps=50, step=0.5))
        >>> slope = jax.grad(lambda x: 0.5 * (y_star(x, 0.0) - 1.0) ** 2)(1.0)  # (3x − 1) · 3
        >>> round(float(slope), 4)
        6.0
        >>> int(y_star.solve(1.0, 0.0).steps)
        23

    Reference: Blondel et al., "Efficient and Modular Implicit Differentiation" (NeurIPS 2022), eq. (2) and, for the
    projected gradient's fixed point, eq. (9). The symmetric form of the projected system and the estimate of the
    distance are ours.
    """
    adjoint = ConjugateGradient(steps=20) if adjoint is None else adjoint
    if not isinstance(lower, Level):
        raise TypeError(f"lower: got {type(lower).__name__}; pass bl.Level(loss, data=..., batch_size=...)")
    implicit.check_inner(inner, "bl.GradientDescent(steps=..., step=...)", AbstractLower, *_OF_OPTIMISTIX)
    implicit.check_options(inner, has_aux, tolerance, throw)
    if not isinstance(adjoint, AbstractAdjoint):
        raise TypeError(f"adjoint: got {adjoint!r}; pass e.g. bl.ConjugateGradient(steps=20)")
    _check_project(project, inner)
    problem = Problem(upper=Level(_zero), lower=lower)
    random = lower.batch_size is not None or isinstance(adjoint, RandomNeumann)

    def solve(x: Any, y0: Any, *, key: PRNGKeyArray | None = None) -> Solved:
        prepared = prepare(problem, x, checks.tree("y0", y0))
        level, x, y0 = prepared.problem.lower, prepared.x, prepared.y
        checked = jax.random.key(0) if key is None and not random else checks.key("key", key)
        inner_key, batch_key, adjoint_key = jax.random.split(checked, 3)
        batch = level.draw(batch_key)
        into = None if project is None else _projection(project, prepared)

        def run(y0: Tree) -> tuple[Tree, Any, Any]:
            return _run(inner, level, prepared, y0, into, has_aux, inner_key)

        def equation_on(batch: Batch) -> Callable[[Tree], Tree]:
            return lambda y: _equation(level, x, y0, y, batch, into)

        def linear(y: Tree, b: Tree) -> Tree:
            def adjoint_of(H: HessianOperator, b: Tree) -> Tree:
                found = adjoint.solve(H, b, None, key=adjoint_key)
                wrong = ~jnp.asarray(found.convex) | found.grew
                if throw:
                    return implicit.raise_if(wrong, found.v, _NOT_CONVEX)
                return jax.tree.map(lambda leaf: jnp.where(wrong, jnp.nan, leaf), found.v)

            H = HessianOperator(level, x, y, batch)
            if into is None:
                return implicit.linear_solve(H, b, lambda _, b: adjoint_of(H, b))
            return _projected_solve(H, y0, into, b, adjoint_of)

        drawn = level.batch_size is not None
        found = implicit.solved(
            y0,
            run,
            equation_on(batch),
            linear,
            tolerance=tolerance,
            check=equation_on(level.all_rows()) if drawn else None,
            error=None if drawn or not throw else _FAR.format("" if into is None else " in the set of project"),
        )
        return dataclasses.replace(found, y=prepared.restore_y(found.y))

    return SolutionMap(solve)


_OF_OPTIMISTIX = ("AbstractMinimiser", "AbstractRootFinder")


def _run(
    inner: Any, level: Level, prepared: Prepared, y0: Tree, into: Any, has_aux: bool, key: PRNGKeyArray
) -> tuple[Tree, Any, Any]:
    """(y, steps, aux) of `inner`."""
    x = prepared.x
    if isinstance(inner, GradientDescent):
        found = inner.solve(level, x, y0, key=key, project=into)
        return found.y, found.steps, None
    if isinstance(inner, AbstractLower):
        found = inner.solve(level, x, y0, key=key)
        return found.y, found.steps, None
    optimistix, rows = implicit.optimistix_of(inner, *_OF_OPTIMISTIX), level.all_rows()
    if optimistix is None:
        y, aux = implicit.call(inner, prepared.restore_x(x), prepared.restore_y(y0), has_aux)
        return implicit.like("inner", y0, y), None, aux
    if isinstance(inner, optimistix.AbstractMinimiser):
        return implicit.run(optimistix.minimise, lambda y, _: oracles.loss(level, x, y, rows), inner, y0)
    return implicit.run(optimistix.root_find, lambda y, _: oracles.gradient_y(level, x, y, rows), inner, y0)


def _equation(level: Level, x: Tree, y0: Tree, y: Tree, batch: Batch, into: Any) -> Tree:
    """G_y, or with a projection y − P(y − η G_y)."""
    G_y = oracles.gradient_y(level, x, y, batch)
    if into is None:
        return G_y
    return trees.sub(y, into(_ahead(HessianOperator(level, x, y, batch), y0, G_y)[0]))


def _ahead(H: HessianOperator, y0: Tree, G_y: Tree) -> tuple[Tree, Any]:
    """y − η G_y, and η."""
    eta = step_length(y0, H.y, G_y, H(G_y))
    return trees.axpy(-eta, G_y, H.y), eta


def _projected_solve(H: HessianOperator, y0: Tree, into: Any, b: Tree, adjoint_of: Any) -> Tree:
    """u with (I − D + ηDH) u = b: b + Dw, where (DHD + D(I − D)/η) w = D(b/η − Hb)."""
    z, eta = _ahead(H, y0, oracles.gradient_y(H.level, H.x, H.y, H.batch))

    def D(v: Tree) -> Tree:
        return jax.jvp(into, (z,), (v,))[1]

    S = ProjectedHessian(H.level, H.x, H.y, H.batch, D, eta)
    right = D(trees.sub(trees.scale(1 / eta, b), H(b)))
    w = implicit.linear_solve(S, right, lambda _, b: adjoint_of(S, b))
    return trees.add(b, D(w))


def _projection(project: Callable[[Any, Any], Any], prepared: Prepared) -> Callable[[Tree], Tree]:
    def into(y: Tree) -> Tree:
        return implicit.like("project", y, project(prepared.restore_x(prepared.x), prepared.restore_y(y)))

    return into


def _check_project(project: Any, inner: Any) -> None:
    if project is None:
        return
    if not callable(project):
        raise TypeError(f"project: got {project!r}; pass a function (x, y) -> y, such as a clip, or None")
    if not isinstance(inner, GradientDescent) and (
        isinstance(inner, AbstractLower) or implicit.optimistix_of(inner, *_OF_OPTIMISTIX)
    ):
        raise TypeError(
            f"inner: {type(inner).__name__} knows no constraints; with project, pass bl.GradientDescent or a function "
            "(x, y0) -> y that stays in the set"
        )


def _zero(x: Any, y: Any, batch: Any) -> Array:
    return jnp.zeros(())
