"""The dense second derivatives that STABLE and SVRB keep, and their projections."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def matrix_dtype(x: PyTree[Any], y: PyTree[Any]) -> Any:
    """The widest of x and y, and at least single: there is no factorization in half precision."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves((x, y)))


def check_memory(name: str, x: PyTree[Any], y: PyTree[Any], max_bytes: int) -> tuple[int, int]:
    """(dim x, dim y), or an error where the matrices of a step would take more than `max_bytes`."""
    p, q = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (x, y))
    needed = 3 * (p + q) * q * matrix_dtype(x, y).itemsize
    if needed > max_bytes:
        raise ValueError(
            f"{name}: x has {p} and y {q} entries, so the matrices of a step (the estimates and two samples) take "
            f"{needed / 1e9:.1f} GB and O((dim y)³) time; use a solver that needs products alone, such as bl.SOBA, or "
            "raise max_bytes"
        )
    return p, q


def clipped_eigh(
    matrix: Float[Array, "q q"], least: Any
) -> tuple[Float[Array, " q"], Float[Array, "q q"], Float[Array, "q q"]]:
    """The nearest symmetric matrix with eigenvalues of at least `least`: its values, vectors and itself."""
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    values = jnp.maximum(values, jnp.asarray(least).astype(values.dtype))
    return values, vectors, (vectors * values[None]) @ vectors.T


def solve_eigh(values: Float[Array, " q"], vectors: Float[Array, "q q"], rhs: Float[Array, " q"]) -> Float[Array, " q"]:
    """The solution of a system whose matrix has these eigenvalues and vectors."""
    return vectors @ ((vectors.T @ rhs) / values)


def clipped_svd(matrix: Float[Array, "p q"], most: Any) -> Float[Array, "p q"]:
    """The nearest matrix with singular values of at most `most`."""
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return (left * jnp.minimum(values, jnp.asarray(most).astype(values.dtype))[None]) @ right
