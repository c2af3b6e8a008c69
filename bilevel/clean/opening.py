"""Tables on disk; their content decides the format."""

import codecs
import collections
import pathlib

from bilevel.clean.csv_table import CsvTable
from bilevel.clean.excel_table import ExcelTable
from bilevel.clean.json_table import JsonTable
from bilevel.clean.parquet_table import ParquetTable
from bilevel.clean.reading import Table, opened
from bilevel.columns.kinds import listed


def open_table(path: str | pathlib.Path, argument: str, encoding: str | None = None) -> Table:
    """The table in a CSV file (comma, semicolon, tab or bar; gzip), or a file of Parquet, Excel or JSON lines.

    `encoding` is that of the text; by default, UTF-8, or UTF-16 if the file says so.

    **Raises** `OSError` or `ValueError`, naming the argument, if there is no such table.
    """
    if encoding is not None:
        try:
            encoding = codecs.lookup(encoding).name
        except LookupError as error:
            raise ValueError(f"encoding: {encoding!r} is unknown; such as utf-8, utf-16, cp1252 or gb18030") from error
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        zipped = start[:2] == b"\x1f\x8b"
        with opened(path, zipped) as file:
            head = file.read(1 << 16)
    except (OSError, EOFError) as error:
        raise OSError(f"{argument}: cannot read {path} ({getattr(error, 'strerror', None) or error})") from error
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what a file says of itself is true
        encoding = "utf-16"
    elif encoding is None or head.startswith(codecs.BOM_UTF8):
        encoding = "utf-8"
    if start == b"PAR1":
        table: Table = ParquetTable(path, argument)
    elif start == b"PK\x03\x04":
        table = ExcelTable(path, argument)
    elif not head.strip():
        raise ValueError(f"{argument}: {path} is empty; it needs a header and rows")
    elif b"\0" in head and not encoding.startswith(("utf-16", "utf-32")):
        raise ValueError(f"{argument}: {path} is not a table in CSV or Parquet; export it as CSV in UTF-8")
    elif head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n").startswith(("{", "[{", "[\n")):
        table = JsonTable(path, argument, zipped, "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else encoding)
    else:
        table = CsvTable(path, argument, zipped, head, encoding)
    repeated = [name for name, count in collections.Counter(table.columns).items() if count > 1]
    if repeated:
        raise ValueError(f"{argument}: {path} has more than one column named {listed(repeated)}; rename them")
    return table
