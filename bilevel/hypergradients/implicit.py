"""What the maps x ↦ y*(x) share: y solves an equation F(x, y) = 0, and so has a derivative that needs no iterations."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.errors import ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from bilevel import _checks as checks
from bilevel import trees
from bilevel.trees import Tree

_MOST_STEPS = 10_000  # of an optimistix solver; with other numbers it is called in a function of the user
_ROUNDINGS = 100  # a distance of so many roundings is none


class Solved(eqx.Module):
    """A solution y of F(x, y) = 0, and how its solve ended. F is G_y, or another equation of the map.

    - `y`: the point, the only part that has a derivative.
    - `steps`: the iterations of `inner`; None if it is a function.
    - `residual`: ‖F(x, y)‖.
    - `distance`: an estimate of the distance from y to the solution, ‖F‖² / ‖F_y F‖ (see below), relative to
      ‖y‖ or, if that is larger, ‖y − y0‖.
    - `solved`: whether `distance` is at most the map's `tolerance`.
    - `aux`: with `has_aux=True`, what `inner` returned beside y; for an optimistix solver, its `stats`.

    The estimate does not depend on the scales of F, x and y. For the gradient of a strongly convex quadratic it is at
    most the true distance: with H = F_y, ‖F‖² ≤ ‖HF‖ ‖H⁻¹F‖. So what it refuses is far from the solution. If few
    directions of y are much flatter than the others, y may be further away than it says.
    """

    y: Tree
    steps: Int[Array, ""] | None
    residual: Float[Array, ""]
    distance: Float[Array, ""]
    solved: Bool[Array, ""]
    aux: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class SolutionMap:
    """The function x, y0 ↦ y*(x): `y_star(x, y0)` is the point, `y_star.solve(x, y0)` is all of `Solved`."""

    solve: Callable[..., Solved]

    def __call__(self, x: Any, y0: Any, **options: Any) -> Any:
        return self.solve(x, y0, **options).y


def solved(
    y0: Tree,
    run: Callable[[Tree], tuple[Tree, Any, Any]],
    equation: Callable[[Tree], Tree],
    linear: Callable[[Tree, Tree], Tree],
    *,
    tolerance: Any,
    check: Callable[[Tree], Tree] | None = None,
    error: str | None,
) -> Solved:
    """The y of `run(y0) = (y, steps, aux)`, with the derivative dy = −`linear`(y, dF): F is `equation`, and dF its
    derivative along x and along all that it closes over, with y held fixed.

    `check` is the equation by which `distance` is judged, where that is another one. `error`: what is raised if y is
    no solution; None: nothing.
    """
    # what they close over becomes leaves, which can be held, differentiated, and outlive a trace
    convert = eqx.filter_closure_convert
    held_y0 = _held(y0)
    y, steps, aux = _held(convert(run, y0))(held_y0)
    equation, linear = convert(equation, y0), convert(linear, y0, y0)
    residual, distance = _distance(_held(equation if check is None else convert(check, y0)), held_y0, y)
    near = distance <= jnp.maximum(tolerance, _ROUNDINGS * jnp.finfo(distance.dtype).eps).astype(distance.dtype)
    if error is not None:
        y = raise_if(~near, y, error)
    return Solved(_attach(y, equation, linear), steps, residual, distance, near, aux)


def raise_if(wrong: Any, value: Tree, error: str) -> Tree:
    """The value, or an error, under a transformation too."""
    checks_leaks = jax.config.jax_check_tracer_leaks  # pyright: ignore[reportAttributeAccessIssue]
    if checks_leaks and isinstance(wrong, Tracer):  # the leak checker takes what `error_if` does for a leak
        return jax.tree.map(lambda leaf: jnp.where(wrong, jnp.nan, leaf), value)
    if isinstance(wrong, Tracer):
        return eqx.error_if(value, wrong, error)
    if wrong:
        raise ValueError(error)
    return value


def _held(tree: Tree) -> Tree:
    """The same values without derivatives."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def _distance(equation: Any, y0: Tree, y: Tree) -> tuple[Array, Array]:
    F = equation(y)
    size = trees.largest(F)
    scaled = trees.divide(F, jnp.where(size > 0, size, 1))  # the squares of a tiny F would underflow
    AF = jax.jvp(equation, (y,), (scaled,))[1]
    length, scale = trees.norm(scaled), jnp.maximum(trees.norm(y), trees.norm(trees.sub(y, y0)))
    far = length * (length / trees.norm(AF))
    return size * length, jnp.where(size == 0, 0, size * far / scale)


@eqx.filter_custom_jvp
def _attach(y: Tree, equation: Any, linear: Any) -> Tree:
    return y


@_attach.def_jvp
def _attach_jvp(primals: Any, tangents: Any) -> tuple[Tree, Tree]:
    y, equation, linear = primals
    y = _attach(y, equation, linear)  # again, so that a second derivative is implicit too
    _, b = eqx.filter_jvp(lambda equation: equation(y), (equation,), (tangents[1],))
    b = eqx.combine(b, trees.zeros_like(y))  # b is None if nothing depends on the differentiated variables
    return y, trees.scale(-1, linear(y, b))


def linear_solve(
    product: Callable[[Tree], Tree],
    b: Tree,
    solve: Callable[[Any, Tree], Tree],
    transposed: Callable[[Any, Tree], Tree] | None = None,
) -> Tree:
    """The solution u of A u = b, as a linear function of b. A is `product`, and symmetric without `transposed`.

    It is found by `solve(A, b)`, and that of Aᵀ u = b by `transposed(Aᵀ, b)`; there A and Aᵀ map vectors to vectors.
    """
    flat, unravel = ravel_pytree(b)  # one vector: in a tree, all or none of the leaves would have to depend on it

    def on_vectors(solve: Callable[[Any, Tree], Tree]) -> Callable[[Any, Array], Array]:
        return lambda A, b: ravel_pytree(solve(A, unravel(b)))[0]

    back = None if transposed is None else on_vectors(transposed)
    u = jax.lax.custom_linear_solve(
        lambda u: ravel_pytree(product(unravel(u)))[0], flat, on_vectors(solve), back, symmetric=back is None
    )
    return unravel(u)


def like(name: str, y0: Tree, y: Any) -> Tree:
    """The arrays of y, a value of the function `name`, if it is shaped like y0; else raise."""
    y = eqx.filter(y, eqx.is_inexact_array)
    wanted, got = (jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (y0, y))
    if got != wanted:
        raise ValueError(
            f"{name}: returned leaves of (shape, dtype) {got}, but y0 has {wanted}; return a point like y0"
        )
    return y


def call(inner: Callable[..., Any], x: Tree, y0: Tree, has_aux: bool) -> tuple[Any, Any]:
    """(y, aux) of a function `inner`."""
    try:
        found = inner(x, y0)
    except (ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError) as error:
        raise TypeError(
            f"inner: it is no JAX function, as it asks for the numbers of x or y0 ({str(error).splitlines()[0]}); call "
            "SciPy, scikit-learn and loops over numbers through jax.pure_callback: see 'SciPy inside' in "
            "docs/from_jaxopt.md"
        ) from error
    if not has_aux:
        return found, None
    if not (isinstance(found, tuple) and len(found) == 2):
        raise ValueError(f"inner: returned {type(found).__name__}; with has_aux=True, return the pair (y, aux)")
    return found


def optimistix_of(inner: Any, *kinds: str) -> Any:
    """The package optimistix if `inner` is one of its solvers of a kind. No such solver exists before it is loaded."""
    optimistix = sys.modules.get("optimistix")
    return optimistix if optimistix and isinstance(inner, tuple(getattr(optimistix, kind) for kind in kinds)) else None


def run(find: Callable[..., Any], function: Callable[[Tree, Any], Any], inner: Any, y0: Tree) -> tuple[Tree, Any, Any]:
    """(y, steps, aux) of an optimistix solver by its driver `find`."""
    function = eqx.filter_closure_convert(function, y0, None)  # without tracers in closures, which a cache would keep
    found = find(function, inner, y0, max_steps=_MOST_STEPS, throw=False)
    return found.value, found.stats["num_steps"], found.stats


def check_inner(inner: Any, wanted: str, own: type | None, *kinds: str) -> None:
    """Raise unless `inner` is a function, one of our methods, or an optimistix solver of a kind."""
    ours = own is not None and isinstance(inner, own)
    if isinstance(inner, type) or not (ours or callable(inner) or optimistix_of(inner, *kinds)):
        raise TypeError(f"inner: got {inner!r}; pass {wanted} or a function (x, y0) -> y")


def check_options(inner: Any, has_aux: Any, tolerance: Any, throw: Any) -> None:
    checks.flag("has_aux", has_aux)
    if has_aux and not callable(inner):
        raise ValueError(f"has_aux: got True, but {type(inner).__name__} returns no pair; leave it out")
    checks.nonnegative("tolerance", tolerance)
    checks.flag("throw", throw)
