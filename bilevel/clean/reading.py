"""Tables on disk: opened by what is in them, read in chunks, and written again with columns added."""

import collections
import dataclasses
import gzip
import io
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from bilevel.clean.kinds import Column

CHUNK_CELLS = 1_000_000  # cells of a chunk: those of a text table are Python strings of about 60 bytes


@dataclasses.dataclass(frozen=True)
class Added:
    """The columns that are appended, a value for each row; `classes[codes[i]]` is row i's proposed label."""

    weights: Float[np.ndarray, " n"]
    ranks: Int[np.ndarray, " n"]
    codes: Int[np.ndarray, " n"]
    classes: Sequence[Any]
    decimal: str = "."  # what text tables write before a weight's fraction

    NAMES: ClassVar = ("bilevel_weight", "bilevel_rank", "bilevel_label")


@runtime_checkable
class Table(Protocol):
    """What reading and writing need of a format."""

    path: pathlib.Path
    columns: list[str]
    suffix: str  # of the file that is written, as in .csv.gz
    decimals: str  # the characters that may stand before a number's fraction

    def chunks(self) -> Iterator[Any]:
        """The rows as data frames, checked; the index counts the rows from zero. Text tables hold text."""
        ...

    def typed_chunks(self, columns: Sequence[Column]) -> Iterator[Any]:
        """Some columns of a table that was checked; numeric ones may come as numbers, which is faster."""
        ...

    def write(self, target: pathlib.Path, added: Added, keep: set[int]) -> dict[int, list[str]]:
        """Write all rows, in order, with the columns added; the cells of the rows in `keep`, as text."""
        ...


def open_table(path: str | pathlib.Path, argument: str) -> Table:
    """The table in a CSV file (comma, semicolon, tab or bar; UTF-8; gzip) or a Parquet file.

    **Raises** `OSError` or `ValueError`, naming the argument, where there is no such table.
    """
    from bilevel.clean.csv_table import CsvTable
    from bilevel.clean.parquet_table import ParquetTable

    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        zipped = start[:2] == b"\x1f\x8b"
        with opened(path, zipped) as file:
            head = file.read(1 << 16)
    except (OSError, EOFError) as error:
        raise OSError(f"{argument}: cannot read {path} ({getattr(error, 'strerror', None) or error})") from error
    if start == b"PAR1":
        table: Table = ParquetTable(path, argument)
    elif not head.strip():
        raise ValueError(f"{argument}: {path} is empty; it needs a header and rows")
    elif b"\0" in head:
        raise ValueError(f"{argument}: {path} is not a table in CSV or Parquet; export it as CSV in UTF-8")
    else:
        table = CsvTable(path, argument, zipped, head)
    repeated = [name for name, count in collections.Counter(table.columns).items() if count > 1]
    if repeated:
        raise ValueError(f"{argument}: {path} has more than one column named {listed(repeated)}; rename them")
    return table


def opened(path: pathlib.Path, zipped: bool) -> gzip.GzipFile | io.BufferedReader:
    """The file's bytes, unpacked."""
    return gzip.open(path, "rb") if zipped else path.open("rb")


def chunk_rows(columns: Sequence[str]) -> int:
    return max(1, CHUNK_CELLS // len(columns))


def listed(values: Sequence[Any], most: int = 5) -> str:
    """The first few, as text."""
    shown = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in values[:most])
    return shown + (f" and {len(values) - most:,} more" if len(values) > most else "")


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    while batch := list(itertools.islice(items, size)):
        yield batch
