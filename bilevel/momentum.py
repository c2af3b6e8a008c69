"""How directions are averaged over iterations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from bilevel import trees

Tree = PyTree[Any]


def moving_average(average: Tree, sample: Tree, weight: Any) -> Tree:
    """(1 − θ) · average + θ · sample, θ = `weight` of the fresh sample, clipped to [0, 1]."""
    weight = jnp.clip(weight, 0, 1)
    return trees.add(trees.scale(1 - weight, average), trees.scale(weight, sample))


def storm(estimate: Tree, old: Tree, new: Tree, weight: Any) -> Tree:
    """Recursive momentum: new + (1 − η)(estimate − old), η = `weight` of the fresh sample.

    `old` and `new` are the gradient of one and the same sample at the previous and the present point. η is clipped
    to [0, 1].

    Reference: STORM, Cutkosky & Orabona (NeurIPS 2019).
    """
    return trees.add(trees.scale(1 - jnp.clip(weight, 0, 1), trees.sub(estimate, old)), new)


def from_plain(weight: Callable[[Any], Any], t: Any) -> Any:
    """η_t, with η_0 = 1: the first estimate is the plain sample."""
    return jnp.where(t == 0, 1.0, weight(t))


def at_both(sample: Callable[..., Tree], new: tuple[Tree, ...], old: tuple[Tree, ...]) -> tuple[Tree, Tree]:
    """`sample` at two points in one batched pass, so that both see the same draws: (at new, at old)."""
    both = jax.vmap(sample)(*jax.tree.map(lambda a, b: jnp.stack([a, b]), new, old))
    return jax.tree.map(lambda leaf: leaf[0], both), jax.tree.map(lambda leaf: leaf[1], both)
