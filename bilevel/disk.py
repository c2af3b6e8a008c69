"""Rows that are not in memory: read when a batch is drawn, or ahead of it.

A batch is drawn by its indices, so a step with rows on disk is a step like any other with one more operation,
`read_rows`, which goes from indices to rows. It is computed by a call of the host. In `solve`, the reads of many steps
are planned from this operation (`bilevel.run._plan`), and the steps then take their rows from `Held`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Int, PyTree

from bilevel import _checks as checks
from bilevel._readers import Ended, ReadError, reader_of
from bilevel.trees import each_row, take_rows


class OnDisk(eqx.Module):
    """Rows that stay where they are stored, in place of the arrays of a level's data.

    They are drawn as rows in memory, and make, bit for bit, the same run. Pass it as the `data` of a `Level` with a
    `batch_size`, or to a source: `bl.Blocks(bl.OnDisk(…))`. `solve` plans which rows the next steps draw, and a thread
    reads them during the steps before. Where the rows depend on the iterates, or a loop's length does, and outside of
    `solve`, they are read when they are drawn. Nothing reads all rows at once: a solver that needs them is refused. The
    source stays open until the process ends.

    **Arguments**

    - `source`: what holds the rows. A NumPy memmap, an array that is indexed as NumPy's, such as zarr's, or the path of
      a `.npy` file; a pytree of these, side by side; the path of a `.parquet` file with columns of numbers, or of lists
      of one length (each row group is decoded as a whole; needs `pip install '.[parquet]'`); or any object with
      `__len__` and `__getitem__(i)`, which returns row i as a pytree of numbers and arrays: a list in it is an array.
      If it has `__getitems__([i, …])`, it is asked for several rows at once. It is asked by one thread at a time.

    **Raises** `ValueError` or `TypeError`, naming the argument, if the first row shows that the source is none. A row
    that cannot be read, has another shape than the first, or holds NaN or a number that does not fit in JAX's dtype, is
    a `ReadError` that says which, when it is read. (In a `jit` of your own, JAX makes another error of it.)

    Example:

        >>> import bilevel as bl, jax, numpy as np, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> np.save(f"{folder}/features.npy", np.eye(4, dtype=np.float32))
        >>> np.save(f"{folder}/label.npy", np.arange(4))
        >>> source = bl.Rows(bl.OnDisk({"features": f"{folder}/features.npy", "label": f"{folder}/label.npy"}))
        >>> source.length, source.draw(jax.random.key(0), 2).rows["features"].shape
        (4, (2, 4))
    """

    store: "Store" = eqx.field(static=True)

    def __init__(self, source: Any):
        self.store = Store(reader_of(source))

    @property
    def length(self) -> int:
        """The number of rows."""
        return self.store.length

    def take(self, indices: Int[Array, "..."], size: int) -> PyTree[Array]:
        """The rows that `bilevel.trees.take_rows` would read of an array."""
        return self.store.tree(read_rows.bind(each_row(indices, size), store=self.store))


class Held(OnDisk):
    """Some of the rows, in memory: of each leaf, `rows[k]` is row number `numbers[k]`. The numbers ascend."""

    numbers: Int[Array, " rows"]
    rows: list[Array]

    def __init__(self, store: "Store", numbers: Array, rows: list[Array]):
        self.store, self.numbers, self.rows = store, numbers, rows

    def take(self, indices: Int[Array, "..."], size: int) -> PyTree[Array]:
        indices = indices.ravel() if indices.ndim else indices  # a block of rows is contiguous here, too
        at = jnp.searchsorted(self.numbers, indices, method="scan_unrolled").astype(jnp.int32)
        return self.store.tree([take_rows(array, at, size) for array in self.rows])


class Store:
    """The rows of a source, as arrays that JAX can hold. `like` has the shape and dtype of each leaf of a row."""

    def __init__(self, reader: Any):
        self._reader, self.length = reader, reader.length
        self.failed: ReadError | None = None
        if not self.length:
            raise ValueError("source: got zero rows; pass at least one row")
        checks.count("source: the number of rows", self.length)
        found, self._structure = reader.read(np.zeros(1, np.int32), 0, lambda: False), reader.structure
        first = [checks.native("source", array[0]) for array in found]
        dtypes = [jax.dtypes.canonicalize_dtype(array.dtype) for array in first]
        self.like = [jax.ShapeDtypeStruct(a.shape, dtype) for a, dtype in zip(first, dtypes, strict=True)]
        self.row_bytes = sum(one.size * one.dtype.itemsize for one in self.like)

    def tree(self, leaves: Any) -> PyTree[Any]:
        return jax.tree.unflatten(self._structure, leaves)

    def read(self, numbers: np.ndarray, room: int = 0, ended: Ended = lambda: False) -> list[np.ndarray]:
        """The rows of these numbers, which ascend, with room for at least `room` rows."""
        found = self._reader.read(numbers, room, ended)
        return [self._fitted(array, like, numbers) for array, like in zip(found, self.like, strict=True)]

    def _fitted(self, array: np.ndarray, like: jax.ShapeDtypeStruct, numbers: np.ndarray) -> np.ndarray:
        n = len(numbers)
        if array.shape[1:] != like.shape:
            raise ReadError(f"data: row {numbers[0]} has an array of shape {array.shape[1:]}, but row 0 {like.shape}")
        if array.dtype == like.dtype:
            fits = array
        else:
            checks.native("data", array[:1])
            with np.errstate(over="ignore", invalid="ignore"):
                fits = array.astype(like.dtype)
            if not jnp.issubdtype(array.dtype, jnp.inexact) or not jnp.issubdtype(like.dtype, jnp.inexact):
                self._must(fits[:n] == array[:n], numbers, f"does not fit in {like.dtype}; encode it smaller")
        if jnp.issubdtype(like.dtype, jnp.inexact):
            with np.errstate(over="ignore", invalid="ignore"):
                total = np.sum(fits[:n])
            if not np.isfinite(total):  # a sum may overflow where no row is wrong
                wrong = f"contains NaN or infinity as {like.dtype}; drop, impute or rescale such rows first"
                self._must(np.isfinite(fits[:n]), numbers, wrong)
        return fits

    def _must(self, right: np.ndarray, numbers: np.ndarray, wrong: str) -> None:
        rows = right.reshape(len(numbers), -1).all(axis=1)
        if not rows.all():
            raise ReadError(f"data: row {numbers[np.argmin(rows)]} {wrong}")

    def at(self, indices: Any) -> list[np.ndarray]:
        """The rows at indices in any order and shape."""
        indices = np.asarray(indices)
        numbers, places = np.unique(indices, return_inverse=True)
        try:
            return [array[places.reshape(indices.shape)] for array in self.read(numbers)]
        except ReadError as error:
            self.failed = error  # JAX would keep its text alone
            raise

    def release(self) -> None:
        """Frees what was kept for the next reads. JAX keeps the store itself with the programs that it has compiled."""
        self._reader.release()

    def some(self) -> list[np.ndarray]:
        """Rows that stand for all in a look whether they are still the same."""
        return self.read(some_of(self.length).astype(np.int32))

    def __repr__(self) -> str:
        rows = ", ".join(f"{one.dtype}{list(one.shape)}" for one in self.like)
        return f"{self._reader!r}, each of {rows}"


def some_of(length: int) -> Int[np.ndarray, " s"]:
    """The numbers of at most 64 rows that stand for all."""
    return np.unique(np.linspace(0, length - 1, min(64, length)).astype(int))


def on_disk(data: Any) -> OnDisk | None:
    """The rows on disk of a level's data, if they are there."""
    arrays = getattr(data, "arrays", None)
    return arrays if isinstance(arrays, OnDisk) else None


@contextlib.contextmanager
def reading(stores: Sequence[Store]) -> Iterator[None]:
    """Raises what a row that is read when it is drawn has raised, and not what JAX makes of it."""
    for store in stores:
        store.failed = None
    try:
        yield
    except Exception:  # JAX raises it as one of several
        failed = next((store.failed for store in stores if store.failed is not None), None)
        if failed is None:
            raise
        raise failed from failed.__cause__


read_rows = Primitive("read_rows")
read_rows.multiple_results = True


def _shapes(indices: Any, store: Store) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((*indices.shape, *one.shape), one.dtype) for one in store.like]


@read_rows.def_impl
def _(indices: Array, *, store: Store) -> list[Array]:
    return [jnp.asarray(array) for array in store.at(indices)]


@read_rows.def_abstract_eval
def _(indices: Any, *, store: Store) -> list[Any]:
    return [ShapedArray(shape.shape, shape.dtype) for shape in _shapes(indices, store)]


def _asked_of_the_host(indices: Array, *, store: Store) -> list[Array]:
    return jax.pure_callback(store.at, _shapes(indices, store), indices, vmap_method="broadcast_all")


def _batched(arguments: Any, axes: Any, *, store: Store) -> tuple[list[Array], list[int]]:
    found = read_rows.bind(jnp.moveaxis(arguments[0], axes[0], 0), store=store)
    return found, [0] * len(found)


mlir.register_lowering(read_rows, mlir.lower_fun(_asked_of_the_host, multiple_results=True))
batching.primitive_batchers[read_rows] = _batched
