"""The content of the report."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from bilevel.clean import report
from bilevel.clean.cleaned import Cleaned
from bilevel.clean.csv_table import CsvTable
from bilevel.clean.reasons import Reason
from bilevel.columns.kinds import Column
from bilevel.columns.numerals import Numerals
from bilevel.estimators._flags import WrongLabels


def made(weights, given, proposed, classes=("a", "b"), columns=(), notes=()):
    weights = np.asarray(weights, float)
    ranks = np.empty(len(weights), int)
    ranks[np.argsort(weights, kind="stable")] = np.arange(1, len(weights) + 1)
    out = pathlib.Path("out")
    given, proposed = np.array(given), np.array(proposed)
    estimate = WrongLabels(0.1, 0.0, 0.2, np.array([(len(weights),)], [("rows", int)]))
    return Cleaned(out, {}, weights, ranks, given, proposed, classes, columns, notes, estimate)


def test_neighbors_of_one_kind_share_a_line():
    columns = [Column("id", "identifier", "all differ"), *(Column(f"p{i}", "numeric", f"to {i}") for i in range(5))]
    columns += [Column(f"q{i}", "text", "3 words") for i in range(3)]
    columns += [Column(f"r{i}", "ignored", "is empty") for i in range(1200)]
    columns += [Column(f"s{i}", "numeric", f"percent, to {i}", Numerals(unit="%")) for i in range(4)]
    columns += [Column(f"t{i}", "date", "date, day first", "day first") for i in range(4)]
    table = report.kinds_table(columns, "grade", 7)
    assert [tuple(cell.text for cell in row.cells) for row in table.rows] == [
        ("grade", "label", ""),
        ("id", "identifier", "all differ"),
        ("p0 … p4 (5 columns)", "numeric", ""),
        *((f"q{i}", "text", "3 words") for i in range(3)),
        ("r0 … r1199 (1,200 columns)", "ignored", "is empty"),
        *((f"s{i}", "numeric", f"percent, to {i}") for i in range(4)),
        ("t0 … t3 (4 columns)", "date", "date, day first"),
    ]


def test_suspects_and_confusion():
    cleaned = made([0.9, 0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0, 1], [0, 1, 0, 1, 1])
    assert cleaned.suspects.tolist() == [1, 2, 3]
    assert [[cell.value for cell in row.cells] for row in report.confusion(cleaned).rows] == [
        ["a", "b", 2],
        ["b", "a", 1],
    ]
    numbers = report.summary(cleaned)
    assert (numbers["rows"], numbers["other_label_proposed"], numbers["weight_below_half"]) == (5, 3, 4)
    assert numbers["classes"] == [{"label": "a", "given": 3, "proposed": 2}, {"label": "b", "given": 2, "proposed": 3}]
    assert report.confusion(made([0.5], [0], [0])).rows == []


def test_as_many_rows_are_to_be_checked_as_labels_seem_wrong():
    weights, same = np.arange(4000) / 4000, np.zeros(4000, int)
    few, many = made(weights[:1000], same[:1000], same[:1000]), made(weights, same, same)
    assert (few.to_check, many.to_check) == (100, 400) == (report.summary(few)["rows_to_check"], 400)
    assert len(report.rows_to_show(few)) == 200 and report.rows_to_show(many) == list(range(400))
    assert "Check the first 400 rows of the ranking" in report.estimate_words(many)
    decided = dataclasses.replace(many, decided=7)
    assert "Check the first 400 rows from rank 8 on by hand" in report.estimate_words(decided)
    assert report.rows_to_show(decided) == list(range(407))
    assert "Check the first row of" in report.estimate_words(made(weights[:10], same[:10], same[:10]))
    assert "Check" not in report.estimate_words(made(weights[:3], same[:3], same[:3]))


@pytest.mark.parametrize(("high", "scale"), [(3, "linear"), (3000, "log")])
def test_the_histogram_counts_all_rows(high, scale):
    weights = np.concatenate([np.full(high, 1.0), np.arange(20) / 20])
    other = np.arange(len(weights)) % 2
    axes = report.histogram(made(weights, np.zeros(len(weights), int), other)).axes[0]
    assert axes.get_yscale() == scale
    assert sum(bar.get_height() for bar in axes.patches) == len(weights)
    _, labels = axes.get_legend_handles_labels()
    assert labels == [
        f"the given label is proposed: {(other == 0).sum():,} rows",
        f"another label is proposed: {(other == 1).sum():,} rows",
    ]


def test_images_are_found_beside_the_table_and_made_small(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(300, 600, 4)).astype(np.uint8)
    Image.fromarray(pixels, "CMYK").save(tmp_path / "wide.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    head = b"pic,note,label\n"
    path = tmp_path / "t.csv"
    path.write_bytes(head)
    columns = [Column("note", "text", ""), Column("pic", "image", "")]
    cells = {
        1: ["wide.jpg", "x" * 1000, "a"],
        0: ["broken.png", "<b>", "a"],
        2: ["none.png", "", "a"],
        3: ["", "", "a"],
    }
    cleaned = made([0.2, 0.1, 0.3, 0.4], [0] * 4, [1] * 4, columns=columns)
    names, rows = report.doubtful_rows(CsvTable(path, "table", False, head), cleaned, cells, {})
    assert names == ["pic", "note"]
    assert [row["number"] for row in rows] == [2, 1, 3, 4]
    assert rows[0]["cells"][0]["image"].startswith("data:image/png;base64,iVBOR")
    assert [row["cells"][0]["image"] for row in rows[1:]] == [None] * 3
    assert len(rows[0]["cells"][1]["text"]) == 301
    image = report._thumbnail(tmp_path, "wide.jpg")
    assert image is not None and len(image) < 60_000


def image_at(path, form="PNG"):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, form)
    return path


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_images_below_the_table_are_shown(tmp_path, form):
    path = image_at(tmp_path / "deep" / "a.png", form)
    for cell in ("deep/a.png", "./deep/../deep/a.png", str(path)):
        assert report._thumbnail(tmp_path, cell) is not None


def test_other_images_are_not_opened(tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    outside = image_at(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(outside)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    cells = [
        "../secret.png",
        str(outside),
        "link.png",
        "pipe.png",
        "folder.png",
        "",
        ".",
        "/dev/stdin",
        "a\0.png",
        "a" * 999,
    ]
    for cell in cells:
        assert report._thumbnail(folder, cell) is None, cell


@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_no_program_is_started_for_an_image(tmp_path, monkeypatch, name):
    """Pillow opens an EPS file by Ghostscript, whatever its name."""
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: pytest.fail("it was started"))
    assert report._thumbnail(tmp_path, name) is None


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_images_are_not_shown(tmp_path, form):
    content = image_at(tmp_path / "a.png", form).read_bytes()
    for damaged in (content[: len(content) // 2], content[:12] + b"\xff" * 40 + content[52:], content[:20]):
        (tmp_path / "a.png").write_bytes(damaged)
        report._thumbnail(tmp_path, "a.png")  # shown or not, but no error


def test_nothing_of_the_table_becomes_markup():
    evil = "<script>alert(1)</script>"
    cleaned = made([0.1, 0.9], [0, 1], [1, 1], classes=(evil, "b"), columns=[Column(evil, "text", evil)], notes=[evil])
    cells = [{"text": evil, "image": None}, {"text": evil, "image": "data:,"}]
    row = {"number": 1, "rank": 1, "weight": 0.1, "given": 0, "proposed": 1, "cells": cells, "why": [evil]}
    arguments = {"table": evil, "encoding": None, "trusted": None, "trusted_rows": 0, "features": 3}
    page = report.page(evil, cleaned, evil, arguments, ([evil, evil], [row]), b"png", evil)
    assert evil not in page
    assert page.count("&lt;script&gt;alert(1)") == 25


def test_rows_with_another_label_are_shown_beside_the_most_doubtful():
    weights, given = np.arange(5_000) / 5_000, np.zeros(5_000, int)
    proposed = (np.arange(5_000) % 10 == 0).astype(int)
    given[3] = -1  # without a label
    shown = report.rows_to_show(made(weights, given, proposed))
    assert shown == [row for row in range(501) if row != 3] + list(range(510, 5_000, 10))  # a tenth seem wrong
    assert len(report.rows_to_show(made(weights, given, np.ones(5_000, int)))) == 2_000


def test_columns_that_speak_for_proposals_are_shown_first():
    names = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"]
    columns = [Column(name, "numeric", "") for name in names]
    columns += [Column("id", "identifier", ""), Column("t", "text", ""), Column("p", "image", "")]
    why = {0: [Reason("n8", 2.0), Reason("n2", 1.0)], 4: [Reason("n2", 1.5)]}
    assert [c.name for c in report._telling(columns, why)] == ["p", "n2", "n8", "id", "t", "n0", "n1", "n3"]
    why = {0: [Reason(name, 1.0) for name in names]}
    assert [c.name for c in report._telling(columns, why)] == ["p", *names[:6], "id"]
    said = [report._in_words(reason, cell) for reason, cell in ((Reason("a", 1.0), " 1.4 "), (Reason("a", 1.0), ""))]
    assert said == ["a = 1.4", "a is missing"]
    assert report._in_words(Reason("a", 1.0, ("late", "refund")), "refund, late") == "a: late, refund"
