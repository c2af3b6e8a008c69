"""How directions are averaged over iterations."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from bilevel import trees
from bilevel.trees import SparseRows

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


class SAGATable(eqx.Module):
    """The last sample of a gradient on each block of rows, and the mean of these.

    `entries` holds, for each leaf of the gradient, an array (blocks, *shape) and `mean` one of `shape`. A leaf that is
    per row of the same data has `entries` of its own shape, each block's in its place, and no `mean`: that is
    entries / blocks. A leaf that the gradient does not touch has neither.

    Reference: SAGA, Defazio, Bach & Lacoste-Julien (NeurIPS 2014).
    """

    entries: tuple[Array | None, ...]
    mean: tuple[Array | None, ...]
    blocks: int = eqx.field(static=True)

    @staticmethod
    def of(samples: Tree, blocks: int) -> "SAGATable":
        """The table of gradients whose leaves, those of `SparseRows` too, are stacked over the blocks."""
        entries, mean = [], []
        for leaf in jax.tree.leaves(samples, is_leaf=trees.is_sparse):
            if not trees.is_sparse(leaf):
                entries.append(leaf)
                mean.append(jnp.mean(leaf, axis=0))
            else:
                entries.append(leaf.parts[0][1].reshape(leaf.shape) if leaf.parts else None)
                mean.append(None)
        return SAGATable(tuple(entries), tuple(mean), blocks)

    def replace(self, block: Any, now: Tree) -> tuple[Tree, "SAGATable"]:
        """The estimate now − entry + mean, and the table with `now` as the block's entry."""
        leaves, structure = jax.tree.flatten(now, is_leaf=trees.is_sparse)
        estimates, entries, means = [], [], []
        for leaf, entry, mean in zip(leaves, self.entries, self.mean, strict=True):
            if entry is not None and mean is None:
                ((start, rows),) = leaf.parts
                change = SparseRows(((start, rows - trees.take_rows(entry, start, len(rows))),), leaf.shape)
                estimates.append(change + entry / self.blocks)
                entry = change + entry
            elif entry is not None:
                change = leaf - jax.lax.dynamic_index_in_dim(entry, block, keepdims=False)
                estimates.append(change + mean)
                entry = jax.lax.dynamic_update_index_in_dim(entry, leaf, block, 0)
                mean = mean + change / self.blocks
            else:
                estimates.append(leaf)
            entries.append(entry)
            means.append(mean)
        return jax.tree.unflatten(structure, estimates), SAGATable(tuple(entries), tuple(means), self.blocks)
