"""A quadratic problem whose solution is known in closed form."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from bilevel import _checks as checks
from bilevel.problem import Level, Problem
from bilevel.sampling import Blocks
from bilevel.tasks._base import SOURCES, Search, Task, dividing, generator

NU = 0.5  # the upper level's curvature in x itself
_MOST_DIGITS = 16.0

Vector = Float[np.ndarray, " dim"]


def lower_loss(x: Float[Array, " dim_x"], y: Float[Array, " dim_y"], batch: Any) -> Float[Scalar, ""]:
    """The mean over the rows of ½ yᵀA y − yᵀ(B x + c), which is linear in (A, B, c)."""
    A, B, c = (jnp.mean(batch[name], axis=0) for name in ("A", "B", "c"))
    return 0.5 * y @ (A @ y) - y @ (B @ x + c)


def upper_loss(x: Float[Array, " dim_x"], y: Float[Array, " dim_y"], batch: Any) -> Float[Scalar, ""]:
    """The mean over the rows of ½‖y‖² − y·target + (ν/2)‖x‖²."""
    return 0.5 * y @ y - y @ jnp.mean(batch["target"], axis=0) + 0.5 * NU * (x @ x)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedForm:
    """The noiseless problem and its solution, in float64."""

    A: Float[np.ndarray, "dim_y dim_y"]
    B: Float[np.ndarray, "dim_y dim_x"]
    c: Float[np.ndarray, " dim_y"]
    target: Float[np.ndarray, " dim_y"]

    def y_star(self, x: Any) -> Vector:
        """y*(x) = A⁻¹(B x + c)."""
        return np.linalg.solve(self.A, self.B @ _float64(x) + self.c)

    def v_star(self, x: Any) -> Vector:
        """v*(x) = H⁻¹ F_y(x, y*(x)) = A⁻¹(y*(x) − target)."""
        return np.linalg.solve(self.A, self.y_star(x) - self.target)

    def hypergradient(self, x: Any) -> Vector:
        """∇Φ(x) = F_x − J[v*(x)] = ν x + Bᵀ v*(x)."""
        return NU * _float64(x) + self.B.T @ self.v_star(x)

    @cached_property
    def _upper_hessian(self) -> Float[np.ndarray, "dim_x dim_x"]:
        """∇²Φ = ν I + (A⁻¹B)ᵀ(A⁻¹B)."""
        slope = np.linalg.solve(self.A, self.B)
        return NU * np.eye(self.B.shape[1]) + slope.T @ slope

    @cached_property
    def x_star(self) -> Vector:
        """The minimizer of Φ."""
        return np.linalg.solve(self._upper_hessian, -self.hypergradient(np.zeros(self.B.shape[1])))

    @cached_property
    def upper_smoothness(self) -> float:
        """The largest eigenvalue of ∇²Φ."""
        return float(np.linalg.eigvalsh(self._upper_hessian)[-1])

    def measure(self, x: Any, y: Any) -> dict[str, float]:
        """How far (x, y) is from the solution; `correct digits` of x are relative to the start's distance."""
        distance = float(np.linalg.norm(_float64(x) - self.x_star))
        relative = distance / float(np.linalg.norm(self.x_star))  # x starts at zero
        return {
            "correct digits": _MOST_DIGITS if relative == 0 else min(-math.log10(relative), _MOST_DIGITS),
            "distance": distance,
            "lower distance": float(np.linalg.norm(_float64(y) - self.y_star(x))),
            "hypergradient norm": float(np.linalg.norm(self.hypergradient(x))),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class QuadraticTask(ClosedForm, Task):
    """A `Task` that knows its solution: `x_star`, `y_star(x)`, `v_star(x)` and `hypergradient(x)`, in NumPy float64.

    `mu` and `L` are the least and the largest eigenvalue of A, `upper_smoothness` the largest of ∇²Φ.
    """

    mu: float
    L: float


def quadratic(
    dim_x: int = 5,
    dim_y: int = 5,
    *,
    mu: float = 1.0,
    L: float = 10.0,
    noise: float = 0.0,
    rows: int = 1000,
    batch_size: int | None = None,
    source: str = "rows",
    seed: int = 0,
) -> QuadraticTask:
    """A strongly convex quadratic problem with the given constants and a known solution.

        f(x, y) = mean_i ½‖y‖² − y·target_i + (ν/2)‖x‖²,   ν = ½
        g(x, y) = mean_i ½ yᵀA_i y − yᵀ(B_i x + c_i)

    f is ½‖y − target‖² + (ν/2)‖x‖² up to a constant. The mean A has eigenvalues from μ to L, geometrically
    spaced and randomly rotated; the entries of B, c and the target are normal (B's divided by √dim_x). Row i
    adds a normal perturbation of standard deviation `noise` to each of them (symmetric for A), so that the
    gradients, H and J are all noisy. The perturbations of all rows sum to zero: the full-batch problem is the
    noiseless one. x and y start at zero, in JAX's default precision.

    **Arguments**

    - `dim_x`, `dim_y`: the lengths of x and y. With `dim_y=1`, the only eigenvalue is μ.
    - `mu` ≤ `L`: strong convexity and smoothness of g in y.
    - `noise`: the standard deviation of a row's perturbations. With noise, a batch's A_i may fail to be positive.
    - `rows`, `batch_size`: of both levels. Without noise and batches there is one row.
    - `source`: how batches are drawn: `"rows"` (`bl.Rows`), `"shuffled"`, `"blocks"` or `"shuffled blocks"`. With
      blocks, the batch size is the largest divisor of `rows` that is at most `batch_size`.
    - `seed`: the seed of all random draws.

    **Returns** a `QuadraticTask`. Metrics: `correct digits` = −log₁₀(‖x − x*‖/‖x*‖), at most 16, the score;
    `distance` ‖x − x*‖; `lower distance` ‖y − y*(x)‖; `hypergradient norm` ‖∇Φ(x)‖.

    **Raises** `ValueError` or `TypeError`, naming the argument, for sizes, constants or a seed out of range.

    Example:

        >>> import bilevel as bl, numpy as np
        >>> from bilevel import tasks
        >>> task = tasks.quadratic(dim_x=3, dim_y=4, mu=0.5, L=2.0)
        >>> x = np.ones(3, np.float32)
        >>> y = task.y_star(x).astype(np.float32)
        >>> h = bl.hypergradient(task.problem, x, y, method=bl.Direct())
        >>> bool(np.allclose(h, task.hypergradient(x), atol=1e-4))
        True

    Reference: the synthetic quadratic of FSLA, Li, Gu & Huang (AAAI 2022), section 6.1, with a condition number
    that can be set.
    """
    _check(dim_x, dim_y, mu, L, noise, rows)
    checks.one_of("source", source, SOURCES)
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    rng = generator(seed)
    mean: Any = _draw_mean(rng, dim_x, dim_y, mu, L)
    rows = rows if noise > 0 or batch_size is not None else 1
    if issubclass(SOURCES[source], Blocks) and batch_size is not None:
        batch_size = dividing(batch_size, rows)
    data = {name: value + noise * _centered(rng, (rows, *value.shape), name == "A") for name, value in mean.items()}
    lower = {name: data[name] for name in ("A", "B", "c")}
    draws = SOURCES[source]
    problem = Problem(
        upper=Level(upper_loss, data=draws({"target": data["target"]}), batch_size=batch_size),
        lower=Level(lower_loss, data=draws(lower), batch_size=batch_size),
    )
    closed = ClosedForm(**mean)
    return QuadraticTask(
        name="quadratic",
        problem=problem,
        x=jnp.zeros(dim_x),
        y=jnp.zeros(dim_y),
        metrics=closed.measure,
        score="correct digits",
        search=Search(low=(-2.0,) * dim_x, high=(2.0,) * dim_x),
        mu=float(mu),
        L=float(L),
        **mean,
    )


def _check(dim_x: Any, dim_y: Any, mu: Any, L: Any, noise: Any, rows: Any) -> None:
    for name, value in (("dim_x", dim_x), ("dim_y", dim_y), ("rows", rows)):
        checks.count(name, value)
    checks.positive("mu", mu)
    checks.positive("L", L)
    if mu > L:
        raise ValueError(f"L: got {L} with mu={mu}; the largest eigenvalue cannot be below the least")
    checks.nonnegative("noise", noise)
    if noise > 0 and rows < 2:
        raise ValueError(f"rows: got {rows} with noise {noise}; perturbations that sum to zero need two rows or more")


def _draw_mean(rng: np.random.Generator, dim_x: int, dim_y: int, mu: float, L: float) -> dict[str, np.ndarray]:
    rotation, _ = np.linalg.qr(rng.normal(size=(dim_y, dim_y)))
    A = rotation * np.geomspace(mu, L, dim_y) @ rotation.T
    return {
        "A": (A + A.T) / 2,
        "B": rng.normal(size=(dim_y, dim_x)) / math.sqrt(dim_x),
        "c": rng.normal(size=dim_y),
        "target": rng.normal(size=dim_y),
    }


def _centered(rng: np.random.Generator, shape: tuple[int, ...], symmetric: bool) -> np.ndarray:
    """Standard normal entries minus their mean over the rows; `symmetric` mirrors each row's upper triangle."""
    entries = rng.normal(size=shape)
    if symmetric:
        upper = np.triu(entries)
        entries = upper + np.swapaxes(np.triu(entries, 1), -1, -2)
    return entries - entries.mean(axis=0)


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)
