"""The constants that the theorems speak of, measured at a point."""

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import _random, oracles, trees
from bilevel._lanczos import CrossGram, Hessian, lanczos
from bilevel._prepare import prepare
from bilevel.disk import on_disk
from bilevel.problem import Episodes, Level, Problem, drawn_once
from bilevel.sampling import Batch, Subset
from bilevel.trees import Tree

MOST_ROWS = 50_000  # of a larger level, "all rows" are a random subsample of this size
_MOST_BYTES = 2**30
ORACLES = ("F_x", "F_y", "G_y")
_SIZES = (1, 16)  # and the batch size
DRAWS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Constants:
    """Constants of a problem at one point (x, y). All are Python floats; all norms are Euclidean.

    - `mu`, `L`: the least and the largest Ritz value of H. An eigenvalue lies within `mu_residual`, `L_residual` of
      each. `mu` overestimates: it is never below the least eigenvalue (up to `rounding`). If `mu` ≤ 0, the level is
      not strongly convex here. `kappa` = L/μ, infinite if μ ≤ `rounding`.
    - `ritz`: all Ritz values, ascending. `hessian_products`: the number of products that they took.
    - `J_norm`: the largest singular value of J, within `J_residual`.
    - `F_x_norm`, `F_y_norm`, `G_y_norm`: the norms of the gradients on all rows.
    - `sigma`: for "F_x", "F_y" and "G_y", the standard deviation σ of the gradient of one row. A batch of b
      independent rows has `noise(oracle, b)` = σ/√b = (E‖g_B − g‖²)^½. Zero for a level without data.
    - `noise_measured`: for each of them, the measured pairs (b, noise) that σ comes from.
    - `upper_rows`, `lower_rows`: the number of rows in "all rows", at most `MOST_ROWS`; of rows on disk, at most 1 GiB.
    - `epsilon`: the machine epsilon of y's dtype. A curvature below `rounding` cannot be told from zero.
    """

    mu: float
    L: float
    mu_residual: float
    L_residual: float
    ritz: Float[np.ndarray, " steps"]
    hessian_products: int
    J_norm: float
    J_residual: float
    F_x_norm: float
    F_y_norm: float
    G_y_norm: float
    sigma: dict[str, float]
    noise_measured: dict[str, list[tuple[int, float]]]
    upper_rows: int
    lower_rows: int
    epsilon: float
    rounding: float

    @property
    def kappa(self) -> float:
        """The condition number L/μ of the lower level."""
        return self.L / self.mu if self.mu > self.rounding else math.inf

    def noise(self, oracle: str, batch: int) -> float:
        """The standard deviation of "F_x", "F_y" or "G_y" on a batch of this size."""
        checks.one_of("oracle", oracle, ORACLES)
        checks.count("batch", batch)
        return self.sigma[oracle] / math.sqrt(batch)


def measure_constants(problem: Problem | Episodes, x: Tree, y: Tree, *, key: PRNGKeyArray) -> Constants:
    """Measure μ, L and κ of the lower level, ‖J‖, the gradients' norms and their noise at (x, y).

    It uses only products: Lanczos on H and on J Jᵀ, on all rows of the data (or a random 50,000 of them), and for the
    noise 64 batches of each of a few sizes. A second call with a problem of the same structure and shapes compiles
    nothing.

    **Arguments**: `x`, `y`, the point; μ and L are those of g(x, ·) at y. `key`: for Lanczos' start and the batches.

    **Returns** a `Constants`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: y.sum()),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * y[0] ** 2 + 2 * y[1] ** 2 - 3 * x * y[1]),
        ... )
        >>> constants = bl.measure_constants(problem, 1.0, jax.numpy.ones(2), key=jax.random.key(0))
        >>> [round(value, 3) for value in (constants.mu, constants.L, constants.kappa, constants.J_norm)]
        [1.0, 4.0, 4.0, 3.0]

    Reference: for Lanczos, Golub & Van Loan, Matrix Computations (4th ed.), chapter 10.
    """
    checks.key("key", key)
    prepared = prepare(problem, x, y)
    drawn, key = drawn_once(prepared.problem, key)
    return measure(drawn, *trees.at_least_single((prepared.x, prepared.y)), key=key)


def measure(problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> Constants:
    """`measure_constants` of a prepared problem."""
    rows_key, H_key, J_key, F_key, G_key = jax.random.split(key, 5)
    whole = on_all_rows(problem, rows_key)
    lower = whole.lower.all_rows()
    H = lanczos(Hessian.at(whole.lower, x, y), key=H_key)
    gram = lanczos(CrossGram(whole.lower, x, y, lower), key=J_key, largest_only=True)
    F, G = _upper_gradients(whole.upper, x, y, whole.upper.all_rows()), _lower_gradient(whole.lower, x, y, lower)
    noise = _noise(_upper_gradients, problem.upper, x, y, F, F_key) + _noise(
        _lower_gradient, problem.lower, x, y, G, G_key
    )
    norms = [float(trees.norm(gradient)) for gradient in (*F, *G)]
    J_norm = math.sqrt(max(gram.largest, 0.0))
    return Constants(
        mu=H.least,
        L=H.largest,
        mu_residual=H.least_residual,
        L_residual=H.largest_residual,
        ritz=H.ritz,
        hessian_products=H.products,
        J_norm=J_norm,
        J_residual=gram.largest_residual / J_norm if J_norm > 0 else 0.0,
        F_x_norm=norms[0],
        F_y_norm=norms[1],
        G_y_norm=norms[2],
        sigma={name: _sigma(pairs) for name, pairs in zip(ORACLES, noise, strict=True)},
        noise_measured=dict(zip(ORACLES, noise, strict=True)),
        upper_rows=whole.upper.length,
        lower_rows=whole.lower.length,
        epsilon=H.epsilon,
        rounding=H.rounding,
    )


def on_all_rows(problem: Problem, key: PRNGKeyArray, most: int = MOST_ROWS) -> Problem:
    """The deterministic problem on all rows, or on `most` random rows of a level that has more. Of rows on disk, at
    most `_MOST_BYTES` are read."""

    def whole(level: Level, key: PRNGKeyArray) -> Level:
        level = level.with_one_key()
        stored = on_disk(level.data)
        fitting = most if stored is None else max(1, min(most, _MOST_BYTES // max(1, stored.store.row_bytes)))
        if level.data is None or level.length <= fitting:
            return level.loaded().with_batch_size(None)
        indices = jnp.sort(_random.permuted(key, jnp.arange(fitting, dtype=jnp.int32), level.length))
        return Level(level.loss, Subset(level.data, indices), None, level.per_row)

    upper_key, lower_key = jax.random.split(key)
    return Problem(whole(problem.upper, upper_key), whole(problem.lower, lower_key), project=problem.project)


@eqx.filter_jit
def _upper_gradients(level: Level, x: Tree, y: Tree, batch: Batch) -> tuple[Tree, Tree]:
    F_x, F_y = oracles.upper_gradients(level, x, y, batch)
    return trees.dense(F_x, x), F_y


@eqx.filter_jit
def _lower_gradient(level: Level, x: Tree, y: Tree, batch: Batch) -> tuple[Tree]:
    return (oracles.gradient_y(level, x, y, batch),)


def _noise(
    gradients: Any, level: Level, x: Tree, y: Tree, exact: tuple[Tree, ...], key: PRNGKeyArray
) -> list[list[tuple[int, float]]]:
    """For each gradient, the pairs (b, (mean over draws of ‖g_B − g‖²)^½) for a few batch sizes b."""
    if level.data is None or level.length == 1:
        return [[] for _ in exact]
    sizes = tuple(sorted({size for size in (*_SIZES, level.batch_size or 1) if _can_draw(level, size)}))
    measured = np.asarray(_mean_squares(gradients, level, x, y, exact, key, sizes), np.float64)
    return [[(b, math.sqrt(v)) for b, v in zip(sizes, column, strict=True)] for column in measured.T]


def _can_draw(level: Level, size: int) -> bool:
    """Whether the source can draw batches of this size, and not only all rows."""
    assert level.data is not None
    try:
        level.data.check(size)
    except ValueError:
        return False
    return size < level.length


@eqx.filter_jit
def _mean_squares(
    gradients: Any, level: Level, x: Tree, y: Tree, exact: tuple[Tree, ...], key: PRNGKeyArray, sizes: tuple[int, ...]
) -> Float[Array, "sizes gradients"]:

    def square(key: PRNGKeyArray, size: int) -> Array:
        drawn = gradients(level, x, y, level.draw_rows(key, size))
        deviations = [trees.sub(g, mean) for g, mean in zip(drawn, exact, strict=True)]
        return jnp.stack([trees.dot(d, d) for d in deviations])

    def squares(i: Any) -> Array:
        return jnp.stack([square(jax.random.fold_in(key, i), size) for size in sizes])

    return jnp.mean(jax.lax.map(squares, jnp.arange(DRAWS)), axis=0)


def _sigma(pairs: list[tuple[int, float]]) -> float:
    """The σ of σ/√b, from pairs (b, noise) of equal weight."""
    return math.sqrt(np.mean([b * noise**2 for b, noise in pairs])) if pairs else 0.0
