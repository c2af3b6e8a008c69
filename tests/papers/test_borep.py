"""BO-REP's entries: their tasks can be made, and ablations take the steps that are tuned for BO-REP itself."""

import dataclasses

import pytest

from bilevel.compare.settings import make_task
from bilevel.papers.entries import ENTRIES
from bilevel.papers.entries._borep import SIZES, TINY
from bilevel.papers.entry import Grid, smaller


@pytest.mark.parametrize("size", SIZES)
def test_every_kind_of_task_can_be_made(size):
    """On tiny data and networks."""
    made = {}
    for name in ("borep-fig1", "borep-table3"):
        for curve in smaller(ENTRIES[name].sizes[size], TINY, steps=3).curves:
            made.setdefault(repr(curve.arguments), curve)
            if curve.label == "(a) R = 0.001":
                break
    assert len(made) == 6  # (a) for heads, ANIL, MAML and Table 3; (b); (c)
    for curve in made.values():
        task = make_task(curve.task, 0, curve.arguments)
        assert task.name == curve.task
        if curve.task == "representation":
            assert task.problem.redraw.count == 2 and task.problem.redraw.pool.lower.batch_size is None


@pytest.mark.parametrize("size", SIZES)
def test_ablations_are_tried_as_bo_rep_is_in_figure_1(size):
    ours = {curve.label[:3]: curve for curve in ENTRIES["borep-fig1"].sizes[size].curves if curve.label[4:] == "BO-REP"}
    assert set(ours) == {"(a)", "(b)", "(c)"}
    for name in ("borep-fig7", "borep-fig8", "borep-table3"):
        for curve in ENTRIES[name].sizes[size].curves:
            tried, own = curve.solver.of, ours[curve.label[:3]]
            assert (tried.arguments, tried.steps) == (own.arguments, own.steps) == (tried.arguments, curve.steps)
            assert tried.solver.make is own.solver.make
            assert tried.solver.values == own.solver.values == curve.solver.values


def steps_of(curve):
    solver = curve.solver.make(lower=0.5, upper=0.25, adjoint=0.125)
    rates = tuple(float(getattr(solver, f"{name}_step").rate(0)) for name in ("lower", "upper", "adjoint"))
    return rates, (solver.update_period, solver.inner_steps, float(solver.radius(0)))


def test_ablations_change_what_they_say():
    found = {
        curve.label: steps_of(curve)
        for name in ("borep-fig7", "borep-fig8", "borep-table3")
        for curve in ENTRIES[name].sizes["workstation"].curves
    }
    same = (0.5, 0.25, 0.125)
    assert found["(a) I = 16"] == (same, (16, 3, 0.5))
    assert found["(a) N = 10"] == (same, (2, 10, 0.5))
    assert found["(a) R = 0.125".replace("0.125", "5")] == (same, (2, 3, 5.0))
    assert found["(b) I = 2, N = 3"] == (same, (2, 3, 0.5))
    assert found["(a) I = 12, N = 16"] == (same, (12, 16, 0.5))
    assert found["(b) I = 12, N = 16"] == (pytest.approx((0.4, 0.25, 0.125)), (12, 16, 0.5))
    assert found["(c) I = 12, N = 16"] == (pytest.approx((0.05, 0.25, 0.125)), (12, 16, 0.5))


def test_the_grids_hold_what_the_paper_chose():
    """Appendix F, at its own size: the lower and the upper step of each method."""
    chosen = {
        "(a)": {"BO-REP": (0.001, 0.01), "MAML": (0.05, 0.1), "ANIL": (0.05, 0.1), "stocBiO": (0.05, 0.05),
            "TTSA": (0.1, 0.01), "SOBA": (0.05, 0.05), "MA-SOBA": (0.05, 0.1), "F2SA": (0.05, 0.01)},
        "(b)": {"BO-REP": (0.001, 1e-4), "stocBiO": (0.001, 1e-4), "TTSA": (0.01, 1e-4), "SOBA": (0.05, 1e-4),
            "MA-SOBA": (0.05, 1e-4), "F2SA": (0.01, 1e-4)},
        "(c)": {"BO-REP": (0.05, 0.05), "stocBiO": (0.05, 0.05), "TTSA": (0.05, 0.01), "SOBA": (0.1, 0.05),
            "MA-SOBA": (0.1, 0.05), "F2SA": (0.05, 0.01)},
    }  # fmt: skip
    for curve in ENTRIES["borep-fig1"].sizes["paper"].curves:
        lower, upper = chosen[curve.label[:3]].pop(curve.label[4:])
        assert isinstance(curve.solver, Grid)
        assert lower in curve.solver.values["lower"] and upper in curve.solver.values["upper"]
    assert not any(chosen.values())


def test_each_size_says_its_steps():
    for size in SIZES.values():
        for steps in size.steps.values():
            assert f"{steps:,}" in size.about
        assert dataclasses.asdict(size)["rows"] <= 60
