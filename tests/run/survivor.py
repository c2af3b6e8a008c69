"""A run in its own process, for the tests that kill it."""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
import bilevel.run._checkpoint

EVERY, STEPS = 5, 1000


def upper_loss(x, y, batch):
    return jnp.mean((batch["a"] @ y - 1.0) ** 2)


def lower_loss(x, y, batch):
    return jnp.mean((batch["a"] @ y - x[0]) ** 2) + jnp.sum(jnp.exp(x) * y**2)


def make(seed=0):
    a = np.random.default_rng(seed).normal(size=(64, 5)).astype(np.float32)
    level = dict(data={"a": a}, batch_size=8)
    return bl.Problem(bl.Level(upper_loss, **level), bl.Level(lower_loss, **level))


def solver(upper_step=0.01):
    return bl.FSLA(upper_step=upper_step, lower_step=0.05, adjoint_step=0.05, storm_weight=0.3)


def metrics(x, y):
    return {"loss": float(jnp.sum(x**2) + jnp.sum(y**2))}


def run(checkpoint, *, steps=STEPS, problem=None, chosen=None, key=0, **options):
    """A `Solution`: of the problem above, or of another."""
    options = {"every": EVERY, "metrics": metrics, "progress": False} | options
    problem, chosen = make() if problem is None else problem, solver() if chosen is None else chosen
    x, y = jnp.zeros(5), jnp.zeros(5)
    return bl.solve(problem, chosen, x, y, steps=steps, key=jax.random.key(key), checkpoint=checkpoint, **options)


def process(checkpoint, row):
    """Runs to the end, unless it is killed; saves after each chunk, and counts the rows."""

    def count(x, y):
        row.release()
        return metrics(x, y)

    bilevel.run._checkpoint._OVERHEAD = 0
    run(checkpoint, metrics=count)
