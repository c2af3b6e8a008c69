"""Cells as text, numbers and days, and what stands for missing ones."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from bilevel.columns.cells import days, numbers, texts, told_missing
from bilevel.columns.numerals import Numerals


def test_cells_as_numbers_days_and_text():
    cells = pd.Series(["1", " 2.5 ", "", "x", "inf", None], dtype=object)
    np.testing.assert_array_equal(numbers(cells), [1, 2.5, np.nan, np.nan, np.nan, np.nan])
    cells_with_points = pd.Series(["1.234", "1.5"], dtype=object)  # where points are between thousands
    np.testing.assert_array_equal(numbers(cells_with_points, Numerals(",", ".")), [1234, np.nan])
    np.testing.assert_array_equal(days(pd.Series(["1970-01-03T12:00", "never"], dtype=object)), [2.5, np.nan])
    assert texts(cells) == ["1", "2.5", "", "x", "inf", ""]
    assert texts(["NA", "99999"], frozenset({"", "99999"})) == ["NA", ""]


@pytest.mark.parametrize("cell", ["1_12", "2023_01", "1_0.5", "infinity", "-inf", "+nan", "10²", "①"])
def test_what_only_python_takes_for_a_number(cell):
    np.testing.assert_array_equal(numbers(pd.Series([cell, "3"], dtype=object)), [np.nan, 3])


def test_cells_of_several_types():
    cells = [1, None, True, "5", "1,5", decimal.Decimal("2.5"), "1_2", 10**400, pd.NA, datetime.date(2024, 1, 1)]
    found = numbers(pd.Series(cells, dtype=object), Numerals(","))
    np.testing.assert_array_equal(found, [1, np.nan, 1, 5, 1.5, 2.5, *[np.nan] * 4])


TYPED = {
    "int": pd.Series([-999, 3]),
    "float": pd.Series([-999.0, 3]),
    "single": pd.Series([-999, 3], dtype="float32"),
    "nullable": pd.Series([-999, 3], dtype="Int64"),
    "objects": pd.Series([-999, 3], dtype=object),
    "float objects": pd.Series([-999.0, 3], dtype=object),
    "decimals": pd.Series([decimal.Decimal("-999.00"), 3], dtype=object),
    "text": pd.Series([" -999.0 ", "3"], dtype=object),
}


@pytest.mark.parametrize("case", TYPED)
@pytest.mark.parametrize("word", ["-999", "-999.0", "-9.99e2"])
def test_a_number_that_stands_for_missing_is_missing_in_every_type(case, word):
    missing = frozenset({"", word})
    np.testing.assert_array_equal(numbers(TYPED[case], missing=missing), [np.nan, 3])
    assert texts(TYPED[case], missing) == ["", "3"]
    np.testing.assert_array_equal(numbers(TYPED[case], missing=frozenset({"", "99"})), [-999, 3])


def test_numbers_that_stand_for_missing_in_single_precision_and_in_amounts():
    missing = frozenset({"", "-99.9"})
    single = pd.Series([-99.9, 3], dtype="float32")
    np.testing.assert_array_equal(numbers(single, missing=missing), [np.nan, 3])
    assert texts(single, missing) == ["", "3"]
    amounts = pd.Series(["$-99.90", "$3"], dtype=object)
    np.testing.assert_array_equal(numbers(amounts, Numerals(unit="$"), missing), [np.nan, 3])
    assert texts(pd.Series(["007", "7"], dtype=object), frozenset({"", "7"})) == ["007", ""]  # a code is no number


@pytest.mark.parametrize(
    "cells",
    [
        pd.to_datetime(pd.Series(["1900-01-01", "1970-01-02"])),
        pd.Series([datetime.datetime(1900, 1, 1), datetime.datetime(1970, 1, 2)], dtype=object),
        pd.Series(["1900-01-01 00:00", "1970-01-02"], dtype=object),
    ],
)
def test_a_date_that_stands_for_missing(cells):
    np.testing.assert_array_equal(days(cells, missing=frozenset({"", "1900-01-01"})), [np.nan, 1])
    np.testing.assert_array_equal(days(cells), [-25567, 1])


def test_a_whole_number_is_spelled_alike_beside_a_missing_one():
    assert texts(pd.Series([1, 2])) == ["1", "2"]
    assert texts(pd.Series([1, 2, None])) == ["1", "2", ""]
    assert texts(pd.Series([1.0, 2.5, np.inf, 1e300])) == ["1", "2.5", "inf", "1e+300"]


def test_words_for_missing_cells():
    assert told_missing([" NA", "-999"]) == {"", "na", "-999"}
    assert told_missing([]) == {""}
    with pytest.raises(TypeError, match=r"missing: got 'NA'; pass a list of words, such as \['NA'\]"):
        told_missing("NA")
    with pytest.raises(TypeError, match=r"missing: got -999; pass a list of words, such as \['-999'\]"):
        told_missing(-999)
    with pytest.raises(TypeError, match="missing: got -999 among the words; pass it as text, '-999'"):
        told_missing(["NA", -999])
