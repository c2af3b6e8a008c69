"""Rows whose labels someone has checked: of a table of their own, or those that a column of the table names."""

from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from bilevel.clean import soundness
from bilevel.clean.labels import label_key
from bilevel.clean.reading import Table
from bilevel.clean.survey import Survey, survey
from bilevel.columns.encoding import Encoder, out_of_range, rewritten
from bilevel.columns.kinds import MISSING, MOST_LEVELS, listed, texts


class Judges(NamedTuple):
    """Trusted rows, in the features and classes of the table."""

    features: Any
    codes: Int[np.ndarray, " m"]
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
    features = theirs.features(table.typed_chunks(columns), checked.rows)
    for column in columns:
        unread = theirs.unread[column.name]
        if int(unread) > checked.rows / 2:
            raise ValueError(
                f"trusted: {int(unread):,} of {checked.rows:,} cells of {column.name!r} in {table.path} cannot be read "
                f"as {column.kind} ({unread}); write them as the table does"
            )
        if column.kind in ("boolean", "categorical"):
            _check_levels(column.name, look.sample, checked.sample, missing or MISSING)
    codes = checked.labels.codes
    rows = np.flatnonzero(codes >= 0)
    left_out = len(codes) - len(rows)
    notes = [f"{left_out:,} trusted rows have no label, and were left out."] if left_out else []
    for ours, their in zip(encoder.columns, columns, strict=True):
        notes.append(out_of_range(ours, look.sample, their, checked.sample, missing or MISSING))
    return Judges(features[rows] if left_out else features, place[codes[rows]], tuple(filter(None, notes)))


def _check_levels(name: str, sample: Any, trusted: Any, missing: Set[str]) -> None:
    levels = set(texts(sample[name], missing))
    cells, known = [cell for cell in texts(trusted[name], missing) if cell], {level.lower() for level in levels}
    new = [cell for cell in cells if cell.lower() not in known]
    if len(levels) <= MOST_LEVELS and len(new) > len(cells) / 2:
        raise ValueError(
            f"trusted: {len(new):,} of {len(cells):,} cells of {name!r} hold what the table does not: "
            f"{listed(list(dict.fromkeys(new)))}; the table has {listed(sorted(levels - {''}))}; write them as it does"
        )


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
    return Judges(features[rows], codes)


def settle(features: Any, judges: Judges, given: Int[np.ndarray, " n"], settled: Int[np.ndarray, " n"]) -> list[str]:
    """Write the labels of trusted rows that are rows of the table into `settled`; a note says so."""
    theirs, ours = soundness.same_rows(features, judges.features)
    if not len(ours):
        return []
    settled[ours] = judges.codes[theirs]
    changed = int(((settled >= 0) & (given >= 0) & (settled != given)).sum())
    return [
        f"{len(ours):,} of {len(judges.codes):,} trusted rows are rows of the table, too. They keep the trusted label, "
        f"which differs from the table's for {changed:,} of them, and are not judged by themselves."
    ]
