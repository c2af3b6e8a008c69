"""Tables on disk; their content decides the format."""

import collections
import pathlib

from bilevel.clean.csv_table import CsvTable
from bilevel.clean.parquet_table import ParquetTable
from bilevel.clean.reading import Table, listed, opened


def open_table(path: str | pathlib.Path, argument: str) -> Table:
    """The table in a CSV file (comma, semicolon, tab or bar; UTF-8; gzip) or a Parquet file.

    **Raises** `OSError` or `ValueError`, naming the argument, if there is no such table.
    """
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
