"""CSV and Parquet: reading in chunks, and writing with columns added."""

import csv
import datetime
import gzip
import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bilevel.clean import reading
from bilevel.clean.opening import open_table
from bilevel.clean.reading import Added
from bilevel.columns.kinds import Column

ADDED = Added(np.array([0.25, 1.0, 1e-9]), np.array([2, 3, 1]), np.array([1, 0, 1]), ["a,b", 'say "no"'])


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rows(table):
    return pd.concat(list(table.chunks())).to_numpy().tolist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    lines = [("x", "some text", "label"), ("1", "one, two; three | four", "a"), ("2", "five: six", "b")]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(lines)
    table = open_table(write(tmp_path / "t.csv", file.getvalue().encode()), "table")
    assert table.columns == list(lines[0])
    assert rows(table) == [list(line) for line in lines[1:]]


def test_chunks_are_of_limited_size_and_numbered(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_CELLS", 7)
    content = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(10))
    table = open_table(write(tmp_path / "t.csv", content.encode()), "table")
    typed = [Column("b", "numeric", "")]
    for chunks in (list(table.chunks()), list(table.typed_chunks(typed))):
        assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
        assert [i for chunk in chunks for i in chunk.index] == list(range(10))
    assert pd.concat(list(table.typed_chunks(typed)))["b"].tolist() == [i * i for i in range(10)]


MESSY = (
    b"\xef\xbb\xbf\r\n"
    b'"id";"x, y";note;label\r\n'
    b'007;1.10;"two\r\nlines";"a,b"\r\n'
    b"\r\n"
    b'008; 1e3 ;"a ""quote""";a\r\n'
    b"  \r\n"
    b"009;;;b"
)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_what_was_there_stays_byte_for_byte(tmp_path, name):
    table = open_table(write(tmp_path / name, MESSY), "table")
    assert table.columns == ["id", "x, y", "note", "label"]
    assert rows(table) == [
        ["007", "1.10", "two\r\nlines", "a,b"],
        ["008", "1e3 ", 'a "quote"', "a"],
        ["009", "", "", "b"],
    ]
    kept = table.write(tmp_path / "new", ADDED, {1})
    assert kept == {1: ["008", "1e3 ", 'a "quote"', "a"]}
    written = (tmp_path / "new").read_bytes()
    assert (gzip.decompress(written) if name.endswith("gz") else written) == (
        b"\xef\xbb\xbf\r\n"
        b'"id";"x, y";note;label;bilevel_weight;bilevel_rank;bilevel_label\r\n'
        b'007;1.10;"two\r\nlines";"a,b";0.25;2;"say ""no"""\r\n'
        b"\r\n"
        b'008; 1e3 ;"a ""quote""";a;1;3;a,b\r\n'
        b"  \r\n"
        b'009;;;b;1e-09;1;"say ""no"""'
    )
    assert table.suffix == name.removeprefix("t")


def test_typed_chunks_are_the_rows_that_were_checked(tmp_path):
    table = open_table(write(tmp_path / "t.csv", MESSY), "table")
    columns = [Column("id", "categorical", ""), Column("x, y", "numeric", "")]
    frame = pd.concat(list(table.typed_chunks(columns)))
    assert frame["id"].tolist() == ["007", "008", "009"]
    np.testing.assert_array_equal(frame["x, y"], [1.1, 1000, np.nan])


def test_typed_chunks_know_the_words_for_missing_cells(tmp_path):
    content = b"x,l\n1.5,a\n-999,b\nunk,a\nUNK,b\n2,a\n"
    table = open_table(write(tmp_path / "t.csv", content), "table")
    columns = [Column("x", "numeric", "")]
    frame = pd.concat(list(table.typed_chunks(columns, frozenset({"", "-999", "unk"}))))
    np.testing.assert_array_equal(frame["x"], [1.5, np.nan, np.nan, np.nan, 2])
    assert frame["x"].dtype == np.float64  # no objects
    assert pd.concat(list(table.typed_chunks(columns)))["x"].tolist() == ["1.5", "-999", "unk", "UNK", "2"]


def test_true_and_false_are_no_numbers(tmp_path):
    table = open_table(write(tmp_path / "t.csv", b"x,l\nTrue,a\nFalse,b\n"), "table")
    frame = pd.concat(list(table.typed_chunks([Column("x", "numeric", "")])))
    assert frame["x"].tolist() == ["True", "False"]


def test_a_comma_before_the_fraction_is_kept(tmp_path):
    table = open_table(write(tmp_path / "t.csv", b"x;l\n1,5;a\n2,5;b\n3,5;c\n"), "table")
    table.write(tmp_path / "new.csv", Added(*list(vars(ADDED).values())[:4], decimal=","), set())
    assert (tmp_path / "new.csv").read_text().splitlines()[1:3] == ['1,5;a;0,25;2;"say ""no"""', "2,5;b;1;3;a,b"]


def test_parquet_keeps_types_and_order(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_CELLS", 3)  # a batch has one row
    schema = pa.schema([("n", pa.int16()), ("d", pa.date32()), ("label", pa.int64())], metadata={"source": "a lab"})
    whole = pa.table({"n": [3, None, 1], "d": [0, 1, 2], "label": [7, 7, 9]}, schema=schema)
    pq.write_table(whole, tmp_path / "t.pq")
    table = open_table(tmp_path / "t.pq", "table")
    assert table.columns == ["n", "d", "label"]
    assert rows(table)[1][0] is None
    added = Added(*list(vars(ADDED).values())[:3], classes=[7, 9])
    assert table.write(tmp_path / "new", added, {1}) == {1: ["", "1970-01-02", "7"]}
    written = pq.read_table(tmp_path / "new")
    assert written.select(whole.column_names).equals(whole)
    assert written.schema.metadata[b"source"] == b"a lab"
    assert written["bilevel_label"].to_pylist() == [9, 7, 9]
    assert written["bilevel_weight"].to_pylist() == [0.25, 1.0, 1e-9]
    assert written["bilevel_rank"].to_pylist() == [2, 3, 1]
    assert written.num_columns == 6


def test_lines_may_end_with_carriage_returns(tmp_path):
    table = open_table(write(tmp_path / "t.csv", b"a,b\r1,x\r2,y\r3,z"), "table")
    assert rows(table) == [["1", "x"], ["2", "y"], ["3", "z"]]
    assert pd.concat(list(table.typed_chunks([Column("a", "numeric", "")])))["a"].tolist() == [1, 2, 3]
    table.write(tmp_path / "new", ADDED, set())
    assert (tmp_path / "new").read_bytes() == (
        b"a,b,bilevel_weight,bilevel_rank,bilevel_label\r"
        b'1,x,0.25,2,"say ""no"""\r2,y,1,3,"a,b"\r3,z,1e-09,1,"say ""no"""'
    )


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("cp1252", "cp1252"), ("utf-16", None), ("gb18030", "gb18030"), ("utf-8-sig", "cp1252")],
)
def test_other_encodings(tmp_path, encoding, told):
    text = "größe;label\n1;ä\n2;ö\n3;ä\n" if encoding == "cp1252" else "名字;label\n1;很好\n2;差\n3;很好\n"
    table = open_table(write(tmp_path / "t.csv", text.encode(encoding)), "table", told)
    content = rows(table)
    assert table.columns[0] in text and [cells[1] for cells in content] == [line[2:] for line in text.split("\n")[1:4]]
    typed = pd.concat(list(table.typed_chunks([Column(table.columns[0], "numeric", "")])))
    assert typed[table.columns[0]].tolist() == [1, 2, 3]
    table.write(tmp_path / "new", Added(*list(vars(ADDED).values())[:3], classes=["x", content[0][1]]), set())
    written = (tmp_path / "new").read_bytes().decode(encoding).split("\n")
    assert not written[0].startswith("\ufeff")
    assert written[1] == f"1;{content[0][1]};0.25;2;{content[0][1]}"


JSON = b'{"n": 1, "t": "a \\u00e4", "l": "x"}\n\n{"l":"y","n":null,"more":[1]}\n{ "n": 2.5, "l": "x" }'


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_json_lines_stay_byte_for_byte(tmp_path, name):
    table = open_table(write(tmp_path / name, JSON), "table")
    assert (table.columns, table.suffix) == (["n", "t", "l", "more"], name.removeprefix("t"))
    assert rows(table) == [[1, "a ä", "x", None], [None, None, "y", [1]], [2.5, None, "x", None]]
    added = Added(np.array([0.25, np.nan, 1.0]), np.array([1, 3, 2]), np.array([1, 0, 0]), ["x", "y"])
    assert table.write(tmp_path / "new", added, {1}) == {1: ["", "", "y", "[1]"]}
    written = (tmp_path / "new").read_bytes()
    lines = (gzip.decompress(written) if name.endswith("gz") else written).splitlines()
    for old, new in zip(JSON.splitlines(), lines, strict=True):
        assert new.startswith(old.rstrip(b" }"))
    assert [json.loads(line)["bilevel_weight"] for line in lines if line] == [0.25, None, 1.0]
    assert json.loads(lines[3]) == {"n": 2.5, "l": "x"} | {"bilevel_weight": 1, "bilevel_rank": 2, "bilevel_label": "x"}


@pytest.mark.parametrize(("encoding", "told"), [("utf-16", None), ("utf-16-le", "utf-16-le"), ("utf-8-sig", None)])
def test_json_lines_in_other_encodings(tmp_path, encoding, told):
    table = open_table(write(tmp_path / "t.jsonl", JSON.decode().encode(encoding)), "table", told)
    assert table.columns == ["n", "t", "l", "more"] and rows(table)[0] == [1, "a ä", "x", None]


def test_excel_keeps_the_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    for cells in (
        ["n", "when", "label"],
        [1, datetime.date(2024, 12, 31), "x"],
        [],
        [None, None, "y"],
        ["=1+1", None, "x"],
    ):
        sheet.append(cells)
    sheet["A2"].font = openpyxl.styles.Font(bold=True)
    book.create_sheet("other").append(["kept"])
    book.save(tmp_path / "t.xlsx")
    table = open_table(tmp_path / "t.xlsx", "table")
    assert table.columns == ["n", "when", "label"]
    assert rows(table) == [[1, datetime.datetime(2024, 12, 31), "x"], [None, None, "y"], [None, None, "x"]]
    added = Added(np.array([0.25, np.nan, 1.0]), np.array([1, 3, 2]), np.array([1, 0, 0]), ["x", "=y"])
    assert table.write(tmp_path / "new.xlsx", added, {0}) == {0: ["1", "2024-12-31 00:00:00", "x"]}
    new = openpyxl.load_workbook(tmp_path / "new.xlsx")
    cells = [[cell.value for cell in row] for row in new.worksheets[0].iter_rows()]
    assert cells[0][3:] == list(Added.NAMES) and cells[1][3:] == [0.25, 1, "=y"] and cells[2] == [None] * 6
    assert cells[3] == [None, None, "y", None, 3, "x"] and cells[4] == ["=1+1", None, "x", 1, 2, "x"]
    assert new.worksheets[0]["F2"].data_type == "s" and new.worksheets[0]["A5"].data_type == "f"
    assert new.worksheets[0]["A2"].font.bold and new.sheetnames[1] == "other"


def test_excel_without_openpyxl(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"table: .* needs openpyxl; pip install '.*\[excel\]'"):
        open_table(write(tmp_path / "t.xlsx", b"PK\x03\x04"), "table")


ERRORS = {
    "empty": (b" \n", "table: .* is empty"),
    "one column": (b"a\n1\n", "table: .* has a single column, 'a'"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "table: .* is not a table in CSV or Parquet"),
    "Latin-1": ("näme,l\n1,ä\n".encode() + b"Jos\xe9,b\n", r"table: .* is not UTF-8 at byte 16, line 3 \(0xe9\)"),
    "short row": (b'a,b\n1,"x\ny"\n\n2\n', "table: line 5 of .* has 1 cells, the header has 2"),
    "long row": (b"a,b\n1,x\n2,y,z\n", "table: line 3 of .* has 3 cells, the header has 2"),
    "open quote": (b'a,b\n1,x\n2,"y\n3,z\n', "table: .* cannot be read as CSV from line 3 on .*quotation mark"),
    "repeated": (b"a,b,a\n1,2,3\n", "table: .* has more than one column named 'a'"),
    "torn gzip": (gzip.compress(b"a,b\n" + b"1,x\n" * 999)[:-9], "table: .*end-of-stream"),
    "JSON, but no lines": (b'[{"a": 1}]', "table: line 1 of .* is not a JSON object .*; write one per line"),
    "torn JSON": (b'{"a": 1}\n{"a": 2', "table: line 2 of .* is not a JSON object"),
    "torn Parquet": (b"PAR1 nothing more", "table: .* cannot be read as Parquet"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_no_table_is_named(tmp_path, case):
    content, message = ERRORS[case]
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message):
        list(open_table(path, "table").chunks())


def test_no_file_and_a_directory(tmp_path):
    with pytest.raises(OSError, match=r"trusted: cannot read .*nothing.csv \(No such file"):
        open_table(tmp_path / "nothing.csv", "trusted")
    with pytest.raises(OSError, match=r"table: cannot read .* \(Is a directory"):
        open_table(tmp_path, "table")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    pd.DataFrame({"a": [1], "b": [2]}).to_parquet(tmp_path / "t.parquet")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ValueError, match=r"table: .* needs pyarrow; pip install '.*\[parquet\]'"):
        open_table(tmp_path / "t.parquet", "table")


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_spaces_around_a_label_are_written_so_that_they_are_read(tmp_path, delimiter):
    classes = [" =1+1", "\t@SUM(1)"]
    table = open_table(write(tmp_path / "t.csv", delimiter.join(["x", "label\n1", "a\n2", "b\n"]).encode()), "table")
    added = Added(np.array([0.5, 0.5]), np.array([1, 2]), np.array([0, 1]), classes)
    table.write(tmp_path / "out.csv", added, set())
    written = open_table(tmp_path / "out.csv", "table")
    assert [row[-1] for row in rows(written)] == classes


def test_a_formula_behind_spaces_stays_there(tmp_path):
    table = open_table(write(tmp_path / "t.csv", b"x,label\n1, =1+1\n2,b\n"), "table")
    assert [row[-1] for row in rows(table)] == ["=1+1", "b"]
    table.write(
        tmp_path / "out.csv", Added(np.array([0.5, 0.5]), np.array([1, 2]), np.array([1, 0]), ["=1+1", "b"]), set()
    )
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == ["1, =1+1,0.5,1,b", '2,b,0.5,2," =1+1"']


def test_a_cell_beyond_the_limit_of_csv(tmp_path):
    """Python's csv refuses cells above 131,072 characters, unless a global number is changed."""
    long, limit = "a" * 140_000, csv.field_size_limit()
    table = open_table(write(tmp_path / "t.csv", f"x,label\n{long}, =1\n1,b\n".encode()), "table")
    assert rows(table) == [[long, "=1"], ["1", "b"]]
    assert pd.concat(list(table.typed_chunks([Column("x", "text", "")])))["x"].tolist() == [long, "1"]
    added = Added(np.array([0.5, 0.5]), np.array([1, 2]), np.array([0, 0]), ["=1"])
    assert table.write(tmp_path / "out.csv", added, {0}) == {0: [long, "=1"]}
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == f'{long}, =1,0.5,1," =1"'
    assert csv.field_size_limit() == limit


def test_a_cell_beyond_our_limit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("bilevel.clean.csv_table._LONGEST", 100)
    long = b'"' + b"a,b\n" * 40
    table = open_table(write(tmp_path / "t.csv", b"x,note,label\n1,ok,b\n1," + long + b'",b\n'), "table")
    with pytest.raises(ValueError, match="from line 3 on .*column 'note' has more than 100 char.*quotation.*be cut"):
        rows(table)
    assert csv.field_size_limit() > 100
    with pytest.raises(ValueError, match="from line 1 on .*column 2 has more than 100 char"):
        open_table(write(tmp_path / "u.csv", b"x," + long + b'",label\n1,2,b\n'), "table")
