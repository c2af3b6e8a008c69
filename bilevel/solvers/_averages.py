"""How directions are averaged over iterations."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from bilevel import trees
from bilevel.trees import SparseRows, Tree


def moving_average(average: Tree, sample: Tree, weight: Any) -> Tree:
    """(1 − θ) · average + θ · sample, where θ is the `weight` of the fresh sample, clipped to [0, 1]."""
    weight = jnp.clip(weight, 0, 1)
    return trees.add(trees.scale(1 - weight, average), trees.scale(weight, sample))


def at_both(sample: Callable[..., Tree], new: tuple[Tree, ...], old: tuple[Tree, ...]) -> tuple[Tree, Tree]:
    """`sample` at two points, (at new, at old), in one batched pass: both use the same draws."""
    leaves, structure = jax.tree.flatten(new)
    pairs = [_pair(a, b) for a, b in zip(leaves, jax.tree.leaves(old), strict=True)]

    def at(mapped: list[Any]) -> Tree:
        arguments = [one(part) for (_, one), part in zip(pairs, mapped, strict=True)]
        return sample(*jax.tree.unflatten(structure, arguments))

    both = jax.vmap(at)([stacked for stacked, _ in pairs])
    return trees.map_leaves(lambda leaf: _half(leaf, 0), both), trees.map_leaves(lambda leaf: _half(leaf, 1), both)


def _pair(a: Any, b: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Two leaves as arrays to map over, and the leaf that one of each makes."""
    if isinstance(a, trees.AbstractLazyRows):
        return a.paired(b)
    return jnp.stack([a, b]), lambda leaf: leaf


def _half(leaf: Any, i: int) -> Any:
    """One of the two results; both have the rows of the same draws, and the very same indices."""
    if not trees.is_sparse(leaf):
        return leaf[i]
    return SparseRows(tuple((indices[0], rows[i]) for indices, rows in leaf.parts), leaf.shape)


def storm(
    estimate: Tree,
    sample: Callable[..., Tree],
    new: tuple[Tree, ...],
    old: tuple[Tree, ...],
    weight: Any,
    *,
    has_aux: bool = False,
) -> Any:
    """Recursive momentum: sample(new) + (1 − η)(estimate − sample(old)), both on the same draws.

    η is the `weight` of the fresh sample, clipped to [0, 1]: 1 gives the plain sample, 0 gives SPIDER. With `has_aux`,
    `sample` returns (its value, aux), and `storm` returns (the estimate, (aux at new, aux at old)).

    Reference: STORM, Cutkosky & Orabona (NeurIPS 2019); SPIDER, Fang, Li, Lin & Zhang (NeurIPS 2018).
    """
    at_new, at_old = at_both(sample, new, old)
    value_new, value_old = (at_new[0], at_old[0]) if has_aux else (at_new, at_old)
    updated = trees.add(trees.scale(1 - jnp.clip(weight, 0, 1), trees.sub(estimate, value_old)), value_new)
    return (updated, (at_new[1], at_old[1])) if has_aux else updated


class SAGATable(eqx.Module):
    """The last sample of a gradient on each block of rows, and the mean of these samples.

    For each leaf of the gradient, `entries` holds an array (blocks, *shape) and `mean` an array of `shape`. A leaf that
    is per row of the same data has `entries` of shape (blocks, rows per block, ...), each block's own rows. It has no
    `mean`, which is entries / blocks. A leaf that the gradient does not touch has neither.

    `last`, the entry of `block`, is written at the next call: XLA would copy the table if it were read before a write.

    Reference: SAGA, Defazio, Bach & Lacoste-Julien (NeurIPS 2014).
    """

    entries: tuple[Array | None, ...]
    mean: tuple[Array | None, ...]
    block: Array
    last: tuple[Array | None, ...]

    @staticmethod
    def of(samples: Tree) -> "SAGATable":
        """The table of gradients whose leaves, `SparseRows` included, are stacked over the blocks."""
        leaves = jax.tree.leaves(samples, is_leaf=trees.is_sparse)
        entries = tuple(_rows(leaf) for leaf in leaves)
        mean = tuple(None if trees.is_sparse(leaf) else jnp.mean(leaf, axis=0) for leaf in leaves)
        last = tuple(None if entry is None else entry[0] for entry in entries)
        return SAGATable(entries, mean, jnp.zeros((), jnp.int32), last)

    def replace(self, block: Any, now: Tree) -> tuple[Tree, "SAGATable"]:
        """The estimate now − entry + mean, and the table with `now` as the block's entry."""
        leaves, structure = jax.tree.flatten(now, is_leaf=trees.is_sparse)
        estimates, entries, means = [], [], []
        for leaf, entry, mean, last in zip(leaves, self.entries, self.mean, self.last, strict=True):
            if entry is not None:
                entry = jax.lax.dynamic_update_index_in_dim(entry, last, self.block, 0)
                change = _rows(leaf) - jax.lax.dynamic_index_in_dim(entry, block, keepdims=False)
                blocks = len(entry)
                if mean is None:
                    rows = (entry / blocks).reshape(leaf.shape)
                    leaf = rows + SparseRows(((leaf.parts[0][0], change),), leaf.shape)
                else:
                    leaf, mean = change + mean, mean + change / blocks
            estimates.append(leaf)
            entries.append(entry)
            means.append(mean)
        last = tuple(_rows(leaf) for leaf in leaves)
        table = SAGATable(tuple(entries), tuple(means), jnp.asarray(block, jnp.int32), last)
        return jax.tree.unflatten(structure, estimates), table


def _rows(leaf: Any) -> Array | None:
    """The part of a leaf that a table keeps."""
    if not trees.is_sparse(leaf):
        return leaf
    return leaf.parts[0][1] if leaf.parts else None
