"""The referee is itself examined: SABA and its tables."""

import numpy as np
import pytest

from .dense import X0, Y0, close, steepness
from .draws import Draws
from .problem import NumpyCleaning
from .saba import saba
from .soba import soba

SIZES = (50, 40)  # 3 upper blocks, 5 lower blocks
SABA = dict(rho=lambda k: 0.4 / (k + 1), gamma=lambda k: 0.2 / (k + 2), rho_v=lambda k: 0.3, sizes=SIZES)


def agree(state, **values):
    for name, value in values.items():
        close(state[name], value)


def block(number, size):
    return np.arange(number * size, (number + 1) * size)


def visits(pairs):
    """The recorded draws of a list of (lower block, upper block)."""
    return [[], *([("lower", block(i, 40)), ("upper", block(j, 50))] for i, j in pairs)]


def products(problem, x, y, v, r):
    return problem.G_y(x, y, r), problem.H(x, y, v, r), problem.J(x, y, v, r)


def gradients(problem, x, y, r):
    return problem.F_y(x, y, r), problem.F_x(x, y, r)


@pytest.mark.parametrize("full_pass", [True, False])
def test_saba_tables_hold_the_products_of_their_time(problem, rng, full_pass):
    """Each block's entry is recomputed from the point of its last visit, each mean from the entries."""
    pairs = list(zip(rng.integers(0, 5, 12), rng.integers(0, 3, 12), strict=True))
    run = saba(problem, X0, Y0, Draws(visits(pairs)), 12, full_pass=full_pass, **SABA)
    x, y, v = X0, Y0, np.zeros(problem.q)
    start = (x, y, v) if full_pass else None
    lower_seen, upper_seen = [start] * 5, [start] * 3

    def lower_entry(i):
        blank = (np.zeros(4), np.zeros(4), np.zeros(3))
        return blank if lower_seen[i] is None else products(problem, *lower_seen[i], block(i, 40))

    def upper_entry(j):
        blank = (np.zeros(4), np.zeros(3))
        return blank if upper_seen[j] is None else gradients(problem, *upper_seen[j][:2], block(j, 50))

    def estimate(now, index, entries):
        return [n - e[index] + np.mean(e, axis=0) for n, e in zip(now, entries, strict=True)]

    for k, (i, j) in enumerate(pairs):
        lower_entries = zip(*(lower_entry(number) for number in range(5)), strict=True)
        upper_entries = zip(*(upper_entry(number) for number in range(3)), strict=True)
        a, b, c = estimate(products(problem, x, y, v, block(i, 40)), i, lower_entries)
        p, r = estimate(gradients(problem, x, y, block(j, 50)), j, upper_entries)
        lower_seen[i] = upper_seen[j] = (x, y, v)
        x, y, v = x - 0.2 / (k + 2) * (r - c), y - 0.4 / (k + 1) * a, v - 0.3 * (b - p)
        agree(run[k], x=x, y=y, v=v)


@pytest.mark.parametrize("full_pass", [True, False])
def test_saba_is_unbiased_over_the_blocks(problem, everything, full_pass):
    """After any history, the mean step over all the blocks is the full-batch step."""
    history = [(0, 2), (3, 1), (3, 0), (1, 2)]
    settings = SABA | dict(full_pass=full_pass)
    ends = []
    for pair in np.ndindex(5, 3):
        run = saba(problem, X0, Y0, Draws(visits([*history, pair])), 5, **settings)
        before, end = run[3], run[4]
        ends.append(end)
    x, y, v = before["x"], before["y"], before["v"]
    a, b, c = products(problem, x, y, v, everything.lower())
    p, r = gradients(problem, x, y, everything.upper())
    for name, value in dict(x=x - 0.2 / 6 * (r - c), y=y - 0.4 / 5 * a, v=v - 0.3 * (b - p)).items():
        values = [end[name] for end in ends]
        assert np.std(values, axis=0).max() > 1e-5
        close(np.mean(values, axis=0), value)


def test_saba_with_one_block_is_soba(problem, everything):
    settings = SABA | dict(sizes=(problem.m, problem.n))
    run = saba(problem, X0, Y0, everything, 5, full_pass=False, **settings)
    settings.pop("sizes")
    for state, expected in zip(run, soba(problem, X0, Y0, everything, 5, **settings), strict=True):
        agree(state, **expected)


def test_saba_v_takes_the_step_of_y_unless_told(problem):
    draws = visits([(0, 0), (1, 1), (2, 2)])
    plain, same = (
        saba(problem, X0, Y0, Draws(draws), 3, **(SABA | dict(rho_v=rho_v)))[-1] for rho_v in (None, SABA["rho"])
    )
    agree(plain, **same)


def test_saba_refuses_what_is_not_a_block(problem, rng):
    steps = visits([(0, 0)])
    for wrong in (rng.integers(0, 40, 40), block(0, 40) + 1, block(0, 20)):
        steps[1][0] = ("lower", wrong)
        with pytest.raises(AssertionError, match="not a block"):
            saba(problem, X0, Y0, Draws(steps), 1, **SABA)
    with pytest.raises(AssertionError, match="do not split"):
        saba(problem, X0, Y0, Draws(visits([(0, 0)])), 1, **(SABA | dict(sizes=(50, 41))))


def test_saba_tables_hold_one_weight_a_row(problem):
    """On data cleaning, a block's J[v] moves only its own rows, and the mean keeps the others'."""
    cleaning = NumpyCleaning(problem)
    draws = Draws(visits([(0, 0), (2, 1)]))
    settings = SABA | dict(full_pass=False)
    first, second = saba(cleaning, np.zeros(200), Y0, draws, 2, **settings)
    assert not first["x"].any()  # v_0 = 0
    assert np.flatnonzero(second["x"]).tolist() == block(2, 40).tolist()
    x = 0.2 / 3 * cleaning.J(first["x"], first["y"], first["v"], block(2, 40))
    agree(second, x=x)


def test_saba_ends_exactly_on_single_blocks_where_soba_does_not(problem, rng):
    """The tables' variance vanishes: constant steps, one random block a step, the exact end."""
    pairs = list(zip(rng.integers(0, 5, 1500), rng.integers(0, 3, 1500), strict=True))
    settings = dict(rho=lambda k: 0.2, gamma=lambda k: 0.1)
    final = saba(problem, X0, Y0, Draws(visits(pairs)), 1500, sizes=SIZES, **settings)[-1]
    assert steepness(problem, final["x"]) < 1e-7
    noisy = soba(problem, X0, Y0, Draws(visits(pairs)), 1500, **settings)[-1]
    assert steepness(problem, noisy["x"]) > 1e-3
