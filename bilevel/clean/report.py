"""The report of a cleaned table: summary, histogram, how columns were taken, the most doubtful rows."""

import base64
import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.clean.kinds import Column
from bilevel.clean.reading import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bilevel.clean._clean import Cleaned

SHOWN_ROWS = 200
_SHOWN_COLUMNS = 8
_SHOWN_CHARACTERS = 300
_ALIKE_FROM = 4  # so many neighbors of one kind share a line
_IMAGE_SIZE = 128  # pixels
_LOG_FROM = 50  # the axis is logarithmic where the fullest bin holds so many times the median one
_FIRST = {"image": 0, "text": 1, "identifier": 2, "ignored": 4}  # other kinds: 3


def summary(cleaned: "Cleaned") -> dict[str, Any]:
    """The numbers of `summary.json`."""
    given, proposed = (
        np.bincount(codes, minlength=len(cleaned.classes)) for codes in (cleaned.given, cleaned.proposed)
    )
    classes = zip(cleaned.classes, given, proposed, strict=True)
    return {
        "rows": len(cleaned.weights),
        "other_label_proposed": len(cleaned.suspects),
        "weight_below_half": int((cleaned.weights < 0.5).sum()),
        "mean_weight": float(cleaned.weights.mean()),
        "classes": [{"label": label, "given": int(g), "proposed": int(p)} for label, g, p in classes],
        "columns": [{"name": column.name, "kind": column.kind, "detail": column.detail} for column in cleaned.columns],
        "notes": list(cleaned.notes),
    }


def lines(columns: Sequence[Column]) -> list[tuple[str, str, str]]:
    """Name, kind and detail; many neighbors of one kind share a line."""
    found = []
    for kind, group in itertools.groupby(columns, key=lambda column: column.kind):
        group = list(group)
        if len(group) < _ALIKE_FROM:
            found += [(column.name, kind, column.detail) for column in group]
        else:
            details = {column.detail for column in group}
            name = f"{group[0].name} … {group[-1].name} ({len(group):,} columns)"
            found.append((name, kind, details.pop() if len(details) == 1 else ""))
    return found


def kinds_table(columns: Sequence[Column], label: str, features: int) -> Any:
    """How each column was taken, for the terminal."""
    from rich.markup import escape

    from bilevel.compare.tables import plain_table

    table = plain_table(f"{features:,} features of these columns", "column", "taken as", "", left=(0, 1, 2))
    table.columns[0].max_width = 40
    for line in [(label, "label", ""), *lines(columns)]:
        table.add_row(*map(escape, line))
    return table


def histogram(cleaned: "Cleaned") -> "Figure":
    """The weights of all rows, and apart those of the rows for which another label is proposed."""
    from matplotlib.figure import Figure

    from bilevel.compare.figures import COLORS, tidy

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    other, bins = cleaned.proposed != cleaned.given, np.linspace(0, 1, 41).tolist()
    for rows, name, color in (
        (~other, "the given label is proposed", COLORS[0]),
        (other, "another label is proposed", COLORS[1]),
    ):
        label = f"{name}: {rows.sum():,} rows"
        axes.hist(cleaned.weights[rows], bins, color=color, alpha=0.6, label=label)
    counts = np.histogram(cleaned.weights, bins)[0]
    if counts.max() > _LOG_FROM * np.median(counts[counts > 0]):
        axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_xlabel("weight: how probable it seems that the given label is right")
    axes.set_ylabel("rows")
    axes.set_title(f"Weights of {len(cleaned.weights):,} rows", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    tidy(axes)
    return figure


def doubtful_rows(
    table: Table, cleaned: "Cleaned", rows: Mapping[int, list[str]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the main columns; and each row with its cells of them, images as data."""
    telling = sorted(cleaned.columns, key=lambda column: _FIRST.get(column.kind, 3))[:_SHOWN_COLUMNS]
    places = [(table.columns.index(column.name), column.kind == "image") for column in telling]
    found = []
    for row, cells in rows.items():
        shown = []
        for place, is_image in places:
            image = _thumbnail(table.path.parent / cells[place].strip()) if is_image and cells[place].strip() else None
            text = cells[place]
            text = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
            shown.append({"text": text, "image": image})
        found.append(
            {
                "number": row + 1,
                "weight": float(cleaned.weights[row]),
                "given": cleaned.classes[cleaned.given[row]],
                "proposed": cleaned.classes[cleaned.proposed[row]],
                "cells": shown,
            }
        )
    return [column.name for column in telling], found


def confusion(cleaned: "Cleaned", most: int = 50) -> list[dict[str, Any]]:
    """The commonest pairs of given and proposed label, where these differ."""
    pairs = np.stack([cleaned.given, cleaned.proposed])[:, cleaned.suspects]
    (given, proposed), counts = np.unique(pairs, axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        {"given": cleaned.classes[given[i]], "proposed": cleaned.classes[proposed[i]], "rows": int(counts[i])}
        for i in order
    ]


def page(
    name: str,
    cleaned: "Cleaned",
    label: str,
    arguments: Mapping[str, Any],
    doubtful: tuple[list[str], list[dict[str, Any]]],
    histogram_png: bytes,
) -> str:
    """`report.html`."""
    from bilevel._output.pages import render

    return render(
        "clean.html",
        title=f"Doubtful labels of {name}",
        label=label,
        arguments=arguments,
        summary=summary(cleaned),
        histogram=_data_uri(histogram_png),
        columns=lines(cleaned.columns),
        names=doubtful[0],
        rows=doubtful[1],
        confusion=confusion(cleaned),
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _thumbnail(path: pathlib.Path) -> str | None:
    """The image made small, as data; None where there is no image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.thumbnail((_IMAGE_SIZE, _IMAGE_SIZE))
            written = io.BytesIO()
            image.convert("RGBA").save(written, "PNG")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return _data_uri(written.getvalue())
