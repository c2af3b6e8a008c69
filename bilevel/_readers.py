"""Rows read by their numbers from where they are stored.

Each reader has a `length`, the `structure` of a row, which is a pytree, and `read(numbers, room, ended)`: per leaf, the
rows with these numbers, which ascend, as a NumPy array with room for at least `room` rows. `ended()` says whether
nobody waits for them any more. `release()` frees what was kept for the next reads.
"""

import contextlib
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from bilevel import _checks as checks
from bilevel import _extras as extras
from bilevel._placement import aligned

_PART = 2**20  # bytes that one thread reads at a time
_THREADS = 16  # a disk answers many at once
_SMALL = 2**30  # bytes of a file that may stay mapped
_TOUCHED = 2**26  # bytes of pages of larger files that may
_DECODED = 2**28  # bytes of decoded row groups that are kept

Ended = Callable[[], bool]


class ReadError(RuntimeError):
    """A row on disk cannot be read, or cannot be used. The message says which."""


class EndedError(Exception):
    """Nobody waits for these rows any more."""


def reader_of(source: Any) -> Any:
    """What reads the rows of a source of `bl.OnDisk`."""
    if isinstance(source, str | os.PathLike) and os.fspath(source).endswith(".parquet"):
        return Table(source)
    if isinstance(source, str | os.PathLike | dict | tuple | list) or _is_array(source):
        return Arrays(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return Items(source)
    raise TypeError(
        f"source: got a {type(source).__name__}; pass the path of a .npy or .parquet file, arrays such as memmaps, or "
        "an object with __len__ and __getitem__"
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


class Arrays:
    """Arrays on disk, side by side: memmaps, .npy files, and others that are indexed as NumPy's, such as zarr's."""

    def __init__(self, source: Any):
        found, self.structure = checks.paths_and_leaves("source", source)
        self._arrays = [_opened(f"source{jax.tree_util.keystr(path)}", leaf) for path, leaf in found]
        lengths = {array.shape[0] if array.shape else None for array in self._arrays}
        if len(lengths) != 1 or None in lengths:
            shapes = ", ".join(str(tuple(array.shape)) for array in self._arrays) or "none"
            raise ValueError(f"source: got arrays of the shapes {shapes}; pass arrays with one leading axis of rows")
        self.length = lengths.pop()
        self._plain = all(isinstance(array, np.ndarray) for array in self._arrays)
        self._maps = [found for found in self._read_only_maps() if len(found) > _SMALL]
        self._touched, self._one = 0, threading.Lock()

    def _read_only_maps(self) -> Iterator[mmap.mmap]:
        for array in self._arrays:
            found = getattr(array, "_mmap", None) if isinstance(array, np.memmap) and array.mode == "r" else None
            if isinstance(found, mmap.mmap):
                with contextlib.suppress(AttributeError):  # not on every system
                    found.madvise(mmap.MADV_RANDOM)  # else the system reads on where nothing is wanted
                    yield found

    def read(self, numbers: np.ndarray, room: int, ended: Ended) -> list[np.ndarray]:
        if self._plain:
            return self._copied(numbers, max(room, len(numbers)), ended)
        with self._one:
            return [_padded(_indexed(array, numbers), room) for array in self._arrays]

    def _copied(self, numbers: np.ndarray, room: int, ended: Ended) -> list[np.ndarray]:
        found = [aligned((room, *array.shape[1:]), array.dtype) for array in self._arrays]
        size = sum(array[:1].nbytes for array in found)
        at_once = max(1, _PART // max(1, size))

        def copy(start: int) -> None:
            if ended():
                raise EndedError
            part = slice(start, min(start + at_once, len(numbers)))
            for array, into in zip(self._arrays, found, strict=True):
                if array.flags.c_contiguous and array.flags.aligned:
                    np.take(array.view(np.ndarray), numbers[part], axis=0, out=into[part], mode="clip")
                else:  # `take` would copy the whole array first
                    into[part] = array[numbers[part]]
            self._unmap((part.stop - start) * max(size, mmap.PAGESIZE))

        starts = range(0, len(numbers), at_once)
        if len(starts) < 2:
            for start in starts:
                copy(start)
        else:
            with ThreadPoolExecutor(min(_THREADS, len(starts))) as pool:
                list(pool.map(copy, starts))
        return found

    def _unmap(self, touched: int) -> None:
        """Pages of a file that were looked at count as this process's memory, until they are given back."""
        with self._one:
            self._touched += touched
            if self._touched > _TOUCHED:
                self._touched = 0
                for found in self._maps:
                    found.madvise(mmap.MADV_DONTNEED)

    def release(self) -> None: ...

    def __repr__(self) -> str:
        return f"{self.length} rows in arrays of {', '.join(str(tuple(array.shape)) for array in self._arrays)}"


def _opened(where: str, source: Any) -> Any:
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source).endswith(".npy"):
            raise ValueError(
                f"{where}: got {os.fspath(source)!r}; pass .npy files, which NumPy can map (save each array of an .npz "
                "file as one), or a .parquet file alone"
            )
        return np.load(source, mmap_mode="r")
    if not _is_array(source):
        raise TypeError(f"{where}: got a {type(source).__name__}; pass arrays or paths of .npy files side by side")
    return source


def _indexed(array: Any, numbers: np.ndarray) -> np.ndarray:
    """Rows of an array that is not NumPy's. zarr has another name for the index along one axis."""
    return np.asarray(array.oindex[numbers] if hasattr(array, "oindex") else array[numbers])


class Items:
    """An object whose `[i]` is row i: a tree of numbers and arrays, where a list is an array. Its `__getitems__`, which
    data sets of PyTorch and Hugging Face have, gives several. One thread at a time asks it."""

    def __init__(self, source: Any):
        self._source, self.length, self._one = source, len(source), threading.Lock()
        if not self.length:
            raise ValueError("source: got zero rows; pass at least one row")
        self.structure = jax.tree.structure(self._several(np.zeros(1, int), lambda: False)[0], is_leaf=_is_list)

    def read(self, numbers: np.ndarray, room: int, ended: Ended) -> list[np.ndarray]:
        with self._one:
            rows = self._several(numbers, ended)
        leaves = [self._leaves(*pair) for pair in zip(numbers, rows, strict=True)]
        shapes = [[leaf.shape for leaf in row] for row in leaves]
        for number, row in zip(numbers, shapes, strict=True):
            if row != shapes[0]:
                raise ReadError(f"data: row {number} has arrays of shapes {row}, but row {numbers[0]} has {shapes[0]}")
        return [_padded(np.stack(column), room) for column in zip(*leaves, strict=True)]

    def _leaves(self, number: int, row: Any) -> list[np.ndarray]:
        leaves, structure = jax.tree.flatten(row, is_leaf=_is_list)
        if structure != self.structure:
            raise ReadError(f"data: row {number} is {structure}, but row 0 is {self.structure}")
        try:
            return [np.asarray(leaf) for leaf in leaves]
        except ValueError as error:  # a ragged list
            raise ReadError(f"data: row {number} holds what is no array: {error}") from error

    def _several(self, numbers: np.ndarray, ended: Ended) -> list[Any]:
        if hasattr(self._source, "__getitems__"):
            try:
                rows = list(self._source.__getitems__(numbers.tolist()))
            except Exception as error:
                raise ReadError(f"data: reading rows {numbers[0]} to {numbers[-1]} failed: {error!r}") from error
            if len(rows) != len(numbers):
                raise ReadError(f"data: __getitems__ gave {len(rows)} rows for {len(numbers)} numbers")
            return rows
        rows = []
        for number in numbers.tolist():
            if ended():
                raise EndedError
            try:
                rows.append(self._source[number])
            except Exception as error:
                raise ReadError(f"data: reading row {number} failed: {error!r}") from error
        return rows

    def release(self) -> None: ...

    def __repr__(self) -> str:
        return f"{self.length} rows of a {type(self._source).__name__}"


def _is_list(node: Any) -> bool:
    return isinstance(node, list)


class Table:
    """The columns of a Parquet file. A row group is decoded as a whole, and some are kept, the newest among them."""

    def __init__(self, path: Any):
        extras.require("pyarrow", extra="parquet")
        import pyarrow.parquet

        self._path, self._one = os.fspath(path), threading.Lock()
        self._file = pyarrow.parquet.ParquetFile(self._path)
        about = self._file.metadata
        sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
        self._starts, self.length = np.cumsum([0, *sizes]), about.num_rows
        self._groups: dict[int, list[np.ndarray]] = {}  # by number, the columns in the order of their names
        self._names = sorted(self._file.schema_arrow.names)
        self.structure = jax.tree.structure(dict.fromkeys(self._names, 0))

    def read(self, numbers: np.ndarray, room: int, ended: Ended) -> list[np.ndarray]:
        with self._one:
            groups = np.searchsorted(self._starts, numbers, side="right") - 1
            parts = []
            for group in np.unique(groups).tolist():
                if ended():
                    raise EndedError
                places = numbers[groups == group] - self._starts[group]
                parts.append([column[places] for column in self._group(group)])
        return [_padded(np.concatenate(column), room) for column in zip(*parts, strict=True)]

    def _group(self, group: int) -> list[np.ndarray]:
        found = self._groups.pop(group, None)
        if found is None:
            try:
                table = self._file.read_row_group(group)
            except Exception as error:
                first, end = self._starts[group], self._starts[group + 1]
                raise ReadError(f"data: reading the rows {first} to {end - 1} failed: {error!r}") from error
            found = [self._column(name, table.column(name), group) for name in self._names]
        # rows are read in ascending order, again and again: what was used last before this is needed last
        while self._groups and sum(_bytes(kept) for kept in self._groups.values()) + _bytes(found) > _DECODED:
            self._groups.popitem()
        self._groups[group] = found
        return found

    def _column(self, name: str, column: Any, group: int) -> np.ndarray:
        import pyarrow

        if column.null_count:
            row = self._starts[group] + int(np.argmax(column.is_null().to_numpy()))
            raise ReadError(f"data: row {row} has no value in the column {name!r}; fill it, or drop such rows")
        kind, column = column.type, column.combine_chunks()
        if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            if (lengths != lengths[0]).any():
                row = int(np.argmax(lengths != lengths[0]))
                raise ReadError(
                    f"data: row {self._starts[group] + row} has {lengths[row]} values in the column {name!r}, and "
                    f"another {lengths[0]}; pad them to one length"
                )
            return column.flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), lengths[0])
        found = column.to_numpy(zero_copy_only=False)
        if found.dtype.kind not in "biuf":
            raise ReadError(
                f"data: the column {name!r} is of type {kind}; encode it as numbers, or write the file without it"
            )
        return found

    def release(self) -> None:
        with self._one:
            self._groups.clear()

    def __repr__(self) -> str:
        return f"{self.length} rows of {os.path.basename(self._path)}"


def _bytes(columns: list[np.ndarray]) -> int:
    return sum(column.nbytes for column in columns)


def _padded(array: np.ndarray, room: int) -> np.ndarray:
    if len(array) >= room:
        return array
    padded = aligned((room, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
