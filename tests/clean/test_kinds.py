"""The inferred kinds of columns."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from bilevel.clean.kinds import days, infer, numbers, parse, texts

N = 200
CASES = {
    "numeric": ([f"{i % 17}.5" for i in range(N)], "numeric"),
    "missing": ([["", "NA", " ?", "2", "3"][i % 5] for i in range(N)], "numeric"),
    "comma": ([f"{i % 17},5" for i in range(N)], "numeric"),
    "zero or one": (["01"[i % 2] for i in range(N)], "numeric"),
    "income": ([str(1000 + i * i) for i in range(N)], "numeric"),  # all differ, and yet a number
    "row": ([str(N - i) for i in range(N)], "identifier"),
    "user_id": ([str(1000 + i * i) for i in range(N)], "identifier"),
    "key": ([f"{i * 7919:x}-b" for i in range(N)], "identifier"),
    "date": ([f"2024-03-{i % 28 + 1:02d}" for i in range(N)], "date"),
    "time": ([f"2024-03-01T10:00:{i % 60:02d}Z" for i in range(N)], "date"),
    "boolean": ([["Yes", "no", ""][i % 3] for i in range(N)], "boolean"),
    "color": ([["red", "green", "7"][i % 3] for i in range(N)], "categorical"),
    "phrase": ([["very good indeed", "not good at all"][i % 2] for i in range(N)], "categorical"),
    "street": ([f"street {i % 90}" for i in range(N)], "categorical"),
    "text": ([f"the parcel number {i} did not arrive" for i in range(N)], "text"),
    "image": ([f"images/{i}.PNG" for i in range(N)], "image"),
    "constant": (["3"] * N, "ignored"),
    "empty": (["", "NaN"] * (N // 2), "ignored"),
}
TYPED = {
    "numeric": (np.linspace(0, 1, N), "numeric"),
    "some": ([None, 3, 4, 4] * (N // 4), "numeric"),
    "money": ([decimal.Decimal(i % 7) / 4 for i in range(N)], "numeric"),
    "boolean": (np.arange(N) % 3 == 0, "boolean"),
    "maybe": ([True, False, None, True] * (N // 4), "boolean"),
    "date": (pd.date_range("2020-01-01", periods=N, freq="h", tz="Europe/Rome"), "date"),
    "day": ([datetime.date(2020, 1, 1 + i % 30) for i in range(N)], "date"),
    "category": (pd.Categorical(["a", "b"] * (N // 2)), "categorical"),
    "list": ([[i] for i in range(N)], "ignored"),
    "number": (np.arange(N), "identifier"),
}


@pytest.mark.parametrize("cases", [CASES, TYPED])
def test_kinds(cases):
    frame = pd.DataFrame({name: pd.Series(cells) for name, (cells, _) in cases.items()})
    found = infer(frame, N, ".,", {}, label="")
    assert {column.name: column.kind for column in found} == {name: kind for name, (_, kind) in cases.items()}
    assert all(column.detail for column in found)


def test_a_comma_before_the_fraction_only_where_it_delimits_nothing():
    frame = pd.DataFrame({"x": ["1,5", "2,5", "3,5"] * 50}, dtype=object)
    assert infer(frame, 150, ".,", {}, "")[0].decimal == ","
    assert infer(frame, 150, ".", {}, "")[0].kind == "categorical"


def test_the_user_has_the_last_word():
    frame = pd.DataFrame({"zip": ["8001", "8002"] * 50, "y": ["a", "b"] * 50}, dtype=object)
    assert [c.kind for c in infer(frame, 100, ".", parse(["zip=categorical"]), "y")] == ["categorical"]
    assert parse(["a=b=text"]) == {"a=b": "text"}
    with pytest.raises(ValueError, match="kind: 'zp' is unknown; did you mean zip"):
        infer(frame, 100, ".", {"zp": "text"}, "y")
    with pytest.raises(ValueError, match="kind of 'zip': 'number' is unknown; "):
        infer(frame, 100, ".", {"zip": "number"}, "y")
    with pytest.raises(ValueError, match="kind: got 'zip'; write COLUMN=KIND"):
        parse(["zip"])


def test_cells_as_numbers_days_and_text():
    cells = pd.Series(["1", " 2.5 ", "", "x", "inf", None], dtype=object)
    np.testing.assert_array_equal(numbers(cells), [1, 2.5, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(numbers(pd.Series(["1,5", "1.5"], dtype=object), ","), [1.5, 1.5])
    np.testing.assert_array_equal(days(pd.Series(["1970-01-03T12:00", "never"], dtype=object)), [2.5, np.nan])
    assert texts(cells) == ["1", "2.5", "", "x", "inf", ""]
