"""Roots and fixed points of any function as functions that JAX differentiates."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel import _checks as checks
from bilevel import _extras as extras
from bilevel import trees
from bilevel.hypergradients import implicit
from bilevel.hypergradients.implicit import SolutionMap, Solved
from bilevel.trees import Tree

_FAR = (
    "inner: it ended at a point that is no {}, where the derivative would be wrong; let it take more or other steps. "
    "throw=False returns the point as it is, and solve() says how far it is"
)
_UNSOLVED = (
    "linear: the linear system of the derivative is not solved; let the solver take more steps, pass another one such "
    "as lineax.AutoLinearSolver(well_posed=True), or a preconditioner. Where F_y is singular there is no derivative"
)


def root(
    function: Callable[[Any, Any], Any],
    inner: Any,
    linear: Any = None,
    *,
    preconditioner: Callable[[Any, Any, Any], Any] | None = None,
    has_aux: bool = False,
    tolerance: Any = 1e-3,
    throw: bool = True,
) -> SolutionMap:
    """The function `y_star(x, y0)`: a root y* of F(x, y) = 0, found by `inner` from y0.

    F is any function, which need not be the gradient of a loss. `inner` is not differentiated:

        dy* = −F_y⁻¹ dF(x, y),   dF: along x and along all that F closes over, with y held fixed.

    It composes with `jit`, `vmap`, forward and reverse mode, and derivatives of any order. With respect to y0 the
    derivative is zero. Where F = G_y for a lower loss, `bl.solution_map` needs products with H only, and no extra.

    **Arguments**

    - `function`: F, a JAX function (x, y) ↦ F(x, y), shaped like y.
    - `inner`: a root finder, least-squares solver or minimizer of optimistix, such as `optimistix.Newton(rtol, atol)`
      (at most 10,000 steps), or any JAX function `(x, y0) -> y`.
    - `linear`: a solver of lineax for systems in F_y and its transpose, which need not be symmetric, such as
      `lineax.GMRES(rtol, atol)`, `lineax.Normal(lineax.CG(rtol, atol))` or, for a small y,
      `lineax.AutoLinearSolver(well_posed=True)`. Their right-hand side is scaled to a largest entry of 1. The default
      is GMRES with a tolerance that fits the dtype.
    - `preconditioner`: a function (x, y, v) ↦ M v, linear in v, with M ≈ F_y⁻¹, for a solver of lineax that takes one.
      It receives the array leaves of x and y.
    - `has_aux`: whether the function `inner` returns a pair (y, aux).
    - `tolerance`: the largest relative distance of y from the root, as `Solved` estimates it, that counts as solved;
      never below 100 roundings of the dtype.
    - `throw`: whether it is an error if y is not solved, or if `linear` fails. Without it the derivative is NaN in the
      second case, and `y_star.solve` tells the first.

    **Returns** a `SolutionMap`: `y_star(x, y0)` is shaped like y0, and `y_star.solve(x, y0)` also tells how the inner
    solve ended.

    **Raises** `TypeError` for arguments of another kind, and for an `inner` that JAX cannot trace. `ValueError` if
    `function` or `inner` returns another shape than that of y0, and with `throw`; under `jit` and inside a derivative
    the latter is an error of `equinox.error_if` at run time. `MissingExtraError` without lineax.

    Example:

        >>> import bilevel as bl, jax, jax.numpy as jnp, optimistix
        >>> def F(x, y):
        ...     return jnp.stack([y[0] - y[1], y[0] + y[1] ** 3 - x])
        >>> y_star = bl.root(F, optimistix.Newton(rtol=1e-6, atol=1e-6))
        >>> slopes = jax.jacobian(lambda x: y_star(x, jnp.ones(2)))(2.0)
        >>> [round(float(slope), 4) for slope in slopes]  # 1 / (1 + 3 y²)
        [0.25, 0.25]

    Reference: Blondel et al., "Efficient and Modular Implicit Differentiation" (NeurIPS 2022), eq. (2).
    """
    driver = ("root_find", "AbstractRootFinder", "AbstractLeastSquaresSolver", "AbstractMinimiser")
    options = dict(preconditioner=preconditioner, has_aux=has_aux, tolerance=tolerance, throw=throw)
    return _map(function, function, inner, linear, driver, "root", **options)


def fixed_point(
    function: Callable[[Any, Any], Any],
    inner: Any,
    linear: Any = None,
    *,
    preconditioner: Callable[[Any, Any, Any], Any] | None = None,
    has_aux: bool = False,
    tolerance: Any = 1e-3,
    throw: bool = True,
) -> SolutionMap:
    """The function `y_star(x, y0)`: a fixed point y* = T(x, y*), found by `inner` from y0.

    It is `bl.root` of F(x, y) = y − T(x, y), so dy* = (I − T_y)⁻¹ dT(x, y). T need not be a contraction, if `inner`
    finds the point. Proximal gradient steps, power iterations and equilibrium layers are of this kind.

    **Arguments**, **Returns** and **Raises**: those of `bl.root`, but `function` is T, and `inner` may also be a
    fixed-point solver of optimistix, such as `optimistix.FixedPointIteration(rtol, atol)`. In `preconditioner`,
    M ≈ (I − T_y)⁻¹.

    Example:

        >>> import bilevel as bl, jax, jax.numpy as jnp, optimistix
        >>> inner = optimistix.FixedPointIteration(rtol=1e-6, atol=1e-6)
        >>> y_star = bl.fixed_point(lambda x, y: jnp.cos(x * y), inner)
        >>> y = y_star(1.0, 0.5)
        >>> slope = jax.grad(y_star)(1.0, 0.5)
        >>> bool(jnp.isclose(slope, -y * jnp.sin(y) / (1 + jnp.sin(y)), rtol=1e-4))
        True

    Reference: Blondel et al., "Efficient and Modular Implicit Differentiation" (NeurIPS 2022), eq. (3).
    """

    def rest(x: Any, y: Any) -> Any:
        return trees.sub(_arrays(y), implicit.like("function", _arrays(y), function(x, y)))

    driver = (
        "fixed_point",
        "AbstractFixedPointSolver",
        "AbstractRootFinder",
        "AbstractLeastSquaresSolver",
        "AbstractMinimiser",
    )
    options = dict(preconditioner=preconditioner, has_aux=has_aux, tolerance=tolerance, throw=throw)
    return _map(function, rest, inner, linear, driver, "fixed point", **options)


def _arrays(tree: Tree) -> Tree:
    return eqx.filter(tree, eqx.is_inexact_array)


def _map(
    function: Any,
    equation: Any,
    inner: Any,
    linear: Any,
    driver: tuple[str, ...],
    kind: str,
    *,
    preconditioner: Any,
    has_aux: Any,
    tolerance: Any,
    throw: Any,
) -> SolutionMap:
    """The map to the y with `equation`(x, y) = 0, which `driver` of optimistix finds by `function`."""
    extras.require("lineax", extra="implicit")
    find, *kinds = driver
    for name, value in (("function", function), ("preconditioner", preconditioner)):
        if not (callable(value) or (value is None and name == "preconditioner")):
            raise TypeError(f"{name}: got {value!r}; pass a function")
    implicit.check_inner(inner, f"a solver of optimistix for a {kind}", None, *kinds)
    implicit.check_options(inner, has_aux, tolerance, throw)
    _check_linear(linear)

    def solve(x: Any, y0: Any) -> Solved:
        x, (y0, y_static) = checks.tree("x", x), eqx.partition(checks.tree("y0", y0), eqx.is_inexact_array)

        def of_arrays(f: Any) -> Any:
            return lambda y: implicit.like("function", y0, f(x, eqx.combine(y, y_static)))

        def run(y0: Tree) -> tuple[Tree, Any, Any]:
            optimistix = implicit.optimistix_of(inner, *kinds)
            if optimistix is not None:
                return implicit.run(getattr(optimistix, find), lambda y, _: of_arrays(function)(y), inner, y0)
            y, aux = implicit.call(inner, x, eqx.combine(y0, y_static), has_aux)
            return implicit.like("inner", y0, y), None, aux

        def solve_linear(y: Tree, b: Tree) -> Tree:
            def product(u: Tree) -> Tree:
                return jax.jvp(of_arrays(equation), (y,), (u,))[1]

            def by(transposed: bool) -> Callable[[Any, Tree], Tree]:
                M = None if preconditioner is None else lambda v: preconditioner(_arrays(x), y, v)
                return lambda A, b: _by_lineax(A, b, linear, M, transposed, throw)

            return implicit.linear_solve(product, b, by(False), by(True))

        error = _FAR.format(kind) if throw else None
        found = implicit.solved(y0, run, of_arrays(equation), solve_linear, tolerance=tolerance, error=error)
        return eqx.tree_at(lambda found: found.y, found, eqx.combine(found.y, y_static))

    return SolutionMap(solve)


def _check_linear(linear: Any) -> None:
    import lineax

    if not (linear is None or isinstance(linear, lineax.AbstractLinearSolver)):
        raise TypeError(f"linear: got {linear!r}; pass a solver of lineax, such as lineax.GMRES(rtol=1e-6, atol=1e-6)")


def _by_lineax(A: Any, b: Tree, linear: Any, M: Any, transposed: bool, throw: bool) -> Tree:
    """The solution u of A u = b, where A and M, or Mᵀ if `transposed`, are functions of vectors."""
    import lineax

    flat, unravel = ravel_pytree(b)
    kind = jax.ShapeDtypeStruct(flat.shape, flat.dtype)
    options = {}
    if M is not None:
        condition = lineax.FunctionLinearOperator(lambda v: ravel_pytree(M(unravel(v)))[0], kind)
        options["preconditioner"] = condition.T if transposed else condition
    if linear is None:
        small = 10 * float(jnp.finfo(flat.dtype).eps) ** 0.75
        linear = lineax.GMRES(rtol=small, atol=small)
    size = jnp.max(jnp.abs(flat))
    size = jnp.where(size > 0, size, 1)  # tolerances of lineax are not relative to the scale of b
    operator = lineax.FunctionLinearOperator(A, kind)
    found = lineax.linear_solve(operator, flat / size, linear, options=options, throw=False)
    wrong = ~(found.result == lineax.RESULTS.successful)
    if throw:
        return unravel(size * implicit.raise_if(wrong, found.value, _UNSOLVED))
    return unravel(jnp.where(wrong, jnp.nan, size * found.value))
