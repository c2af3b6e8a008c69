"""A source that records every draw, and the referee's problems for the package."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl


class Log:
    """The draws of a run, step by step: (level, indices, key)."""

    def __init__(self):
        self.steps = []

    def begin(self):
        self.steps.append([])

    def add(self, level, indices, key):
        self.steps[-1].append((level, indices, tuple(np.asarray(jax.random.key_data(key)).tolist())))

    def draws(self):
        return [[(level, indices) for level, indices, _ in step] for step in self.steps]

    def keys(self):
        return [key for step in self.steps for _, _, key in step]


class RecordingRows(bl.Rows):
    level: str = eqx.field(static=True)
    log: Any = eqx.field(static=True)

    def __init__(self, arrays, level, log):
        super().__init__(arrays)
        self.level, self.log = level, log

    def sample(self, key, size):
        indices = super().sample(key, size)
        rows = np.asarray(indices) if indices.ndim else int(indices) + np.arange(size)
        self.log.add(self.level, rows, key)
        return indices


class RecordingBlocks(RecordingRows, bl.Blocks):
    """The same for blocks, each draw as the rows of the block."""


def lower_loss(x, y, batch):
    ay, cx, dx = batch["a"] @ y, batch["c"] @ x, batch["d"] @ x
    losses = jax.nn.sigmoid(cx) * jax.nn.softplus(-batch["b"] * ay) + 0.1 * dx * ay
    return jnp.mean(losses) + 0.25 * y @ y


def upper_loss(x, y, batch):
    rx, py = batch["R"] @ x, batch["P"] @ y
    return jnp.mean(0.5 * (py - batch["Q"]) ** 2 + 0.1 * jnp.log(jnp.cosh(rx)) + 0.05 * rx * py)


def cleaning_lower_loss(x, y, batch):
    losses = jax.nn.sigmoid(x) * jax.nn.softplus(-batch["b"] * (batch["a"] @ y))
    return jnp.mean(losses) + 0.25 * y @ y


def cleaning_upper_loss(x, y, batch):
    return jnp.mean(0.5 * (batch["P"] @ y - batch["Q"]) ** 2)


def package_problem(numpy_problem, *, per_row, sizes, log=None, source=RecordingRows):
    """The referee's problem for the package; `sizes` is (upper, lower) or None for full batches."""
    upper_data = {name: getattr(numpy_problem, name) for name in ("P", "Q")}
    lower_data = {name: getattr(numpy_problem, name) for name in ("a", "b")}
    if not per_row:
        upper_data["R"] = numpy_problem.R
        lower_data |= {name: getattr(numpy_problem, name) for name in ("c", "d")}
    if log is not None:
        upper_data = source(upper_data, "upper", log)
        lower_data = source(lower_data, "lower", log)
    upper_size, lower_size = sizes or (None, None)
    return bl.Problem(
        upper=bl.Level(cleaning_upper_loss if per_row else upper_loss, upper_data, upper_size),
        lower=bl.Level(cleaning_lower_loss if per_row else lower_loss, lower_data, lower_size, per_row=per_row),
    )
