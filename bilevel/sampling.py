"""Where batches come from: rows or blocks of rows, drawn independently or in a shuffled order.

A source is a small module over `arrays` with `sample(key, size) -> indices`, `take(indices, size) -> rows`,
`draw(key, size) -> Batch`, its `length`, and `check(size)`. For another way of drawing, write a subclass of `Rows`
with its own `sample`.

Strata are equal contiguous parts of the rows. A batch has as many rows of one as of another, drawn in each as if it
were all. Where rows are split over devices, each then reads, and computes with, only its own rows.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import _random
from bilevel._placement import on_device
from bilevel.disk import OnDisk
from bilevel.trees import Tree, take_rows


class Batch(eqx.Module):
    """Some rows of a level's data.

    The level's loss receives `rows`. `indices` are the positions of the rows in the data (a vector, the scalar start of
    a contiguous block, or a matrix with one line per stratum; None for all of them); `size` is their number. `key` is
    the random key of a loss that wants one.
    """

    rows: PyTree[Array]
    indices: Int[Array, "..."] | None
    size: int = eqx.field(static=True)
    key: PRNGKeyArray | None = None

    def of(self, array: Array) -> Array:
        """The batch's rows of another array that has one entry per row of the data."""
        return array if self.indices is None else take_rows(array, self.indices, self.size)


def _as_rows(arrays: Any) -> Any:
    if isinstance(arrays, OnDisk):
        return arrays
    found, structure = checks.paths_and_leaves("data", arrays)
    if any(isinstance(node, OnDisk) for node in jax.tree.leaves(arrays, is_leaf=_is_no_tree)):
        raise TypeError("data: got a tree with a bl.OnDisk in it; pass one for all: bl.OnDisk({name: source, …})")
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


def _is_no_tree(node: Any) -> bool:
    return isinstance(node, OnDisk) or hasattr(node, "__next__") or checks.is_sparse_matrix(node)


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
        array = on_device(leaf) if isinstance(leaf, np.ndarray) else leaf
    held = leaf.astype(array.dtype, copy=False) if isinstance(array, Tracer) else array  # made in a trace
    if jnp.issubdtype(array.dtype, jnp.inexact):
        if not checks.all_finite(held):
            raise ValueError(
                f"data: contains NaN or infinity as {array.dtype}; drop, impute or rescale such rows first"
            )
    elif array.dtype != leaf.dtype and not np.array_equal(held, leaf):
        raise ValueError(f"data: integers do not fit in {array.dtype}; encode them as smaller ones")
    return array


class Rows(eqx.Module):
    """Independent uniform draws of rows, with replacement, as the papers' theorems assume.

    **Arguments**

    - `arrays`: a pytree of arrays with one common leading axis of rows. They are converted to device arrays here, once,
      and stay where they are if they are JAX's. Or `bl.OnDisk(…)`, whose rows are read when they are drawn.
    - `strata`: the number of equal contiguous parts of the rows of which each batch has equally many. The mean over a
      batch stays unbiased, and its variance is at most that of plain draws. Rows that are split over n devices need a
      multiple of n. The number of rows and each batch size must be multiples of it. With the same strata, one device
      and many draw the same rows.

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.Rows({"features": np.eye(4), "label": np.arange(4)})
        >>> source.draw(jax.random.key(0), 2).rows["features"].shape
        (2, 4)
    """

    arrays: PyTree[Array] | OnDisk
    strata: int = eqx.field(static=True, default=1, kw_only=True)

    def __init__(self, arrays: Tree, strata: int = 1):
        checks.count("strata", strata)
        self.arrays, self.strata = _as_rows(arrays), int(strata)
        if self.length % strata:
            raise ValueError(
                f"strata: got {strata}, which does not divide {self.length} rows; pass a divisor, or drop "
                f"{self.length % strata} rows"
            )

    @property
    def length(self) -> int:
        """The number of rows."""
        if isinstance(self.arrays, OnDisk):
            return self.arrays.length
        return jax.tree.leaves(self.arrays)[0].shape[0]

    def check(self, size: int, name: str = "batch_size") -> None:
        """Raise, naming the argument, unless a batch of `size` can be drawn."""
        if size > self.length:
            raise ValueError(f"{name}: got {size}, but the data have {self.length} rows; pass at most this number")
        if size % self.strata:
            raise ValueError(f"{name}: got {size}; with {self.strata} strata, pass a multiple of {self.strata}")
        parts = _split_over(self.arrays)
        if self.strata % parts:
            raise ValueError(
                f"strata: got {self.strata}, but the rows are split over {parts} devices; pass "
                f"bl.{type(self).__name__}(data, strata={parts}), or a multiple, so that each device reads its own rows"
            )

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, "..."]:
        if self.strata == 1:
            return _random.below(key, self.length, (size,))
        return self._in_strata(_random.below(key, self.length // self.strata, (self.strata, size // self.strata)))

    def _in_strata(self, places: Int[Array, "strata n"]) -> Int[Array, "strata n"]:
        """Places in each stratum as positions in the data."""
        return places + self.length // self.strata * jnp.arange(self.strata, dtype=places.dtype)[:, None]

    def take(self, indices: Int[Array, "..."], size: int) -> PyTree[Array]:
        if isinstance(self.arrays, OnDisk):
            return self.arrays.take(indices, size)
        return jax.tree.map(lambda array: take_rows(array, indices, size), self.arrays)

    def all_rows(self) -> Batch:
        """All rows, in order."""
        if isinstance(self.arrays, OnDisk):
            gigabytes = self.length * self.arrays.store.row_bytes / 1e9
            raise ValueError(
                f"data: all {self.length} rows ({gigabytes:.2g} GB) are needed at once, but they are on disk; use a "
                "solver whose steps draw batches, or, if they fit in memory, pass arrays in place of bl.OnDisk"
            )
        return Batch(self.arrays, None, self.length)

    def loaded(self) -> "Rows":
        """The same with all rows in memory."""
        if not isinstance(self.arrays, OnDisk):
            return self
        return eqx.tree_at(lambda source: source.arrays, self, self.first(self.length))

    def first(self, size: int) -> PyTree[Array]:
        """The first `size` rows."""
        if isinstance(self.arrays, OnDisk):
            return self.arrays.take(jnp.arange(size, dtype=jnp.int32), size)
        return jax.tree.map(lambda array: array[:size], self.arrays)

    def draw(self, key: PRNGKeyArray, size: int) -> Batch:
        self.check(size)
        indices = self.sample(key, size)
        return Batch(self.take(indices, size), indices, size)


class Blocks(Rows):
    """Uniform draws of one block of a fixed partition into contiguous blocks of equal size.

    Reading a block copies contiguous memory, which is faster than gathering rows. The partition is by
    position: **the rows must already be in random order**, and the batch size must divide their number
    (a short last block would be drawn as often as the others and weigh its rows more).

    **Arguments**: `arrays` and `strata`, as of `Rows`. With strata, a batch has one block of each, and (batch size) /
    `strata` must divide the number of their rows.

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.Blocks(np.arange(6.0))
        >>> source.draw(jax.random.key(0), 3).rows.shape
        (3,)
    """

    def check(self, size: int, name: str = "batch_size") -> None:
        super().check(size, name)
        if self.length % size:
            blocks = self.length // self.strata
            small = [d for d in range(1, math.isqrt(blocks) + 1) if blocks % d == 0]
            divisors = sorted(self.strata * d for d in {*small, *(blocks // d for d in small)})
            below = max((d for d in divisors if d < size), default=divisors[0])
            above = min(d for d in divisors if d > size)
            raise ValueError(
                f"{name}: {self.length} rows do not divide into blocks of {size}; "
                f"use {below} or {above}, drop {self.length % size} rows, or draw with bl.Rows"
            )

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, "..."]:
        blocks = self.length // size
        if self.strata == 1:
            return size * _random.below(key, blocks)
        return self._in_blocks(_random.below(key, blocks, (self.strata,)), size)

    def _in_blocks(self, blocks: Int[Array, " strata"], size: int) -> Int[Array, "strata n"]:
        """A block of each stratum, as positions in the data."""
        n = size // self.strata
        return self._in_strata(n * blocks[:, None] + jnp.arange(n, dtype=blocks.dtype)[None, :])


class Shuffled(Rows):
    """Every row once per epoch, in a random order that is new in each epoch: what practice does.

    An epoch has ⌊rows / batch size⌋ iterations. Rows left over, others in each epoch, are not seen in it. Each place
    of a solver's listing that draws a batch goes through the rows by itself, with one batch per iteration; a place
    inside an inner loop has one order per inner step. No order is stored: it is a permutation that is computed at the
    batch's positions, from the run's key, the place and the epoch.

    In a loop of your own, take the steps by `bl.advance`: its keys say which iteration it is. With other keys, each
    batch is the first of an order of its own.

    **Arguments**: `arrays` and `strata`, as of `Rows`. Each stratum has an order of its own.

    Example:

        >>> import jax, numpy as np, bilevel as bl
        >>> source = bl.Shuffled(np.arange(6.0))
        >>> source.draw(jax.random.key(0), 3).rows.shape
        (3,)
    """

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, "..."]:
        order, i = _random.epoch(key, self.length // size)
        n = size // self.strata
        places = n * i + jnp.arange(n, dtype=jnp.int32)
        if self.strata == 1:
            return _random.permuted(order, places, self.length)
        return self._in_strata(_permuted_in_each(order, places, self.strata, self.length // self.strata))


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

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, "..."]:
        blocks = self.length // size
        order, i = _random.epoch(key, blocks)
        if self.strata == 1:
            return size * _random.permuted(order, i, blocks)
        return self._in_blocks(_permuted_in_each(order, i[None], self.strata, blocks)[:, 0], size)


def _permuted_in_each(order: PRNGKeyArray, places: Int[Array, " n"], strata: int, n: int) -> Int[Array, "strata n"]:
    """The places in a permutation of 0, …, n − 1 for each stratum."""
    return jax.vmap(lambda key: _random.permuted(key, places, n))(jax.random.split(order, strata))


def _split_over(arrays: Any) -> int:
    """The number of parts into which the leading axis of some array is split over devices."""
    parts = 1
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and len(leaf.sharding.device_set) > 1:
            parts = max(parts, len(leaf) // leaf.sharding.shard_shape(leaf.shape)[0])
    return parts


class Subset(Rows):
    """A source that draws only from the rows at `indices` of another source."""

    indices: Int[Array, " rows"]

    def __init__(self, source: Rows, indices: Int[Array, " rows"]):
        self.arrays, self.strata = source.take(indices, len(indices)), 1
        self.indices = indices

    def all_rows(self) -> Batch:
        return Batch(self.arrays, self.indices, len(self.indices))

    def draw(self, key: PRNGKeyArray, size: int) -> Batch:
        among = self.sample(key, size)
        return Batch(self.take(among, size), self.indices[among], size)
