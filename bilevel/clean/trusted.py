"""Rows whose labels someone has checked: of a table of their own, or those that a column of the table names."""

from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from bilevel.clean import soundness
from bilevel.clean.labels import label_key
from bilevel.clean.reading import Table
from bilevel.clean.survey import Survey, survey
from bilevel.columns.cells import MISSING
from bilevel.columns.encoding import Encoder, out_of_range, rewritten
from bilevel.columns.kinds import listed


class Judges(NamedTuple):
    """Trusted rows, in the features and classes of the table; `rows` are their numbers in their own table."""

    features: Any
    codes: Int[np.ndarray, " m"]
    rows: Int[np.ndarray, " m"]
    notes: tuple[str, ...] = ()


def judges_of(table: Table, look: Survey, encoder: Encoder, label: str, missing: Set[str] | None, seed: int) -> Judges:
    """The features and codes of the trusted rows, whose numbers and dates may be written in another way."""
    absent = [column.name for column in encoder.columns if column.name not in table.columns]
    if absent:
        raise ValueError(
            f"trusted: {table.path} lacks columns of the table: {listed(absent)}; it has {listed(table.columns, 30)}"
        )
    checked = survey(table.chunks(), len(table.columns), label, "trusted", "trusted", seed, missing=missing)
    classes = look.labels.classes
    known = {label_key(value): code for code, value in enumerate(classes)}
    unseen = [value for value in checked.labels.classes if label_key(value) not in known]
    if unseen:
        raise ValueError(
            f"trusted: {table.path} has labels that no row of the table has: {listed(unseen)}; the table's are "
            f"{listed(classes, 20)}"
        )
    place = np.array([known[label_key(value)] for value in checked.labels.classes], np.int32)
    _check_present(place, classes, f"trusted: {table.path} has no row of")
    columns = [
        rewritten(column, look.sample, checked.sample, table.commas, missing or MISSING) for column in encoder.columns
    ]
    theirs = encoder.with_forms(columns)
    features = theirs.features(table.typed_chunks(columns, encoder.missing), checked.rows)
    theirs.check("trusted", "the table", f" in {table.path}")
    codes = checked.labels.codes
    rows = np.flatnonzero(codes >= 0)
    left_out = len(codes) - len(rows)
    notes = [f"{left_out:,} trusted rows have no label, and were left out."] if left_out else []
    for ours, their in zip(encoder.columns, columns, strict=True):
        notes.append(out_of_range(ours, look.sample, their, checked.sample, missing or MISSING))
    return Judges(features[rows] if left_out else features, place[codes[rows]], rows, tuple(filter(None, notes)))


def _check_present(codes: Int[np.ndarray, " m"], classes: Any, start: str) -> None:
    absent = [value for code, value in enumerate(classes) if code not in set(codes.tolist())]
    if absent:
        raise ValueError(f"{start} {listed(absent)}; each label of the table needs some")


def flagged_rows(features: Any, look: Survey) -> Judges:
    """The rows that a column of the table calls checked."""
    rows = np.flatnonzero(look.trusted & (look.labels.codes >= 0))
    if not len(rows):
        raise ValueError("trusted_column: it calls no row with a label checked; write yes in some rows of each label")
    codes = look.labels.codes[rows]
    _check_present(codes, look.labels.classes, "trusted_column: no checked row is labeled")
    return Judges(features[rows], codes, rows)


def settle(
    features: Any, judges: Judges, given: Int[np.ndarray, " n"], settled: Int[np.ndarray, " n"], classes: list[Any]
) -> list[str]:
    """Write the labels of trusted rows that are rows of the table into `settled`; a note says so.

    **Raises** `ValueError` if trusted rows that are one row of the table have different labels.
    """
    theirs, ours = soundness.same_rows(features, judges.features)
    if not len(ours):
        return []
    order = np.lexsort((theirs, ours))
    theirs, ours = theirs[order], ours[order]
    _check_agree(judges, theirs, ours, classes)
    settled[ours] = judges.codes[theirs]
    changed = int(((settled >= 0) & (given >= 0) & (settled != given)).sum())
    return [
        f"{len(ours):,} of {len(judges.codes):,} trusted rows are rows of the table, too. They keep the trusted label, "
        f"which differs from the table's for {changed:,} of them, and are not judged by themselves."
    ]


def _check_agree(
    judges: Judges, theirs: Int[np.ndarray, " k"], ours: Int[np.ndarray, " k"], classes: list[Any]
) -> None:
    """Check that trusted rows which are one row of the table, and stand side by side, have one label."""
    codes, rows = judges.codes[theirs], judges.rows[theirs] + 1
    torn = np.flatnonzero((ours[1:] == ours[:-1]) & (codes[1:] != codes[:-1])).tolist()
    if torn:
        i, more = torn[0], f" (and {len(torn) - 1:,} more such pairs)" if len(torn) > 1 else ""
        raise ValueError(
            f"trusted: rows {rows[i]:,} and {rows[i + 1]:,} are both row {ours[i] + 1:,} of the table, but one is "
            f"labeled {classes[codes[i]]!r} and the other {classes[codes[i + 1]]!r}{more}; keep the rows that are right"
        )
