"""The label column."""

import numpy as np
import pytest

from bilevel.clean.labels import Labels, check_classes, find, label_text


def collect(*parts):
    labels, start = Labels("label"), 0
    for part in parts:
        labels.add(part, start)
        start += len(part)
    return labels.finish()


def test_codes_count_the_classes_in_order():
    codes, classes = collect(["b", "a "], ["c", "b"])
    assert (codes.tolist(), classes) == ([1, 0, 2, 1], ["a", "b", "c"])
    codes, classes = collect(["10", "9", "10"])
    assert (codes.tolist(), classes) == ([1, 0, 1], ["9", "10"])  # numbers by size
    codes, classes = collect(np.array([True, False]))
    assert (codes.tolist(), classes) == ([1, 0], [False, True])


def test_one_class_in_all_formats():
    assert {label_text(cell) for cell in (1, 1.0, np.float32(1), np.int8(1), "1", " 1 ")} == {"1"}
    assert {label_text(cell) for cell in (None, float("nan"), " ")} == {""}


def test_rows_without_a_label_are_counted_from_one():
    with pytest.raises(ValueError, match="label: row 2 has no label, where row 1 is the first below the header"):
        collect(["a", " "], ["b"])
    with pytest.raises(ValueError, match=r"7 rows have no label \(2, 3, 4, 5, 6 and 2 more\)"):
        collect(["a", *["", None, "NA"], *["NaN"] * 4])


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
    ],
)
def test_what_cannot_be_classes(classes, rows, message):
    with pytest.raises(ValueError, match=f"label: {message}"):
        check_classes(classes, rows, "label")


@pytest.mark.parametrize(
    ("classes", "rows"),
    [([str(i) for i in range(20)], 40), ([str(i) for i in range(30)], 1000), (["a", "b"], 2), ([0.5, 1.0, 1.5], 9)],
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
    assert collect([cell, "b"])[1] == [cell, "b"]
    codes, classes = collect([cell.strip(), cell, "b"])  # as in the row that is no formula
    assert (codes.tolist(), classes) == ([0, 0, 1], [cell, "b"])


def test_numbers_and_plain_labels_have_no_spaces():
    assert collect([" -1", "+1\t", " 0"])[1] == ["-1", "0", "+1"]
    assert collect([" a ", "-", "+"])[1] == ["+", "-", "a"]
