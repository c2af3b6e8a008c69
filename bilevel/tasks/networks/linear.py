"""The linear model, on dense rows and on sparse rows, which are never made dense."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

if TYPE_CHECKING:
    import scipy.sparse

ENTRIES = 500  # at most, per sparse row


def padded(
    features: "scipy.sparse.csr_matrix", entries: int
) -> tuple[Int32[np.ndarray, "n m"], Float32[np.ndarray, "n m"], float]:
    """A sparse matrix as m pairs (column, value) per row: m is the length of the fullest row, but at most `entries`.

    Shorter rows end in pairs (0, 0), and longer rows keep their largest |values|. Returns the columns, the values and
    the share of the sum of |values| that is left out. The matrix is never made dense.

    Example:

        >>> import numpy as np, scipy.sparse
        >>> from bilevel.tasks.networks.linear import padded
        >>> columns, values, dropped = padded(scipy.sparse.csr_matrix(np.array([[0.0, 1, 0, 3], [0, 0, 2, 0]])), 2)
        >>> columns.tolist(), values.tolist(), dropped
        ([[3, 1], [2, 0]], [[3.0, 1.0], [2.0, 0.0]], 0.0)
    """
    counts = np.diff(features.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-np.abs(features.data), row))  # row by row, the largest first
    place = np.arange(len(row)) - features.indptr[row]
    kept = place < entries
    shape = len(counts), int(min(entries, max(1, counts.max())))
    columns, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    where, which = (row[kept], place[kept]), order[kept]
    columns[where], values[where] = features.indices[which], features.data[which]
    total = np.abs(features.data).sum(dtype=float)
    return columns, values, float(max(0.0, 1 - np.abs(values).sum(dtype=float) / total)) if total else 0.0


def logits(y: Float[Array, "d columns"], rows: Any) -> Float[Array, "n classes"]:
    """The linear model y on dense or on padded rows. For padded rows, the largest array has n · m · classes numbers,
    the rows of y that they name; the gradient in y adds the same number of values back to these rows.

    A y with one column is the logit of class 1 of two classes; that of class 0 is zero."""
    if "features" in rows:
        scores = rows["features"] @ y
    else:
        gathered = y.at[rows["columns"]].get(mode="promise_in_bounds")
        scores = jnp.einsum("nm,nmc->nc", rows["values"], gathered)
    return jnp.pad(scores, ((0, 0), (1, 0))) if y.shape[1] == 1 else scores


def all_logits(y: Float[Array, "d columns"], rows: Any, chunk: int) -> Float[Array, "n classes"]:
    """The logits of many rows; sparse rows are processed `chunk` at a time."""
    if "features" in rows or len(rows["columns"]) <= chunk:
        return logits(y, rows)

    def of_one(row: Any) -> Float[Array, " classes"]:
        return logits(y, jax.tree.map(lambda leaf: leaf[None], row))[0]

    return jax.lax.map(of_one, {name: rows[name] for name in ("columns", "values")}, batch_size=chunk)
