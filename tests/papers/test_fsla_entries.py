"""FSLA's entries: what the names of its rivals mean, and how long each runs."""

import numpy as np
import pytest

import bilevel as bl
from bilevel.papers.entries import fsla


def test_names_of_rivals():
    bp, ns, cg = (fsla.rival(name).solver for name in ("BP-201", "NS-1-10", "CG-5-1"))
    assert isinstance(bp, bl.ITDBiO) and (bp.inner_steps, bp.warm_start) == (201, False)
    assert isinstance(ns.adjoint, bl.Neumann) and (ns.inner_steps, ns.warm_start) == (1, True)
    assert (ns.adjoint.order, float(ns.adjoint.step(0))) == (9, pytest.approx(0.1))  # ten terms
    assert isinstance(cg.adjoint, bl.ConjugateGradient) and (cg.inner_steps, cg.warm_start) == (5, False)
    assert (cg.adjoint.steps, cg.adjoint.indefinite) == (1, True)
    assert not (ns.adjoint_warm_start or cg.adjoint_warm_start)


def test_all_methods_take_the_steps_of_fsla():
    mine = fsla.fsla()
    for name in ("BP-1", "NS-1-1", "CG-1-10"):
        other = fsla.rival(name)
        for k in (0, 3, 1999):
            rates = [(s.upper_step.rate(k), s.lower_step.rate(k)) for s in (mine, other.solver)]
            np.testing.assert_allclose(rates[1], rates[0])
            np.testing.assert_allclose(rates[0], (1000 / np.sqrt(k + 1), 1 / np.sqrt(k + 1)), rtol=1e-6)
            np.testing.assert_allclose(other.storm_weight(k) if k else 0.9, mine.storm_weight(k))  # the first is 1


def test_slow_methods_run_fewer_iterations_but_at_the_papers_size():
    sizes = fsla.FIG3.sizes
    steps = {size: {c.label: sizes[size].steps_of(c) for c in sizes[size].curves} for size in ("workstation", "paper")}
    assert steps["workstation"] == {
        "FSLA": 500, "NS-1-1": 500, "CG-1-1": 325, "NS-1-10": 100, "NS-5-10": 85, "CG-1-10": 125, "CG-5-10": 110,
    }  # fmt: skip
    assert set(steps["paper"].values()) == {2000}


def test_qmnist_is_run_at_the_papers_size_alone():
    found = {
        size: {curve.arguments["dataset"] for curve in setup.curves if curve.label.startswith("QMNIST")}
        for size, setup in fsla.FIG4.sizes.items()
    }
    assert found == {"smoke": set(), "laptop": set(), "workstation": set(), "paper": {"qmnist"}}
