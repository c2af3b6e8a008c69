"""Sentiment140: tweets labeled by their emoticons; the whole set, and a part of it."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilevel.datasets.base import Card, DatasetError, TextDataset, text_dataset
from bilevel.datasets.files import Files, check_splits

_FILES = ("training.1600000.processed.noemoticon.csv", "testdata.manual.2009.06.14.csv")
_PART_FILES = ("sentiment140_50000_each.tsv.gz", "sentiment140_manual_test_498.csv.gz")
_MOST_BYTES = 100_000_000  # the published content has 8 million

CARDS = {
    "sentiment140": Card(
        "sentiment140",
        rows=1_600_359,
        classes=2,
        splits={"train": 1_600_000, "test": 359},
        license="for research; the tweets are their authors'",
        source="Go, Bhayani & Huang (2009), Twitter sentiment classification using distant supervision",
    ),
    "sentiment140-part": Card(
        "sentiment140-part",
        rows=100_359,
        classes=2,
        splits={"train": 100_000, "test": 359},
        license="for research; the tweets are their authors'",
        source="Go, Bhayani & Huang (2009): the first 50,000 negative, the last 50,000 positive tweets; the test",
    ),
}
FILES = {"sentiment140": Files("sentiment140", (_FILES,)), "sentiment140-part": Files("tweets", (_PART_FILES,))}


def load(name: str) -> TextDataset:
    """`"sentiment140"`: two files of comma-separated, quoted columns in Latin-1; training rows first.

    The columns are target, id, date, query, user and text. The label is 1 for the target 4 and 0 for the target 0. The
    139 neutral tweets (target 2), which only the test file has, are left out. The tweets of one user are one group. No
    checksums are published; the numbers of rows are checked.

    `"sentiment140-part"`: two compressed files in UTF-8. Each line of the first has a target, a tab and a text; the
    second has the columns target and text, separated by commas and quoted. They name no users. So only equal texts are
    one group.
    """
    paths = FILES[name].need()
    if name == "sentiment140":
        train, test = (list(_read(path)) for path in paths)
    else:
        train, test = list(_read_tabs(paths[0])), list(_read_two_columns(paths[1]))
    check_splits(CARDS[name], {"train": len(train), "test": len(test)})
    return text_dataset(train + test, ("tweets",), CARDS[name])


def _read(path: Path) -> Iterator[tuple[int, str, int, str]]:
    """Domain (always 0), user, label and text of each tweet that is not neutral."""
    with open(path, encoding="latin-1", newline="") as file:
        lines = csv.reader(file)
        for row in _rows(path, lines):
            if len(row) != 6 or row[0] not in ("0", "2", "4"):
                raise DatasetError(
                    f"{path}, line {lines.line_num}: {','.join(row)[:60]!r} is not target (0, 2 or 4), id, date, "
                    "query, user and text"
                )
            if row[0] != "2":
                yield 0, row[4], int(row[0] == "4"), row[5]


def _read_tabs(path: Path) -> Iterator[tuple[int, str, int, str]]:
    """Domain, text, label and text of each line."""
    for number, line in enumerate(_unpacked(path).removesuffix("\n").split("\n"), 1):
        target, _, text = line.partition("\t")
        if target not in ("0", "4") or not text.strip():
            raise DatasetError(f"{path}, line {number}: {line[:60]!r} is not a target (0 or 4), a tab and a text")
        yield 0, text, int(target == "4"), text


def _read_two_columns(path: Path) -> Iterator[tuple[int, str, int, str]]:
    """The same of each tweet that is not neutral."""
    lines = csv.reader(io.StringIO(_unpacked(path), newline=""))
    for row in _rows(path, lines):
        if len(row) != 2 or row[0] not in ("0", "2", "4"):
            raise DatasetError(
                f"{path}, line {lines.line_num}: {','.join(row)[:60]!r} is not a target (0, 2 or 4) and a text"
            )
        if row[0] != "2":
            yield 0, row[1], int(row[0] == "4"), row[1]


def _unpacked(path: Path) -> str:
    """The text of a compressed file."""
    try:
        with gzip.open(path) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        return content.decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"{path}: damaged ({error}); get the file again") from error


def _rows(path: Path, lines: Any) -> Iterator[list[str]]:
    try:
        yield from lines
    except csv.Error as error:
        raise DatasetError(f"{path}, line {lines.line_num}: {error}; get the published file again") from error
