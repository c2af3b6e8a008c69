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

    For each leaf of the gradient, `entries` holds an array (blocks, *shape) and `mean` an array of `shape`. A leaf
    whose rows are those of the batch (`SparseRows`) has neither: see `saga_rows`.

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
        entries = tuple(None if trees.is_sparse(leaf) else leaf for leaf in leaves)
        mean = tuple(None if entry is None else jnp.mean(entry, axis=0) for entry in entries)
        last = tuple(None if entry is None else entry[0] for entry in entries)
        return SAGATable(entries, mean, jnp.zeros((), jnp.int32), last)

    def replace(self, block: Any, now: Tree) -> tuple[Tree, "SAGATable"]:
        """The estimate now − entry + mean, and the table with `now` as the block's entry."""
        leaves, structure = jax.tree.flatten(now, is_leaf=trees.is_sparse)
        estimates, entries, means = [], [], []
        for leaf, entry, mean, last in zip(leaves, self.entries, self.mean, self.last, strict=True):
            if entry is not None:
                entry = jax.lax.dynamic_update_index_in_dim(entry, last, self.block, 0)
                change = leaf - jax.lax.dynamic_index_in_dim(entry, block, keepdims=False)
                leaf, mean = change + mean, mean + change / len(entry)
            estimates.append(leaf)
            entries.append(entry)
            means.append(mean)
        last = tuple(None if trees.is_sparse(leaf) else leaf for leaf in leaves)
        table = SAGATable(tuple(entries), tuple(means), jnp.asarray(block, jnp.int32), last)
        return jax.tree.unflatten(structure, estimates), table


def rows_of(samples: Tree) -> Tree:
    """The last sample of each row, for the leaves that have rows; None for others. Stacked over the blocks, as in
    `SAGATable.of`."""

    def of_leaf(leaf: Any) -> Array | None:
        if not trees.is_sparse(leaf) or not leaf.parts:
            return None
        return leaf.parts[0][1].reshape(leaf.shape)

    return trees.map_leaves(of_leaf, samples)


def saga_rows(rows: Tree, now: Tree, blocks: int) -> tuple[Tree, Tree]:
    """What `SAGATable.replace` does, for leaves with rows: each block has its own, so that the mean is rows / blocks.

    `rows` is `rows_of` the samples so far. Returns the estimate, and the rows with those of `now`.
    """

    def replace(rows: Any, leaf: Any) -> tuple[Any, Any]:
        if rows is None:
            return leaf, None
        ((start, fresh),) = leaf.parts
        change = SparseRows(((start, fresh - trees.take_rows(rows, start, len(fresh))),), leaf.shape)
        return trees.scale(1 / blocks, rows) + change, rows + change

    leaves, structure = jax.tree.flatten(now, is_leaf=trees.is_sparse)
    found = [replace(*pair) for pair in zip(structure.flatten_up_to(rows), leaves, strict=True)]
    return tuple(jax.tree.unflatten(structure, part) for part in zip(*found, strict=True))  # pyright: ignore[reportReturnType]
