"""Numbers as people write them."""

import numpy as np
import pytest

from bilevel.columns.numerals import Numerals, codes, find, value

READ = {
    "plain": (["1", "-2.5", "+3", "1e3", ".5", "5."], [1, -2.5, 3, 1000, 0.5, 5], ""),
    "thousands": (["1,234", "950", "1,234,567.5"], [1234, 950, 1234567.5], "comma between thousands"),
    "India": (["12,34,567", "1,000"], [1234567, 1000], "comma between thousands"),
    "Germany": (["1.234,50", "3,5"], [1234.5, 3.5], "decimal comma, point between thousands"),
    "points": (["1.234.567", "9.000"], [1234567, 9000], "decimal comma, point between thousands"),
    "comma": (["12,5", "3,25"], [12.5, 3.25], "decimal comma"),
    "below one": (["0,126", "-1,938"], [0.126, -1.938], "decimal comma"),
    "France": (["1\u202f234,5", "3"], [1234.5, 3], "decimal comma, space between thousands"),
    "Switzerland": (["1'234.50", "1’000"], [1234.5, 1000], "apostrophe between thousands"),
    "dollars": (["$1,234.50", "$ 3", "-$5", "$-5"], [1234.5, 3, -5, -5], "amount in $, comma between thousands"),
    "euros": (["3,50 €", "1.200,00€"], [3.5, 1200], "amount in €, decimal comma, point between thousands"),
    "code": (["USD 12.5", "7 usd"], [12.5, 7], "amount in USD"),
    "rupees": (["Rs. 500", "Rs 3"], [500, 3], "amount in RS"),
    "percent": (["12.3%", "4 %"], [12.3, 4], "percent"),
    "unit": (["5 kg", "6kg", "7"], [5, 6, 7], "in kg"),
    "plural": (["1 year", "3 years"], [1, 3], "in year"),
    "brackets": (["(12)", "3", "4-"], [-12, 3, -4], ""),
    "dashes": (["−5", "–3"], [-5, -3], ""),
    "full width": (["１２３", "4"], [123, 4], ""),
    "no cents": (["50.-", "CHF 20.-", "5,–"], [50, 20, 5], "amount in CHF"),
    "about": (["~5", "1,000+", "7"], [5, 1000, 7], "comma between thousands"),
    "short": (["1.2M", "950k"], [1.2e6, 9.5e5], "k and M are thousands and millions"),
}
NOT = (
    *("A-12", "18-24", "<0.1", "10:30", "12 34", "1,2,3", "1.2.3", "3 of 4", "$5 €", "(3", "", "--3", "twelve"),
    *("1_12", "2023_01", "infinity", "nan", "10²", "①"),  # Python, or Unicode, has a number for each
)


@pytest.mark.parametrize("case", READ)
def test_numbers_are_read(case):
    cells, numbers, said = READ[case]
    form, values, _ = find(cells, commas=False)
    np.testing.assert_allclose(values, numbers, rtol=1e-12)
    assert str(form) == said
    np.testing.assert_array_equal(form.read(cells), values)


@pytest.mark.parametrize("cell", NOT)
def test_what_is_no_number(cell):
    cells = [cell] + ["5"] * 9  # no unit
    assert np.isnan(find(cells, commas=False)[1]).tolist() == [True] + [False] * 9


def test_units_are_not_mixed():
    values = find(["5 kg", "6 kg", "300 g"], commas=False)[1]
    np.testing.assert_array_equal(values, [5, 6, np.nan])


def test_a_comma_is_a_decimal_mark_where_it_delimits_nothing():
    cells = ["1,234", "2,500"]
    assert [find(cells, commas)[0] for commas in (False, True)] == [Numerals(thousands=","), Numerals(",")]
    assert [find(cells, commas)[2] for commas in (False, True)] == [",", "."]  # the other way
    assert find(["1,234", "2,500.5"], commas=True)[0] == Numerals(thousands=",")
    assert find(["12,5"], commas=False)[2] == ""
    for commas in (False, True):  # beside a number without a comma, 950
        assert find([*cells, "950"], commas)[::2] == (Numerals(thousands=","), "")


def test_codes():
    assert codes(["00123", "12345"]) and codes(["4000123412341234"])
    assert not codes(["0", "0.5", "10"])


def test_numbers_as_programs_write_them():
    assert [value(cell) for cell in ("-999", "-999.0", "1e3", "0.5", "0")] == [-999, -999, 1000, 0.5, 0]
    assert np.isnan([value(cell) for cell in ("007", "1_2", "$5", "1,5", "inf", "nan", "", "١")]).all()
