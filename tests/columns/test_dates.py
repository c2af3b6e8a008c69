"""Dates as people write them."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from bilevel.columns import dates

DAY, HOUR = dt.datetime(2024, 12, 31), dt.datetime(2024, 12, 31, 23, 5)
WRITTEN = {
    "year first": ["2024-12-31", "2024/12/31", "2024.12.31", "20241231", "2024年12月31日", "2024-12-31T23:05:00Z"],
    "day first": [
        *("31.12.2024", "31/12/2024", "31-12-24", "31. 12. 2024", "31 Dec 2024", "31-dec-24", "Tue, 31 December 2024"),
        *("31. Dezember 2024", "31 déc. 2024", "31 de diciembre de 2024", "31.12.2024 23:05", "31/12/2024 11:05 PM"),
        *("31.12.2024 um 23:05 Uhr", "31.12.2024, 23:05", "31 Dec 2024 at 23:05"),
    ],
    "month first": ["12/31/2024", "12-31-24", "Dec 31, 2024", "December 31 2024", "12/31/2024 11:05 p.m."],
}


@pytest.mark.parametrize("order", WRITTEN)
def test_dates_are_read(order):
    for cell in WRITTEN[order]:
        found, values, other = dates.find([cell])
        expected = HOUR if ":" in cell else DAY
        assert (found, other) == (order, ""), cell
        assert values[0] == pytest.approx((expected - dt.datetime(1970, 1, 1)) / dt.timedelta(days=1)), cell


def test_the_whole_column_decides():
    assert dates.find(["01/02/2024", "1/13/2024"])[::2] == ("month first", "")
    assert dates.find(["01/02/2024", "13/1/2024"])[::2] == ("day first", "")
    assert dates.find(["01/02/2024", "03/04/2024"])[::2] == ("month first", "day first")
    assert dates.find(["01.02.2024", "03.04.2024"])[::2] == ("day first", "month first")
    assert dates.find(["05/05/2024"])[2] == ""


def test_far_dates_and_times_of_day():
    values = dates.find(["9999-12-31", "0001-01-01", "2024-12-31", "31.12.2024"])[1]
    far = [2932896, -719162] if pd.__version__ >= "3" else [np.nan] * 2
    np.testing.assert_array_equal(values, [*far, 20088, np.nan])
    order, values, _ = dates.find(["14:30", "2:30 PM", "23:59:59"])
    assert order == "time of day" and values[0] == values[1] < values[2]


def test_what_is_no_date():
    for cell in (
        "hello",
        "",
        "31.02.2024",
        "2024-13-01",
        "1-2-3",
        "A 12.3.2024",
        "3/4",
        "12.5",
        "24:61",
        "1984",
        "0123",
    ):
        assert np.isnan(dates.find([cell])[1]).all(), cell


def test_a_format():
    values = dates.read(["31|12|2024", "2024-12-31"], "%d|%m|%Y")
    assert values[0] == 20088 and np.isnan(values[1])


def test_what_looks_like_dates():
    assert dates.look_like(["31.12.2024", "13/7/99", "10:30:00", "1.8.1"]) == 0.75
    assert dates.look_like([]) == 0


@pytest.mark.parametrize("order", [*dates.ORDERS, "%d.%m.%Y"])
def test_the_time_of_the_run_is_no_date(order):
    assert np.isnan(dates.read(["now", "today"], order)).all()
