"""A loss over a batch in parts, one after the other, of which only one is in memory."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Scalar

from bilevel import _checks as checks
from bilevel.trees import Tree


class Accumulated(eqx.Module):
    """What `accumulated` returns. A level fixes `rows`, the most rows of a part, by the batches that it draws."""

    loss: Callable[..., Scalar]
    parts: int = eqx.field(static=True)
    rows: int | None = eqx.field(static=True, default=None)

    def __call__(self, x: Tree, y: Tree, batch: Any, key: PRNGKeyArray | None = None) -> Scalar:
        """Outside of a level: x is no per-row variable."""
        size = _length(batch)
        _check_divides("batch", size, self.parts)
        for leaf in jax.tree.leaves(x):
            if size > 1 and jnp.ndim(leaf) and len(leaf) == size:
                raise ValueError(
                    f"x: a leaf has the shape {leaf.shape}, as long as the batch, and nothing says whether it has one "
                    "entry per row; call the loss that was given to bl.accumulated, or use it in a bl.Level"
                )
        return self.over(x, y, batch, key, [False] * len(jax.tree.leaves(x)))

    def for_batches(self, size: int, drawn: bool) -> "Accumulated":
        """The same with parts of 1/`parts` of `size` rows, whatever is read later, unless another level fixed them."""
        if self.rows is not None:
            return self
        _check_divides("batch_size" if drawn else "data", size, self.parts)
        return Accumulated(self.loss, self.parts, size // self.parts)

    def over(self, x: Tree, y: Tree, batch: Any, key: PRNGKeyArray | None, per_row: list[bool]) -> Scalar:
        """The mean over the parts, with the weights of their sizes; the leaves `per_row` of x are divided as well.

        Part j of q has the rows j, j + q, j + 2q, …: rows that are split over devices remain so in each part.
        """
        leaves, structure = jax.tree.flatten(x)
        size = _length(batch)
        most = min(self.rows or size // self.parts, size)
        q, rest = divmod(size, most)

        def part(own: list[Array], rows: Any, j: Any) -> Scalar:
            given = iter(own)
            whole = [next(given) if flag else leaf for leaf, flag in zip(leaves, per_row, strict=True)]
            keys = () if key is None else (jax.random.fold_in(key, j),)
            x, own_y = jax.tree.unflatten(structure, whole), jax.tree.map(lambda leaf: leaf, y)
            return self.loss(x, own_y, rows, *keys)

        own = [leaf for leaf, flag in zip(leaves, per_row, strict=True) if flag]
        first, last = (jax.tree.map(lambda leaf, cut=cut: leaf[cut], (own, batch)) for cut in _cuts(q * most, size))
        own, rows = jax.tree.map(lambda leaf: leaf.reshape(most, q, *leaf.shape[1:]), first)

        def at(numbered: tuple[Any, list[Array]]) -> Scalar:
            j, own = numbered
            pick = functools.partial(jax.lax.dynamic_index_in_dim, index=j, axis=1, keepdims=False)
            return part(own, jax.tree.map(pick, rows), j)

        at = jax.checkpoint(at, prevent_cse=False)  # with what reads the rows, so that no copy of them is kept
        mean = jnp.mean(jax.lax.map(at, (jnp.arange(q), [jnp.swapaxes(leaf, 0, 1) for leaf in own])))
        return mean if not rest else (q * most / size) * mean + (rest / size) * part(last[0], last[1], q)


def accumulated(loss: Callable[..., Scalar], k: int) -> Accumulated:
    """The loss in `k` parts of a batch (microbatches): the mean of `loss` over them, equal to `loss` up to rounding.

    The value, the gradients, and the products with H and J go through the parts one after the other and compute each
    part's activations anew in the reverse pass, so that only those of one part are in memory. The arithmetic is that of
    the whole batch (a value beside a gradient takes one more forward pass). Gradients are added up in y's dtype.

    **Arguments**

    - `loss(x, y, batch) -> scalar`: a mean over the rows of the batch, plus terms without rows, as `Level` has it. It
      must be so: a loss that compares rows (a norm over the batch, a contrastive loss) is another one in parts. With a
      `key`, each part has its own.
    - `k`: the number of parts. It must divide the `batch_size`, or without one the rows of the data. Where other
      numbers of rows are read, as in `bl.diagnose`, the parts stay as large, and the last one may be smaller.

    A per-row x is divided with the rows. By itself, the result is a loss of the same arguments for an x that has no
    entries per row.

    **Raises** `TypeError` or `ValueError` for a `k` that divides neither, before anything is compiled.

    Example:

        >>> import bilevel as bl, jax.numpy as jnp
        >>> def loss(x, y, batch):
        ...     return jnp.mean((batch @ y - x) ** 2)
        >>> level = bl.Level(bl.accumulated(loss, 4), data=jnp.ones((1000, 3)), batch_size=64)
        >>> float(bl.accumulated(loss, 4)(1.0, jnp.ones(3), jnp.ones((64, 3))))
        4.0
    """
    checks.count("k", k)
    if isinstance(loss, Accumulated):
        raise TypeError("loss: got a loss that is already in parts; pass the loss itself, and one k")
    return Accumulated(loss, int(k))


def inner(loss: Any) -> Any:
    """The loss of the user, without its parts."""
    return loss.loss if isinstance(loss, Accumulated) else loss


def with_inner(loss: Any, change: Callable[[Any], Any]) -> Any:
    """The same loss with a change of the user's function, whose parts stay."""
    return Accumulated(change(loss.loss), loss.parts, loss.rows) if isinstance(loss, Accumulated) else change(loss)


def _length(batch: Any) -> int:
    leaves = jax.tree.leaves(batch)
    if not leaves:
        raise ValueError("loss: bl.accumulated divides the rows of a batch, but there are none; pass data")
    return leaves[0].shape[0]


def _check_divides(name: str, size: int, k: int) -> None:
    if size % k:
        near = size - size % k
        advice = f"use {near} or {near + k} rows" if near else f"use {k} rows"
        raise ValueError(
            f"{name}: {size} rows do not divide into the {k} parts of bl.accumulated; {advice}, or another k"
        )


def _cuts(middle: int, end: int) -> tuple[slice, slice]:
    return slice(0, middle), slice(middle, end)
