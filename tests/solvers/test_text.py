"""Solvers and settings as text."""

import optax
import pytest

import bilevel as bl
from bilevel.solvers import _text as text


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("1", 1), ("1e-2", 0.01), ("-3", -3), ("None", None), ("True", True), ("(1, 2)", (1, 2)), (" 'a b' ", "a b"),
        ("fashion-mnist", "fashion-mnist"), ("x=y", "x=y"), ("shuffled blocks", "shuffled blocks"), ("", ""),
        ("optax", "optax"), ("Rule", "Rule"), ("SOBA", "SOBA"), ("print(1)", "print(1)"), ("{[]: 1}", "{[]: 1}"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"), ("optax.__name__", "optax.__name__"),
        ("Rule.__class__(3)", "Rule.__class__(3)"), ("Direct(**{})", "Direct(**{})"),
    ],
)  # fmt: skip
def test_values_are_literals_or_text(given, wanted):
    found = text.value(given)
    assert found == wanted and type(found) is type(wanted)


def test_values_may_be_methods_schedules_and_rules():
    adjoint = text.value("ConjugateGradient(steps=5)")
    assert isinstance(adjoint, bl.ConjugateGradient) and adjoint.steps == 5
    assert isinstance(text.value("bl.Direct()"), bl.Direct)
    assert float(text.value("inverse_power(1.0, 0.5, offset=3)")(1)) == 0.5
    rule = text.value("Rule(optax.adam, 0.01, b1=0.8)")
    assert rule.optimizer is optax.adam and float(rule.learning_rate(0)) == 0.01 and float(rule.settings["b1"]) == 0.8
    assert text.value("EpochSGD.plain(5, 0.1)").lengths == (5,)
    nested = text.value("Newton(steps=3, linear=ConjugateGradient(7))")
    assert nested.linear.steps == 7


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("ConjugateGradient(steps=-1)", ValueError, "steps: got -1"),
        ("ConjugateGradient(step=1)", TypeError, r"ConjugateGradient\(step=1\): .*'step'"),
    ],
)
def test_what_a_method_refuses_is_said(given, error, message):
    with pytest.raises(error, match=message):
        text.value(given)


def test_brackets_hold_settings_with_one_or_several_values():
    assert text.divided("solver", "soba") == ("soba", {})
    assert text.divided("solver", " soba[a=1, 2,b = (1,2)] ") == ("soba", {"a": ["1", "2"], "b": ["(1,2)"]})
    parts = text.divided("solver", "ba[adjoint=Direct(),ConjugateGradient(steps=5),warm_start=True]")
    assert parts == ("ba", {"adjoint": ["Direct()", "ConjugateGradient(steps=5)"], "warm_start": ["True"]})
    assert text.divided("solver", "d[1]/a.py:B[c='x,y]']") == ("d[1]/a.py:B", {"c": ["'x,y]'"]})


@pytest.mark.parametrize(
    "wrong", ["soba[a=1", "soba]", "soba[]", "soba[1]", "soba[a=]", "soba[a=1,]", "soba[a=1]b", "[a=1]x"]
)
def test_brackets_that_are_no_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"solver: got .*; write it as NAME\[SETTING=VALUE"):
        text.divided("solver", wrong)


def test_a_setting_has_one_place():
    with pytest.raises(ValueError, match="names a twice"):
        text.divided("solver", "soba[a=1,b=2,a=3]")


def test_lists_are_divided_outside_of_brackets():
    assert text.pieces("soba[a=1,2], aid ,d's/m.py:B[c='x,y',d=(1,2)]") == [
        "soba[a=1,2]", "aid", "d's/m.py:B[c='x,y',d=(1,2)]"
    ]  # fmt: skip


def test_assignments():
    parsed = text.assignments("set", ["a=1", "b = 1e-2", "d=(1, 2)", "e=fashion-mnist", "f=x=y", "g=Direct()"])
    assert isinstance(parsed.pop("g"), bl.Direct)
    assert parsed == {"a": 1, "b": 0.01, "d": (1, 2), "e": "fashion-mnist", "f": "x=y"}
    for wrong in ("a", "=1", ""):
        with pytest.raises(ValueError, match="set: got .*key=value"):
            text.assignments("set", [wrong])
