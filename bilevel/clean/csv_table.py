"""CSV files, read and written in chunks. Each written line is the original line with cells appended."""

import csv
import dataclasses
import gzip
import io
import itertools
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, cast

import numpy as np

from bilevel.clean.labels import is_formula
from bilevel.clean.reading import Added, batches, chunk_rows, opened, written
from bilevel.columns.cells import MISSING
from bilevel.columns.kinds import Column

DELIMITERS = ",;\t|"
_BOM = "\ufeff"
_LONGEST = 10_000_000  # characters of a cell; an extra quotation mark makes one cell of the rest of a file
_SNIFFED = 50  # the delimiter is chosen by this many records


class CsvTable:
    """A CSV file with a header. Cells are text; blank lines are not rows."""

    def __init__(self, path: pathlib.Path, argument: str, zipped: bool, head: bytes, encoding: str = "utf-8") -> None:
        self.path, self._argument, self._zipped, self._encoding = path, argument, zipped, encoding
        self._bom = encoding == "utf-8" and head.startswith(_BOM.encode())
        self._delimiter = _sniff(head.decode(encoding, "replace").lstrip(_BOM))
        self.commas = self._delimiter != ","
        header = next(record.cells for record in self._records() if record.cells)
        self.columns = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]
        if len(header) == 1:
            raise ValueError(
                f"{argument}: {path} has a single column, {self.columns[0][:60]!r}; it needs a label and others, "
                "separated by comma, semicolon, tab or bar"
            )
        suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix or ".csv"
        self.suffix = suffix + (".gz" if zipped else "")

    def chunks(self) -> Iterator[Any]:
        import pandas as pd

        start, filled = 0, (record.cells for record in self._checked() if record.cells)
        for batch in batches(itertools.islice(filled, 1, None), chunk_rows(self.columns)):
            index = range(start, start + len(batch))
            yield pd.DataFrame(np.array(batch, object), columns=self.columns, index=index, dtype=object, copy=False)
            start += len(batch)

    def typed_chunks(self, columns: Sequence[Column], missing: Set[str] = MISSING) -> Iterator[Any]:
        import pandas as pd

        absent = [form(word) for word in missing for form in (str, str.upper, str.title)] + ["NaN"] * ("nan" in missing)
        plain = {
            column.name for column in columns if column.kind == "numeric" and (not column.form or column.form.plain)
        }
        names = [column.name for column in columns]
        with opened(self.path, self._zipped) as file:
            chunks = pd.read_csv(
                cast(Any, file),
                sep=self._delimiter,
                encoding="utf-8-sig" if self._bom else self._encoding,
                skipinitialspace=True,
                header=0,
                names=self.columns,
                usecols=cast(Any, names),
                dtype=cast(Any, {name: object for name in names if name not in plain}),
                keep_default_na=False,
                na_values=dict.fromkeys(plain, absent),
                low_memory=False,
                chunksize=chunk_rows(self.columns),
            )
            for chunk in chunks:
                truths = [name for name in plain if chunk[name].dtype.kind == "b"]  # nothing but true and false
                yield chunk.astype(dict.fromkeys(truths, str)) if truths else chunk

    def write(self, target: pathlib.Path, added: Added, keep: set[int]) -> dict[int, list[str]]:
        kept: dict[int, list[str]] = {}
        cells = itertools.chain([added.NAMES], self._cells(added))
        with written(target, self._zipped, self._encoding) as file:
            file.write(_BOM if self._bom else "")
            row = -1  # the header
            for record in self._checked():
                if not record.cells:
                    file.write(record.raw)
                    continue
                text = record.raw.rstrip("\r\n")
                file.write(self._delimiter.join((text, *next(cells))) + record.raw[len(text) :])
                if row in keep:
                    kept[row] = record.cells
                row += 1
        return kept

    def relabel(self, target: pathlib.Path, label: str, labels: Mapping[int, Any]) -> None:
        behind = self._behind_spaces({str(value) for value in labels.values() if is_formula(str(value))})
        place, row = self.columns.index(label), -1  # the header
        with written(target, self._zipped, self._encoding) as file:
            file.write(_BOM if self._bom else "")
            for record in self._checked():
                if row in labels and record.cells:
                    new = str(labels[row])
                    file.write(self._exchanged(record, place, behind.get(new, new)))
                else:
                    file.write(record.raw)
                row += bool(record.cells)

    def _exchanged(self, record: "_Record", place: int, new: str) -> str:
        """The text of a record with another cell at a place, quoted if the old one was."""
        cell = re.compile(rf' *(?:"(?:[^"]|"")*"|[^{re.escape(self._delimiter)}\r\n]*)')
        start = 0
        for _ in range(place):
            start = cell.match(record.raw, start).end() + 1  # type: ignore[union-attr]
        end = cell.match(record.raw, start).end()  # type: ignore[union-attr]
        old = record.raw[start:end]
        indent = old[: len(old) - len(old.lstrip(" "))]
        always = old.startswith('"', len(indent))
        quoted = '"{}"'.format(new.replace('"', '""')) if always else self._quoted(new)
        text = record.raw[:start] + indent + quoted + record.raw[end:]
        lines = io.StringIO(text, newline="")
        cells = next(csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True, strict=True))
        wanted = [*record.cells[:place], new, *record.cells[place + 1 :]]
        if cells != wanted:
            raise ValueError(f"{self._argument}: the label in line {record.line} of {self.path} cannot be exchanged")
        return text

    def _cells(self, added: Added) -> Iterator[tuple[str, ...]]:
        """The cells to append, row by row."""
        classes = [str(label) for label in added.classes]
        behind = self._behind_spaces({label for label in classes if is_formula(label)})
        labels = [self._quoted(behind.get(label, label)) for label in classes]
        for weight, rank, code in zip(added.weights, added.ranks, added.codes, strict=True):
            number = "" if np.isnan(weight) else f"{weight:.6g}".replace(".", added.decimal)
            yield self._quoted(number), str(rank), labels[code]

    def _behind_spaces(self, formulas: set[str]) -> dict[str, str]:
        """Those that stand behind spaces in the file, which keep spreadsheets from computing them: as they stand."""
        found: dict[str, str] = {}
        for record in self._records() if formulas else ():
            cells = _split(record.raw, self._delimiter)
            found |= {cell.strip(): cell for cell in cells if cell[:1] == " " and cell.strip() in formulas}
        return found

    def _quoted(self, cell: str) -> str:
        special = any(character in cell for character in (self._delimiter, '"', "\n", "\r")) or cell != cell.strip()
        return '"{}"'.format(cell.replace('"', '""')) if special else cell

    def _checked(self) -> Iterator["_Record"]:
        """The records, after a check that each one, unless it is blank, is as wide as the header."""
        width = len(self.columns)
        for record in self._records():
            if record.cells and len(record.cells) != width:
                raise ValueError(
                    f"{self._argument}: line {record.line} of {self.path} has {len(record.cells)} cells, "
                    f"the header has {width}"
                )
            yield record

    def _records(self) -> Iterator["_Record"]:
        """The header, and then each record or blank line, with its original text."""
        pending: list[str] = []
        reader = csv.reader(self._lines(pending), delimiter=self._delimiter, skipinitialspace=True, strict=True)
        line = 1
        while True:
            limit = csv.field_size_limit(_LONGEST)  # of all readers in the process
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                why = self._too_long("".join(pending)) if "field limit" in str(error) else ""
                raise ValueError(
                    f"{self._argument}: {self.path} cannot be read as CSV from line {line} on ({why or error}); "
                    f"is there an extra quotation mark{', or must the cell be cut' if why else ''}?"
                ) from error
            finally:
                csv.field_size_limit(limit)
            raw = "".join(pending)
            pending.clear()
            yield _Record(line, raw, cells if raw.strip(" \r\n") else [])
            line = reader.line_num + 1

    def _too_long(self, text: str) -> str:
        """What is wrong with the longest cell of a record."""
        cells = _split(text, self._delimiter)
        place = max(range(len(cells)), key=lambda place: len(cells[place]))
        names = getattr(self, "columns", [])  # the header has none yet
        column = repr(names[place]) if place < len(names) else place + 1
        return f"its cell in column {column} has more than {_LONGEST:,} characters, the limit"

    def _lines(self, pending: list[str]) -> Iterator[str]:
        """The lines as text, ended by LF, CR LF or CR; each one is also appended to `pending`."""
        try:
            encoding = "utf-8-sig" if self._bom else self._encoding
            with io.TextIOWrapper(cast(Any, opened(self.path, self._zipped)), encoding, newline="") as lines:
                for text in lines:
                    pending.append(text)
                    yield text
        except UnicodeError as error:
            raise ValueError(
                f"{self._argument}: {self.path} is not {self._encoding.upper()}{self._undecodable()}; save it as "
                "UTF-8, or pass its encoding, such as --encoding cp1252"
            ) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{self._argument}: {self.path} is not a whole gzip file ({error})") from error

    def _undecodable(self) -> str:
        """The place of the first byte that is not UTF-8."""
        position = 0
        with opened(self.path, self._zipped) as file:
            for number, data in enumerate(file if self._encoding == "utf-8" else (), 1):
                try:
                    data.decode()
                except UnicodeDecodeError as error:
                    return f" at byte {position + error.start}, line {number} ({data[error.start]:#04x})"
                position += len(data)
        return ""


@dataclasses.dataclass(slots=True)
class _Record:
    line: int
    raw: str
    cells: list[str]


def _split(text: str, delimiter: str) -> list[str]:
    """The cells of a record, however long."""
    limit = csv.field_size_limit(len(text) + 1)
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    finally:
        csv.field_size_limit(limit)


def _sniff(head: str) -> str:
    """The delimiter for which most of the first records are as wide as the header; a tie goes to more cells."""

    def score(delimiter: str) -> tuple[float, int]:
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            widths = [len(row) for row in itertools.islice(rows, _SNIFFED) if row]
        except csv.Error:
            return 0.0, 0
        return (float(np.mean([width == widths[0] for width in widths])), widths[0]) if widths[0] > 1 else (0.0, 0)

    lines = head.strip("\r\n").splitlines(keepends=True)
    return max(DELIMITERS, key=score)
