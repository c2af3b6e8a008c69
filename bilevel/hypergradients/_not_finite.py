"""Why a hypergradient is not finite."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.problem import Problem
from bilevel.trees import Tree


def check_finite(finite: Any, problem: Problem, x: Tree, y: Tree, key: PRNGKeyArray, otherwise: str) -> None:
    """Raise a `ValueError` unless `finite`, which is not looked at under a transformation. The error names the loss
    whose derivative at (x, y) is not finite; if all are, it says `otherwise`."""
    if isinstance(finite, Tracer) or finite:
        return
    for name, parts in zip(("upper", "lower"), _finite(problem, x, y, key), strict=True):
        for part, is_finite in parts.items():
            if not is_finite:
                raise ValueError(
                    f"{name}.loss: its {part} at (x, y) is not finite; look for a square root or a norm at zero, a "
                    "logarithm of zero, or numbers too large for the dtype"
                )
    raise ValueError(f"{otherwise}: the hypergradient is not finite, although the losses' derivatives at (x, y) are")


@eqx.filter_jit
def _finite(problem: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> Any:
    """What of each loss is finite at (x, y), on the batches of `AbstractAdjoint.hypergradient`."""
    upper_key, lower_key, _ = jax.random.split(key, 3)
    upper, lower = problem.upper.draw(upper_key), problem.lower.draw(lower_key)
    ones = jax.tree.map(jnp.ones_like, y)
    return (
        {"gradient": trees.all_finite(oracles.upper_gradients(problem.upper, x, y, upper))},
        {
            "gradient": trees.all_finite(oracles.upper_gradients(problem.lower, x, y, lower)),
            "second derivative": trees.all_finite(oracles.lower_products(problem.lower, x, y, ones, lower)[1:]),
        },
    )
