"""Claims: each check on planted records that support it and that do not, what is no evidence, and the verdict."""

import math

import numpy as np
import pytest

from bilevel.compare.records import Run
from bilevel.papers import checks, histories
from bilevel.papers.claims import FAILS, HOLDS, UNDECIDED, UNTESTED, Claim, Threshold, judge, judged, overall
from bilevel.papers.entries import ENTRIES

STEPS = np.arange(21)


def run(values, label="a", seed=0, metric="m", axis=None, result="successful", **columns):
    """A history whose every axis is its row's number, or `axis`."""
    axis = STEPS[: len(values)] if axis is None else axis
    values = np.add(values, 1.0) if metric == "test loss" else values  # a loss at twice its start has diverged
    rows = [
        {"step": float(at), "seconds": float(at), "F": at, "G": at, "H": at, "J": at, metric: float(value)}
        | {name: float(column[i]) for name, column in columns.items()}
        for i, (at, value) in enumerate(zip(axis, values, strict=True))
    ]
    return Run(label, seed, result, "", rows, {})


def rising(end, *, speed=1.0):
    """From 0.1 towards `end`."""
    return 0.1 + (end - 0.1) * (1 - np.exp(-speed * STEPS / 4))


SLIGHT = 1e-3 * STEPS[::-1] * (STEPS < 15)  # a curve that moves, and whose end is flat


def flat(end):
    """A curve with this end."""
    return SLIGHT + end


def planted(check, *, supports):
    """The runs of five seeds that bear a check out, or that speak against it."""
    if isinstance(check, checks.Spreads):
        wide, narrow = (check.wide, check.narrow) if supports else (check.narrow, check.wide)
        ends = (0.0, 0.2, 0.4, 0.6, 0.8)
        return [
            {wide: run(flat(end), label=wide, metric=check.metric), narrow: run(flat(0.4), narrow, metric=check.metric)}
            for end in ends
        ]
    if isinstance(check, checks.Larger):
        one, other = (planted(part, supports=side)[0] for part, side in ((check.one, supports), (check.other, False)))
        if not supports:
            other = planted(check.other, supports=True)[0]
        return [one | other] * 5 if set(one).isdisjoint(other) else [_twice(check, supports)] * 5
    return [_planted(check, 1.0 if supports else -1.0)] * 5


def _twice(check, supports):
    """A difference of two parts of the same curves: ahead at first and not at the end, or the reverse."""
    lead = np.linspace(0.2, -0.2, 21) * (1.0 if supports else -1.0)
    one, metric = check.one, check.one.metric
    return {
        one.high: run(rising(0.5) + lead, one.high, metric=metric),
        one.low: run(rising(0.5), one.low, metric=metric),
    }


def _planted(check, sign):
    name = check.metric if hasattr(check, "metric") else ""
    match check:
        case checks.Exceeds():
            low = 0.0 if check.low is None else 0.3
            runs = {check.high: run(flat(low + check.by + sign * 0.05), check.high, metric=name)}
            return runs if check.low is None else runs | {check.low: run(flat(low), check.low, metric=name)}
        case checks.Near():
            apart = check.within * (0.2 if sign > 0 else 3.0)
            return {
                check.one: run(flat(0.5), check.one, metric=name),
                check.other: run(flat(0.5 + apart), check.other, metric=name),
            }
        case checks.Above():
            return {
                check.high: run(rising(0.5) + sign * 0.05, check.high, metric=name),
                check.low: run(rising(0.5), check.low, metric=name),
            }
        case checks.Sooner():
            up = 1.0 if check.rising else -1.0
            speeds = (2.0 * check.factor + 2.0, 1.0) if sign < 0 else (1.0, 2.0 / check.factor + 2.0)
            return {
                label: run(check.level + up * (np.arange(21) / 20 - 0.2), label, axis=STEPS * speed, metric=name)
                for label, speed in zip((check.first, check.other), speeds, strict=True)
            }
        case checks.Drops():
            bound = check.more if check.more is not None else check.less
            drop = bound * (2.0 if (sign > 0) == (check.more is not None) else 0.2)
            values = np.where(STEPS < 10, STEPS / 9, 1.0 - drop)
            return {check.curve: run(values, check.curve, metric=name)}
        case checks.Diverges():
            values = rising(0.9) if sign > 0 else rising(0.9)[::-1]
            return {check.curve: run(values, check.curve, metric=name)}
        case checks.Slope():
            slope = check.above + sign * 0.3 if check.above is not None else check.below - sign * 0.3
            axis = np.geomspace(max(check.start, 1.0), 1000 * max(check.start, 1.0), 21)
            return {check.curve: run(axis**slope, check.curve, axis=axis, metric=name)}
        case checks.Correlates():
            columns = {check.one: STEPS, check.other: STEPS * sign}
            return {check.curve: run(STEPS, check.curve, metric="unused", **columns)}
    raise AssertionError(f"no planted record for {type(check).__name__}")


CHECKS = [
    pytest.param(check, id=f"{entry.id}-{i}-{type(check).__name__}")
    for entry in ENTRIES.values()
    for i, claim in enumerate(entry.claims)
    for check in claim.checks
]


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_of_every_entry_can_hold_and_can_fail(check):
    assert judge(check, planted(check, supports=True)).verdict in (HOLDS, UNDECIDED)
    assert judge(check, planted(check, supports=True)).mean > 0
    assert judge(check, planted(check, supports=False)).mean < 0
    if not isinstance(check, checks.Spreads):  # its number differs from seed to seed
        assert judge(check, planted(check, supports=True)).verdict == HOLDS
        assert judge(check, planted(check, supports=False)).verdict == FAILS


def test_every_claim_reads_curves_that_its_entry_runs():
    for entry in ENTRIES.values():
        for size, setup in entry.sizes.items():
            labels = {curve.label for curve in setup.curves}
            here = [claim for claim in entry.claims if not claim.sizes or size in claim.sizes]
            wanted = {label for claim in here for label in claim.curves()}
            assert size == "smoke" or wanted <= labels, (entry.id, size, wanted - labels)
            assert len(labels) == len(setup.curves), (entry.id, size)


def test_every_claim_quotes_its_paper():
    for entry in ENTRIES.values():
        for claim in entry.claims:
            quoted = "“" in claim.quote and "”" in claim.quote and "(" in claim.quote
            assert quoted, (entry.id, claim.quote)


def seeds_of(values, label="a"):
    return [{label: run(flat(value), label, seed=i)} for i, value in enumerate(values)]


def test_a_mean_whose_interval_spans_zero_is_undecided():
    check = checks.Exceeds("m", "a")
    found = judge(check, seeds_of([0.3, -0.2, 0.4, -0.3, 0.1]))
    assert found.verdict == UNDECIDED
    assert found.low < 0 < found.high
    assert found.mean == pytest.approx(0.06)


def test_the_interval_is_students():
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    found = judge(checks.Exceeds("m", "a"), seeds_of(values))
    half = 2.7764451 * np.std(values, ddof=1) / math.sqrt(5)  # the 97.5 % point of Student's t with four degrees
    assert (found.low, found.high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))


def test_four_seeds_are_too_few():
    assert judge(checks.Exceeds("m", "a"), seeds_of([1.0] * 4)).verdict == UNTESTED


def test_a_missing_curve_is_not_tested():
    assert judge(checks.Exceeds("m", "b", "a"), seeds_of([1.0] * 5)).verdict == UNTESTED


def test_a_number_that_is_not_finite_decides_nothing():
    found = judge(checks.Exceeds("m", "a"), seeds_of([1.0, 1.0, math.nan, 1.0, 1.0]))
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


def test_a_run_that_broke_off_is_no_evidence_for_the_other():
    check = checks.Exceeds("m", "a", "b")
    broken = [{"a": run(flat(0.9), "a"), "b": run([0.1], "b", result="not_convex")}]
    sound = [{"a": run(flat(0.9), "a"), "b": run(flat(0.1), "b")}]
    found = judge(check, broken * 5)
    assert found.verdict == UNTESTED
    assert "5 of 5 seeds: b broke off (not_convex)" in found.reason
    assert judge(check, broken + sound * 4).verdict == UNTESTED
    some = judge(check, broken + sound * 5)
    assert some.verdict == HOLDS
    assert "1 of 6 seeds: b broke off" in some.reason


def test_a_run_that_diverged_is_no_evidence_for_the_other():
    def seeds(last):
        loss = {"test loss": np.linspace(1.6, last, len(STEPS))}
        return [{"a": run(flat(0.9), "a"), "b": run(flat(0.1), "b", **loss)}] * 5

    check = checks.Exceeds("m", "a", "b")
    assert judge(check, seeds(2.0)).verdict == HOLDS
    found = judge(check, seeds(200.0))
    assert found.verdict == UNTESTED and "5 of 5 seeds: b diverged" in found.reason
    assert judge(checks.Drops("m", "b", less=0.5), seeds(200.0)).verdict == HOLDS  # a claim on the end of one run


def test_a_curve_that_never_moved_is_no_evidence():
    check = checks.Exceeds("m", "a", "b")
    seeds = [{"a": run(flat(0.9), "a"), "b": run(np.full(21, 0.1), "b")}] * 5
    assert judge(check, seeds).verdict == UNTESTED
    assert "b never moved in m" in judge(check, seeds).reason


def test_below_the_level_that_a_comparison_needs_nothing_is_tested():
    claim = Claim("“…” (somewhere)", "a is above b", (checks.Exceeds("m", "a", "b"),), Threshold("m", least=0.6))
    low = [{"a": run(flat(0.5), "a"), "b": run(flat(0.2), "b")}] * 5
    high = [{"a": run(flat(0.7), "a"), "b": run(flat(0.2), "b")}] * 5
    (found,) = judged(claim, low)
    assert found.verdict == UNTESTED
    assert found.reason == "the best method ends at m 0.5; the comparison needs 0.6"  # 0.52 in its best row
    assert judged(claim, high)[0].verdict == HOLDS
    assert "no run of a" in judged(claim, [{}] * 5)[0].reason
    losses = Claim("“…” (somewhere)", "a is above b", claim.checks, Threshold("m", most=0.1))
    assert judged(losses, low)[0].verdict == UNTESTED


def test_above_compares_only_about_the_same_budget():
    check = checks.Above("m", "a", "b", "step")
    short, long = run([0.5, 0.6], "a", axis=[0, 1]), run([0.0, 0.1, 9.0], "b", axis=[0, 1, 2])
    found = judge(check, [{"a": short, "b": long}] * 5)
    assert found.verdict == UNTESTED
    assert "a covers 1 of step, b 2: not the same budget" in found.reason
    assert check({"a": run([0.5, 0.5], axis=[0, 9]), "b": run([0.0, 0.0, 9.0], axis=[0, 9, 10])}) == pytest.approx(0.5)


def test_above_on_whatever_the_two_cover():
    runs = {"a": run([0.5, 0.6], "a", axis=[0, 1]), "b": run([0.0, 0.1, 9.0], "b", axis=[0, 1, 2])}
    found = judge(checks.Above("m", "a", "b", "step", covered=0.0), [runs] * 5)
    assert (found.verdict, found.mean) == (HOLDS, pytest.approx(0.5))


def test_above_on_a_part_of_the_axis():
    runs = {"a": run(np.where(STEPS < 10, 1.0, 0.0)), "b": run(np.where(STEPS < 10, 0.0, 1.0))}
    assert checks.Above("m", "a", "b", "step", part=(0.0, 0.25))(runs) == pytest.approx(1.0)
    assert checks.Above("m", "a", "b", "step", part=(0.75, 1.0))(runs) == pytest.approx(-1.0)


def test_a_step_s_result_is_there_at_its_end():
    """Rows at steps 0, 1 and 4, of two seconds each."""
    steps = np.array([0.0, 1.0, 4.0])
    a = run([1.0, 0.5, 0.2], "a", step=steps, seconds=2 * steps)
    np.testing.assert_allclose(
        histories.along(a, "m", "seconds", np.array([0, 1.9, 2, 3.9, 4, 7.9, 8])), [1, 1, 0.5, 0.5, 0.4, 0.3, 0.2]
    )
    b = run([0.0, 0.0], "b", axis=[0, 8])
    assert checks.Above("m", "a", "b", "seconds")({"a": a, "b": b}) == pytest.approx(0.55, abs=0.005)
    for level, end in ((0.6, 2.0), (0.45, 4.0), (0.31, 6.0), (0.2, 8.0)):
        check = checks.Sooner("m", level, "a", "b", "seconds", rising=False)
        never = run([1.0, 1.0], "b", axis=[0, 8])
        assert check({"a": a, "b": never}) == pytest.approx(np.log(8 / end))


def test_sooner_reads_the_axis_between_rows():
    runs = {"a": run([0, 1], axis=[0, 10]), "b": run([0, 1], axis=[0, 40])}
    assert checks.Sooner("m", 0.5, "a", "b", "step")(runs) == pytest.approx(np.log(4))
    assert checks.Sooner("m", 0.5, "b", "a", "step", factor=4.0)(runs) == pytest.approx(0)
    assert checks.Sooner("m", 2.0, "a", "b", "step").trouble(runs) == "neither a nor b reaches m 2"
    late = runs | {"b": run([0, 0.4], axis=[0, 40])}
    assert checks.Sooner("m", 0.5, "a", "b", "step")(late) == pytest.approx(np.log(8))  # at its last row
    assert checks.Sooner("m", 0.5, "b", "a", "step")(late) == pytest.approx(-np.log(10))


def test_spreads_is_the_distance_from_the_median():
    seeds = [{"a": run(flat(a), "a"), "b": run(flat(b), "b")} for a, b in [(0, 1), (3, 1), (6, 2)]]
    np.testing.assert_allclose(checks.Spreads("m", "a", "b").over(seeds), [3 - 0, 0 - 0, 3 - 1])


def test_a_broken_run_diverges():
    check = checks.Diverges("a", "m")
    assert check({"a": run(rising(0.9), result="nonfinite")}) == 1.0
    assert check({"a": run([0.5, math.nan])}) == 1.0
    assert judge(check, [{"a": run([0.5], result="nonfinite")}] * 5).verdict == HOLDS


def test_sums_of_oracles():
    row = {"F": 1, "G": 2, "H": 4, "J": 8, "step": 3}
    found = {
        axis: histories.position(row, axis) for axis in ("calls", "gradients", "products", "outer gradients", "step")
    }
    assert found == {"calls": 15, "gradients": 3, "products": 12, "outer gradients": 1, "step": 3}


def test_a_check_says_what_its_number_is():
    above = checks.Above("loss", "a", "b", "seconds", part=(0.5, 1.0))
    assert str(above) == "loss over seconds (50% to 100% of them): a minus b"
    assert str(checks.Exceeds("loss", "a", by=-0.05)) == "loss at the end: a plus 0.05"
    assert (
        str(checks.Sooner("step", 1.0, "a", "b", "seconds", factor=0.5)) == "log of seconds until step ≥ 1: 0.5 · b ÷ a"
    )
    for claim in (claim for entry in ENTRIES.values() for claim in entry.claims):
        for check in claim.checks:
            assert all(label in str(check) for label in check.curves())
