"""Where batches come from: rows or blocks of rows, drawn independently or in a shuffled order.

A source is a small module over `arrays` with `sample(key, size) -> indices`, `take(indices, size) -> rows`,
`draw(key, size) -> Batch`, its `length`, and `check(size)`. For another way of drawing, write a subclass of `Rows`
with its own `sample`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import _random
from bilevel.trees import Tree, take_rows


class Batch(eqx.Module):
    """Some rows of a level's data.

    The level's loss receives `rows`. `indices` are the positions of the rows in the data (a vector, or
    the scalar start of a contiguous block; None for all of them); `size` is their number.
    """

    rows: PyTree[Array]
    indices: Int[Array, "..."] | None
    size: int = eqx.field(static=True)

    def of(self, array: Array) -> Array:
        """The batch's rows of another array that has one entry per row of the data."""
        return array if self.indices is None else take_rows(array, self.indices, self.size)


def _as_rows(arrays: Any) -> PyTree[Array]:
    found, structure = checks.paths_and_leaves("data", arrays)
    if not found:
        raise ValueError("data: got a pytree without arrays; pass arrays with one leading axis of rows, or None")
    leaves = [_as_array(f"data{jax.tree_util.keystr(path)}", leaf) for path, leaf in found]
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if None in lengths:
        raise ValueError(
            "data: got a scalar; pass arrays with one leading axis of rows (a list is a tree of what it holds: "
            "numpy.asarray makes an array of it)"
        )
    if len(lengths) > 1:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(f"data: leading axes differ ({shapes}); every array needs one entry per row")
    if lengths == {0}:
        raise ValueError("data: got zero rows; pass at least one row, or data=None for a level without data")
    return jax.tree.unflatten(structure, [_on_device(leaf) for leaf in leaves])


def _as_array(where: str, leaf: Any) -> Any:
    """A leaf of the data as an array of JAX or NumPy. An error names what is none."""
    if isinstance(leaf, jax.Array):
        return leaf
    kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
    if checks.is_sparse_matrix(leaf):
        raise TypeError(
            f"{where}: got a sparse matrix ({kind}); pass it dense (.toarray() or .todense()), or the column numbers "
            "and values of each row, padded to one length"
        )
    if hasattr(leaf, "__next__"):
        raise TypeError(
            f"{where}: got a {kind}, which gives its rows one after the other; pass arrays that hold all rows, or draw "
            "in the redraw of bl.Episodes"
        )
    if not (hasattr(leaf, "__array__") or isinstance(leaf, bool | int | float | complex | str | range)):
        raise TypeError(f"{where}: got a {kind}; pass arrays with one leading axis of rows")
    return checks.native(where, leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf))


def _on_device(leaf: Any) -> Array:
    """The array on the device, where the default precision must still represent it."""
    if isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    with np.errstate(over="ignore"):
        array = jnp.asarray(leaf)
        held = np.asarray(leaf).astype(array.dtype)
    if jnp.issubdtype(array.dtype, jnp.inexact):
        if not np.isfinite(held).all():
            raise ValueError(
                f"data: contains NaN or infinity as {array.dtype}; drop, impute or rescale such rows first"
            )
    elif array.dtype != leaf.dtype and not np.array_equal(held, leaf):
        raise ValueError(f"data: integers do not fit in {array.dtype}; encode them as smaller ones")
    return array


class Rows(eqx.Module):
    """Independent uniform draws of rows, with replacement, as the papers' theorems assume.

    **Arguments**: `arrays`, a pytree of arrays with one common leading axis of rows. They are converted to
    device arrays here, once.

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.Rows({"features": np.eye(4), "label": np.arange(4)})
        >>> source.draw(jax.random.key(0), 2).rows["features"].shape
        (2, 4)
    """

    arrays: PyTree[Array]

    def __init__(self, arrays: Tree):
        self.arrays = _as_rows(arrays)

    @property
    def length(self) -> int:
        """The number of rows."""
        return jax.tree.leaves(self.arrays)[0].shape[0]

    def check(self, size: int, name: str = "batch_size") -> None:
        """Raise, naming the argument, unless a batch of `size` can be drawn."""
        if size > self.length:
            raise ValueError(f"{name}: got {size}, but the data have {self.length} rows; pass at most this number")

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, " size"]:
        return _random.below(key, self.length, (size,))

    def take(self, indices: Int[Array, "..."], size: int) -> PyTree[Array]:
        return jax.tree.map(lambda array: take_rows(array, indices, size), self.arrays)

    def all_rows(self) -> Batch:
        """All rows, in order."""
        return Batch(self.arrays, None, self.length)

    def draw(self, key: PRNGKeyArray, size: int) -> Batch:
        self.check(size)
        indices = self.sample(key, size)
        return Batch(self.take(indices, size), indices, size)


class Blocks(Rows):
    """Uniform draws of one block of a fixed partition into contiguous blocks of equal size.

    Reading a block copies contiguous memory, which is faster than gathering rows. The partition is by
    position: **the rows must already be in random order**, and the batch size must divide their number
    (a short last block would be drawn as often as the others and weigh its rows more).

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.Blocks(np.arange(6.0))
        >>> source.draw(jax.random.key(0), 3).rows.shape
        (3,)
    """

    def check(self, size: int, name: str = "batch_size") -> None:
        super().check(size, name)
        if self.length % size:
            divisors = [d for d in range(1, self.length + 1) if self.length % d == 0]
            below = max(d for d in divisors if d < size)
            above = min(d for d in divisors if d > size)
            raise ValueError(
                f"{name}: {self.length} rows do not divide into blocks of {size}; "
                f"use {below} or {above}, drop {self.length % size} rows, or draw with bl.Rows"
            )

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, ""]:
        return size * _random.below(key, self.length // size)


class Shuffled(Rows):
    """Every row once per epoch, in a random order that is new in each epoch: what practice does.

    An epoch has ⌊rows / batch size⌋ iterations. Rows left over, others in each epoch, are not seen in it. Each place
    of a solver's listing that draws a batch goes through the rows by itself, with one batch per iteration; a place
    inside an inner loop has one order per inner step. No order is stored: it is a permutation that is computed at the
    batch's positions, from the run's key, the place and the epoch.

    In a loop of your own, take the steps by `bl.advance`: its keys say which iteration it is. With other keys, each
    batch is the first of an order of its own.

    **Arguments**: `arrays`, as of `Rows`.

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.Shuffled(np.arange(6.0))
        >>> source.draw(jax.random.key(0), 3).rows.shape
        (3,)
    """

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, " size"]:
        order, i = _random.epoch(key, self.length // size)
        return _random.permuted(order, size * i + jnp.arange(size, dtype=jnp.int32), self.length)


class ShuffledBlocks(Blocks):
    """Every block of a fixed partition once per epoch, in a random order that is new in each epoch.

    As fast to read as `Blocks`, and with its conditions: **the rows must already be in random order**, and the batch
    size must divide their number. Orders, places and epochs are those of `Shuffled`.

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.ShuffledBlocks(np.arange(6.0))
        >>> source.draw(jax.random.key(0), 3).rows.shape
        (3,)
    """

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, ""]:
        blocks = self.length // size
        return size * _random.permuted(*_random.epoch(key, blocks), blocks)


class Subset(Rows):
    """A source that draws only from the rows at `indices` of another source."""

    indices: Int[Array, " rows"]

    def __init__(self, source: Rows, indices: Int[Array, " rows"]):
        self.arrays = source.take(indices, len(indices))
        self.indices = indices

    def all_rows(self) -> Batch:
        return Batch(self.arrays, self.indices, len(self.indices))

    def draw(self, key: PRNGKeyArray, size: int) -> Batch:
        among = self.sample(key, size)
        return Batch(self.take(among, size), self.indices[among], size)
