"""BO-REP: its normalized step, its periods, its ball and the constants of its initial stage."""

import math

import numpy as np

from .borep import borep, epoch_sgd_constants, update_lower
from .dense import X0, Y0, close, recorded, rows
from .draws import Draws
from .problem import NumpyProblem

SETTINGS = dict(eta=0.05, beta=0.6, nu=0.3, gamma=0.4)


def test_x_moves_by_eta_and_y_is_refreshed_every_I(problem, rng):
    steps = [[], *(recorded(rng, levels) for levels in ("lu", "lu", "lllu", "lu", "lllu"))]
    run = borep(problem, X0, Y0, Draws(steps), 5, I=2, N=2, R=0.5, **SETTINGS)
    xs, ys = [X0, *(state["x"] for state in run)], [Y0, *(state["y"] for state in run)]
    close(np.linalg.norm(np.diff(xs, axis=0), axis=1), 0.05)
    assert [not np.array_equal(ys[k], ys[k + 1]) for k in range(5)] == [False, False, True, False, True]


def test_a_zero_momentum_leaves_x(problem, everything):
    still = NumpyProblem(**problem.lower_arrays, P=problem.P, Q=0 * problem.Q, R=0 * problem.R, mu=1)
    state = borep(still, X0, Y0, everything, 1, I=2, N=1, R=1.0, **SETTINGS)[0]
    assert np.array_equal(state["x"], X0)


def test_the_refreshed_y_averages_steps_in_the_ball_about_the_start_of_the_period(problem, rng):
    r = rows(rng)

    def average(R):
        draws = Draws([[("lower", r), ("lower", r)]])
        draws.begin(0)
        return update_lower(problem, X0, Y0, draws, gamma=0.4, N=2, R=R)

    y1 = Y0 - 0.4 * problem.G_y(X0, Y0, r)
    close(average(100.0), (y1 + y1 - 0.4 * problem.G_y(X0, y1, r)) / 2)
    R = 0.9 * np.linalg.norm(y1 - Y0)
    y1 = Y0 + 0.9 * (y1 - Y0)
    y2 = y1 - 0.4 * problem.G_y(X0, y1, r)
    assert np.linalg.norm(y2 - Y0) > R > np.linalg.norm(y2 - y1)  # a ball about the last iterate would not act
    close(average(R), (y1 + Y0 + (y2 - Y0) * R / np.linalg.norm(y2 - Y0)) / 2)


def test_constants_of_the_initial_stage_by_hand():
    # log2(8 / 1) = 3 epochs; 2 k / delta = e^4: lambda = max(sqrt(12), 4) = 4; 4 lambda^2 = 64
    k, T, alphas, radii = epoch_sgd_constants(0.5, 2.0, 0.5, 8.0, 1.0, 6 * math.exp(-4))
    assert k == 3
    # 32 * 64 * 0.25 / (0.5 * 8 * 2^{-(s+2)}) = 512 * 2^s against 16 * 2 / 0.5 = 64
    assert T == [512, 1024, 2048]
    # 2 sqrt(8 * 2^-s / T_s) = 0.25, 0.125, 0.0625 against 1 / 4
    close(alphas, [0.25, 0.125, 0.0625])
    # (1/2) r^2 = 8 / (0.5 * 2^s)
    close(radii, [math.sqrt(32), 4.0, math.sqrt(8)])
    assert epoch_sgd_constants(0.5, 2.0, 0.0, 8.0, 1.0, 0.1)[1:3] == ([64] * 3, [0.25] * 3)
