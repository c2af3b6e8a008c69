"""The decisions of someone who looked through a report, and the table with the labels that they decided on."""

import collections
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bilevel._output.files import local_directory, make_directory
from bilevel.clean.csv_table import CsvTable
from bilevel.clean.labels import Found, Labels, find, label_key
from bilevel.clean.opening import open_table
from bilevel.clean.reading import Table
from bilevel.columns.kinds import listed

COLUMNS = ("table", "checksum", "row", "given", "decision", "label")
DECISIONS = ("accept", "reject", "other")


class Applied(NamedTuple):
    """The written file, and how many decisions changed a label and kept it."""

    path: pathlib.Path
    changed: int
    kept: int


class _Decision(NamedTuple):
    row: int
    given: str
    label: str


def checksum(path: pathlib.Path) -> str:
    """What tells a table from others, and from itself after a change. A spreadsheet takes it for no number."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"


def apply_decisions(
    table: str | pathlib.Path,
    *,
    label: str,
    decisions: str | pathlib.Path,
    out: str | pathlib.Path,
    encoding: str | None = None,
) -> Applied:
    """Write the table with the labels that someone decided on in the report of `clean_table`.

    The report exports `decisions.csv`: one line for each decided row, with the table's name and checksum, the row's
    number (1 is the first below the header), the given label, the decision (accept, reject or other) and the label that
    the row is to have. `out` gets the file `corrected` with the table's suffix. Only the labels that change are other
    cells than before; all others are as they were.

    **Arguments**

    - `table`, `label`, `encoding`: as for `clean_table`.
    - `decisions`: the exported file, all of it or some of its lines.
    - `out`: a directory. If it has the file already, it is an error.

    **Raises** `ValueError` or `OSError`, naming the argument, for decisions of another table or of one that has changed
    since, and for lines that name an unknown or a repeated row, another given label than the table's, a label that no
    row of the table has, or a decision that contradicts its label. Nothing is written then.

    Example:

        >>> import pathlib, tempfile
        >>> from bilevel.clean import apply_decisions
        >>> from bilevel.clean.decisions import checksum
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table, decisions = (pathlib.Path(folder) / name for name in ("t.csv", "decisions.csv"))
        ...     _ = table.write_text("petal,name\\n1.4,iris\\n5.1,rose\\n")
        ...     line = f"t.csv,{checksum(table)},1,iris,accept,rose\\n"
        ...     _ = decisions.write_text("table,checksum,row,given,decision,label\\n" + line)
        ...     applied = apply_decisions(table, label="name", decisions=decisions, out=folder)
        ...     print(applied.path.read_text())
        petal,name
        1.4,rose
        5.1,rose
        <BLANKLINE>
    """
    opened = open_table(table, "table", encoding)
    find(opened.columns, label, "label")
    path = local_directory(out, "out") / f"corrected{opened.suffix}"
    if path.exists():
        raise ValueError(f"out: {path} exists already; pass another directory, or remove it")
    decided = list(_read(pathlib.Path(decisions), opened))
    labels = Labels("label", frozenset())
    for chunk in opened.chunks():
        labels.add(chunk[label])
    changes = _changes(decided, labels.finish(), opened, label)
    make_directory(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        opened.relabel(pathlib.Path(folder) / path.name, label, changes)
        os.replace(pathlib.Path(folder) / path.name, path)
    return Applied(path, len(changes), len(decided) - len(changes))


def _read(path: pathlib.Path, table: Table) -> Iterator[_Decision]:
    """The decisions, each one checked by itself."""
    file = open_table(path, "decisions")
    if not isinstance(file, CsvTable) or not set(COLUMNS) <= set(file.columns):
        raise ValueError(
            f"decisions: {path} lacks some of the columns {listed(COLUMNS, len(COLUMNS))}; pass the CSV file that the "
            "report exports"
        )
    ours = checksum(table.path)
    for chunk in file.chunks():
        for name, said, row, given, decision, label in chunk[list(COLUMNS)].itertuples(index=False):
            if said.strip() != ours:
                what = "this table before it changed" if name.strip() == table.path.name else f"another table, {name!r}"
                raise ValueError(
                    f"decisions: {path} is about {what}: its checksum {said} is not {ours}, that of {table.path}; pass "
                    "the table that the report was made of, or clean it again"
                )
            where = f"decisions: row {row!r} in {path}"
            if not row.strip().isascii() or not row.strip().isdigit():
                raise ValueError(f"{where} is no number; rows are counted from 1")
            if decision.strip() not in DECISIONS:
                raise ValueError(f"{where} has the decision {decision!r}; it must be one of {listed(DECISIONS)}")
            if (decision.strip() == "reject") != (label_key(label) == label_key(given)):
                raise ValueError(
                    f"{where} contradicts itself: {decision} of the label {label!r}, where {given!r} was given; reject "
                    "keeps the given label, accept and other change it"
                )
            yield _Decision(int(row) - 1, given, label)


def _changes(decided: list[_Decision], labels: Found, table: Table, label: str) -> Mapping[int, Any]:
    """The new label of each row whose label changes, after a check against the table."""
    counts = collections.Counter(decision.row for decision in decided)
    twice = [row + 1 for row, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"decisions: more than one line is about row {listed(twice)}; keep one of them")
    classes, changes = {label_key(value): value for value in labels.classes}, {}
    for row, given, new in decided:
        if not 0 <= row < len(labels.codes):
            raise ValueError(f"decisions: row {row + 1} is not in {table.path}, which has {len(labels.codes):,} rows")
        code = labels.codes[row]
        now = labels.classes[code] if code >= 0 else ""
        if label_key(now) != label_key(given):
            raise ValueError(
                f"decisions: row {row + 1} was given {given!r} when it was decided, but {label!r} is {now!r} there; "
                "pass the label's column of the report, and change nothing but decision and label"
            )
        if label_key(new) not in classes:
            raise ValueError(
                f"decisions: row {row + 1} is to become {new!r}, a label that no row of {table.path} has; they are "
                f"{listed(labels.classes, 20)}"
            )
        if label_key(new) != label_key(given):
            changes[row] = classes[label_key(new)]
    return changes
