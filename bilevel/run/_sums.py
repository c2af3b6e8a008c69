"""A number that tells arrays apart, computed from the parts of an array where they are."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bilevel import _processes as processes

_BLOCK = 2**20  # words that are mixed together
_ODD = [np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]
_SHIFT = np.uint64(31)


def array_sum(leaf: Any) -> np.ndarray:
    """The sum modulo 2⁶⁴, which has no order, of a random number for each word of an array and its position."""
    shape, itemsize = leaf.shape or (1,), leaf.dtype.itemsize
    long = itemsize == 16 or (len(shape) > 1 and shape[-1] * itemsize % 8 == 0)
    width = 8 if long else itemsize  # bytes in a word
    sizes = [*shape[:-1], shape[-1] * itemsize // width]
    total = np.zeros(1, np.uint64)
    for index, part in _parts(leaf, width):
        part = np.ascontiguousarray(part).reshape(part.shape or (1,))
        starts = [along.indices(n)[0] for along, n in zip(index, leaf.shape, strict=True)] or [0]
        starts[-1] = starts[-1] * itemsize // width
        total += _mixed(part.view(f"u{width}"), starts, sizes)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return processes.gathered(total).sum(axis=0, keepdims=True)[0]
    return total


def _parts(leaf: Any, width: int) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """The parts of an array on each device, and what they are of it. Copies of a part are left out."""
    whole = (slice(None),) * leaf.ndim
    if not isinstance(leaf, jax.Array):
        yield whole, leaf
        return
    if leaf.is_fully_addressable:
        found = {str(shard.index): shard for shard in leaf.addressable_shards}
    else:  # of the copies in all processes, the first counts
        found = {str(shard.index): shard for shard in leaf.addressable_shards if shard.replica_id == 0}
    if any(shard.data.ndim and shard.data.shape[-1] * leaf.dtype.itemsize % width for shard in found.values()):
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"got an array of shape {leaf.shape} and dtype {leaf.dtype} whose last axis is split over processes "
                f"into parts that are no multiple of {width} bytes; split another axis"
            )
        yield whole, np.asarray(leaf)  # words lie across parts
        return
    for shard in found.values():
        yield shard.index, np.asarray(shard.data)


def _mixed(words: np.ndarray, starts: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """The sum over a part that begins at `starts` of an array with these sizes."""
    if words.shape[1:] == tuple(sizes[1:]):  # contiguous in the array
        words, starts, sizes = words.reshape(-1), [starts[0] * math.prod(sizes[1:])], [words.size]
    rows = max(1, _BLOCK // max(1, math.prod(words.shape[1:])))
    total = np.zeros(1, np.uint64)
    for first in range(0, len(words), rows):
        block = words[first : first + rows]
        place = np.zeros((), np.uint64)
        for start, n, size in zip((starts[0] + first, *starts[1:]), block.shape, sizes, strict=True):
            place = place[..., None] * np.uint64(size) + np.arange(start, start + n, dtype=np.uint64)
        mixed = block + (place + np.uint64(1)) * _ODD[0]
        for odd in _ODD[1:]:
            mixed ^= mixed >> _SHIFT
            mixed *= odd
        mixed ^= mixed >> _SHIFT
        total += np.sum(mixed, dtype=np.uint64)
    return total
