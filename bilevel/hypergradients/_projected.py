"""The minimizer of a loss in a convex set, as the fixed point y = P(y − η G_y) of the projected gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from bilevel import trees
from bilevel.oracles import HessianOperator
from bilevel.trees import Tree


def step_length(y0: Tree, y: Tree, G_y: Tree, HG: Tree) -> Float[Scalar, ""]:
    """A step η for the fixed point: 1/curvature along G_y, but no step longer than y or y − y0.

    Every η > 0 has the same fixed points. One that fits the scales of y and G_y keeps rounding small.
    """
    length, bent = trees.norm(G_y), trees.norm(HG)
    most = jnp.maximum(trees.norm(y), trees.norm(trees.sub(y, y0)))
    step = jnp.minimum(length / bent, most / length)
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(step) & (step > 0), step, 1))


class ProjectedHessian(HessianOperator):
    """S = DHD + D(I − D)/η in place of H; D is the symmetric derivative of the projection."""

    D: Callable[[Tree], Tree]
    eta: Any

    def __call__(self, v: Tree) -> Tree:
        return self._between(v, super().__call__)

    def fresh(self, v: Tree, *, key: PRNGKeyArray, size: int | None = None) -> Tree:
        return self._between(v, lambda v: HessianOperator.fresh(self, v, key=key, size=size))

    def dense(self) -> tuple[Float[Array, "y y"], Callable[[Array], Tree]]:
        """The matrix, with ones added on the null space of D, where a right-hand side has nothing."""
        flat, unravel = ravel_pytree(self.y)

        def columns(product: Callable[[Tree], Tree]) -> Array:
            return jax.vmap(lambda u: ravel_pytree(product(unravel(u)))[0])(jnp.eye(flat.size, dtype=flat.dtype))

        values, vectors = jnp.linalg.eigh(columns(self.D))
        null = vectors * (values < jnp.sqrt(jnp.finfo(flat.dtype).eps))[None, :]
        return columns(self) + null @ null.T, unravel

    def _between(self, v: Tree, product: Callable[[Tree], Tree]) -> Tree:
        Dv = self.D(v)
        return self.D(trees.axpy(1 / self.eta, trees.sub(v, Dv), product(Dv)))
