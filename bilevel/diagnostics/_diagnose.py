"""A hypergradient at a point, with error bars."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._prepare import prepare
from bilevel.diagnostics import reference
from bilevel.diagnostics.constants import Constants, measure, on_all_rows
from bilevel.diagnostics.estimates import estimates
from bilevel.diagnostics.findings import terms
from bilevel.diagnostics.report import Report
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient, Direct, Neumann, RandomNeumann
from bilevel.problem import Episodes, Problem, drawn_once, per_row_flags
from bilevel.trees import Tree

_DIRECTIONS = 8


def diagnose(
    problem: Problem | Episodes,
    x: Tree,
    y: Tree,
    *,
    key: PRNGKeyArray,
    method: AbstractAdjoint | None = None,
    draws: int = 64,
) -> Report:
    """How far to trust the hypergradient of `method` at (x, y), and what to do if it cannot be trusted.

    Measures the problem's constants there (`measure_constants`), the lower and the adjoint residual, the error
    estimated from them and the actual error, and the bias and spread of single estimates. For fixed x, with one
    Newton step δ = H⁻¹G_y and h(y, v) = F_x − J[v],

        estimate:  ‖h(y, v) − h(y − δ, exact adjoint)‖ / ‖h(y − δ, exact adjoint)‖
        actual:    ‖h(y, v) − ∇Φ(x)‖ / ‖∇Φ(x)‖,   ∇Φ(x) = h(y*(x), exact adjoint)

    The estimate costs three linear solves. It is exact if g is quadratic in y. On the random problems of the tests it
    is within a factor of 2 for ‖y − y*‖ ≤ ‖y*‖/2, and within 5 for ‖y − y*‖ = ‖y*‖. If Newton's step does not halve
    ‖G_y‖, the report says that the estimate is rough.

    **Arguments**

    - `x`, `y`: the point. `key`: a JAX random key.
    - `method`: how the adjoint is solved; default `ConjugateGradient(steps=20)`. On all rows it starts from zero, and a
      `RandomNeumann` is replaced by its mean.
    - `draws`: the number of estimates for bias and spread, on batches of the levels' sizes.

    For a level with more than 50,000 rows, "all rows" are a random 50,000 of them, and the report says so.

    **Returns** a `Report`: `print` it, `plot()` it, read its numbers and its `findings`.

    **Raises** `ValueError` or `TypeError`, naming the argument.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * ((y - 1.0) ** 2).sum()),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y[0] - x) ** 2 + 5.0 * (y[1] - x) ** 2),
        ... )
        >>> report = bl.diagnose(
        ...     problem, 3.0, jax.numpy.array([3.0, 3.0]), method=bl.Neumann(order=4, step=0.1), key=jax.random.key(0)
        ... )
        >>> [finding.name for finding in report.findings]
        ['adjoint not solved']
        >>> round(report.error, 2)
        0.3
    """
    method = ConjugateGradient(steps=20) if method is None else method
    if not isinstance(method, AbstractAdjoint):
        raise TypeError(f"method: got {method!r}; pass e.g. bl.ConjugateGradient(steps=20)")
    checks.count("draws", draws, least=2)
    checks.key("key", key)
    prepared = prepare(problem, x, y)
    problem, key = drawn_once(prepared.problem, key)
    x, y = prepared.x, prepared.y
    dtype = str(jnp.result_type(*jax.tree.leaves(y)))
    x, y = trees.at_least_single((x, y))
    rows_key, constants_key, other_key, directions_key, draws_key = jax.random.split(key, 5)
    constants = measure(problem, x, y, key=constants_key)
    whole = on_all_rows(problem, rows_key)
    at_y = _by_method(whole, x, y, method)
    solved = dict.fromkeys(_NEED_INVERSE, math.nan) | {"reference": "nothing"}
    convex = constants.mu > constants.rounding
    notes = _notes(problem, constants)
    if jnp.finfo(dtype).eps > constants.epsilon:
        notes.append(f"Measured in float32: these numbers do not include the rounding of {dtype}.")
    truth = at_y
    if convex:
        numbers, truth = _errors(whole, x, y, at_y, directions_key, notes)
        solved |= numbers
    scale, norm = float(truth.scale), float(np.linalg.norm(_flat(truth.h)))
    drawn = estimates(problem, whole, x, y, method, at_y.h, truth.h, jax.random.split(draws_key, draws))
    if not convex:
        drawn["bias"] = math.nan
    depends_on_x, depends_on_y = (bool(depends) for depends in _dependence(whole, x, y, other_key))
    return Report(
        constants=constants,
        method=method,
        dtype=dtype,
        dim_y=trees.size(y),
        batches=tuple((name, level.batch_size, level.length) for name, level in _levels(problem)),
        row_factor=_row_factor(problem, x),
        strongly_convex=convex,
        depends_on_x=depends_on_x,
        depends_on_y=depends_on_y,
        adjoint_residual=float(at_y.residual),
        scale=scale,
        norm=norm,
        notes=tuple(notes),
        **solved,
        **drawn,
    )


_NEED_INVERSE = (
    "distance",
    "adjoint_error",
    "part_from_y",
    "part_from_adjoint",
    "error_estimate",
    "error",
    "difference_error",
    "reference_difference_error",
)


def _levels(problem: Problem) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("upper", problem.upper), ("lower", problem.lower)


def _notes(problem: Problem, c: Constants) -> list[str]:
    notes = [
        f"“all rows” of the {name} level are a random {used} of its {level.length}."
        for (name, level), used in zip(_levels(problem), (c.upper_rows, c.lower_rows), strict=True)
        if used < level.length
    ]
    if c.mu_residual > 0.1 * abs(c.mu) and c.mu_residual > c.rounding:
        notes.append(f"Lanczos has not settled on μ after {len(c.ritz)} steps: κ may be larger.")
    return notes


def _by_method(whole: Problem, x: Tree, y: Tree, method: AbstractAdjoint) -> reference.Hypergradient:
    if isinstance(method, RandomNeumann):
        method = Neumann(order=terms(method) - 1, step=method.step)  # the mean of its draws
    return reference.hypergradient_at(whole, x, y, method, jax.random.key(0))


def _errors(
    whole: Problem, x: Tree, y: Tree, at_y: reference.Hypergradient, key: PRNGKeyArray, notes: list[str]
) -> tuple[dict[str, Any], reference.Hypergradient]:
    """All numbers that need H⁻¹, and the accurate hypergradient; adds to `notes`."""
    solver, key_0 = reference.accurate_solver(y), jax.random.key(0)
    exact = reference.hypergradient_at(whole, x, y, solver, key_0)
    delta = reference.newton_step(whole.lower, x, y, solver)
    corrected = reference.hypergradient_at(whole, x, trees.sub(y, delta), solver, key_0)
    lower = reference.lower_solution(whole.lower, x, y, solver)
    converged = bool(lower.converged)
    truth = reference.hypergradient_at(whole, x, lower.y, solver, key_0) if converged else corrected
    scale = float(truth.scale)
    numbers = {
        "reference": "the direct solve" if isinstance(solver, Direct) else "conjugate gradient",
        "distance": float(trees.norm(delta)),
        "adjoint_error": _relative(at_y.v, exact.v),
        "part_from_y": _over(_distance(exact.h, corrected.h), scale),
        "part_from_adjoint": _over(_distance(at_y.h, exact.h), scale),
        "error_estimate": _relative(at_y.h, corrected.h),
    }
    if not converged:
        notes.append("Newton's method did not reach y*: there is no actual error, and the estimate replaces it.")
    else:
        numbers |= {"error": _relative(at_y.h, truth.h)} | _differences(whole, x, lower.y, at_y, truth, solver, key)
    if numbers["part_from_y"] > 0.01 and float(corrected.lower_residual) > 0.5 * float(at_y.lower_residual):
        notes.append("One Newton step does not halve ‖G_y‖: y is far from y*, and the estimated error is rough.")
    return numbers, truth


def _flat(tree: Tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def _distance(a: Tree, b: Tree) -> float:
    return float(np.linalg.norm(_flat(a) - _flat(b)))


def _relative(a: Tree, b: Tree) -> float:
    return _over(_distance(a, b), float(np.linalg.norm(_flat(b))))


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else (math.inf if a > 0 else 0.0)


def _differences(
    whole: Problem, x: Tree, y_star: Tree, at_y: Any, truth: Any, solver: AbstractAdjoint, key: PRNGKeyArray
) -> dict[str, float]:
    """Root mean square over normal directions d of ⟨h, d⟩ − quotient, relative to ‖h*‖: E⟨e, d⟩² = ‖e‖²."""
    h, h_star = _flat(at_y.h), _flat(truth.h)
    directions = jax.random.normal(key, (_DIRECTIONS, h.size), jnp.result_type(*jax.tree.leaves(x)))
    quotients = np.asarray(reference.difference_quotients(whole, x, y_star, directions, solver), np.float64)
    size = float(np.linalg.norm(h_star))

    def error(h: np.ndarray) -> float:
        return _over(float(np.sqrt(np.mean((np.asarray(directions, np.float64) @ h - quotients) ** 2))), size)

    return {"difference_error": error(h), "reference_difference_error": error(h_star)}


def _row_factor(problem: Problem, x: Tree) -> float:
    """A batch of b of n rows sees b of the n entries of a per-row x: a spread of √(n/b) in any problem."""
    factors = [math.sqrt(level.length / level.size) for _, level in _levels(problem) if any(per_row_flags(level, x))]
    return max(factors, default=1.0)


@eqx.filter_jit
def _dependence(whole: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> tuple[Array, Array]:
    """Whether Jᵀ u, for a random u, and F_y are nonzero at y or at a random point near it."""
    u_key, y_key = jax.random.split(key)
    other = trees.add(y, _normal_like(y, y_key))
    u, lower, upper = _normal_like(x, u_key), whole.lower.all_rows(), whole.upper.all_rows()

    def nonzero(y: Tree) -> tuple[Array, Array]:
        JTu = oracles.transposed_cross_product(whole.lower, x, y, u, lower)
        return trees.largest(JTu) > 0, trees.largest(oracles.gradient_y(whole.upper, x, y, upper)) > 0

    return tuple(a | b for a, b in zip(nonzero(y), nonzero(other), strict=True))  # pyright: ignore[reportReturnType]


def _normal_like(tree: Tree, key: PRNGKeyArray) -> Tree:
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.random.normal(key, flat.shape, flat.dtype))
