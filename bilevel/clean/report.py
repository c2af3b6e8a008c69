"""The report of a cleaned table: summary, histogram, the columns' kinds, the most doubtful rows."""

import base64
import collections
import io
import itertools
import pathlib
import shlex
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel._output.figures import BLUE, ORANGE, tidy
from bilevel._output.pages import render
from bilevel._output.tables import Cell, Table
from bilevel.clean.cleaned import Cleaned
from bilevel.clean.reading import Table as TableFile
from bilevel.clean.reasons import Reason
from bilevel.columns.kinds import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_ROWS = 200  # at least, where the table has them
_MOST_ROWS = 2_000  # a browser filters and sorts these at once
_PICTURED_ROWS = 200  # a picture takes some 20 kB
_SHOWN_COLUMNS = 8
_SHOWN_CHARACTERS = 300
_WHY_CHARACTERS = 40  # of a cell that is quoted as a reason
_ALIKE_FROM = 4  # this many neighbors of one kind share a line
_IMAGE_SIZE = 128  # pixels
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")  # others may start programs: Ghostscript for EPS
_LOG_FROM = 50  # the axis is logarithmic if the fullest bin exceeds the median bin by more than this factor
_FIRST = {"image": 0, "identifier": 2, "text": 3, "ignored": 5}  # columns that speak for proposals: 1; others: 4


def summary(cleaned: Cleaned) -> dict[str, Any]:
    """The numbers of `summary.json`."""
    given, proposed = (
        np.bincount(codes[codes >= 0], minlength=len(cleaned.classes)) for codes in (cleaned.given, cleaned.proposed)
    )
    classes = zip(cleaned.classes, given, proposed, strict=True)
    return {
        "rows": len(cleaned.weights),
        "without_label": int((cleaned.given < 0).sum()),
        "other_label_proposed": len(cleaned.suspects),
        "rows_to_check": cleaned.to_check,
        "weight_below_half": int((cleaned.weights < 0.5).sum()),
        "wrong_labels": {
            "share": cleaned.estimate.share,
            "low": cleaned.estimate.low,
            "high": cleaned.estimate.high,
            "classes": [_plain(row) for row in cleaned.estimate.classes],
        },
        "mean_weight": float(np.nanmean(cleaned.weights)),
        "classes": [{"label": label, "given": int(g), "proposed": int(p)} for label, g, p in classes],
        "columns": [{"name": column.name, "kind": column.kind, "detail": column.detail} for column in cleaned.columns],
        "notes": list(cleaned.notes),
    }


def _plain(row: Any) -> dict[str, Any]:
    """A row of a structured array, in Python's own types."""
    return dict(zip(row.dtype.names, row.item(), strict=True))


def estimate_words(cleaned: Cleaned) -> str:
    """How many labels seem wrong, how many rows to look at, and how far the proposals can be trusted."""
    estimate, count, first = cleaned.estimate, len(cleaned.suspects), cleaned.to_check
    share = f"About {estimate.share:.1%} of the labels seem wrong ({estimate.low:.1%} to {estimate.high:.1%})."
    if first:
        after = f"from rank {cleaned.decided + 1:,} on" if cleaned.decided else "of the ranking"
        share += f" Check the first {'row' if first == 1 else f'{first:,} rows'} {after} by hand."
    if not count:
        return f"{share} For none of them is another label sure enough to be proposed."
    return f"{share} The proposed labels are chosen so that four of five should be right, if the model is."


def kinds_table(columns: Sequence[Column], label: str, features: int) -> Table:
    """The kind of each column; many neighbors of one kind share a line, unless something special was read from them."""
    table = Table(f"{features:,} features of these columns", "column", "taken as", "", left=(0, 1, 2), first_width=40)
    table.add_row(label, "label", "")
    for (kind, _), group in itertools.groupby(columns, key=lambda column: (column.kind, _special(column))):
        group = list(group)
        if len(group) < _ALIKE_FROM:
            for column in group:
                table.add_row(column.name, kind, column.detail)
        else:
            details = {column.detail for column in group}
            name = f"{group[0].name} … {group[-1].name} ({len(group):,} columns)"
            table.add_row(name, kind, details.pop() if len(details) == 1 else "")
    return table


def _special(column: Column) -> str:
    """What must not be hidden in a line of several columns."""
    odd = str(column.form or "") or column.note or "as missing" in column.detail
    return column.detail if odd else ""


def histogram(cleaned: Cleaned) -> "Figure":
    """The weights of the rows that keep their label, and of those for which another label is proposed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    labeled = cleaned.given >= 0
    other, bins = cleaned.proposed != cleaned.given, np.linspace(0, 1, 41).tolist()
    for rows, name, color in (
        (labeled & ~other, "the given label is proposed", BLUE),
        (labeled & other, "another label is proposed", ORANGE),
    ):
        label = f"{name}: {rows.sum():,} rows"
        axes.hist(cleaned.weights[rows], bins, color=color, alpha=0.6, label=label)
    counts = np.histogram(cleaned.weights[labeled], bins)[0]
    if counts.max() > _LOG_FROM * np.median(counts[counts > 0]):
        axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_xlabel("weight: how probable it seems that the given label is right")
    axes.set_ylabel("rows")
    axes.set_title(f"Weights of {labeled.sum():,} rows", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    tidy(axes)
    return figure


def rows_to_show(cleaned: Cleaned) -> list[int]:
    """The most doubtful rows, and those for which another label is proposed; the most doubtful first."""
    order = np.argsort(cleaned.ranks)
    order = order[cleaned.given[order] >= 0]
    first = max(_SHOWN_ROWS, cleaned.decided + cleaned.to_check)
    order = order[(np.arange(len(order)) < first) | (cleaned.proposed[order] != cleaned.given[order])]
    return order[:_MOST_ROWS].tolist()


def doubtful_rows(
    table: TableFile,
    cleaned: Cleaned,
    rows: Mapping[int, list[str]],
    why: Mapping[int, Sequence[Reason]],
) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the main columns, and each row with its cells in them; images are data."""
    telling = _telling(cleaned.columns, why)
    places = [(table.columns.index(column.name), column.kind == "image") for column in telling]
    found = []
    for row, cells in rows.items():
        shown = []
        for place, is_image in places:
            pictured = is_image and len(found) < _PICTURED_ROWS
            image = _thumbnail(table.path.parent, cells[place].strip()) if pictured else None
            shown.append({"text": _short(cells[place], _SHOWN_CHARACTERS), "image": image})
        found.append(
            {
                "number": row + 1,
                "rank": int(cleaned.ranks[row]),
                "weight": float(cleaned.weights[row]),
                "given": int(cleaned.given[row]),
                "proposed": int(cleaned.proposed[row]),
                "why": [_in_words(reason, cells[table.columns.index(reason.column)]) for reason in why.get(row, ())],
                "cells": shown,
            }
        )
    return [column.name for column in telling], found


def _telling(columns: Sequence[Column], why: Mapping[int, Sequence[Reason]]) -> list[Column]:
    """The columns to show: images, those that speak most for proposals, and the rest; one identifier in any case."""
    amounts: collections.defaultdict[str, float] = collections.defaultdict(float)
    for row in why.values():
        for reason in row:
            amounts[reason.column] += reason.amount

    def place(column: Column) -> tuple[int, float]:
        spoken = column.kind != "image" and column.name in amounts
        return 1 if spoken else _FIRST.get(column.kind, 4), -amounts.get(column.name, 0.0)

    ordered = sorted(columns, key=place)
    shown, rest = ordered[:_SHOWN_COLUMNS], ordered[_SHOWN_COLUMNS:]
    identifier = next((column for column in rest if column.kind == "identifier"), None)
    if identifier is not None and all(column.kind != "identifier" for column in shown):
        shown[-1] = identifier
    return shown


def _in_words(reason: Reason, cell: str) -> str:
    if reason.words:
        return f"{reason.column}: {', '.join(reason.words)}"
    return (
        f"{reason.column} = {_short(cell.strip(), _WHY_CHARACTERS)}" if cell.strip() else f"{reason.column} is missing"
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def confusion(cleaned: Cleaned, most: int = 50) -> Table:
    """The most common pairs of given and proposed labels that differ."""
    table = Table("Proposed changes of labels", "given", "proposed", "rows", left=(0, 1))
    pairs = np.stack([cleaned.given, cleaned.proposed])[:, cleaned.suspects]
    (given, proposed), counts = np.unique(pairs, axis=1, return_counts=True)
    for i in np.argsort(-counts, kind="stable")[:most]:
        labels = (_label(cleaned.classes[code]) for code in (given[i], proposed[i]))
        table.add_row(*labels, _rows(int(counts[i])))
    return table


def _classes(summary: Mapping[str, Any]) -> Table:
    table = Table("Classes", "label", "rows given", "rows proposed")
    for row in summary["classes"]:
        table.add_row(_label(row["label"]), _rows(row["given"]), _rows(row["proposed"]))
    return table


def _label(label: Any) -> Cell:
    """Labels that are numbers are sorted as numbers."""
    return Cell(str(label), float(label) if isinstance(label, int | float | np.number) else str(label))


def _rows(count: int) -> Cell:
    return Cell(f"{count:,}", float(count))


def page(
    name: str,
    cleaned: Cleaned,
    label: str,
    arguments: Mapping[str, Any],
    doubtful: tuple[list[str], list[dict[str, Any]]],
    histogram_png: bytes,
    checksum: str,
) -> str:
    """`report.html`, whose script keeps decisions on rows and exports them for `decisions.apply_decisions`."""
    numbers = summary(cleaned)
    words = ["bilevel", "clean", arguments["table"], "--label", label, "--apply", "decisions.csv", "--out", "corrected"]
    words += ["--encoding", arguments["encoding"]] if arguments["encoding"] else []
    run = zlib.crc32(cleaned.proposed.tobytes())  # decisions are kept for this table and these proposals
    return render(
        "clean.html",
        title=f"Doubtful labels of {name}",
        label=label,
        arguments=arguments,
        summary=numbers,
        words=estimate_words(cleaned),
        histogram=_data_uri(histogram_png),
        kinds=kinds_table(cleaned.columns, label, arguments["features"]),
        names=doubtful[0],
        rows=doubtful[1],
        left_out=len(cleaned.suspects) - sum(row["given"] != row["proposed"] for row in doubtful[1]),
        confusion=confusion(cleaned),
        classes=_classes(numbers),
        command=shlex.join(words),
        review={
            "table": name,
            "checksum": checksum,
            "key": f"bilevel {checksum} {label} {run}",
            "classes": [str(value) for value in cleaned.classes],
        },
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _thumbnail(folder: pathlib.Path, cell: str) -> str | None:
    """A small version of the image below the table's folder that a cell names, as data; None if there is none."""
    from PIL import Image

    try:
        path = (folder / cell).resolve()
        if not (path.is_relative_to(folder.resolve()) and path.is_file()):  # to open a pipe may last for ever
            return None
        with Image.open(path, formats=_FORMATS) as image:
            image.thumbnail((_IMAGE_SIZE, _IMAGE_SIZE))
            written = io.BytesIO()
            image.convert("RGBA").save(written, "PNG")
    except Exception:  # Pillow raises many kinds for a damaged image
        return None
    return _data_uri(written.getvalue())
