"""Losses over rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.tasks.networks.losses import MeanLoss, WeightedLoss


def squares(y, batch):
    return (batch - y["a"]) ** 2 + y["b"].sum()


def test_means_and_weights():
    y, batch = {"a": jnp.float32(1.0), "b": jnp.array([0.5, -2.0])}, jnp.array([1.0, 3.0, 0.0])
    rows = np.array([0.0, 4.0, 1.0]) - 1.5
    assert float(MeanLoss(squares)(None, y, batch)) == pytest.approx(rows.mean())
    x = jnp.array([0.0, np.log(3.0), -np.log(3.0)])  # weights ½, ¾, ¼
    expected = np.mean([0.5, 0.75, 0.25] * rows) + 0.1 * (1 + 0.25 + 4)
    assert float(WeightedLoss(squares, jnp.float32(0.1))(x, y, batch)) == pytest.approx(expected)
