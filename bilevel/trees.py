"""Arithmetic on pytrees whose leaves are arrays, or a few rows of a tall array.

A gradient with respect to one weight per row of data touches only the rows of the batch. `SparseRows`
holds just those, so that `x - step * gradient` costs O(batch) and not O(rows). It behaves like an array
under `+`, `-` and multiplication by a scalar; everything here accepts both kinds of leaf.
"""

import abc
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

Tree = PyTree[Any]


class NotLinearError(TypeError, AttributeError):
    """A step does more with a per-row array than add, scale and read rows."""


class AbstractLazyRows(abc.ABC):
    """Stands for a tall array of which a step reads and writes few rows; see `bilevel._lagged`."""

    shape: tuple[int, ...]
    dtype: Any

    def __getattr__(self, name: str) -> Any:
        raise NotLinearError(f"a step asks for {name} of it")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @abc.abstractmethod
    def take(self, indices: Int[Array, "..."], size: int) -> Array:
        """The rows that `take_rows` reads."""

    @abc.abstractmethod
    def dot(self, other: Any) -> Array:
        """The inner product with another that stands for rows of the same arrays."""

    @abc.abstractmethod
    def paired(self, other: Any) -> tuple[PyTree[Array], Any]:
        """Arrays to map over, and a function of one of each: (this, other), for `vmap`."""


def take_rows(array: Array | AbstractLazyRows, indices: Int[Array, "..."], size: int) -> Array:
    """Rows of `array`: those at a vector of `indices`, or `size` contiguous ones from a scalar start.

    A matrix of indices has one line per stratum, an equal contiguous part of the rows, and each index lies in the
    stratum of its line. No row then leaves the device that holds its stratum.
    """
    if isinstance(array, AbstractLazyRows):
        return array.take(indices, size)
    if indices.ndim == 0:
        return jax.lax.dynamic_slice_in_dim(array, indices, size)
    if indices.ndim == 2:
        strata, places = _strata(array, indices)
        rows = jax.vmap(lambda part, i: part.at[i].get(mode="promise_in_bounds"))(strata, places)
        return rows.reshape(size, *array.shape[1:])
    return array.at[indices].get(mode="promise_in_bounds")


def add_rows(array: Array, indices: Int[Array, "..."], rows: Array) -> Array:
    """`array` with `rows` added where `take_rows` would read them."""
    if rows.shape[0] == 0:
        return array
    if indices.ndim == 0:
        old = jax.lax.dynamic_slice_in_dim(array, indices, rows.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(array, old + rows, indices, 0)
    return _written(array, indices, rows, "add")


def put_rows(array: Array, indices: Int[Array, "..."], rows: Array) -> Array:
    """`array` with `rows` in place of those that `take_rows` would read."""
    if indices.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(array, rows, indices, 0)
    return _written(array, indices, rows, "set")


def _written(array: Array, indices: Int[Array, "..."], rows: Array, how: str) -> Array:
    if indices.ndim == 1:
        return getattr(array.at[indices], how)(rows, mode="promise_in_bounds")
    strata, places = _strata(array, indices)
    rows = rows.reshape(*indices.shape, *array.shape[1:])
    write = jax.vmap(lambda part, i, new: getattr(part.at[i], how)(new, mode="promise_in_bounds"))
    return write(strata, places, rows).reshape(array.shape)


def _strata(array: Array, indices: Int[Array, "strata n"]) -> tuple[Array, Int[Array, "strata n"]]:
    """The strata of an array, and the places in them, each where its stratum is."""
    length = len(array) // len(indices)
    strata = array.reshape(len(indices), length, *array.shape[1:])
    places = indices - length * jnp.arange(len(indices), dtype=indices.dtype)[:, None]
    split = jax.typeof(strata).sharding
    if split.spec[0] is not None:  # in explicit mode
        places = jax.sharding.reshard(places, split.update(spec=jax.sharding.PartitionSpec(split.spec[0], None)))
    return strata, places


def each_row(indices: Int[Array, "..."], size: int) -> Int[Array, " size"]:
    """The indices of the rows that `take_rows` reads, one by one."""
    return indices.ravel() if indices.ndim else indices + jnp.arange(size, dtype=indices.dtype)


def joined(parts: list[tuple[Int[Array, "..."], Array]]) -> tuple[Int[Array, "..."], Array]:
    """Several parts, (indices, rows), as one."""
    if any(indices.ndim == 2 for indices, _ in parts):
        where = jnp.concatenate([indices for indices, _ in parts], axis=1)
        rows = jnp.concatenate([rows.reshape(*indices.shape, *rows.shape[1:]) for indices, rows in parts], axis=1)
        return where, rows.reshape(where.size, *rows.shape[2:])
    where = jnp.concatenate([each_row(indices, len(rows)) for indices, rows in parts])
    return where, jnp.concatenate([rows for _, rows in parts])


class SparseRows(eqx.Module):
    """The sum over `parts` of `rows` placed at `indices` of a zero array of `shape`; no parts is zero."""

    parts: tuple[tuple[Int[Array, "..."], Array], ...]
    shape: tuple[int, ...] = eqx.field(static=True)

    __array_ufunc__ = None  # NumPy must leave the operators to this class

    def add_to(self, array: Array | np.ndarray) -> Array:
        """The sum with an array, in its dtype."""
        array = jnp.asarray(array)
        if len(self.parts) < 2:
            for indices, rows in self.parts:
                array = add_rows(array, indices, rows.astype(array.dtype))
            return array
        # one scatter: a second one would make XLA copy the array
        return add_rows(array, *joined([(indices, rows.astype(array.dtype)) for indices, rows in self.parts]))

    def dense(self, dtype: Any) -> Array:
        """All rows."""
        return self.add_to(jnp.zeros(self.shape, dtype))

    def _map(self, f: Any) -> "SparseRows":
        return SparseRows(tuple((indices, f(rows)) for indices, rows in self.parts), self.shape)

    def __neg__(self) -> "SparseRows":
        return self._map(operator.neg)

    def __mul__(self, scale: Any) -> "SparseRows":
        return self._map(lambda rows: rows * scale)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        if isinstance(other, SparseRows):
            return SparseRows(merged(self.parts + other.parts), self.shape)
        return other + self if isinstance(other, AbstractLazyRows) else self.add_to(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return (-self) + other


def merged(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Rows at the same indices, added."""
    found: dict[int, Any] = {}
    for indices, rows in parts:
        found[id(indices)] = (indices, found[id(indices)][1] + rows if id(indices) in found else rows)
    return tuple(found.values())


def is_sparse(leaf: Any) -> bool:
    """Whether it is `SparseRows`."""
    return isinstance(leaf, SparseRows)


def map_leaves(f: Any, tree: Tree, *others: Tree) -> Tree:
    """`jax.tree.map` that treats a `SparseRows` as one leaf."""
    return jax.tree.map(f, tree, *others, is_leaf=is_sparse)


def add(a: Tree, b: Tree) -> Tree:
    """a + b."""
    return map_leaves(operator.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
    """a − b."""
    return map_leaves(operator.sub, a, b)


def _scaled(scale: Any, leaf: Any) -> Any:
    if is_sparse(leaf):
        return leaf._map(lambda rows: _scaled(scale, rows))
    return jnp.asarray(scale).astype(leaf.dtype) * leaf


def scale(scale: Any, a: Tree) -> Tree:
    """scale · a, with the scalar cast to each leaf's dtype."""
    return map_leaves(lambda leaf: _scaled(scale, leaf), a)


def axpy(scale: Any, a: Tree, b: Tree) -> Tree:
    """scale · a + b, with the scalar cast to each leaf's dtype."""
    return map_leaves(lambda a_leaf, b_leaf: _scaled(scale, a_leaf) + b_leaf, a, b)


def dense(a: Tree, like: Tree) -> Tree:
    """`a` with every `SparseRows` written out, in the dtypes of `like`."""
    return map_leaves(lambda leaf, ref: leaf.dense(ref.dtype) if is_sparse(leaf) else leaf, a, like)


def cast(a: Tree, dtype: Any) -> Tree:
    """The leaves of a dense tree in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), a)


def at_least_single(tree: Tree) -> Tree:
    """Half precision as float32: it has no factorizations, and its rounding would hide the curvature."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def zeros_like(a: Tree) -> Tree:
    """Zeros in the shapes and dtypes of `a`."""
    return jax.tree.map(jnp.zeros_like, a)


def size(a: Tree) -> int:
    """The number of entries over all leaves of a dense tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(a))


def dot(a: Tree, b: Tree) -> Float[Scalar, ""]:
    """⟨a, b⟩ over all leaves of two dense trees."""
    products = jax.tree.map(lambda u, v: u.dot(v) if isinstance(u, AbstractLazyRows) else jnp.vdot(u, v), a, b)
    return jax.tree.reduce(operator.add, products)


def norm(a: Tree) -> Float[Scalar, ""]:
    """Euclidean norm over all leaves of a dense tree. Squares do not leave the range of the dtype."""
    if any(isinstance(leaf, AbstractLazyRows) for leaf in jax.tree.leaves(a)):
        return jnp.sqrt(dot(a, a))
    size = largest(a)
    size = jnp.where((size > 0) & (size < jnp.inf), size, 1)
    a = divide(a, size)
    return size * jnp.sqrt(dot(a, a))


def unit(a: Tree) -> Tree:
    """a / ‖a‖, or zero if a is. Squares of large and of small entries stay within the range of the dtype."""
    if not any(isinstance(leaf, AbstractLazyRows) for leaf in jax.tree.leaves(a)):
        size = largest(a)
        a = divide(a, jnp.where(size > 0, size, 1))
    length = norm(a)
    return scale(1 / jnp.where(length > 0, length, 1), a)


def divide(a: Tree, scalar: Any) -> Tree:
    """a / scalar for a dense tree."""
    return jax.tree.map(lambda leaf: leaf / scalar.astype(leaf.dtype), a)


def largest(a: Tree) -> Float[Scalar, ""]:
    """The largest absolute entry over all leaves of a dense tree."""
    return jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(a)]))


def where(condition: Bool[Array, ""], a: Tree, b: Tree) -> Tree:
    """`a` if the condition holds, else `b`."""
    return jax.tree.map(lambda u, v: jnp.where(condition, u, v), a, b)


def all_finite(a: Tree) -> Bool[Array, ""]:
    """Whether all entries of the floating leaves are finite. Leaves of other dtypes are ignored."""
    leaves = [leaf for leaf in jax.tree.leaves(a) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
