"""Decisions applied to a table: in each format, only the decided labels change."""

import gzip
import json

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bilevel.clean import apply_decisions
from bilevel.clean.decisions import COLUMNS, checksum
from bilevel.cli import app


def decided(folder, table, lines, delimiter=","):
    """A file of decisions about a table; a line is (row, given, decision, label)."""
    path = folder / "decisions.csv"
    name = table.name
    rows = [COLUMNS, *((name, checksum(table), *line) for line in lines)]
    path.write_text("".join(delimiter.join(f'"{cell}"' for cell in row) + "\r\n" for row in rows), "utf-8-sig")
    return path


def applied(folder, table, lines, label="kind", **options):
    return apply_decisions(table, label=label, decisions=decided(folder, table, lines), out=folder / "o", **options)


CSV = {
    "plain": (b"n,kind,t\r\n1,b,x\r\n2,a,y", {1: "a"}, b"n,kind,t\r\n1,a,x\r\n2,a,y"),
    "quotes, spaces, delimiters and lines in cells": (
        b'\xef\xbb\xbfn;kind;t\n"a;""b\n";  "b" ;x\n\n 2; a;"q"\n3;c, d;\n'.replace(b'"b" ;', b'"b";'),
        {1: "c, d", 2: "b"},
        b'\xef\xbb\xbfn;kind;t\n"a;""b\n";  "c, d";x\n\n 2; b;"q"\n3;c, d;\n',
    ),
    "a label that must be quoted": (
        b'n,kind\n1,"a,""b"\n2,c\n3,c\n',
        {2: 'a,"b'},
        b'n,kind\n1,"a,""b"\n2,"a,""b"\n3,c\n',
    ),
    "the first and the last column": (b"kind\tn\na\t1\nb\t2\n", {2: "a"}, b"kind\tn\na\t1\na\t2\n"),
    "an empty label": (b"n,kind\n1,\n2,b\n", {1: "b"}, b"n,kind\n1,b\n2,b\n"),
    "another encoding": ("n,kind\né,ä\nü,b\n".encode("cp1252"), {2: "ä"}, "n,kind\né,ä\nü,ä\n".encode("cp1252")),
    "a formula behind spaces": (b'n,kind\n1," =a"\n2,b\n', {2: "=a"}, b'n,kind\n1," =a"\n2," =a"\n'),
    "as others write it": (
        b"n,kind\n1,YES\n2,no\n3,no\n4,Yes\n5,Yes\n",
        {2: "yes"},
        b"n,kind\n1,YES\n2,Yes\n3,no\n4,Yes\n5,Yes\n",
    ),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", CSV)
def test_csv_changes_in_the_decided_cells_alone(tmp_path, case, zipped):
    before, changes, after = CSV[case]
    encoding = "cp1252" if case == "another encoding" else None
    table = tmp_path / ("t.csv.gz" if zipped else "t.csv")
    table.write_bytes(gzip.compress(before) if zipped else before)
    frame = pd.read_csv(table, sep=None, engine="python", dtype=str, encoding=encoding, skipinitialspace=True)
    given = [str(cell).strip() if cell == cell else "" for cell in frame["kind"]]
    lines = [(row, given[row - 1].replace('"', '""'), "accept", new.replace('"', '""')) for row, new in changes.items()]
    done = applied(tmp_path, table, lines, encoding=encoding)
    content = done.path.read_bytes()
    assert done.path.name == ("corrected.csv.gz" if zipped else "corrected.csv")
    assert (gzip.decompress(content) if zipped else content) == after
    assert (done.changed, done.kept) == (len(changes), 0)


def test_json_lines_change_in_the_decided_values_alone(tmp_path):
    table = tmp_path / "t.jsonl"
    lines = [
        '{"n": 1.0,  "kind" : 2, "t": {"kind": [1, "}"]}}',
        "",
        '{"kind": 1, "n": NaN, "kind": 1}',
        '{ "n": 3 }',
        "{}",
        '{"kind": 2, "é": "\\u00e9"}',
    ]
    table.write_text("\n".join(lines), "utf-8")
    done = applied(
        tmp_path, table, [(1, 2, "other", 1), (2, 1, "accept", 2), (3, "", "accept", 2), (4, "", "accept", 1)]
    )
    assert done.path.read_text("utf-8").split("\n") == [
        '{"n": 1.0,  "kind" : 1, "t": {"kind": [1, "}"]}}',
        "",
        '{"kind": 1, "n": NaN, "kind": 2}',
        '{ "n": 3 , "kind": 2}',
        '{"kind": 1}',
        lines[-1],
    ]
    assert json.loads(done.path.read_text("utf-8").split("\n")[3]) == {"n": 3, "kind": 2}


@pytest.mark.parametrize("kind", [pa.int8(), pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_keeps_its_types(tmp_path, kind):
    labels = [1, 2, None, 2] if kind == pa.int8() else ["1", "2", None, "2"]
    schema = pa.schema([pa.field("n", pa.float32()), pa.field("kind", kind), pa.field("t", pa.timestamp("ms"))])
    schema = schema.with_metadata({"of": "a user"})
    columns = [[1, 2, None, 4], labels, [0] * 4]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    before = pa.table(arrays, schema=schema)
    pq.write_table(before, tmp_path / "t.parquet")
    done = applied(
        tmp_path, tmp_path / "t.parquet", [(2, "2", "accept", "1"), (3, "", "other", "2"), (4, 2, "reject", 2)]
    )
    after = pq.read_table(done.path)
    assert after.schema.equals(before.schema) and after.schema.metadata[b"of"] == b"a user"
    new = [1, 1, 2, 2] if kind == pa.int8() else ["1", "1", "2", "2"]
    assert after["kind"].to_pylist() == new
    assert after.drop_columns("kind").equals(before.drop_columns("kind"))
    assert (done.changed, done.kept) == (2, 1)


def test_excel_keeps_its_cells(tmp_path):
    book = openpyxl.Workbook()
    for row in (["n", "kind"], [1, "a"], [None, None], ["=1+1", "b"], [3, "b"]):
        book.active.append(row)
    book.active["A2"].number_format = "0.00"
    book.create_sheet("other")["A1"] = "kept"
    book.save(tmp_path / "t.xlsx")
    done = applied(tmp_path, tmp_path / "t.xlsx", [(2, "b", "accept", "a")])
    after = openpyxl.load_workbook(done.path)
    rows = [list(row) for row in after.worksheets[0].iter_rows(values_only=True)]
    assert rows == [["n", "kind"], [1, "a"], [None, None], ["=1+1", "a"], [3, "b"]]
    assert after.worksheets[0]["A2"].number_format == "0.00" and after["other"]["A1"].value == "kept"


WRONG = {
    "decisions: row 4 is not in .*, which has 3 rows": [(4, "a", "accept", "b")],
    "decisions: row 0 is not in": [(0, "a", "accept", "b")],
    "decisions: row '-1' in .* is no number": [(-1, "a", "accept", "b")],
    "decisions: more than one line is about row 1": [
        (1, "a", "accept", "b"),
        (2, "b", "reject", "b"),
        (1, "a", "reject", "a"),
    ],
    "decisions: row 1 was given 'b' when it was decided, but 'kind' is 'a' there": [(1, "b", "accept", "a")],
    "decisions: row 1 is to become 'bb', a label that no row of .* has; they are 'a', 'b'": [(1, "a", "other", "bb")],
    "decisions: row '1' in .* contradicts itself: reject of the label 'b'": [(1, "a", "reject", "b")],
    "decisions: row '1' in .* contradicts itself: accept of the label 'A'": [(1, "a", "accept", "A")],
    "decisions: row '1' in .* has the decision 'yes'; it must be one of": [(1, "a", "yes", "b")],
}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("n,kind\n1,a\n2,b\n3,a\n")
    return path


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_decision_on_this_table_is_refused(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        applied(tmp_path, table, WRONG[message])
    assert not (tmp_path / "o").exists()


def test_decisions_of_other_tables_are_refused(tmp_path, table):
    path = decided(tmp_path, table, [(1, "a", "accept", "b")])
    table.write_text(table.read_text() + "4,b\n")
    other = tmp_path / "u.csv"
    other.write_text(table.read_text())
    for one, message in (table, "about this table before it changed"), (other, "about another table, 't.csv'"):
        with pytest.raises(ValueError, match=f"decisions: .* is {message}: its checksum sha256:.* is not sha256:"):
            apply_decisions(one, label="kind", decisions=path, out=tmp_path / "o")
    with pytest.raises(ValueError, match="decisions: .* lacks some of the columns 'table', .*'label'; pass the CSV"):
        apply_decisions(table, label="kind", decisions=other, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_spreadsheet_may_have_saved_them(tmp_path, table):
    path = decided(tmp_path, table, [(1, "A ", "accept", " b")], delimiter=";")
    done = apply_decisions(table, label="kind", decisions=path, out=tmp_path)
    assert done.path.read_text() == "n,kind\n1,b\n2,b\n3,a\n"
    with pytest.raises(ValueError, match=r"out: .*corrected.csv exists already"):
        apply_decisions(table, label="kind", decisions=path, out=tmp_path)


def test_the_command(tmp_path, table):
    path = decided(tmp_path, table, [(1, "a", "accept", "b"), (3, "a", "reject", "a")])
    words = ["clean", str(table), "--label", "kind", "--apply", str(path), "--out", str(tmp_path / "o")]
    refused = CliRunner().invoke(app, [*words, "--hidden", "3", "--kind", "n=text"])
    assert refused.exit_code == 2 and "leave out --kind, --hidden" in refused.stderr
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "1 labels changed, 1 kept as given." in result.output and "corrected.csv" in result.output
    assert (tmp_path / "o" / "corrected.csv").read_text() == "n,kind\n1,b\n2,b\n3,a\n"
