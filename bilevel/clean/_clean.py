"""The doubtful labels of a table: from a file to a file with weights, and a report."""

import dataclasses
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bilevel import _checks as checks
from bilevel._output.files import environment, local_directory, make_directory, write_json
from bilevel.clean import report
from bilevel.clean.cleaned import Cleaned
from bilevel.clean.encoding import Encoder
from bilevel.clean.kinds import FEATURES, Column, infer
from bilevel.clean.labels import check_classes, find, label_text
from bilevel.clean.opening import open_table
from bilevel.clean.reading import Added, Table, listed
from bilevel.clean.stages import Stages
from bilevel.clean.survey import Survey, survey

_UNTRUSTED = (
    "There are no trusted rows, so labels were judged by each other. This finds scattered errors, but if most rows of "
    "one kind have the same wrong label, it looks like truth. With a hundred checked rows, some of each label, those "
    "errors are found too: pass these rows as the trusted table."
)

_RARE = (
    "These labels have too few rows to be judged by each other: {}. Their rows get weight 1 and end the ranking. Look "
    "at them yourself, or pass checked rows of each label as the trusted table."
)


def clean_table(
    table: str | pathlib.Path,
    *,
    label: str,
    out: str | pathlib.Path,
    trusted: str | pathlib.Path | None = None,
    kinds: Mapping[str, str] | None = None,
    hidden: int | None = None,
    seed: int = 0,
    console: Any = None,
) -> Cleaned:
    """Weight each row of a table by how probable it seems that its label is right, and propose a label.

    `bilevel.estimators.LabelCleaner` learns the weights, on features that scikit-learn's ColumnTransformer makes from
    the other columns. The table is read in chunks, three times; only the features are held in memory, as float32.

    Four files are written into `out`, all of them or none:

    - `cleaned` with the table's suffix: the table as it was, cell for cell, and the columns `bilevel_weight` (in
      [0, 1]), `bilevel_rank` (1: the most doubtful) and `bilevel_label` (the proposed label, often the given one);
    - `report.html`: the most doubtful rows to look through, with images that lie below the table's folder;
      `weights.png`: a histogram; `summary.json`.

    If `out` already has one of these, it is an error: nothing is overwritten.

    Cells are written as they are: a spreadsheet computes those that are formulas. A label that spaces keep from being
    one is proposed with its spaces.

    **Arguments**

    - `table`: a CSV file (comma, semicolon, tab or bar; UTF-8; gzip or not) with a header, or a Parquet file.
    - `label`: the column of the labels.
    - `trusted`: a table of rows whose labels someone has checked, with the same columns and some rows of each label.
      Without it, rows are judged by the other rows, and a note says which errors this cannot find.
    - `kinds`: the kind of a column that would be inferred wrongly, one of `bilevel.clean.kinds.KINDS`.
    - `hidden`: width of the hidden layer of the model that learns the weights; `None`: logistic regression.
    - `seed`: the seed of all random choices.
    - `console`: a `rich.console.Console`, for the progress and a table of the columns' kinds.

    **Raises** `ValueError` or `OSError`, naming the argument, for tables that cannot be read or whose labels cannot be
    cleaned: see `bilevel.clean.reading` and `bilevel.clean.labels`.

    Example:

        >>> import pathlib, tempfile
        >>> from bilevel.clean import clean_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = pathlib.Path(folder) / "flowers.csv"
        ...     _ = table.write_text("petal,name\\n1.4,iris\\n5.1,rose\\n")
        ...     clean_table(table, label="nam", out=folder)
        Traceback (most recent call last):
        ValueError: label: no column 'nam'; did you mean 'name'? the columns are 'petal', 'name'
    """
    checks.count("seed", seed, 0)
    stages = Stages(console)
    opened = open_table(table, "table")
    judge = None if trusted is None else open_table(trusted, "trusted")
    _check_columns(opened, judge, label)
    files = {"table": f"cleaned{opened.suffix}", "report": "report.html"}
    files |= {"histogram": "weights.png", "summary": "summary.json"}
    out = _place(local_directory(out, "out"), files.values())
    look, columns = _look(opened, label, kinds or {}, seed, stages)
    encoder = Encoder([column for column in columns if column.kind in FEATURES], look.sample)
    checked = None if judge is None else _trusted(judge, look, encoder, label, seed)
    features = encoder.features(stages.counted("Encoding", opened.typed_chunks(encoder.columns), look.rows), look.rows)
    columns = [_with_unread(column, encoder.unread[column.name]) for column in columns]
    stages.print(report.kinds_table(columns, label, encoder.width))
    with stages.stage("Learning the weights"):
        weights, order, proposed, notes = _weigh(features, look.codes, checked, hidden, seed, look.classes)
    del features
    ranks = np.empty(look.rows, np.int64)
    ranks[order] = np.arange(1, look.rows + 1)
    found = weights, ranks, look.codes, proposed, look.classes
    cleaned = Cleaned(out, files, *found, columns, notes)
    arguments = {"table": str(table), "label": label, "trusted": trusted and str(trusted), "kinds": dict(kinds or {})}
    arguments |= {"hidden": hidden, "seed": seed, "trusted_rows": 0 if checked is None else len(checked[1])}
    with stages.stage("Writing"):
        _write(opened, cleaned, label, arguments | {"features": encoder.width}, stages.seconds)
    return cleaned


def _check_columns(table: Table, trusted: Table | None, label: str) -> None:
    find(table.columns, label, "label")
    ours = [name for name in table.columns if name in Added.NAMES]
    if ours:
        raise ValueError(f"table: {table.path} already has {listed(ours)}; remove or rename them")
    if trusted is not None:
        find(trusted.columns, label, "trusted")


def _place(out: pathlib.Path, files: Iterable[str]) -> pathlib.Path:
    """The directory, after a check that it has none of the files yet."""
    there = [name for name in files if (out / name).exists()]
    if there:
        raise ValueError(f"out: {out} already has {listed(there)}; pass another directory, or remove these files")
    return make_directory(out)


def _look(table: Table, label: str, kinds: Mapping[str, str], seed: int, stages: Stages) -> tuple[Survey, list[Column]]:
    """The labels, and the kind of each other column."""
    chunks = stages.counted("Reading", table.chunks())
    look = survey(chunks, len(table.columns), label, "table", "label", seed)
    check_classes(look.classes, look.rows, "label")
    columns = infer(look.sample, look.rows, table.decimals, kinds, label)
    if not any(column.kind in FEATURES for column in columns):
        reasons = listed([f"{column.name} ({column.detail})" for column in columns])
        raise ValueError(f"table: no column can be a feature: {reasons}; add some columns, or pass their kinds")
    return look, columns


def _trusted(table: Table, look: Survey, encoder: Encoder, label: str, seed: int) -> tuple[Any, Int[np.ndarray, " m"]]:
    """The features and codes of the trusted rows."""
    missing = [column.name for column in encoder.columns if column.name not in table.columns]
    if missing:
        raise ValueError(
            f"trusted: {table.path} lacks columns of the table: {listed(missing)}; it has {listed(table.columns, 30)}"
        )
    checked = survey(table.chunks(), len(table.columns), label, "trusted", "trusted", seed)
    known = {label_text(value): code for code, value in enumerate(look.classes)}
    unseen = [value for value in checked.classes if label_text(value) not in known]
    if unseen:
        raise ValueError(
            f"trusted: {table.path} has labels that no row of the table has: {listed(unseen)}; the table's are "
            f"{listed(look.classes, 20)}"
        )
    place = np.array([known[label_text(value)] for value in checked.classes], np.int32)
    absent = [value for code, value in enumerate(look.classes) if code not in set(place)]
    if absent:
        raise ValueError(f"trusted: {table.path} has no row of {listed(absent)}; each label of the table needs some")
    return encoder.features(table.typed_chunks(encoder.columns), checked.rows), place[checked.codes]


def _weigh(
    features: Any,
    codes: Int[np.ndarray, " n"],
    trusted: tuple[Any, Any] | None,
    hidden: int | None,
    seed: int,
    classes: list[Any],
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"], list[str]]:
    """Weights, rows in order of doubt, proposed codes, and notes from the cleaner's warnings."""
    from sklearn.dummy import DummyClassifier

    from bilevel.estimators import LabelCleaner, NoTrustedRowsWarning, RareClassWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cleaner = LabelCleaner(DummyClassifier(), hidden=hidden, random_state=seed)  # its predictions are not used
        cleaner.fit(features, codes, *(trusted or ()))
    notes = []
    for warning in caught:
        if issubclass(warning.category, NoTrustedRowsWarning):
            notes.append(_UNTRUSTED)
        elif issubclass(warning.category, RareClassWarning):
            notes.append(_RARE.format(listed([classes[code] for code in cleaner.rare_classes_])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    order, proposed = np.asarray(cleaner.suspects_["row"]), np.empty(len(codes), np.int32)
    proposed[order] = cleaner.suspects_["label"]
    return np.asarray(cleaner.sample_weight_, np.float64), order, proposed, notes


def _with_unread(column: Column, unread: int) -> Column:
    if not unread:
        return column
    return dataclasses.replace(column, detail=f"{column.detail}; {unread:,} non-numeric cells count as missing")


def _write(table: Table, cleaned: Cleaned, label: str, arguments: dict[str, Any], seconds: Mapping[str, float]) -> None:
    """Write all files into a temporary folder inside `out`, then move each to its place."""
    decimal = "," if any(column.decimal == "," for column in cleaned.columns) else "."
    added = Added(cleaned.weights, cleaned.ranks, cleaned.proposed, cleaned.classes, decimal)
    doubtful = np.argsort(cleaned.ranks)[: report.SHOWN_ROWS].tolist()
    with tempfile.TemporaryDirectory(dir=cleaned.out, prefix=".writing-") as folder:
        paths = {content: pathlib.Path(folder) / name for content, name in cleaned.files.items()}
        kept = table.write(paths["table"], added, set(doubtful))
        summary = report.summary(cleaned) | {"arguments": arguments, "seconds": dict(seconds)}
        write_json(paths["summary"], summary | {"environment": environment()})
        report.histogram(cleaned).savefig(paths["histogram"], dpi=150)
        rows = report.doubtful_rows(table, cleaned, {row: kept[row] for row in doubtful})
        page = report.page(table.path.name, cleaned, label, arguments, rows, paths["histogram"].read_bytes())
        paths["report"].write_text(page, encoding="utf-8")
        for path in paths.values():
            os.replace(path, cleaned.out / path.name)
