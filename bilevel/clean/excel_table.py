"""The first sheet of an Excel workbook, read row by row. It is written into a copy of the workbook."""

import contextlib
import pathlib
import zipfile
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np

from bilevel import _extras as extras
from bilevel.clean.reading import Added, TypedTable, batches, chunk_rows, plain


class ExcelTable(TypedTable):
    """An .xlsx file; needs openpyxl. Cells have types; of formulas, the value that Excel saved.

    Writing holds the whole workbook in memory. Its other sheets, formats and formulas stay; charts and pictures do not.
    """

    suffix = ".xlsx"
    commas = False

    def __init__(self, path: pathlib.Path, argument: str) -> None:
        try:
            import openpyxl  # noqa: F401
        except ModuleNotFoundError as error:
            raise ValueError(f"{argument}: {path} needs openpyxl; {extras.install('excel')}") from error
        self.path, self._argument = path, argument
        with contextlib.closing(self._rows()) as rows:
            _, header = next(rows, (0, ()))
        width = max((i for i, cell in enumerate(header, 1) if cell is not None), default=0)
        if width < 2:
            raise ValueError(f"{argument}: the first sheet of {path} has no header of two columns or more")
        self.columns = [
            str(cell).strip() if cell is not None else f"Unnamed: {i}" for i, cell in enumerate(header[:width])
        ]

    def _frames(self, names: list[str]) -> Iterator[Any]:
        import pandas as pd

        start = 0
        for batch in batches(self._cells(), chunk_rows(self.columns)):
            index = range(start, start + len(batch))
            yield pd.DataFrame(np.array(batch, object), index, self.columns, object)[names]
            start += len(batch)

    def _cells(self) -> Iterator[list[Any]]:
        """The rows below the header, as wide as it."""
        width = len(self.columns)
        rows = self._rows()
        next(rows)
        for number, row in rows:
            if any(cell is not None for cell in row[width:]):
                raise ValueError(f"{self._argument}: row {number} of {self.path} has more cells than the header")
            yield [*row[:width], *[None] * (width - len(row))]

    def _rows(self) -> Generator[tuple[int, tuple[Any, ...]], None, None]:
        """The numbers and the cells of the rows that are not empty."""
        import openpyxl

        with self.path.open("rb") as file:  # opened here: openpyxl does not close a file at all its exits
            try:
                book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
                raise ValueError(
                    f"{self._argument}: {self.path} cannot be read as an Excel workbook, .xlsx ({error}); "
                    "export it as CSV"
                ) from error
            with contextlib.closing(book.worksheets[0].iter_rows(values_only=True)) as rows:
                for number, row in enumerate(rows, 1):
                    if any(cell is not None for cell in row):
                        yield number, row

    def write(self, target: pathlib.Path, added: Added, keep: set[int]) -> dict[int, list[str]]:
        import openpyxl

        with self.path.open("rb") as file:
            book = openpyxl.load_workbook(file)
        sheet, width = book.worksheets[0], len(self.columns)
        labels = [plain(label) for label in added.classes]
        kept = {}
        for row, (number, cells) in enumerate(self._rows(), -1):  # the header is row −1
            if row < 0:
                new: tuple[Any, ...] = added.NAMES
            else:
                weight = float(added.weights[row])
                new = (None if np.isnan(weight) else weight, int(added.ranks[row]), labels[added.codes[row]])
            for i, value in enumerate(new, width + 1):
                _set(sheet.cell(number, i), value)
            if row in keep:
                kept[row] = [
                    "" if cell is None else str(cell) for cell in [*cells[:width], *[None] * (width - len(cells))]
                ]
        book.save(target)
        return kept

    def relabel(self, target: pathlib.Path, label: str, labels: Mapping[int, Any]) -> None:
        import openpyxl

        with self.path.open("rb") as file:
            book = openpyxl.load_workbook(file)
        place = self.columns.index(label) + 1
        for row, (number, _) in enumerate(self._rows(), -1):  # the header is row −1
            if row in labels:
                _set(book.worksheets[0].cell(number, place), plain(labels[row]))
        book.save(target)


def _set(cell: Any, value: Any) -> None:
    cell.value = value
    if isinstance(value, str):
        cell.data_type = "s"  # also if it looks like a formula
