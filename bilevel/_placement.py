"""Where the arrays of a run are. Placement is read off the arrays that the user passes, and kept.

XLA splits each computation by the placement of its arguments. It may place results elsewhere, which costs traffic and a
second compilation, so what belongs to x or y is pinned to the place of x or y, and all else to every device.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bilevel.trees import Tree

_ALIGNED = 64  # bytes: JAX takes memory at such an address as it is on a CPU

Places = tuple[NamedSharding, ...]  # of the leaves of a tree; empty: all on one device


def mesh_of(*trees: Tree) -> Mesh | None:
    """The devices over which some array is spread; None if none is."""
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array) and (sharding := _named(leaf)) is not None:
            return sharding.mesh  # pyright: ignore[reportReturnType]
    return None


def _named(leaf: jax.Array) -> NamedSharding | None:
    if isinstance(leaf, Tracer) or not isinstance(leaf.sharding, NamedSharding):
        return None
    return leaf.sharding if leaf.sharding.mesh.size > 1 else None


def places(tree: Tree, mesh: Mesh, likes: Sequence[Tree]) -> Places:
    """The places for the leaves of a tree: of a leaf whose path ends as one of `likes`, and which has its shape, the
    place of that one; of all others, every device."""
    known: dict[Any, NamedSharding] = {}
    for like in likes:
        for path, leaf in jax.tree_util.tree_leaves_with_path(like):
            if isinstance(leaf, jax.Array) and (sharding := _named(leaf)) is not None:
                known.setdefault((tuple(map(str, path)), leaf.shape), sharding)

    def place(path: Any, leaf: Any) -> NamedSharding:
        path = tuple(map(str, path))
        ends = (known.get((path[i:], leaf.shape)) for i in range(len(path) + 1))
        found = next((found for found in ends if found is not None), NamedSharding(mesh, PartitionSpec()))
        return found.update(spec=_as_results_have_it(found, len(leaf.shape)))

    return tuple(place(*pair) for pair in jax.tree_util.tree_leaves_with_path(tree))


def _as_results_have_it(place: NamedSharding, ndim: int) -> PartitionSpec:
    """The same spec in the form of a program's results: JAX compiles again for another one."""
    axes = [*place.spec]
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes, *[None] * (ndim - len(axes) if AxisType.Explicit in place.mesh.axis_types else 0))


def pinned(tree: Tree, where: Places) -> Tree:
    """The tree, within a program, with its leaves in these places."""
    return _each(_pin, tree, where)


def _pin(leaf: Any, place: NamedSharding) -> Any:
    if AxisType.Explicit in place.mesh.axis_types:
        return jax.sharding.reshard(leaf, place)
    return jax.lax.with_sharding_constraint(leaf, place)


def put(tree: Tree, where: Places) -> Tree:
    """The tree, outside of programs, with its leaves in these places."""
    return _each(jax.device_put, tree, where)


def _each(move: Callable[[Any, NamedSharding], Any], tree: Tree, where: Places) -> Tree:
    if not where:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [move(*pair) for pair in zip(leaves, where, strict=True)])


def on_device(array: np.ndarray) -> jax.Array:
    """A copy on the default device, in the dtype that JAX gives it.

    On a CPU JAX takes the copy as it is, since it is aligned. `jnp.asarray` makes two copies there, and
    `jax.device_put` of the array itself may share the user's memory.
    """
    copy = aligned(array.shape, np.dtype(jax.dtypes.canonicalize_dtype(array.dtype)))
    copy[...] = array
    return jax.device_put(copy)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array at an address with which JAX need not copy it on a CPU; its values are not set."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size].view(dtype).reshape(shape)


@contextlib.contextmanager
def automatic(tree: Tree) -> Iterator[Tree]:
    """The same arrays in JAX's automatic mode, which takes any program."""
    mesh = mesh_of(tree)
    if mesh is None or AxisType.Explicit not in mesh.axis_types:
        yield tree
        return
    mesh = Mesh(mesh.devices, mesh.axis_names)

    def moved(leaf: Any) -> Any:
        sharding = _named(leaf) if isinstance(leaf, jax.Array) else None
        return leaf if sharding is None else jax.device_put(leaf, NamedSharding(mesh, sharding.spec))

    with jax.set_mesh(mesh):
        yield jax.tree.map(moved, tree)


def shapes_of(tree: Tree) -> Tree:
    """The shapes and dtypes of arrays, without their places."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        aval = jax.typeof(leaf)
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)

    return jax.tree.map(shape, tree)
