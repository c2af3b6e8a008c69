"""The inferred kinds of columns."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from bilevel.columns.cells import days
from bilevel.columns.kinds import infer, parse
from bilevel.columns.numerals import Numerals

N = 200
RNG = np.random.default_rng(0)
CHINESE = ["很好", "喜欢", "满意", "很差", "失望", "退货", "今天", "商品", "客服", "包装"]
CASES = {
    "numeric": ([f"{i % 17}.5" for i in range(N)], "numeric"),
    "missing": ([["", "NA", " ?", "2", "3"][i % 5] for i in range(N)], "numeric"),
    "comma": ([f"{i % 17},5" for i in range(N)], "numeric"),
    "zero or one": (["01"[i % 2] for i in range(N)], "numeric"),
    "income": ([str(1000 + i * i) for i in RNG.permutation(N)], "numeric"),  # all differ, and yet a number
    "row": ([str(N - i) for i in range(N)], "identifier"),
    "user_id": ([str(1000 + i * i) for i in RNG.permutation(N)], "identifier"),
    "PatientID": ([str(1000 + i * i) for i in RNG.permutation(N)], "identifier"),
    "some ID": ([str(1000 + i * i) if i % 3 else "" for i in RNG.permutation(N)], "identifier"),
    "storeId": ([str(i % 7) for i in range(N)], "categorical"),
    "growing": ([str(1000 + i * i + i % 3) for i in range(N)], "identifier"),
    "contact": ([str(5_550_000_000 + i * 7919 % 99_991) for i in range(N)], "identifier"),
    "postal": ([f"0{i * 7919 % 9973:04d}" for i in range(N)], "identifier"),
    "card": ([str(4_000_000_000_000_000 + i * 7919) for i in RNG.permutation(N)], "identifier"),
    "userid": ([str(1000 + i * i) for i in RNG.permutation(N)], "identifier"),
    "id_user": ([str(1000 + i * i) for i in RNG.permutation(N)], "identifier"),
    "phone": ([f"+49 170 {i * 7919 % 99991:05d}" for i in range(N)], "identifier"),
    "seconds": ([str(1_600_000_000 + i * 7919_000 % 99_991_000) for i in range(N)], "numeric"),
    "paid": ([str(i * 7 % 1000) for i in range(N)], "numeric"),  # 'id' is no part of the name
    "price": ([f"${1000 + i * 7 % 900:,}.50" for i in range(N)], "numeric"),
    "rate": ([f"{i * 7 % 90 / 10}%" for i in range(N)], "numeric"),
    "term": ([("36 months", "60 months")[i % 2] for i in range(N)], "numeric"),
    "age": ([("18-24", "25-34", "65+")[i % 3] for i in range(N)], "categorical"),
    "seat": ([f"{i % 40}{'ABCD'[i % 4]}" for i in range(N)], "categorical"),
    "place": ([("1st", "2nd", "3rd", "4th")[i % 4] for i in range(N)], "categorical"),
    "one odd": ([f"{i * 7 % 90}" if i else "unknown" for i in range(N)], "numeric"),
    "a few odd": ([f"{i * 7 % 90}" if i % 40 else f"see note {i}" for i in range(N)], "numeric"),
    "a few odd dates": ([f"{i % 28 + 1}.3.2024" if i % 40 else f"see note {i}" for i in range(N)], "date"),
    "a word": ([f"{i * 7 % 90}.5" if i % 3 else "not measured" for i in range(N)], "numeric"),
    "some odd": ([f"{i * 7 % 90}" if i % 10 else f"<0.{i}" for i in range(N)], "categorical"),
    "few": ([("1", "2", "unknown")[i % 3] for i in range(N)], "categorical"),
    "key": ([f"{i * 7919:x}-b" for i in range(N)], "identifier"),
    "date": ([f"2024-03-{i % 28 + 1:02d}" for i in range(N)], "date"),
    "time": ([f"2024-03-01T10:00:{i % 60:02d}Z" for i in range(N)], "date"),
    "day first": ([f"{i % 28 + 1}.3.2024" for i in range(N)], "date"),
    "month first": ([f"3/{i % 28 + 1}/2024" for i in range(N)], "date"),
    "compact": ([f"202403{i % 28 + 1:02d}" for i in range(N)], "date"),
    "one odd date": ([f"2024-03-{i % 28 + 1:02d}" if i else "soon" for i in range(N)], "date"),
    "forever": ([f"2024-03-{i % 28 + 1:02d}" if i else "9999-12-31" for i in range(N)], "date"),
    "boolean": ([["Yes", "no", ""][i % 3] for i in range(N)], "boolean"),
    "color": ([["red", "green", "7"][i % 3] for i in range(N)], "categorical"),
    "phrase": ([["very good indeed", "not good at all"][i % 2] for i in range(N)], "categorical"),
    "street": ([f"street {i % 90}" for i in range(N)], "categorical"),
    "text": ([f"the parcel number {i} did not arrive" for i in range(N)], "text"),
    "title": ([f"{('great', 'awful', 'cheap')[i % 3]} item{i}" for i in range(N)], "text"),
    "file": ([f"{('report', 'bill')[i % 2]}_{i}.pdf" for i in range(N)], "text"),
    "mail": ([f"x{i}@{('home', 'work')[i % 2]}.org" for i in range(N)], "text"),
    "Chinese": (["".join(RNG.choice(CHINESE, 6)) for _ in range(N)], "text"),
    "image": ([f"images/{i}.PNG" for i in range(N)], "image"),
    "constant": (["3"] * N, "ignored"),
    "empty": (["", "NaN"] * (N // 2), "ignored"),
    "cell": ([f"{i % 3}_1{i % 4}" for i in range(N)], "categorical"),  # Python reads 1_12 as 112
    "month": ([f"2023_0{i % 7 + 1}" for i in range(N)], "categorical"),
    "infinite": ([("inf", "nan!", "infinity")[i % 3] for i in range(N)], "categorical"),
    "powers": ([f"10{'²³'[i % 2]}" for i in range(N)], "categorical"),
    "when": ([("now", "today")[i % 2] for i in range(N)], "categorical"),  # pandas reads the time of the run
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
    found = infer(frame, N, True, {}, label="")
    assert {column.name: column.kind for column in found} == {name: kind for name, (_, kind) in cases.items()}
    assert all(column.detail for column in found)


def one(cells, kind=None, commas=False):
    frame = pd.DataFrame({"x": pd.Series(list(cells), dtype=object)})
    return infer(frame, len(frame), commas, {} if kind is None else {"x": kind}, "")[0]


def test_details_say_what_was_read():
    for cells, detail in (
        ([f"${i * 7 % 90:,}" for i in range(1000, 2000)], "amount in $, from 0 to 89"),
        ([f"{i % 90}%" for i in range(200)], "percent, from 0 to 89"),
        ([f"{i % 90},5" for i in range(200)], "decimal comma, from 0.5 to 89.5"),
        ([f"{i % 28 + 1:02d}.12.2024" for i in range(100)], "date, day first"),
        ([f"{i % 28 + 1:02d} Dec 2024" if i % 4 else "" for i in range(100)], "date, day first, 0.25 missing"),
    ):
        assert one(cells).detail == detail


def test_the_ambiguous_is_said():
    thousands = [f"{i % 9 + 1},{i % 7}50" for i in range(100)]
    found = one(thousands)
    assert found.form == Numerals(thousands=",") and "may have a decimal comma" in found.detail
    assert "'1,050' was taken as 1050" in found.note and "--kind 'x=numeric:,'" in found.note
    told = one(thousands, "numeric:,")
    assert told.form == Numerals(decimal=",") and not told.note
    assert one(thousands, commas=True).form == Numerals(decimal=",")
    days = [f"0{i % 9 + 1}/0{i % 7 + 1}/2024" for i in range(100)]
    found = one(days)
    assert (found.form, found.detail) == ("month first", "date, month first; may be day first")
    assert "--kind 'x=date:day first'" in found.note
    for kind in ("date:day first", "date:%d/%m/%Y"):
        told = one(days, kind)
        assert not told.note
        np.testing.assert_array_equal(days_of(days, told.form)[:2], [19723 + 30 + 8 - 8 - 30, 19723 + 32])


def days_of(cells, form):
    return days(pd.Series(cells, dtype=object), form)


def test_an_ambiguous_date_is_read_as_the_certain_ones():
    frame = pd.DataFrame({"a": ["03/04/2024"] * 30, "b": ["03/04/2024", "13/04/2024", "30/04/2024"] * 10}, dtype=object)
    frame.loc[0, "a"] = "01/02/2024"
    found = infer(frame, 30, False, {}, "")
    assert [column.form for column in found] == ["day first"] * 2
    assert (found[0].detail, found[0].note) == ("date, day first like the others", "")


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        ([f"word {i}" for i in range(50)], "numeric", "kind of 'x': 'numeric', but only 0 of 50 cells .* not 'word 0'"),
        ([f"word {i}" for i in range(50)], "date", "kind of 'x': 'date', but only 0 of 50 cells"),
        (["31.12.2024", "1.1.2025"] * 20, "date:%Y-%m-%d", "'date', but only 0 of 40 cells .* not '31.12.2024'"),
        (["31.12.2024", "1.1.2025"] * 20, "date:whatever", "'date:whatever' is unknown; pass date:day first"),
        (["1", "2"] * 20, "numeric:;", "'numeric:;' is unknown; the decimal mark is numeric:, or numeric:."),
        (["red", "green", "blue"] * 20, "boolean", "'boolean', but it has 3 different values"),
    ],
)
def test_what_the_user_says_is_believed_or_refused(cells, kind, message):
    with pytest.raises(ValueError, match=message):
        one(cells, kind)


def test_a_note_says_that_almost_numbers_were_not_taken_as_numbers():
    found = one([f"{i * 7 % 200}" if i % 4 else f"{i % 200}/{i}" for i in range(400)])
    assert found.kind == "categorical"
    assert "looks like numbers, but cells such as '0/0'" in found.note and "--kind 'x=numeric'" in found.note
    mixed = [f"{i % 28 + 1}.3.20{i % 90 + 10}" if i % 2 else f"3/{i % 28 + 1}/20{i % 90 + 10}" for i in range(400)]
    assert "looks like dates" in one(mixed).note
    assert not one([f"street {i % 90}" for i in range(400)]).note


def test_told_words_are_missing():
    frame = pd.DataFrame({"x": [str(i % 30) if i % 2 else "99999" for i in range(100)]}, dtype=object)
    missing = frozenset({"", "99999"})
    assert infer(frame, 100, False, {}, "", missing)[0].detail == "from 1 to 29, 0.5 missing"


@pytest.mark.parametrize(
    "cells",
    [
        [float(i % 30) + 0.5 if i % 2 else -999.0 for i in range(100)],
        [i % 30 if i % 2 else -999 for i in range(100)],
        [f"{i % 30}.5" if i % 2 else "-999.00" for i in range(100)],
        [f"{i % 30},5" if i % 2 else "-999,00" for i in range(100)],
    ],
)
def test_a_told_number_is_missing_in_all_its_forms(cells):
    frame = pd.DataFrame({"x": cells})
    found = infer(frame, 100, False, {}, None, frozenset({"", "-999"}))[0]
    assert found.kind == "numeric" and "999" not in found.detail


def test_typed_numbers_are_numbers_if_the_user_says_so():
    frame = pd.DataFrame({"row": np.arange(40.0), "none": np.full(40, np.nan), "sure": [True, False] * 20})
    frame.loc[3, "row"] = np.nan
    found = infer(frame, 40, False, dict.fromkeys(frame.columns, "numeric"), None)
    assert [(column.kind, column.detail) for column in found] == [
        ("numeric", "from 0 to 39, 0.025 missing"),
        ("numeric", "is empty, 1 missing"),
        ("numeric", "from 0 to 1"),
    ]


def test_a_column_without_a_name():
    frame = pd.DataFrame({"": ["1.5", "2.5"] * 20, "y": ["a", "b"] * 20}, dtype=object)
    assert [column.name for column in infer(frame, 40, False, {}, None)] == ["", "y"]


def test_the_user_has_the_last_word():
    frame = pd.DataFrame({"zip": ["8001", "8002"] * 50, "y": ["a", "b"] * 50}, dtype=object)
    assert [c.kind for c in infer(frame, 100, False, parse(["zip=categorical"]), "y")] == ["categorical"]
    assert parse(["a=b=text"]) == {"a=b": "text"}
    with pytest.raises(ValueError, match="kind: 'zp' is unknown; did you mean zip"):
        infer(frame, 100, False, {"zp": "text"}, "y")
    with pytest.raises(ValueError, match="kind of 'zip': 'number' is unknown; "):
        infer(frame, 100, False, {"zip": "number"}, "y")
    with pytest.raises(ValueError, match="kind: got 'zip'; write COLUMN=KIND"):
        parse(["zip"])
