"""FSLA's quadratic: two least-squares problems, on which every estimate of a hypergradient has a known error."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from bilevel import _checks as checks
from bilevel.problem import Level, Problem
from bilevel.tasks._base import generator

DIM = 5  # of x and of y
VARIANCE = 0.1  # of the noise in b and e

Vector = Float[np.ndarray, " dim"]


def lower_loss(x: Float[Array, " dim"], y: Float[Array, " dim"], batch: Any) -> Float[Scalar, ""]:
    """The mean over the rows of (c·x + d·y − e)²."""
    return jnp.mean((batch["C"] @ x + batch["D"] @ y - batch["e"]) ** 2)


def upper_loss(x: Float[Array, " dim"], y: Float[Array, " dim"], batch: Any) -> Float[Scalar, ""]:
    """The mean over the rows of (a·y − b)²; it depends on x only through y."""
    return jnp.mean((batch["A"] @ y - batch["b"]) ** 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic:
    """f(x, y) = (1/n) ‖A y − b‖² and g(x, y) = (1/n) ‖C x + D y − e‖², with the solution in NumPy float64.

    `problem` has all rows; `reduced` is the same problem with only eleven and six rows.
    """

    A: Float[np.ndarray, "rows dim"]
    b: Float[np.ndarray, " rows"]
    C: Float[np.ndarray, "rows dim"]
    D: Float[np.ndarray, "rows dim"]
    e: Float[np.ndarray, " rows"]

    def y_star(self, x: Any) -> Vector:
        """y*(x) = argmin over y of ‖C x + D y − e‖²."""
        return np.linalg.lstsq(self.D, self.e - self.C @ np.asarray(x, np.float64))[0]

    def v_star(self, x: Any) -> Vector:
        """v*(x) = H⁻¹ F_y(x, y*(x)), with F_y = (2/n) Aᵀ(A y − b)."""
        F_y = 2 * self.A.T @ (self.A @ self.y_star(x) - self.b) / len(self.A)
        return np.linalg.solve(self.H, F_y)

    def hypergradient(self, x: Any) -> Vector:
        """∇Φ(x) = −J[v*(x)], with J[v] = (2/n) CᵀD v."""
        return -2 * self.C.T @ (self.D @ self.v_star(x)) / len(self.D)

    @cached_property
    def H(self) -> Float[np.ndarray, "dim dim"]:
        """∇²_yy g = (2/n) DᵀD, the same everywhere."""
        return 2 * self.D.T @ self.D / len(self.D)

    @property
    def L(self) -> float:
        """Smoothness of the mean g in y; that of the sum is n times as large."""
        return float(np.linalg.eigvalsh(self.H)[-1])

    @cached_property
    def problem(self) -> Problem:
        return _problem({"A": self.A, "b": self.b}, {"C": self.C, "D": self.D, "e": self.e})

    @cached_property
    def reduced(self) -> Problem:
        """The same functions f and g up to rounding, from the triangular factors of [C D e] and [A b]."""
        lower = _triangle(np.column_stack([self.C, self.D, self.e]))
        upper = _triangle(np.column_stack([self.A, self.b]))
        C, D, e = np.split(lower, (DIM, 2 * DIM), axis=1)
        return _problem({"A": upper[:, :-1], "b": upper[:, -1]}, {"C": C, "D": D, "e": e[:, 0]})


def quadratic(rows: int = 10_000, *, seed: int = 0) -> Quadratic:
    """The quadratic on which FSLA measures estimators of the hypergradient, with n = `rows` for each level.

    The entries of A, C and D are uniform on [0, 1]; b = A y° + noise and e = C x° + D ȳ + noise, where y°, x° and ȳ
    have uniform entries too, and the noise is normal.

    From the paper: n = 10⁴, dimension 5, uniform entries, noise of variance 0.1, and SUMS of squares instead of means.
    A step β on the sum is a step n β on the mean: the paper's 2·10⁻⁵ is 0.2 here. v is the same for both (F_y and H
    scale alike), and the hypergradient of the sums is n times that of the means. Chosen here: targets from planted
    uniform vectors (as in the restatement below), with separate vectors for each level.

    For uniform entries, DᵀD/n is near I/12 + 11ᵀ/4. With five dimensions and any seed, μ is therefore about 1/6 and L
    about 8/3 (of the sum: 1700 and 27,000), κ about 16, and β = 2·10⁻⁵ is below 1/L = 3.7·10⁻⁵.

    **Raises** `ValueError` or `TypeError`, naming the argument, for fewer rows than dimensions and a bad seed.

    Example:

        >>> import bilevel as bl, numpy as np
        >>> from bilevel.papers._estimation import quadratic
        >>> found, x = quadratic(100), np.zeros(5)
        >>> y = found.y_star(x).astype(np.float32)
        >>> h = bl.hypergradient(found.problem, x.astype(np.float32), y, method=bl.Direct())
        >>> bool(np.allclose(h, found.hypergradient(x), atol=1e-4))
        True

    Reference: Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse", AAAI
    2022, section 6.1. Restated, with planted targets, in the public code of Ehrhardt & Roberts, "Analyzing Inexact
    Hypergradients for Bilevel Learning" (arXiv 2301.04764).
    """
    checks.count("rows", rows, least=DIM)
    rng = generator(seed)
    A, C, D = (rng.uniform(size=(rows, DIM)) for _ in range(3))
    noise = math.sqrt(VARIANCE) * rng.normal(size=(2, rows))
    b = A @ rng.uniform(size=DIM) + noise[0]
    e = C @ rng.uniform(size=DIM) + D @ rng.uniform(size=DIM) + noise[1]
    return Quadratic(A=A, b=b, C=C, D=D, e=e)


def _problem(upper: dict[str, np.ndarray], lower: dict[str, np.ndarray]) -> Problem:
    return Problem(upper=Level(upper_loss, data=upper), lower=Level(lower_loss, data=lower))


def _triangle(matrix: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "min(n,k) k"]:
    """R with r rows and RᵀR/r = MᵀM/n: means of squares over its rows equal those over the rows of M."""
    R = np.asarray(np.linalg.qr(matrix, mode="r"))
    return R * math.sqrt(len(R) / len(matrix))
