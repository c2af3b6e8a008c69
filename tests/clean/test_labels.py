"""The label column."""

import numpy as np
import pytest

from bilevel.clean.labels import Labels, check_classes, checked, find, label_key
from bilevel.columns.cells import MISSING


def collect(*parts, missing=None):
    labels = Labels("label", missing)
    for part in parts:
        labels.add(part)
    return labels.finish()


def test_codes_count_the_classes_in_order():
    for cells, codes, classes in (
        (["b", "a ", "c", "b"], [1, 0, 2, 1], ["a", "b", "c"]),
        (["10", "9", "10"], [1, 0, 1], ["9", "10"]),  # numbers by size
        (np.array([True, False]), [1, 0], [False, True]),
    ):
        found = collect(cells[:2], cells[2:])
        assert (found.codes.tolist(), found.classes, found.same()) == (codes, classes, [])


def test_one_class_in_all_formats():
    assert {label_key(cell) for cell in (1, 1.0, np.float32(1), np.int8(1), "1", " 1 ")} == {"1"}
    assert {label_key(cell) for cell in (None, float("nan"), " ")} == {""}
    assert {label_key(cell) for cell in ("Very good", "VERY  GOOD ", "very\u00a0good", "ｖery good")} == {"very good"}
    assert {label_key(cell) for cell in ("1e3", "1000", "1000.0", 1000)} == {"1000"}
    assert len({label_key(cell) for cell in ("a", "b", "ab", "a b", "1", "1.5", "-1", "nan", "1a")}) == 9


def test_spellings_of_a_class_stay_as_they_are():
    found = collect(["yes", "NO", "Yes", "no", "no", "yes", "maybe"])
    assert found.classes == ["maybe", "no", "yes"]  # the most common spelling of each
    assert found.codes.tolist() == [2, 1, 2, 1, 1, 2, 0]
    assert found.same() == [["NO", "no"], ["yes", "Yes"]]
    proposed = np.array([2, 1, 2, 2, 1, 1, 1])
    spelled = [found.spellings[code] for code in found.spelling(proposed)]
    assert spelled == ["yes", "NO", "Yes", "yes", "no", "no", "no"]


def test_rows_without_a_label_are_no_class():
    found = collect(["a", " "], ["b", None, "NA"], ["a", "b"])
    assert (found.codes.tolist(), found.classes) == ([0, -1, 1, -1, -1, 0, 1], ["a", "b"])
    assert found.missing == {"": 2, "NA": 1}
    with pytest.raises(ValueError, match="label: no row has a label"):
        collect(["", "NaN"])


def test_a_word_for_missing_that_is_as_frequent_as_a_class_is_not_guessed():
    cells = ["EU"] * 9 + ["NA"] * 6 + ["US"] * 5
    with pytest.raises(ValueError, match="label: 6 rows hold 'NA', which may .* --missing '' .* --missing NA"):
        collect(cells)
    assert collect(cells, missing=frozenset({""})).classes == ["EU", "NA", "US"]
    assert collect(cells, missing=frozenset({"na"})).classes == ["EU", "US"]
    assert collect(cells[:13] + cells[-5:]).classes == ["EU", "US"]  # four are fewer than of any class


def test_what_says_that_a_row_was_checked():
    said = checked(["yes", "", "X", 0, True, None, "No", 1.0, "NA"], MISSING, "trusted_column", "ok")
    assert said.tolist() == [True, False, True, False, True, False, False, True, False]
    with pytest.raises(ValueError, match="trusted_column: 'ok' holds 'rose'; write yes or no"):
        checked(["yes", "rose"], MISSING, "trusted_column", "ok")


@pytest.mark.parametrize("cells", [["a", -999], ["a", -999.0], ["a", "-999.0"], ["a", np.float32(-999)]])
@pytest.mark.parametrize("word", ["-999", "-999.0"])
def test_a_number_that_stands_for_no_label_does_so_in_every_type(cells, word):
    assert collect(cells, missing=frozenset({"", word})).codes.tolist() == [0, -1]
    assert checked(["yes", cells[1]], frozenset({word}), "trusted_column", "ok").tolist() == [True, False]


@pytest.mark.parametrize(
    ("classes", "rows", "message"),
    [
        (["a"], 7, "all 7 labels are 'a'; cleaning needs two classes"),
        (
            [str(i) for i in range(40)],
            1000,
            r"40 different numbers in 1,000 rows \('0', '1', '2' and 37 more\) look like a regr",
        ),
        ([0.5 + i for i in range(15)], 1000, "15 different numbers .* look like a regression target"),
        ([f"text {i}" for i in range(40)], 50, "40 different labels in 50 rows"),
        ([f"street {i}" for i in range(142)], 600, "142 different labels in 600 rows .* fewer than 5 rows for each"),
    ],
)
def test_what_cannot_be_classes(classes, rows, message):
    with pytest.raises(ValueError, match=f"label: {message}"):
        check_classes(classes, rows, "label")


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        ([str(i) for i in range(20)], 40),
        ([str(i) for i in range(30)], 1000),
        (["a", "b"], 2),
        ([0.5, 1.0, 1.5], 9),
        ([f"20{year}_{month:02d}" for year in (22, 23, 24) for month in range(1, 13)], 900),  # Python reads 202201
    ],
)
def test_what_can_be_classes(classes, rows):
    check_classes(classes, rows, "label")


def test_a_label_that_is_not_there():
    with pytest.raises(
        ValueError, match="label: no column 'lable'; did you mean 'label'. the columns are 'x', 'label'"
    ):
        find(["x", "label"], "lable", "label")


@pytest.mark.parametrize("cell", ["\t=HYPERLINK(0)", " =1+1", "\r@SUM(1)", "\n+a", "\u00a0-x"])
def test_a_label_that_was_kept_from_being_a_formula_stays_so(cell):
    assert collect([cell, "b"]).classes == [cell, "b"]
    found = collect([cell.strip(), cell, "b"])  # as in the row that is no formula
    assert (found.codes.tolist(), found.classes) == ([0, 0, 1], [cell, "b"])


def test_numbers_and_plain_labels_have_no_spaces():
    assert collect([" -1", "+1\t", " 0"]).classes == ["-1", "0", "+1"]
    assert collect([" a ", "-", "+"]).classes == ["+", "-", "a"]
