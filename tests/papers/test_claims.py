"""Claims: each check on a planted record that supports it and one that does not, and the verdict over seeds."""

import math

import numpy as np
import pytest

from bilevel.compare.records import Run
from bilevel.papers import claims
from bilevel.papers.claims import FAILS, HOLDS, UNDECIDED, UNTESTED, judge, overall
from bilevel.papers.entries import ENTRIES

STEPS = np.arange(21)


def run(values, label="a", seed=0, metric="m", axis=None, result="successful", **columns):
    """A history whose every axis is its row's number, or `axis`."""
    axis = STEPS[: len(values)] if axis is None else axis
    rows = [
        {"step": float(at), "seconds": float(at), "F": at, "G": at, "H": at, "J": at, metric: float(value)}
        | {name: float(column[i]) for name, column in columns.items()}
        for i, (at, value) in enumerate(zip(axis, values, strict=True))
    ]
    return Run(label, seed, result, "", rows, {})


def rising(end, *, speed=1.0):
    """From 0.1 towards `end`."""
    return 0.1 + (end - 0.1) * (1 - np.exp(-speed * STEPS / 4))


def planted(check, *, supports):
    """The runs of one seed that bear a check out, or that speak against it."""
    sign = 1.0 if supports else -1.0
    name = check.metric if hasattr(check, "metric") else ""
    match check:
        case claims.Exceeds():
            low = 0.0 if check.low is None else 0.3
            runs = {check.high: run(np.full(21, low + check.by + sign * 0.05), metric=name)}
            return runs if check.low is None else runs | {check.low: run(np.full(21, low), metric=name)}
        case claims.Near():
            apart = check.within * (0.2 if supports else 3.0)
            return {
                check.one: run(np.full(21, 0.5), metric=name),
                check.other: run(np.full(21, 0.5 + apart), metric=name),
            }
        case claims.Above():
            return {
                check.high: run(rising(0.5) + check.by + sign * 0.05, metric=name),
                check.low: run(rising(0.5), metric=name),
            }
        case claims.Diverges():
            direction = 1.0 if check.rising else -1.0
            values = direction * (rising(0.9)[::-1] if supports else rising(0.9))
            return {check.curve: run(values, metric=name)}
        case claims.Slope():
            slope = check.above + sign * 0.3 if check.above is not None else check.below - sign * 0.3
            axis = np.geomspace(max(check.start, 1.0), 1000 * max(check.start, 1.0), 21)
            return {check.curve: run(axis**slope, axis=axis, metric=name)}
        case claims.Correlates():
            columns = {check.one: STEPS, check.other: STEPS * sign}
            return {check.curve: run(STEPS, metric="unused", **columns)}
    raise AssertionError(f"no planted record for {type(check).__name__}")


CHECKS = [
    pytest.param(check, id=f"{entry.id}-{i}-{type(check).__name__}")
    for entry in ENTRIES.values()
    for i, claim in enumerate(entry.claims)
    for check in claim.checks
]


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_of_every_entry_can_hold_and_can_fail(check):
    assert check(planted(check, supports=True)) > 0
    assert check(planted(check, supports=False)) < 0
    assert judge(check, [planted(check, supports=True)] * 5).verdict == HOLDS
    assert judge(check, [planted(check, supports=False)] * 5).verdict == FAILS


def test_every_claim_reads_curves_that_its_entry_runs():
    for entry in ENTRIES.values():
        for scale, setup in entry.scales.items():
            labels = {curve.label for curve in setup.curves}
            wanted = {label for claim in entry.claims for check in claim.checks for label in check.curves()}
            assert wanted <= labels, (entry.id, scale, wanted - labels)
            assert len(labels) == len(setup.curves), (entry.id, scale)


def seeds_of(values):
    return [{"a": run(np.full(21, value), seed=i)} for i, value in enumerate(values)]


def test_a_mean_whose_interval_spans_zero_is_undecided():
    check = claims.Exceeds("m", "a")
    found = judge(check, seeds_of([0.3, -0.2, 0.4, -0.3, 0.1]))
    assert found.verdict == UNDECIDED
    assert found.low < 0 < found.high and found.mean == pytest.approx(0.06)


def test_the_interval_is_students():
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    found = judge(claims.Exceeds("m", "a"), seeds_of(values))
    half = 2.7764451 * np.std(values, ddof=1) / math.sqrt(5)  # the 97.5 % point of Student's t with four degrees
    assert (found.low, found.high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))


def test_four_seeds_are_too_few():
    assert judge(claims.Exceeds("m", "a"), seeds_of([1.0] * 4)).verdict == UNTESTED


def test_a_missing_curve_is_not_tested():
    assert judge(claims.Exceeds("m", "b", "a"), seeds_of([1.0] * 5)).verdict == UNTESTED


def test_a_number_that_is_not_finite_decides_nothing():
    found = judge(claims.Exceeds("m", "a"), seeds_of([1.0, 1.0, math.nan, 1.0, 1.0]))
    assert found.verdict == UNDECIDED and "finite" in found.reason


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, UNDECIDED], UNDECIDED),
        ([UNDECIDED, FAILS, UNTESTED], FAILS),
        ([HOLDS, UNTESTED], UNTESTED),
    ],
)
def test_a_claim_of_several_parts(verdicts, expected):
    assert overall(verdicts) == expected


def test_above_reads_the_part_of_the_axis_that_both_cover():
    check = claims.Above("m", "a", "b", "step")
    short = run([0.5, 0.5], axis=[0, 1])
    long = run([0.0, 0.0, 9.0], axis=[0, 1, 2])
    assert check({"a": short, "b": long}) == pytest.approx(0.5)


def test_a_broken_run_diverges():
    check = claims.Diverges("a", "m")
    assert check({"a": run(rising(0.9), result="nonfinite")}) == 1.0
    assert check({"a": run([0.5, math.nan])}) == 1.0


def test_calls_and_gradients():
    row = {"F": 1, "G": 2, "H": 4, "J": 8, "step": 3}
    assert claims.position(row, "calls") == 15
    assert claims.position(row, "gradients") == 3
    assert claims.position(row, "step") == 3
