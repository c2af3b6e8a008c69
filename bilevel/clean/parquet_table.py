"""Parquet files, read and written in batches of rows."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from bilevel import _extras as extras
from bilevel.clean.reading import Added, TypedTable, chunk_rows, plain


class ParquetTable(TypedTable):
    """A Parquet file; needs pyarrow. Cells have the types of its columns."""

    suffix = ".parquet"
    commas = False

    def __init__(self, path: pathlib.Path, argument: str) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise ValueError(f"{argument}: {path} needs pyarrow; {extras.install('parquet')}") from error
        self.path = path
        try:
            self._schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{argument}: {path} cannot be read as Parquet ({error})") from error
        self.columns = list(self._schema.names)

    def _frames(self, names: list[str]) -> Iterator[Any]:
        start = 0
        for batch in self._batches(names):
            frame = batch.to_pandas(integer_object_nulls=True, ignore_metadata=True)
            frame.index = range(start, start + len(frame))
            start += len(frame)
            yield frame

    def write(self, target: pathlib.Path, added: Added, keep: set[int]) -> dict[int, list[str]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        labels = pa.array(added.classes)
        types = dict(zip(added.NAMES, (pa.float64(), pa.int64(), labels.type), strict=True))
        schema = self._schema
        for name, kind in types.items():
            schema = schema.append(pa.field(name, kind))
        kept, start = {}, 0
        with pq.ParquetWriter(target, schema) as writer:
            for batch in self._batches(self.columns):
                rows = slice(start, start + len(batch))
                new = (added.weights[rows], added.ranks[rows], labels.take(pa.array(added.codes[rows])))
                # from_pandas: NaN, the weight of a row without a label, is null
                arrays = (pa.array(a, t, from_pandas=True) for a, t in zip(new, types.values(), strict=True))
                columns = [*batch.columns, *arrays]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                for row in keep.intersection(range(rows.start, rows.stop)):
                    cells = (column[row - start].as_py() for column in batch.columns)
                    kept[row] = ["" if cell is None else str(cell) for cell in cells]
                start += len(batch)
        return kept

    def relabel(self, target: pathlib.Path, label: str, labels: Mapping[int, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        place, start = self.columns.index(label), 0
        with pq.ParquetWriter(target, self._schema) as writer:
            for batch in self._batches(self.columns):
                changed = [row for row in labels if start <= row < start + len(batch)]
                columns = list(batch.columns)
                if changed:
                    cells = columns[place].to_pylist()
                    for row in changed:
                        cells[row - start] = plain(labels[row])
                    columns[place] = pa.array(cells, columns[place].type)
                writer.write_batch(pa.record_batch(columns, schema=self._schema))
                start += len(batch)

    def _batches(self, names: list[str]) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(chunk_rows(self.columns), columns=names)
