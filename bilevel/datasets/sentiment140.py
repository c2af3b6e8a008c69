"""Sentiment140: tweets labeled by their emoticons."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilevel.datasets.base import Card, DatasetError, TextDataset, text_dataset
from bilevel.datasets.files import Files, check_splits

_FILES = ("training.1600000.processed.noemoticon.csv", "testdata.manual.2009.06.14.csv")

CARDS = {
    "sentiment140": Card(
        "sentiment140",
        rows=1_600_359,
        classes=2,
        splits={"train": 1_600_000, "test": 359},
        license="for research; the tweets are their authors'",
        source="Go, Bhayani & Huang (2009), Twitter sentiment classification using distant supervision",
    )
}
FILES = {"sentiment140": Files("sentiment140", (_FILES,))}


def load(name: str) -> TextDataset:
    """`"sentiment140"`: two files of comma-separated, quoted columns in Latin-1; training rows first.

    The columns are target, id, date, query, user and text. The label is 1 for the target 4 and 0 for the target 0. The
    139 neutral tweets (target 2), which only the test file has, are left out. The tweets of one user are one group. No
    checksums are published; the numbers of rows are checked.
    """
    paths = FILES[name].need()
    train, test = (list(_read(path)) for path in paths)
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


def _rows(path: Path, lines: Any) -> Iterator[list[str]]:
    try:
        yield from lines
    except csv.Error as error:
        raise DatasetError(f"{path}, line {lines.line_num}: {error}; get the published file again") from error
