"""`bilevel clean` from a user's point of view."""

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from bilevel.clean import _clean as clean
from bilevel.clean import clean_table, survey
from bilevel.cli import app
from bilevel.estimators._flags import WrongLabels

CLASSES = ("ash", "birch", "cedar")


def call(*arguments):
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, ["clean", *map(str, arguments)])


def trees(rows, seed, noise):
    """A table of three kinds of trees, and which of its labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=rows)
    given = np.where(rng.random(rows) < noise, (truth + rng.integers(1, 3, size=rows)) % 3, truth)
    height = rng.normal(size=rows) + 3 * (truth == 1)
    leaf = np.where(rng.random(rows) < 0.9, np.array(["round", "long", "needle"])[truth], "")
    frame = pd.DataFrame(
        {
            "id": [f"{i:04d}" for i in rng.permutation(rows)],
            "height": [f"{value:.2f}" for value in height],
            "width": [f"{value:.2f}" for value in rng.normal(size=rows) + 3 * (truth == 2)],
            "leaf": leaf,
            "picture": [f"pictures/{i % 5}.png" for i in range(rows)],
            "label": np.array(CLASSES)[given],
        }
    )
    return frame, given != truth


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """A folder with tables, and what the command said of them."""
    folder = tmp_path_factory.mktemp("trees")
    frame, wrong = trees(300, 0, 0.3)
    frame.to_csv(folder / "table.csv", index=False)
    frame.to_parquet(folder / "table.parquet", index=False)
    trees(60, 1, 0)[0].drop(columns=["picture", "id"]).to_csv(folder / "trusted.csv", index=False, sep=";")
    (folder / "pictures").mkdir()
    for i in range(4):  # the fifth is missing
        Image.fromarray(np.full((300, 200), 60 * i, np.uint8)).save(folder / "pictures" / f"{i}.png")
    options = ["--label", "label", "--trusted", folder / "trusted.csv", "--seed", "3"]
    result = call(folder / "table.csv", *options, "--out", folder / "out")
    assert result.exit_code == 0, result.output
    return folder, wrong, result.output, options


def test_each_row_gets_weight_rank_and_label(cleaned):
    folder, wrong, _, _ = cleaned
    before = (folder / "table.csv").read_text().splitlines()
    after = (folder / "out" / "cleaned.csv").read_text().splitlines()
    assert after[0] == before[0] + ",bilevel_weight,bilevel_rank,bilevel_label"
    added = [new.removeprefix(old + ",").split(",") for old, new in zip(before[1:], after[1:], strict=True)]
    weights, ranks, labels = zip(*added, strict=True)
    weights, ranks = np.array(weights, float), np.array(ranks, int)
    assert sorted(ranks) == list(range(1, 301))
    assert (np.diff(weights[np.argsort(ranks)]) >= 0).all()
    assert weights.min() >= 0 and weights.max() <= 1
    assert roc_auc_score(wrong, -ranks) > 0.9
    table = pd.read_csv(folder / "table.csv")
    truth, _ = trees(300, 0, 0)
    assert set(labels) <= set(CLASSES)
    assert (truth["label"] == np.array(labels)).mean() > 0.9 > (truth["label"] == table["label"]).mean()


def test_it_says_how_columns_were_taken(cleaned):
    _, _, output, _ = cleaned
    assert max(map(len, output.splitlines()[:-1])) <= 100  # the last has a path
    for name, kind in {"id": "identifier", "height": "numeric", "leaf": "categorical", "picture": "image"}.items():
        assert re.search(rf"^ *{name} +{kind} ", output, re.MULTILINE), name
    assert re.search(r"^Reading: 300 rows, ", output, re.MULTILINE)
    assert re.search(r"Another label is proposed for \d+ of 300 rows", output)
    assert "cleaned.csv, report.html, summary.json, weights.png" in output


def test_summary_and_report(cleaned):
    folder, _, output, _ = cleaned
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "cleaned.csv",
        "report.html",
        "summary.json",
        "weights.png",
    ]
    table = pd.read_csv(folder / "out" / "cleaned.csv")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    other = int((table["label"] != table["bilevel_label"]).sum())
    assert f"for {other} of 300 rows" in output
    assert (summary["rows"], summary["other_label_proposed"]) == (300, other)
    assert summary["arguments"]["trusted_rows"] == 60 and summary["arguments"]["seed"] == 3
    assert {c["label"]: c["given"] for c in summary["classes"]} == table["label"].value_counts().to_dict()
    page = (folder / "out" / "report.html").read_text()
    assert "http" not in page and 'src="/' not in page
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    assert len(rows) == 200
    worst = table.sort_values("bilevel_rank").iloc[0]
    for cell in (f">{worst.name + 1}<", worst["label"], worst["bilevel_label"], f"{worst['id']:04d}"):
        assert cell in rows[0]
    pictured = table.sort_values("bilevel_rank")["picture"][:200] != "pictures/4.png"
    assert ["data:image/png" in row for row in rows] == pictured.tolist()
    counts = table[table["label"] != table["bilevel_label"]].value_counts(["label", "bilevel_label"])
    cell = r"<td[^>]*>(\w+)</td>"
    table = page.partition("Proposed changes of labels")[2].partition("</table>")[0]
    pairs = re.findall(f"<tr>{cell * 3}</tr>", table)
    assert {(given, proposed): int(rows) for given, proposed, rows in pairs} == counts.to_dict()
    with Image.open(folder / "out" / "weights.png") as histogram:
        assert histogram.width > 1000


def test_what_is_there_is_not_overwritten(cleaned):
    folder, _, _, options = cleaned
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    result = call(folder / "table.csv", *options, "--out", folder / "out")
    assert result.exit_code == 2
    assert re.search(r"^Error: out: .* already has 'cleaned.csv', .*; pass another directory", result.stderr)
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_parquet_gives_the_same(cleaned, tmp_path):
    folder, _, _, options = cleaned
    result = call(folder / "table.parquet", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    ours, theirs = pd.read_parquet(tmp_path / "cleaned.parquet"), pd.read_csv(folder / "out" / "cleaned.csv")
    np.testing.assert_allclose(ours["bilevel_weight"], theirs["bilevel_weight"], rtol=1e-5)
    assert ours["bilevel_rank"].tolist() == theirs["bilevel_rank"].tolist()
    assert ours["bilevel_label"].tolist() == theirs["bilevel_label"].tolist()


def test_without_trusted_rows_it_says_so(cleaned, tmp_path):
    folder, wrong, _, _ = cleaned
    result = call(folder / "table.csv", "--label", "label", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Note: There are no trusted rows, so labels were judged by each other." in result.output
    page = (tmp_path / "report.html").read_text()
    assert "judged by each other. For" in " ".join(page.split()) and "<b>Note.</b> There are no trusted" in page
    table = pd.read_csv(tmp_path / "cleaned.csv")
    assert roc_auc_score(wrong, -table["bilevel_rank"]) > 0.85
    other = table["label"] != table["bilevel_label"]
    assert other[wrong].mean() > 0.25 and wrong[other].mean() > 0.8


def test_a_rare_label_is_named_and_not_proposed_away(tmp_path):
    frame, _ = trees(200, 0, 0.0)
    frame.loc[7, "label"] = "yew"
    frame.to_csv(tmp_path / "table.csv", index=False)
    cleaned = clean_table(tmp_path / "table.csv", label="label", out=tmp_path / "out")
    assert cleaned.ranks[7] == 200 and cleaned.classes[cleaned.proposed[7]] == "yew"
    assert [note for note in cleaned.notes if "too few rows to be judged by each other: 'yew'" in note]


def judged(codes, weights=None):
    """What a cleaner that flags nothing would have found."""
    scores = np.zeros(len(codes), [("row", int), ("label", int), ("weight", float)])
    scores["row"], scores["label"] = np.arange(len(codes)), codes
    scores["weight"] = 0.5 if weights is None else weights
    classes = np.zeros(len(set(codes)), [(name, float) for name in ("label", "rows", "share", "low", "high")])
    estimate = WrongLabels(0.1, 0.0, 0.2, classes)
    return SimpleNamespace(
        sample_weight_=scores["weight"], scores_=scores, suspects_=scores[:0], wrong_labels_=estimate
    )


def test_trusted_rows_keep_their_labels(cleaned, tmp_path, monkeypatch):
    folder, *_ = cleaned
    seen = []

    def weigh(features, codes, trusted, *_):
        seen.append(trusted)
        return judged(codes), [], None

    monkeypatch.setattr(clean, "_weigh", weigh)
    checked = pd.read_csv(folder / "trusted.csv", sep=";").sort_values("label", ascending=False)
    checked.to_csv(tmp_path / "trusted.csv", index=False)
    options = ["--label", "label", "--trusted", tmp_path / "trusted.csv", "--out", tmp_path / "out"]
    assert call(folder / "table.csv", *options).exit_code == 0
    features, codes = seen[0]
    assert np.array(CLASSES)[codes].tolist() == checked["label"].tolist()
    assert features.shape == (60, 6)


def test_failing_while_writing_leaves_nothing(cleaned, tmp_path, monkeypatch):
    folder, *_ = cleaned

    def weigh(features, codes, *_):
        return judged(codes), [], None

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clean, "_weigh", weigh)
    monkeypatch.setattr(clean.report, "histogram", full)
    result = call(folder / "table.csv", "--label", "label", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "No space left" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


TABLE = lines("x,label", *(f"{i % 7},{'ab'[i % 2]}" for i in range(30)))
ERRORS = {
    "label column": (
        TABLE,
        "lable",
        None,
        [],
        "label: no column 'lable'; did you mean 'label'? the columns are 'x', 'l",
    ),
    "no label": (lines("x,label", "1,", "2,NA"), "label", None, [], "label: no row has a label; name a column"),
    "the class NA": (TABLE + "1,NA\n" * 20, "label", None, [], "label: 20 rows hold 'NA', which may be a class or"),
    "142 classes": (
        lines("x,city", *(f"{i % 7},city {i % 142}" for i in range(600))),
        *("city", None, []),
        "label: 142 different labels in 600 rows",
    ),
    "one class": (lines("x,label", "1,a", "2,a"), "label", None, [], "label: all 2 labels are 'a'"),
    "regression": (
        lines("y,x", *(f"{i}.5,1" for i in range(99))),
        "y",
        None,
        [],
        "label: 99 different numbers in 99 rows",
    ),
    "no rows": ("x,label\n", "label", None, [], "table: the table has a header but no rows"),
    "empty": ("", "label", None, [], "table: ", "is empty"),
    "unequal rows": (TABLE + "1,a,b\n", "label", None, [], "table: line 32 of ", " has 3 cells, the header has 2"),
    "encoding": (TABLE.encode() + b"1,\xfc\n", "label", None, [], "table: ", "is not UTF-8 at byte "),
    "repeated columns": ("x,x,label\n1,2,a\n", "label", None, [], "table: ", "more than one column named 'x'"),
    "cleaned before": ("x,bilevel_rank,label\n", "label", None, [], "table: ", "already has 'bilevel_rank'; "),
    "no features": (
        lines("row,pic,label", *(f"{i},{i}.png,{'ab'[i % 2]}" for i in range(30))),
        *("label", None, []),
        "table: no column can be a feature: 'row (numbers the rows; ",
    ),
    "unseen label": (TABLE, "label", lines("x,label", "1,c", "2,a"), [], "trusted: ", "no row of the table has: 'c'; "),
    "absent label": (TABLE, "label", lines("x,label", "1,a", "2,a"), [], "trusted: ", "has no row of 'b'; each label"),
    "trusted columns": (
        TABLE,
        "label",
        lines("z,label", "1,a"),
        [],
        "trusted: ",
        "lacks columns of the table: 'x'; it",
    ),
    "trusted label": (TABLE, "label", lines("x,lab", "1,a"), [], "trusted: no column 'label'; did you mean 'lab'?"),
    "trusted row": (TABLE, "label", lines("x,label", "1,", "2,"), [], "trusted: no row has a label"),
    "trusted numbers": (
        lines("x,label", *(f"{i}.5,{'ab'[i % 2]}" for i in range(30))),
        "label",
        lines("x,label", "one,a", "two,b", "three,b"),
        [],
        "trusted: 3 of 3 cells of 'x' in ",
        "cannot be read as numeric ('one', 'two', 'three'); write them as the table does",
    ),
    "trusted levels": (
        lines("x,z,label", *(f"{'yn'[i % 2]},{i % 7},{'ab'[i % 3 // 2]}" for i in range(30))),
        "label",
        lines("x,z,label", "TRUE,1,a", "FALSE,2,b"),
        [],
        "trusted: 2 of 2 cells of 'x' hold what the table does not: 'TRUE', 'FALSE'; the table has 'n', 'y'",
    ),
    "trusted column": (TABLE, "label", None, ["--trusted-column", "check"], "trusted_column: no column 'check'"),
    "trusted column and table": (
        TABLE,
        "label",
        lines("x,label", "1,a"),
        ["--trusted-column", "x"],
        "trusted_column: trusted is given too; pass one of them",
    ),
    "no number": (
        lines("x,label", *(f"word{i % 7},{'ab'[i % 2]}" for i in range(30))),
        *("label", None, ["--kind", "x=numeric"]),
        "kind of 'x': 'numeric', but only 0 of 30 cells can be read as numbers, not 'word0'; pass",
    ),
    "unknown encoding": (TABLE, "label", None, ["--encoding", "latin-99"], "encoding: 'latin-99' is unknown; such as"),
    "trusted rows": (TABLE, "label", "x,label\n", [], "trusted: the table has a header but no rows"),
    "kind": (TABLE, "label", None, ["--kind", "x=number"], "kind of 'x': 'number' is unknown"),
    "kind's form": (TABLE, "label", None, ["--kind", "x"], "kind: got 'x'; write COLUMN=KIND"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line_and_name_the_argument(tmp_path, case):
    content, label, trusted, options, start, *rest = ERRORS[case]
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    if trusted is not None:
        (tmp_path / "c.csv").write_text(trusted)
        options = [*options, "--trusted", tmp_path / "c.csv"]
    result = call(tmp_path / "t.csv", "--label", label, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"Error: {start}"), result.stderr
    assert all(part in result.stderr for part in rest), result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.glob("out/*")) == []


@pytest.fixture
def unlearned(monkeypatch):
    """Without the learning, for what does not depend on it; collects what was to be learned from."""
    seen = []

    def weigh(features, codes, trusted, hidden, seed, classes, advance, unlabeled=None):
        seen.append((features, codes, trusted, unlabeled))
        guessed = None if unlabeled is None else np.zeros(unlabeled.shape[0], int)
        return judged(codes, np.linspace(0.1, 0.9, len(codes))), [], guessed

    monkeypatch.setattr(clean, "_weigh", weigh)
    return seen


def flowers(rows, seed=0):
    """A table of numbers and labels, half of which say iris."""
    rng = np.random.default_rng(seed)
    labels = np.array(["iris", "rose"])[np.arange(rows) % 2]
    frame = pd.DataFrame(rng.normal(size=(rows, 3)).round(4) + (np.arange(rows) % 2)[:, None], columns=list("abc"))
    return frame.assign(name=labels)


def test_rows_without_a_label_get_one(tmp_path, unlearned):
    frame = flowers(60)
    frame.loc[[3, 10], "name"] = ["", "NA"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = call(tmp_path / "t.csv", "--label", "name", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Note: 2 of 60 rows have no label, 1 of them written as 'NA'." in " ".join(result.output.split())
    features, codes, _, unlabeled = unlearned[0]
    assert (len(features), len(codes), len(unlabeled)) == (58, 58, 2)
    table = pd.read_csv(tmp_path / "out" / "cleaned.csv", keep_default_na=False)
    assert table["name"].tolist() == frame["name"].tolist()
    assert table["bilevel_weight"][[3, 10]].tolist() == ["", ""] and (table["bilevel_weight"] != "").sum() == 58
    assert table["bilevel_label"][[3, 10]].tolist() == ["iris", "iris"]
    assert table["bilevel_rank"][[3, 10]].tolist() == [59, 60]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["without_label"], summary["other_label_proposed"]) == (2, 0)
    assert sum(row["given"] for row in summary["classes"]) == 58
    frame.replace("", None).replace("NA", None).to_parquet(tmp_path / "t.parquet")
    assert call(tmp_path / "t.parquet", "--label", "name", "--out", tmp_path / "pq").exit_code == 0
    typed = pd.read_parquet(tmp_path / "pq" / "cleaned.parquet")
    assert typed["bilevel_weight"].isna().sum() == 2 and typed["bilevel_label"][[3, 10]].tolist() == ["iris", "iris"]


def test_a_column_of_the_table_says_what_was_checked(tmp_path, unlearned):
    frame = flowers(60).assign(checked=["yes" if i % 10 < 2 else "" for i in range(60)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = ["--label", "name", "--trusted-column", "checked", "--out", tmp_path / "out"]
    result = call(tmp_path / "t.csv", *options)
    assert result.exit_code == 0, result.output
    features, codes, (trusted, trusted_codes), _ = unlearned[0]
    assert features.shape == (48, 3) and trusted.shape == (12, 3)  # the column itself is no feature
    assert trusted_codes.tolist() == [0, 1] * 6 and codes.tolist() == [0, 1] * 24
    table = pd.read_csv(tmp_path / "out" / "cleaned.csv")
    assert "judged by 12 trusted rows" in " ".join((tmp_path / "out" / "report.html").read_text().split())
    known = table["checked"] == "yes"
    assert (table["bilevel_weight"][known] == 1).all() and (table["bilevel_rank"][known] > 48).all()
    assert sorted(table["bilevel_rank"]) == list(range(1, 61))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["arguments"]["trusted_rows"], summary["arguments"]["trusted_column"]) == (12, "checked")
    for cells, message in (
        (["no"] * 60, "trusted_column: it calls no row with a label checked"),
        (["yes", ""] * 30, "trusted_column: no checked row is labeled 'rose'"),
        (["perhaps"] * 60, "trusted_column: 'checked' holds 'perhaps'"),
        (["yes"] * 60, "trusted: apart from the trusted rows, no row is left"),
    ):
        frame.assign(checked=cells).to_csv(tmp_path / "t.csv", index=False)
        result = call(tmp_path / "t.csv", *options[:-1], tmp_path / "never")
        assert result.exit_code == 2 and result.stderr.startswith(f"Error: {message}"), result.output


def test_trusted_rows_of_the_table_are_not_judged(tmp_path, unlearned):
    frame = flowers(60)
    frame.to_csv(tmp_path / "t.csv", index=False)
    checked = frame.iloc[[0, 1, 2, 3]].assign(name=["iris", "rose", "rose", "rose"])  # the third is wrong in the table
    checked.to_csv(tmp_path / "c.csv", index=False)
    options = ["--label", "name", "--trusted", tmp_path / "c.csv", "--out", tmp_path / "out"]
    result = call(tmp_path / "t.csv", *options)
    assert result.exit_code == 0, result.output
    note = "4 of 4 trusted rows are rows of the table, too. They keep the trusted label, which differs from the table's"
    assert note in " ".join(result.output.split())
    assert note in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")
    assert len(unlearned[0][0]) == 56
    table = pd.read_csv(tmp_path / "out" / "cleaned.csv")
    assert table["bilevel_label"][:4].tolist() == ["iris", "rose", "rose", "rose"]
    assert table["bilevel_weight"][:4].tolist() == [1, 1, 0, 1]
    assert table["bilevel_rank"][:4].tolist() == [58, 59, 1, 60]
    again = clean_table(tmp_path / "t.csv", label="name", trusted=tmp_path / "c.csv", out=tmp_path / "again")
    assert again.decided == 1


def test_a_class_of_which_all_rows_are_trusted(tmp_path, unlearned):
    frame = flowers(60).assign(checked="")
    frame.loc[:9, "checked"] = "x"
    frame.loc[:1, "name"] = "lily"
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = ["--label", "name", "--trusted-column", "checked", "--out", tmp_path / "out"]
    assert call(tmp_path / "t.csv", *options).exit_code == 0
    _, codes, (_, trusted_codes), _ = unlearned[0]
    assert (len(codes), len(trusted_codes), set(codes), set(trusted_codes)) == (50, 8, {0, 1}, {0, 1})
    assert set(pd.read_csv(tmp_path / "out" / "cleaned.csv")["bilevel_label"][2:]) == {"iris", "rose"}


def test_notes_stand_on_the_terminal_and_in_the_report(tmp_path, unlearned):
    frame = flowers(200).assign(when=[f"0{i % 9 + 1}/0{i % 7 + 1}/2024" for i in range(200)])
    frame["code"] = np.arange(200) % 2 + 7
    frame.loc[:20, "name"] = frame["name"][:21].str.upper()
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = call(tmp_path / "t.csv", "--label", "name", "--out", tmp_path / "out")
    said, page = " ".join(result.output.split()), (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")
    for note in (
        "The dates of 'when', such as '01/01/2024', can be read in two ways; they were taken as month first.",
        "The column 'code' alone tells the given label.",
        "The labels 'IRIS', 'iris' were taken as one class.",
    ):
        assert note in said and note in page
    assert "date, month first; may be day first" in page
    table = pd.read_csv(tmp_path / "out" / "cleaned.csv")
    assert table["bilevel_label"].tolist() == frame["name"].tolist()  # each in its own spelling


def test_shuffled_trusted_labels_are_said(tmp_path, unlearned):
    flowers(400).assign(a=lambda f: f["a"] + 4 * (f["name"] == "rose")).to_csv(tmp_path / "t.csv", index=False)
    checked = flowers(100, 1).assign(a=lambda f: f["a"] + 4 * (f["name"] == "rose"))
    for name, column in (("right", checked["name"]), ("wrong", np.random.default_rng(0).permutation(checked["name"]))):
        checked.assign(name=column).to_csv(tmp_path / "c.csv", index=False)
        options = ["--label", "name", "--trusted", tmp_path / "c.csv", "--out", tmp_path / name]
        result = call(tmp_path / "t.csv", *options)
        assert ("Note: The trusted labels fit the other columns far worse" in result.output) == (name == "wrong")


def test_trusted_rows_are_read_by_their_own_conventions(tmp_path, unlearned):
    frame, checked = flowers(60), flowers(20, 1)
    for table in (frame, checked):
        table["a"] = table["a"].round(3)
        table["when"] = [f"2024-03-{i % 28 + 1:02d}" for i in range(len(table))]
        table["sure"] = [("true", "false")[i % 3 // 2] for i in range(len(table))]
    frame.to_csv(tmp_path / "t.csv", index=False)
    checked.to_csv(tmp_path / "c.csv", index=False)
    german = checked.assign(sure=checked["sure"].str.upper(), when=[f"{i % 28 + 1}.3.2024" for i in range(20)])
    german.to_csv(tmp_path / "d.csv", index=False, sep=";", decimal=",")
    for name in "cd":
        options = ["--label", "name", "--trusted", tmp_path / f"{name}.csv", "--out", tmp_path / name]
        assert call(tmp_path / "t.csv", *options).exit_code == 0
    np.testing.assert_array_equal(unlearned[0][2][0], unlearned[1][2][0])
    kinds = [column["detail"] for column in json.loads((tmp_path / "d" / "summary.json").read_text())["columns"]]
    assert not any("count as missing" in detail for detail in kinds)


def test_trusted_rows_in_another_unit_and_without_labels_are_said(tmp_path, unlearned):
    flowers(60).assign(rate=[f"{i % 20 + 2}%" for i in range(60)]).to_csv(tmp_path / "t.csv", index=False)
    checked = flowers(20, 1).assign(rate=[(i % 20 + 2) / 100 for i in range(20)])
    checked.loc[:2, "name"] = ""
    checked.to_csv(tmp_path / "c.csv", index=False)
    options = ["--label", "name", "--trusted", tmp_path / "c.csv", "--out", tmp_path / "out"]
    said = " ".join(call(tmp_path / "t.csv", *options).output.split())
    assert "Nearly all numbers of 'rate' in the trusted rows, from 0.02 to 0.21, lie outside of the table's" in said
    assert "'a' in the trusted rows" not in said
    assert "Note: 3 trusted rows have no label, and were left out." in said
    assert len(unlearned[0][2][1]) == 17


def test_a_word_may_be_a_class(tmp_path, unlearned):
    flowers(60).replace("iris", "NA").to_csv(tmp_path / "t.csv", index=False)
    result = call(tmp_path / "t.csv", "--label", "name", "--missing", "", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["classes"][0] == {
        "label": "NA",
        "given": 30,
        "proposed": 30,
    }


def made(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".xlsx"])
@pytest.mark.parametrize("form", [int, float])
def test_a_number_that_stands_for_missing_cells(tmp_path, unlearned, suffix, form):
    frame = flowers(60).assign(a=(np.arange(60) * 7 % 50).astype(form))
    gaps = frame.assign(a=frame["a"].where(frame.index % 4 > 0), name=frame["name"].where(frame.index > 0))
    told = frame.assign(a=frame["a"].where(frame.index % 4 > 0, form(-999)))
    told = told.assign(name=frame["name"].where(frame.index > 0, "-999.0"))
    for name, table, options in (("gaps", gaps, []), ("told", told, ["--missing", "-999"])):
        path = made(table, tmp_path / f"{name}{suffix}")
        result = call(path, "--label", "name", "--out", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["columns"][0]["detail"] == "from 0 to 49, 0.25 missing"
    np.testing.assert_array_equal(unlearned[0][0], unlearned[1][0])
    np.testing.assert_array_equal(unlearned[0][1], unlearned[1][1])


def test_words_for_missing_cells_are_a_list(tmp_path):
    with pytest.raises(TypeError, match="missing: got 'NA'; pass a list of words"):
        clean_table(tmp_path / "t.csv", label="y", out=tmp_path / "out", missing="NA")


def test_new_levels_of_a_large_table_are_no_unread_numbers(tmp_path, unlearned, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(survey, "_LEAST_ROWS", 100)
    frame = flowers(600).assign(z=[f"level {i // 4}" if i % 9 == 0 else "usual" for i in range(600)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = call(tmp_path / "t.csv", "--label", "name", "--out", tmp_path / "out", "--kind", "z=categorical")
    assert result.exit_code == 0, result.output
    assert "as missing" not in result.output


def test_no_file(tmp_path):
    result = call(tmp_path / "t.csv", "--label", "y", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: table: cannot read ") and "No such file" in result.stderr


def test_a_seed_is_a_number(tmp_path):
    with pytest.raises(ValueError, match="seed: got -1; it must be at least 0"):
        clean_table(tmp_path / "t.csv", label="y", out=tmp_path, seed=-1)


def test_a_terminal_does_not_obey_names(tmp_path):
    evil = "\x1b[2J"
    result = call(tmp_path / f"t{evil}.csv", "--label", "x", "--out", tmp_path / "out")
    assert result.exit_code == 2 and evil not in result.output and "\\x1b[2J" in result.output
    (tmp_path / "t.csv").write_text(f"height{evil},label\n1,a\n2,b\n")
    result = call(tmp_path / "t.csv", "--label", "width", "--out", tmp_path / "out")
    assert result.exit_code == 2 and evil not in result.output and "\\x1b[2J" in result.output


def test_a_terminal_shows_how_much_has_been_learned(cleaned, tmp_path):
    folder, *_ = cleaned
    for trusted in ({}, {"trusted": folder / "trusted.csv"}):
        console = Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False, color_system=None)
        clean_table(folder / "table.csv", label="label", out=tmp_path / str(len(trusted)), console=console, **trusted)
        printed = console.file.getvalue()
        assert "3/4 Learning the weights" in printed and ("100% 6/6 " if trusted else "100% 30/30 ") in printed
