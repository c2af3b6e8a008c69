"""The dense second derivatives that STABLE and SVRB keep, and their projections."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bilevel import trees
from bilevel.trees import Tree


def matrix_dtype(x: Tree, y: Tree) -> Any:
    """The widest dtype of x and y, and at least single precision: half precision has no factorizations."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves((x, y)))


def zero_matrices(name: str, x: Tree, y: Tree, max_bytes: int) -> tuple[Float[Array, "x y"], Float[Array, "y y"]]:
    """Zero estimates of ∇²_xy g and ∇²_yy g, or an error if the matrices of a step would exceed `max_bytes`."""
    p, q = (trees.size(tree) for tree in (x, y))
    dtype = matrix_dtype(x, y)
    needed = 3 * (p + q) * q * dtype.itemsize
    if needed > max_bytes:
        raise ValueError(
            f"{name}: x has {p} and y {q} entries, so the matrices of a step (the estimates and two samples) take "
            f"{needed / 1e9:.1f} GB and O((dim y)³) time; use a solver that needs only products, such as bl.SOBA, or "
            "raise max_bytes"
        )
    return jnp.zeros((p, q), dtype), jnp.zeros((q, q), dtype)


class Spectral(eqx.Module):
    """The eigenvalues and eigenvectors of a positive symmetric matrix over the raveled y."""

    values: Float[Array, " q"]
    vectors: Float[Array, "q q"]

    @staticmethod
    def nearest(matrix: Float[Array, "q q"], least: Any) -> "Spectral":
        """The nearest symmetric matrix with eigenvalues of at least `least`."""
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        return Spectral(jnp.maximum(values, jnp.asarray(least).astype(values.dtype)), vectors)

    @property
    def matrix(self) -> Float[Array, "q q"]:
        return (self.vectors * self.values[None]) @ self.vectors.T

    def solve(self, b: Tree) -> Tree:
        """The v, like b, whose product with the matrix is b."""
        flat, unravel = ravel_pytree(b)
        return unravel((self.vectors @ ((self.vectors.T @ flat) / self.values)).astype(flat.dtype))


def times(matrix: Float[Array, "p q"], v: Tree, like: Tree) -> Tree:
    """The product with a raveled v, shaped like `like`."""
    flat, unravel = ravel_pytree(like)
    return unravel((matrix @ ravel_pytree(v)[0]).astype(flat.dtype))


def clipped_svd(matrix: Float[Array, "p q"], most: Any) -> Float[Array, "p q"]:
    """The nearest matrix with singular values of at most `most`."""
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return (left * jnp.minimum(values, jnp.asarray(most).astype(values.dtype))[None]) @ right
