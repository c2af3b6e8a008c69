"""The part that all table formats share: reading in chunks, and writing with columns added."""

import abc
import contextlib
import dataclasses
import gzip
import io
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from bilevel.columns.cells import MISSING
from bilevel.columns.kinds import Column

CHUNK_CELLS = 1_000_000  # cells per chunk; in a text table, a cell is a Python string of about 60 bytes


@dataclasses.dataclass(frozen=True)
class Added:
    """The appended columns, with one value per row; `classes[codes[i]]` is row i's proposed label.

    The weight of a row without a label is NaN, and written as an empty cell.
    """

    weights: Float[np.ndarray, " n"]
    ranks: Int[np.ndarray, " n"]
    codes: Int[np.ndarray, " n"]
    classes: Sequence[Any]
    decimal: str = "."  # the decimal mark of the weights in text tables

    NAMES: ClassVar = ("bilevel_weight", "bilevel_rank", "bilevel_label")


@runtime_checkable
class Table(Protocol):
    """The interface of a format."""

    path: pathlib.Path
    columns: list[str]
    suffix: str  # of the written file, such as .csv.gz
    commas: bool  # whether a comma is more likely a decimal mark than one of thousands

    def chunks(self) -> Iterator[Any]:
        """The rows as data frames, checked; the index counts the rows from zero. Text tables hold text."""
        ...

    def typed_chunks(self, columns: Sequence[Column], missing: Set[str] = MISSING) -> Iterator[Any]:
        """Some columns of a checked table; numeric ones may be numbers already, which is faster, or NaN if missing."""
        ...

    def write(self, target: pathlib.Path, added: Added, keep: set[int]) -> dict[int, list[str]]:
        """Write all rows, in order, with the columns added; returns the cells of the rows in `keep`, as text."""
        ...

    def relabel(self, target: pathlib.Path, label: str, labels: Mapping[int, Any]) -> None:
        """Write the table as it is, but with other cells of the column `label` in some rows."""
        ...


class TypedTable(abc.ABC):
    """A table whose format has types: its cells need no other reading for the numeric columns."""

    columns: list[str]

    @abc.abstractmethod
    def _frames(self, names: list[str]) -> Iterator[Any]:
        """Some columns of all rows, as data frames; the index counts the rows from zero."""

    def chunks(self) -> Iterator[Any]:
        return self._frames(self.columns)

    def typed_chunks(self, columns: Sequence[Column], missing: Set[str] = MISSING) -> Iterator[Any]:
        return self._frames([column.name for column in columns])


@contextlib.contextmanager
def written(path: pathlib.Path, zipped: bool, encoding: str) -> Iterator[io.TextIOWrapper]:
    """A file for text, packed if `zipped`, whose line ends stay as they are."""
    with gzip.open(path, "wb", 6) if zipped else path.open("wb") as binary:
        file = io.TextIOWrapper(cast(Any, binary), encoding=encoding, newline="")
        yield file
        file.flush()
        file.detach()


def plain(value: Any) -> Any:
    """A label as a value of Python, for the formats that have types."""
    return value.item() if isinstance(value, np.generic) else value


def opened(path: pathlib.Path, zipped: bool) -> gzip.GzipFile | io.BufferedReader:
    """The file's bytes, unpacked."""
    return gzip.open(path, "rb") if zipped else path.open("rb")


def chunk_rows(columns: Sequence[str]) -> int:
    return max(1, CHUNK_CELLS // len(columns))


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    while batch := list(itertools.islice(items, size)):
        yield batch
