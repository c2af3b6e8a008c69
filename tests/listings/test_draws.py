"""Recorded draws: their order, and the effect of one more or one fewer on each listing."""

import pytest

from .alset import alset
from .borep import borep
from .bsa import bsa
from .dense import X0, Y0, recorded
from .draws import Draws
from .fsla import fsla, schedules
from .soba import soba
from .sustain import sustain
from .ttsa import ttsa
from .vrbo import vrbo


def test_draws_are_first_in_first_out_per_level_and_counted():
    draws = Draws([[], [("lower", [1]), ("upper", [2]), ("lower", [3])]])
    draws.begin(0)
    with pytest.raises(AssertionError, match="one more lower"):
        draws.lower()
    draws.end()
    draws.begin(1)
    assert draws.left("lower") == 2
    assert draws.lower()[0] == 1 and draws.lower()[0] == 3
    with pytest.raises(AssertionError, match="1 upper draws were never used"):
        draws.end()
    with pytest.raises(AssertionError, match="never ended"):
        draws.begin(0)


def always(*names):
    return {name: lambda k: 0.3 for name in names}


HIA = always("alpha", "beta") | dict(eta=0.4)
BOREP = dict(eta=0.1, beta=0.9, nu=0.2, gamma=0.3, I=1, N=1, R=1.0, T=[1, 2], alphas=[0.3, 0.2], plain=True)
# the listings whose steps differ in their draws: those of `init` and of two iterations, "l" a lower one
RUNS = {
    "bsa": (bsa, ["", "llulll", "lllul"], HIA | dict(t_k=lambda k: k + 2, order=lambda k: 3 - 2 * k)),
    "ttsa": (ttsa, ["", "lulll", "lull"], HIA | dict(order=lambda k: 3 - k)),
    "alset": (alset, ["", "llull", "llulll"], HIA | dict(T=2, N=3)),
    "sustain": (sustain, ["", "lull", "lulll"], always("alpha", "beta", "eta_f", "eta_g") | dict(K=3, L=2.5)),
    "fsla": (fsla, ["ul", "lulul", "lulul"], schedules(0.5, 0.4, 0.6, 0.7)),
    "borep": (borep, ["lll", "lu", "llu"], BOREP),
    "vrbo": (vrbo, ["", "lulll" * 4, "lulll" * 3], always("alpha", "beta") | dict(Q=2, eta=0.4, q=2, m1=2)),
    "soba": (soba, ["", "lu", "lu"], always("rho", "gamma")),
}


@pytest.mark.parametrize("name", RUNS)
def test_one_draw_more_or_less_is_noticed(problem, rng, name):
    """A lower draw more is one factor more than the listings that use p = 0..K-1 factors have."""
    listing, levels, settings = RUNS[name]
    steps = [recorded(rng, step) for step in levels]
    assert len(listing(problem, X0, Y0, Draws(steps), 2, **settings)) == 2
    more_lower = "is not in 0.." if name in ("bsa", "ttsa", "alset", "sustain") else "1 lower draws were never used"
    for draw, message in zip("lu", (more_lower, "1 upper draws were never used"), strict=True):
        with pytest.raises(AssertionError, match=message):
            listing(problem, X0, Y0, Draws([*steps[:2], steps[2] + recorded(rng, draw)]), 2, **settings)
    with pytest.raises(AssertionError, match="step 2: the listing needs one more upper draw"):
        listing(problem, X0, Y0, Draws([*steps[:2], [draw for draw in steps[2] if draw[0] == "lower"]]), 2, **settings)
    with pytest.raises(AssertionError, match="step 0: 1 lower draws were never used"):
        listing(problem, X0, Y0, Draws([steps[0] + recorded(rng, "l"), *steps[1:]]), 2, **settings)
