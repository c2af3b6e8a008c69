"""JSON lines: one object per line, read and written in chunks. Each written line is the original, with keys added."""

import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from bilevel.clean.reading import Added, TypedTable, batches, chunk_rows, opened, plain, written


class JsonTable(TypedTable):
    """A file of JSON objects, one per line. The columns are the keys of all lines; what a line lacks is missing."""

    commas = False

    def __init__(self, path: pathlib.Path, argument: str, zipped: bool, encoding: str = "utf-8") -> None:
        self.path, self._argument, self._zipped, self._encoding = path, argument, zipped, encoding
        self.columns = list(dict.fromkeys(key for _, row in self._lines() if row is not None for key in row))
        suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix or ".jsonl"
        self.suffix = suffix + (".gz" if zipped else "")

    def _frames(self, names: list[str]) -> Iterator[Any]:
        import pandas as pd

        start = 0
        for batch in batches((row for _, row in self._lines() if row is not None), chunk_rows(self.columns)):
            index = range(start, start + len(batch))
            yield pd.DataFrame({name: pd.Series([row.get(name) for row in batch], index, object) for name in names})
            start += len(batch)

    def write(self, target: pathlib.Path, added: Added, keep: set[int]) -> dict[int, list[str]]:
        kept, number = {}, 0
        labels = [plain(label) for label in added.classes]
        with written(target, self._zipped, self._encoding) as file:
            for raw, row in self._lines():
                if row is not None:
                    weight = float(added.weights[number])
                    new = (None if np.isnan(weight) else float(f"{weight:.6g}"), int(added.ranks[number]))
                    values = zip(added.NAMES, (*new, labels[added.codes[number]]), strict=True)
                    text = json.dumps(dict(values), ensure_ascii=False)[1:]
                    end = raw.rindex("}")
                    raw = raw[:end] + (", " if row else "") + text + raw[end + 1 :]
                    if number in keep:
                        cells = (row.get(name) for name in self.columns)
                        kept[number] = ["" if cell is None else str(cell) for cell in cells]
                    number += 1
                file.write(raw)
        return kept

    def relabel(self, target: pathlib.Path, label: str, labels: Mapping[int, Any]) -> None:
        number = 0
        with written(target, self._zipped, self._encoding) as file:
            for raw, row in self._lines():
                if row is not None and number in labels:
                    value = plain(labels[number])
                    raw = _exchanged(raw, label, value)
                    if json.dumps(json.loads(raw)) != json.dumps(row | {label: value}):
                        raise ValueError(f"{self._argument}: the label in {raw[:40]!r} cannot be exchanged")
                number += row is not None
                file.write(raw)

    def _lines(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Each line as text, and its object; blank lines have none."""
        number = 0
        try:
            with io.TextIOWrapper(cast(Any, opened(self.path, self._zipped)), self._encoding, newline="\n") as lines:
                for raw in lines:
                    number += 1
                    row = json.loads(raw) if raw.strip() else None
                    if row is not None and not isinstance(row, dict):
                        raise ValueError(f"it is no object, but {raw[:40].strip()!r}")
                    yield raw, row
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{self._argument}: {self.path} is not a whole gzip file ({error})") from error
        except UnicodeError as error:
            raise ValueError(
                f"{self._argument}: {self.path} is not {self._encoding.upper()} in line {number + 1}; save it as "
                "UTF-8, or pass its encoding, such as --encoding cp1252"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self._argument}: line {number} of {self.path} is not a JSON object ({error}); write one per line"
            ) from error


def _exchanged(raw: str, key: str, value: Any) -> str:
    """The text of an object with another value of a key, at the end if it had none."""
    decoder, text = json.JSONDecoder(), json.dumps(value, ensure_ascii=False)
    at, span = _skipped(raw, raw.index("{") + 1), None
    while raw[at] != "}":
        name, at = decoder.raw_decode(raw, at)
        start = _skipped(raw, _skipped(raw, at) + 1)  # behind the colon
        _, at = decoder.raw_decode(raw, start)
        if name == key:  # of equal keys, the last one counts
            span = start, at
        at = _skipped(raw, at)
        if raw[at] == ",":
            at = _skipped(raw, at + 1)
    if span is None:
        comma = ", " if raw[:at].strip() != "{" else ""
        return f"{raw[:at]}{comma}{json.dumps(key, ensure_ascii=False)}: {text}{raw[at:]}"
    return raw[: span[0]] + text + raw[span[1] :]


def _skipped(raw: str, at: int) -> int:
    """The next place that is no space."""
    while raw[at] in " \t\r\n":
        at += 1
    return at
