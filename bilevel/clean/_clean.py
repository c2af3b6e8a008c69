"""The doubtful labels of a table: from a file to a file with weights, and a report."""

import dataclasses
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from bilevel import _checks as checks
from bilevel._output.files import environment, local_directory, make_directory, write_json
from bilevel.clean import report, soundness
from bilevel.clean.cleaned import Cleaned
from bilevel.clean.decisions import checksum
from bilevel.clean.labels import check_classes, find
from bilevel.clean.opening import open_table
from bilevel.clean.reading import Added, Table
from bilevel.clean.reasons import Reason, reasons
from bilevel.clean.stages import Stages
from bilevel.clean.survey import Survey, survey
from bilevel.clean.trusted import Judges, flagged_rows, judges_of, settle
from bilevel.columns.cells import MISSING, told_missing
from bilevel.columns.encoding import Encoder, Unread
from bilevel.columns.kinds import FEATURES, Column, infer, listed

if TYPE_CHECKING:
    from bilevel.estimators._flags import WrongLabels

_FOLDS = 5  # of rows that are judged by the others, without trusted rows
_CHUNKS = 6  # reports on each run of `LabelCleaner`
_UNTRUSTED = (
    "There are no trusted rows, so labels were judged by each other. This finds scattered errors, but if most rows of "
    "one kind have the same wrong label, it looks like truth. With a hundred checked rows, some of each label, those "
    "errors are found too: pass these rows as the trusted table."
)

_RARE = (
    "These labels have too few rows to be judged by each other: {}. Their rows get weight 1 and end the ranking. Look "
    "at them yourself, or pass checked rows of each label as the trusted table."
)
_WEAK = (
    "From these columns a model predicts too few of the given labels: its own errors look like wrong labels. So no "
    "other label is proposed. The rows are ranked; more telling columns, or --hidden 50 for a network, may help."
)
_GIVEN_AWAY = (
    "The column {0!r} alone tells the given label. If it was made from the label, no label can look doubtful: run "
    "again with --kind '{0}=ignored'."
)


def clean_table(
    table: str | pathlib.Path,
    *,
    label: str,
    out: str | pathlib.Path,
    trusted: str | pathlib.Path | None = None,
    trusted_column: str | None = None,
    kinds: Mapping[str, str] | None = None,
    missing: Iterable[str] | None = None,
    encoding: str | None = None,
    hidden: int | None = None,
    seed: int = 0,
    console: Any = None,
) -> Cleaned:
    """Weight each row of a table by how probable it seems that its label is right, and propose a label.

    `bilevel.estimators.LabelCleaner` learns the weights, on features that scikit-learn's ColumnTransformer makes from
    the other columns. The table is read in chunks, three times; only the features are held in memory, as float32.

    Four files are written into `out`, all of them or none:

    - `cleaned` with the table's suffix: the table as it was, cell for cell, and the columns `bilevel_weight` (in
      [0, 1]: the probability that the label is right), `bilevel_rank` (1: the most doubtful) and `bilevel_label`
      (another than the given label exactly in flagged rows, see `LabelCleaner`, and in rows without a label);
    - `report.html`: the most doubtful rows to look through, with images that lie below the table's folder;
      `weights.png`: a histogram; `summary.json`.

    If `out` already has one of these, it is an error: nothing is overwritten.

    Numbers and dates are read as people write them ($1,234.50; 12.3%; 31.12.2024). What was read from each column is in
    the report, and a note says what is ambiguous. Cells that are not of their column's kind count as missing. Labels
    that differ only in case, spaces or the form of a number are one class. Rows without a label get a proposed label,
    no weight, and the last ranks. Notes also say if a column gives the label away, if the trusted labels do not fit
    their rows, and if trusted rows are rows of the table. Such rows keep their trusted label, and are not judged.

    Cells are written as they are: a spreadsheet computes those that are formulas. A label that spaces keep from being
    one is proposed with its spaces.

    **Arguments**

    - `table`: a table with a header: CSV (comma, semicolon, tab or bar; gzip or not), Parquet, Excel (.xlsx; the first
      sheet), or JSON lines.
    - `label`: the column of the labels.
    - `trusted`: a table of rows whose labels someone has checked, with the same columns and some rows of each label.
      Without it, rows are judged by the other rows, and a note says which errors this cannot find.
    - `trusted_column`: instead of `trusted`, a column of the table that says which rows have been checked (yes or no, 1
      or 0, x or empty).
    - `kinds`: the kind of a column that would be inferred wrongly, one of `bilevel.columns.kinds.KINDS`. `numeric:,`
      also says that the decimal mark is a comma, and `date:day first`, `date:month first` or `date:%d/%m/%Y` how dates
      are written.
    - `missing`: the words that stand for a missing cell or label, instead of the usual ones such as NA. A number, such
      as "-999", stands for all numbers of its value, such as -999.0. An empty cell is always missing.
    - `encoding`: of CSV files and JSON lines, such as cp1252; default: UTF-8, or UTF-16 with a byte order mark.
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
    words = None if missing is None else told_missing(missing)
    stages = Stages(console, 4)
    opened = open_table(table, "table", encoding)
    judge = None if trusted is None else open_table(trusted, "trusted", encoding)
    _check_columns(opened, judge, label, trusted_column)
    files = {"table": f"cleaned{opened.suffix}", "report": "report.html"}
    files |= {"histogram": "weights.png", "summary": "summary.json"}
    out = _place(local_directory(out, "out"), files.values())
    look, columns = _look(opened, label, trusted_column, kinds or {}, words, seed, stages)
    encoder = Encoder([column for column in columns if column.kind in FEATURES], look.sample, words or MISSING)
    judges = None if judge is None else judges_of(judge, look, encoder, label, words, seed)
    chunks = stages.counted("Encoding", opened.typed_chunks(encoder.columns, encoder.missing), look.rows)
    features = encoder.features(chunks, look.rows)
    columns = [_with_unread(column, encoder.unread.get(column.name)) for column in columns]
    stages.print(report.kinds_table(columns, label, encoder.width))
    notes = [column.note for column in columns if column.note] + soundness.of_labels(look.labels)
    parts = _CHUNKS * (1 if trusted or trusted_column else _FOLDS)
    with stages.stage("Learning the weights", parts) as advance:
        judged = _judge(features, look, encoder, judges, trusted_column is not None, hidden, seed, advance)
    weights, ranks, proposed, estimate, decided, trusted_rows, more = judged
    found = weights, ranks, look.labels.codes, proposed, look.labels.classes
    cleaned = Cleaned(out, files, *found, columns, notes + more, estimate, decided)
    stages.print(report.estimate_words(cleaned))
    shown = report.rows_to_show(cleaned)
    why = reasons(features, encoder, weights, look.labels.codes, proposed, shown, seed)
    del features
    arguments = {"table": str(table), "label": label, "trusted": trusted and str(trusted), "kinds": dict(kinds or {})}
    arguments |= {"trusted_column": trusted_column, "missing": words and sorted(words), "encoding": encoding}
    arguments |= {"hidden": hidden, "seed": seed, "trusted_rows": trusted_rows, "features": encoder.width}
    with stages.stage("Writing"):
        _write(opened, cleaned, look, label, arguments, stages.seconds, shown, why)
    return cleaned


def _check_columns(table: Table, trusted: Table | None, label: str, trusted_column: str | None) -> None:
    find(table.columns, label, "label")
    ours = [name for name in table.columns if name in Added.NAMES]
    if ours:
        raise ValueError(f"table: {table.path} already has {listed(ours)}; remove or rename them")
    if trusted is not None:
        find(trusted.columns, label, "trusted")
    if trusted_column is not None:
        find(table.columns, trusted_column, "trusted_column")
        if trusted is not None:
            raise ValueError("trusted_column: trusted is given too; pass one of them")


def _place(out: pathlib.Path, files: Iterable[str]) -> pathlib.Path:
    """The directory, after a check that it has none of the files yet."""
    there = [name for name in files if (out / name).exists()]
    if there:
        raise ValueError(f"out: {out} already has {listed(there)}; pass another directory, or remove these files")
    return make_directory(out)


def _look(
    table: Table,
    label: str,
    trusted_column: str | None,
    kinds: Mapping[str, str],
    missing: Set[str] | None,
    seed: int,
    stages: Stages,
) -> tuple[Survey, list[Column]]:
    """The labels, and the kind of each other column."""
    chunks = stages.counted("Reading", table.chunks())
    width = len(table.columns)
    look = survey(chunks, width, label, "table", "label", seed, missing=missing, trusted_column=trusted_column)
    check_classes(look.labels.classes, int((look.labels.codes >= 0).sum()), "label")
    sample = look.sample.drop(columns=trusted_column) if trusted_column is not None else look.sample
    columns = infer(sample, look.rows, table.commas, kinds, label, missing or MISSING)
    if not any(column.kind in FEATURES for column in columns):
        reasons = listed([f"{column.name} ({column.detail})" for column in columns])
        raise ValueError(f"table: no column can be a feature: {reasons}; add some columns, or pass their kinds")
    return look, columns


def _judge(
    features: Any,
    look: Survey,
    encoder: Encoder,
    judges: Judges | None,
    trusted_column: bool,
    hidden: int | None,
    seed: int,
    advance: Callable[[], None],
) -> tuple[Any, Any, Int[np.ndarray, " n"], "WrongLabels", int, int, list[str]]:
    """Weights, ranks, proposed codes of all rows, how many labels are wrong, how many trusted rows say another label,
    the number of trusted rows, and notes.

    Rows that are trusted are not judged. Their weight is 1 or, if the trusted label is another one, 0.
    """
    given, settled, notes = look.labels.codes, np.full(look.rows, -1, np.int32), []
    if trusted_column:
        judges = flagged_rows(features, look)
        settled[look.trusted] = given[look.trusted]
    elif judges is not None:
        notes += judges.notes
        notes += settle(features, judges, given, settled, look.labels.classes)
    part = np.flatnonzero((given >= 0) & (settled < 0))
    unlabeled = np.flatnonzero((given < 0) & (settled < 0))
    classes, codes = np.unique(given[part], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"trusted: apart from the trusted rows, {'one label' if len(classes) else 'no row'} is left in the table; "
            "there is nothing to judge"
        )
    X = features if len(part) == look.rows else features[part]
    checked, m = None, 0
    if judges is not None:
        m, inside = len(judges.codes), np.isin(judges.codes, classes)  # a class may be left in trusted rows alone
        checked = judges.features[inside], np.searchsorted(classes, judges.codes[inside])
        notes += filter(None, [soundness.of_trusted_labels(X, codes, *checked, seed)])
    names = soundness.giving_away(X, codes, encoder.columns, encoder.owners, seed)
    notes += [_GIVEN_AWAY.format(name) for name in names]
    rest = features[unlabeled] if len(unlabeled) else None
    named = [look.labels.classes[code] for code in classes]
    cleaner, more, guessed = _weigh(X, codes, checked, hidden, seed, named, advance, rest)
    weights, proposed = np.full(look.rows, np.nan), np.where(settled < 0, given, settled)
    weights[part], suspects = cleaner.sample_weight_, cleaner.suspects_
    proposed[part[suspects["row"]]] = classes[suspects["label"]]
    if rest is not None:
        proposed[unlabeled] = classes[guessed]
    trusted = np.flatnonzero((settled >= 0) & (given >= 0))
    weights[trusted] = settled[trusted] == given[trusted]
    wrong, right = trusted[weights[trusted] == 0], trusted[weights[trusted] == 1]
    ranks = np.empty(look.rows, np.int64)
    ranks[np.concatenate([wrong, part[cleaner.scores_["row"]], right, np.flatnonzero(given < 0)])] = np.arange(
        1, look.rows + 1
    )
    return weights, ranks, proposed, _named(cleaner.wrong_labels_, named), len(wrong), m, notes + more


def _named(estimate: "WrongLabels", names: list[Any]) -> "WrongLabels":
    """The estimate with the names of the classes in the place of their codes."""
    table: Any = estimate.classes
    label = np.array([str(name) for name in names])
    table = np.rec.fromarrays([label, *(table[name] for name in table.dtype.names[1:])], names=table.dtype.names)
    return estimate._replace(classes=table)


def _weigh(
    features: Any,
    codes: Int[np.ndarray, " n"],
    trusted: tuple[Any, Any] | None,
    hidden: int | None,
    seed: int,
    classes: list[Any],
    advance: Callable[[], None],
    unlabeled: Any = None,
) -> tuple[Any, list[str], Any]:
    """The fitted cleaner, notes from its warnings, and codes of the unlabeled rows."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    from bilevel.estimators import LabelCleaner, NoTrustedRowsWarning, RareClassWarning, WeakModelWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        final = DummyClassifier() if unlabeled is None else LogisticRegression(max_iter=1000)  # only for unlabeled rows
        cleaner = LabelCleaner(final, hidden=hidden, folds=_FOLDS, random_state=seed)
        cleaner._callbacks = [lambda solution: advance()]
        cleaner.fit(features, codes, *(trusted or ()))
    notes = []
    for warning in caught:
        if issubclass(warning.category, NoTrustedRowsWarning):
            notes.append(_UNTRUSTED)
        elif issubclass(warning.category, RareClassWarning):
            notes.append(_RARE.format(listed([classes[code] for code in cleaner.rare_classes_])))
        elif issubclass(warning.category, WeakModelWarning):
            notes.append(_WEAK)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return cleaner, notes, None if unlabeled is None else cleaner.predict(unlabeled)


def _with_unread(column: Column, unread: Unread | None) -> Column:
    if unread is None or not int(unread) or column.kind not in ("numeric", "date"):
        return column
    count, what = int(unread), "number" if column.kind == "numeric" else "date"
    said = f"1 cell is no {what} and counts" if count == 1 else f"{count:,} cells are no {what}s and count"
    return dataclasses.replace(column, detail=f"{column.detail}; {said} as missing: {unread}")


def _write(
    table: Table,
    cleaned: Cleaned,
    look: Survey,
    label: str,
    arguments: dict[str, Any],
    seconds: Mapping[str, float],
    shown: list[int],
    why: Mapping[int, list[Reason]],
) -> None:
    """Write all files into a temporary folder inside `out`, then move each to its place."""
    comma = table.commas and any(getattr(column.form, "decimal", ".") == "," for column in cleaned.columns)
    spelled = look.labels.spelling(cleaned.proposed), look.labels.spellings
    added = Added(cleaned.weights, cleaned.ranks, *spelled, "," if comma else ".")
    with tempfile.TemporaryDirectory(dir=cleaned.out, prefix=".writing-") as folder:
        paths = {content: pathlib.Path(folder) / name for content, name in cleaned.files.items()}
        kept = table.write(paths["table"], added, set(shown))
        summary = report.summary(cleaned) | {"arguments": arguments, "seconds": dict(seconds)}
        write_json(paths["summary"], summary | {"environment": environment()})
        report.histogram(cleaned).savefig(paths["histogram"], dpi=150)
        rows = report.doubtful_rows(table, cleaned, {row: kept[row] for row in shown}, why)
        picture, check = paths["histogram"].read_bytes(), checksum(table.path)
        page = report.page(table.path.name, cleaned, label, arguments, rows, picture, check)
        paths["report"].write_text(page, encoding="utf-8")
        for path in paths.values():
            os.replace(path, cleaned.out / path.name)
