"""Extreme eigenvalues of the lower Hessian, and the norm of the cross derivative, from products only."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from bilevel import oracles, trees
from bilevel.oracles import HessianOperator
from bilevel.problem import Level
from bilevel.sampling import Batch
from bilevel.trees import Tree

Vector = Float[Array, " dim"]

_ROUND = 20  # Lanczos steps between two checks of the residuals
_MOST_STEPS = 300
_MOST_LARGE_STEPS = 60  # where the basis is not stored, and a product takes long
_MOST_BYTES = 250_000_000  # for the basis


class Hessian(eqx.Module):
    """u ↦ H u over the raveled y."""

    operator: HessianOperator

    @staticmethod
    def at(level: Level, x: Tree, y: Tree) -> "Hessian":
        """On all rows."""
        level = level.with_one_key()
        return Hessian(HessianOperator(level, x, y, level.all_rows()))

    def __call__(self, u: Vector) -> Vector:
        _, unravel = ravel_pytree(self.operator.y)
        return ravel_pytree(self.operator(unravel(u)))[0]

    @property
    def like(self) -> Tree:
        return self.operator.y


class CrossGram(eqx.Module):
    """u ↦ J Jᵀ u over the raveled x, or Jᵀ J u over the raveled y: whichever is shorter."""

    level: Level
    x: Tree
    y: Tree
    batch: Batch

    @property
    def like(self) -> Tree:
        return self.x if trees.size(self.x) <= trees.size(self.y) else self.y

    def __call__(self, u: Vector) -> Vector:
        _, unravel = ravel_pytree(self.like)
        at = self.level, self.x, self.y
        if self.like is self.x:
            back = oracles.transposed_cross_product(*at, unravel(u), self.batch)
            return ravel_pytree(trees.dense(oracles.cross_product(*at, back, self.batch), self.x))[0]
        forth = trees.dense(oracles.cross_product(*at, unravel(u), self.batch), self.x)
        return ravel_pytree(oracles.transposed_cross_product(*at, forth, self.batch))[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Ritz values, ascending, and the residuals ‖A u − θ u‖ of the first and the last. (Without a stored basis there is
    no u, and they are what the recurrence says of them.)

    An eigenvalue lies within the residual of each. The least Ritz value is never below the least eigenvalue, and the
    largest never above the largest (up to rounding). `products` counts the operator's applications; `epsilon` is the
    machine epsilon of the dtype.
    """

    ritz: Float[np.ndarray, " steps"]
    least_residual: float
    largest_residual: float
    products: int
    epsilon: float

    @property
    def rounding(self) -> float:
        """A value below this cannot be told from zero: a few machine epsilons times the largest."""
        return 4 * self.epsilon * float(np.abs(self.ritz).max())

    @property
    def least(self) -> float:
        return float(self.ritz[0])

    @property
    def largest(self) -> float:
        return float(self.ritz[-1])


class Basis(eqx.Module):
    """The basis q_0 … q_m (zero where not yet built), or its last two vectors, and the operator's tridiagonal matrix in
    it."""

    diagonal: Float[Array, " steps"]
    beside: Float[Array, " steps"]
    vectors: Float[Array, "kept dim"]

    @property
    def stored(self) -> bool:
        return len(self.vectors) > 2


def lanczos(
    operator: Any, *, key: PRNGKeyArray, most: int = _MOST_STEPS, tolerance: float = 1e-2, largest_only: bool = False
) -> Spectrum:
    """Lanczos' iteration with full reorthogonalization on a symmetric operator, from a random start.

    Stops when the residuals of the extreme Ritz values are within `tolerance` of the values themselves (or of the
    rounding of the largest), after `most` steps, or when the space is exhausted, so that the values are exact.

    Where not even 20 vectors fit in 250 MB, three are kept and none is reorthogonalized. Extreme values are found as
    well, but values that have converged then come again (`ritz` has copies of them), so that the others take more
    steps; there are at most 60, and residuals are those of the recurrence.

    **Arguments**: `operator`, a module u ↦ A u over raveled vectors, with `like`, a tree of that space. Its data are
    its leaves, so that one program serves all operators of a structure. `largest_only`: do not wait for the least.

    Reference: Golub & Van Loan, Matrix Computations (4th ed.), section 10.3.
    """
    shapes = jax.eval_shape(lambda: ravel_pytree(operator.like)[0])
    fitting = _MOST_BYTES // (shapes.size * shapes.dtype.itemsize)
    stored = fitting >= min(_ROUND, most, shapes.size)
    steps = min(most, shapes.size, fitting if stored else _MOST_LARGE_STEPS)
    basis = first_basis(jax.random.normal(key, shapes.shape, shapes.dtype), steps, stored)
    done, spectrum = 0, None
    while spectrum is None:
        stop = min(done + _ROUND, steps)
        basis = _extend((operator, jnp.asarray(done), jnp.asarray(stop)), basis)
        done, spectrum = stop, _spectrum(operator, basis, stop, tolerance, largest_only)
    return spectrum


def first_basis(first: Vector, steps: int, stored: bool = True) -> Basis:
    """A basis for `steps` steps from the vector `first`; if not `stored`, only its last two vectors are kept."""
    kept, last = (max(steps + 1, 3), 0) if stored else (2, 1)
    vectors = jnp.zeros((kept, first.size), first.dtype).at[last].set(first / jnp.linalg.norm(first))
    return Basis(jnp.zeros(steps, first.dtype), jnp.zeros(steps, first.dtype), vectors)


def extended(operator: Any, basis: Basis, start: Any, stop: Any) -> Basis:
    """The basis after the steps from `start` to `stop`."""

    def body(k: Any, basis: Basis) -> Basis:
        q = basis.vectors[k if basis.stored else 1]
        w = operator(q)
        diagonal = basis.diagonal.at[k].set(q @ w)
        for _ in range(2):  # doing it once leaves the rounding of a large first projection
            w = w - (basis.vectors @ w) @ basis.vectors  # of two vectors this is the three-term recurrence
        length = jnp.linalg.norm(w)
        scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(basis.beside))
        goes_on = length > jnp.finfo(w.dtype).eps * scale  # otherwise the space is exhausted
        following = jnp.where(goes_on, w / jnp.where(goes_on, length, 1), 0)
        beside = basis.beside.at[k].set(jnp.where(goes_on, length, 0))
        vectors = basis.vectors.at[k + 1].set(following) if basis.stored else jnp.stack([q, following])
        return Basis(diagonal, beside, vectors)

    return jax.lax.fori_loop(start, stop, body, basis)


@functools.partial(eqx.filter_jit, donate="all-except-first")
def _extend(fixed: tuple[Any, Array, Array], basis: Basis) -> Basis:
    """`extended` in place of the basis."""
    operator, start, stop = fixed
    return extended(operator, basis, start, stop)


@eqx.filter_jit
def _residual(operator: Any, vectors: Array, weights: Array, theta: Any) -> Array:
    u = weights @ vectors[: len(weights)]
    u = u / jnp.linalg.norm(u)
    return jnp.linalg.norm(operator(u) - theta * u)


def ritz_values(diagonal: np.ndarray, beside: np.ndarray, done: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The Ritz values, ascending, their vectors in the basis, and the steps until the space was exhausted."""
    ended = np.flatnonzero(beside[:done] == 0)
    used = int(ended[0]) + 1 if len(ended) else done
    off = beside[: used - 1]
    ritz, weights = np.linalg.eigh(np.diag(diagonal[:used]) + np.diag(off, 1) + np.diag(off, -1))
    return ritz, weights, used


def _spectrum(operator: Any, basis: Basis, done: int, tolerance: float, largest_only: bool) -> Spectrum | None:
    """The Ritz values and residuals, or None where more steps are needed and allowed."""
    epsilon = float(jnp.finfo(basis.vectors.dtype).eps)
    diagonal, beside = (np.asarray(part, np.float64) for part in (basis.diagonal, basis.beside))
    if not (np.isfinite(diagonal[:done]).all() and np.isfinite(beside[:done]).all()):
        nan = math.nan
        return Spectrum(ritz=np.array([nan]), least_residual=nan, largest_residual=nan, products=done, epsilon=epsilon)
    ritz, weights, used = ritz_values(diagonal, beside, done)
    ends = (-1,) if largest_only else (0, -1)
    rounding = epsilon * np.abs(ritz).max()
    converged = all(
        beside[used - 1] * abs(weights[-1, end]) <= max(tolerance * abs(ritz[end]), rounding) for end in ends
    )
    if used == done < len(diagonal) and not converged:
        return None
    residuals = [] if basis.stored else [float(beside[used - 1] * abs(weights[-1, end])) for end in (0, -1)]
    for end in (0, -1) if basis.stored else ():
        padded = np.zeros(len(diagonal))
        padded[:used] = weights[:, end]
        arguments = (jnp.asarray(value, basis.vectors.dtype) for value in (padded, ritz[end]))
        residuals.append(float(_residual(operator, basis.vectors, *arguments)))
    least, largest = residuals
    products = used + 2 * basis.stored
    return Spectrum(ritz=ritz, least_residual=least, largest_residual=largest, products=products, epsilon=epsilon)
