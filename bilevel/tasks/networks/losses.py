"""Losses over rows, made from any function `losses(y, batch)` that returns one entry per row of the batch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from bilevel import trees

Losses = Callable[[PyTree[Array], Any], Float[Array, " n"]]


class MeanLoss(eqx.Module):
    """The mean of the rows' losses."""

    losses: Losses

    def __call__(self, x: Any, y: PyTree[Array], batch: Any) -> Float[Scalar, ""]:
        return jnp.mean(self.losses(y, batch))


class WeightedLoss(eqx.Module):
    """The mean of σ(x_i) times the loss of row i, plus `penalty` · ‖y‖²; x holds the entries of the batch's rows."""

    losses: Losses
    penalty: Float[Array, ""]

    def __call__(self, x: Float[Array, " n"], y: PyTree[Array], batch: Any) -> Float[Scalar, ""]:
        return self.of(x, y, self.losses(y, batch))

    def of(self, x: Float[Array, " n"], y: PyTree[Array], losses: Float[Array, " n"]) -> Float[Scalar, ""]:
        """The same, given the rows' losses."""
        return jnp.mean(jax.nn.sigmoid(x) * losses) + self.penalty * trees.dot(y, y)
