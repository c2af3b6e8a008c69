"""Single loops: x, y and v move at once; SABA's tables; F2SA's penalty."""

import numpy as np
import pytest

from .borep import borep
from .dense import X0, Y0, close, exact, lower_solution
from .draws import Draws
from .f2sa import f2sa
from .masoba import masoba
from .mrbo import mrbo
from .saba import saba
from .soba import soba
from .sustain import sustain
from .svrb import svrb

# listing, its step of each recorded variable, its other settings
AT_ONCE = {
    "soba": (soba, dict(x="gamma", y="rho", v="rho_v"), {}),
    "saba": (saba, dict(x="gamma", y="rho", v="rho_v"), dict(sizes=(50, 40))),
    "masoba": (masoba, dict(x="alpha", y="beta", v="gamma", h="theta"), {}),
    "borep": (borep, dict(x="eta", z="nu", m="beta"), dict(gamma=0.4, I=1, N=1, R=9.0)),
    "sustain": (sustain, dict(x="alpha", y="beta", hf="eta_f", hg="eta_g"), dict(K=4, L=1.5, ks=[2])),
    "mrbo": (mrbo, dict(x="gx", y="gy"), dict(alpha=lambda k: 0.5, beta=lambda k: 0.5, Q=2, eta=0.4)),
    "svrb": (svrb, dict(x="alpha", y="beta"), dict(a=lambda k: 0.5, mu=0.1)),
}


def visits(pairs):
    """The recorded draws of a list of (lower block, upper block)."""
    lower, upper = np.arange(200).reshape(5, 40), np.arange(150).reshape(3, 50)
    return Draws([[], *([("lower", lower[i]), ("upper", upper[j])] for i, j in pairs)])


@pytest.mark.parametrize("name", AT_ONCE)
def test_the_first_move_of_a_variable_depends_on_no_step_but_its_own(problem, everything, name):
    listing, steps, settings = AT_ONCE[name]
    numbers = name == "borep"  # whose steps are no functions of k

    def first(**changed):
        rates = {step: changed.get(step, 0.3) for step in steps.values()}
        rates = rates if numbers else {step: lambda k, rate=rate: rate for step, rate in rates.items()}
        draws = visits([(1, 2)]) if name == "saba" else everything
        return listing(problem, X0, Y0, draws, 1, **rates, **settings)[0]

    before = first()
    for variable, step in steps.items():
        after = first(**{step: 0.6})
        moved = {other for other in steps if not np.allclose(before[other], after[other], rtol=1e-12, atol=1e-12)}
        # MA-SOBA's first average is 0, and SUSTAIN's first weights are 1
        assert moved == ({variable} - ({"x"} if name == "masoba" else {"hf", "hg"}))


def products(problem, x, y, v, e):
    r, s = e.lower(), e.upper()
    G_y, right = problem.G_y(x, y, r), problem.H(x, y, v, r) - problem.F_y(x, y, s)
    return dict(x=problem.F_x(x, y, s) - problem.J(x, y, v, r), y=G_y, v=right)


@pytest.mark.parametrize("full_pass", [True, False])
def test_the_mean_of_sabas_steps_over_the_blocks_is_the_full_step(problem, everything, full_pass):
    """After any history."""
    settings = dict(rho=lambda k: 0.4, gamma=lambda k: 0.2, rho_v=lambda k: 0.3, sizes=(50, 40), full_pass=full_pass)
    history, ends = [(0, 2), (3, 1), (3, 0), (1, 2)], []
    for pair in np.ndindex(5, 3):
        *_, before, end = saba(problem, X0, Y0, visits([*history, pair]), 5, **settings)
        ends.append(end)
    slopes = products(problem, before["x"], before["y"], before["v"], everything)
    for (name, slope), step in zip(slopes.items(), (0.2, 0.4, 0.3), strict=True):
        values = [end[name] for end in ends]
        assert np.std(values, axis=0).max() > 1e-5
        close(np.mean(values, axis=0), before[name] - step * slope)


def test_saba_with_one_block_is_soba(problem, everything):
    settings = dict(rho=lambda k: 0.4 / (k + 1), gamma=lambda k: 0.2 / (k + 2), rho_v=lambda k: 0.3)
    run = saba(problem, X0, Y0, everything, 5, full_pass=False, sizes=(problem.m, problem.n), **settings)
    for state, expected in zip(run, soba(problem, X0, Y0, everything, 5, **settings), strict=True):
        for name, value in expected.items():
            close(state[name], value)


def test_f2sa_approaches_the_hypergradient_like_one_over_lambda(problem, everything):
    h = exact(problem, X0, lower_solution(problem, X0))[1]

    def error(lam):
        """With both lower loops at their ends, and x's step 1."""
        steps = dict(alpha=0.8 / (lam + 5), gamma=0.8, lam=lam, xi_alpha=1.0)
        steps = {name: lambda k, value=value: value for name, value in steps.items()}
        state = f2sa(problem, X0, Y0, everything, 1, T=100, **steps)[0]
        close(state["z"], lower_solution(problem, X0), 1e-9)
        return np.linalg.norm(X0 - state["x"] - h)

    coarse, middle, fine = (error(lam) for lam in (500.0, 1000.0, 2000.0))
    assert fine < 0.01 * np.linalg.norm(h)
    assert 1.9 < coarse / middle < 2.1 and 1.9 < middle / fine < 2.1
