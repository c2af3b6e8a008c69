"""The referee is itself examined: the single loops, and where every algorithm ends."""

import math

import numpy as np
import pytest

from .aid import aid
from .borep import borep, epoch_sgd, epoch_sgd_constants, update_lower
from .dense import X0, Y0, close, cross, exact, hessian, lower_solution, recorded, rows, steepness
from .draws import Draws
from .fsla import fsla, schedules
from .itd import itd
from .problem import NumpyProblem
from .soba import soba
from .stocbio import stocbio
from .sustain import hypergradient as sustain_hypergradient
from .sustain import sustain

# SUSTAIN

SUSTAIN = dict(alpha=lambda t: 0.3 / (t + 1), beta=lambda t: 0.4 / (t + 1), K=4, L=1.5)


def eta(value):
    return dict(eta_f=lambda t: value, eta_g=lambda t: value)


def test_sustain_estimator_has_the_mean_of_a_truncated_neumann_series(problem, everything):
    r, s = everything.lower(), everything.upper()
    K, L = 60, 1.2
    mean = 0.0
    for k in range(K):
        mean = mean + sustain_hypergradient(problem, X0, Y0, s, r, [r] * k, K, L) / K
    H = hessian(problem, X0, Y0, r)
    A = np.eye(problem.q) - H / L
    F_y = problem.F_y(X0, Y0, s)
    v = np.linalg.solve(H, (np.eye(problem.q) - np.linalg.matrix_power(A, K)) @ F_y)
    close(mean, problem.F_x(X0, Y0, s) - problem.J(X0, Y0, v, r))
    close(mean, exact(problem, X0, Y0)[1], 1e-8)


def test_sustain_first_step_is_the_plain_sample_and_zeta_1_acts_first(problem, rng):
    steps = [[], recorded(rng, "lulll")]
    state = sustain(problem, X0, Y0, Draws(steps), 1, **eta(0.2), **SUSTAIN)[0]
    zeta_t, xi, zeta_0, zeta_1, zeta_2 = (r for _, r in steps[1])
    A1 = np.eye(problem.q) - hessian(problem, X0, Y0, zeta_1) / 1.5
    A2 = np.eye(problem.q) - hessian(problem, X0, Y0, zeta_2) / 1.5
    v = 4 / 1.5 * A2 @ A1 @ problem.F_y(X0, Y0, xi)
    h = problem.F_x(X0, Y0, xi) - cross(problem, X0, Y0, zeta_0) @ v
    close(state["hf"], h)
    close(state["x"], X0 - 0.3 * h)
    close(state["y"], Y0 - 0.4 * problem.G_y(X0, Y0, zeta_t))


@pytest.mark.parametrize("option", [1, 2])
def test_sustain_recursion_without_noise_is_the_plain_direction(problem, everything, option):
    run = sustain(problem, X0, Y0, everything, 5, option=option, ks=[2] * 5, **eta(0.1), **SUSTAIN)
    x, y = X0, Y0
    for t, state in enumerate(run):
        r, s = everything.lower(), everything.upper()
        close(state["hf"], sustain_hypergradient(problem, x, y, s, r, [r, r], 4, 1.5))
        close(state["hg"], problem.G_y(x, y, r))
        x, y = x - 0.3 / (t + 1) * state["hf"], y - 0.4 / (t + 1) * state["hg"]
        close(state["x"], x)
        close(state["y"], y)


def test_sustain_recursion_at_rest_averages_the_noise(problem, rng):
    steps = [[], *(recorded(rng, "lul" + "l" * k) for k in (0, 3, 1, 2))]
    still = SUSTAIN | dict(alpha=lambda t: 0.0, beta=lambda t: 0.0)
    plain = sustain(problem, X0, Y0, Draws(steps), 4, **eta(5.0), **still)  # clipped to 1
    run = sustain(problem, X0, Y0, Draws(steps), 4, **eta(0.3), **still)
    hf, hg = plain[0]["hf"], plain[0]["hg"]
    for t in range(1, 4):
        # the difference on one sample is zero
        hf = 0.3 * plain[t]["hf"] + 0.7 * hf
        hg = 0.3 * plain[t]["hg"] + 0.7 * hg
        close(run[t]["hf"], hf)
        close(run[t]["hg"], hg)


def test_sustain_option_2_telescopes_to_the_plain_sample(problem, rng):
    steps = [[], *(recorded(rng, "lul" + "l" * k) for k in (0, 3, 1, 2))]
    run = sustain(problem, X0, Y0, Draws(steps), 4, option=2, **eta(0.3), **SUSTAIN)
    x, y = X0, Y0
    for state, step in zip(run, steps[1:], strict=True):
        _, xi, *zetas = (r for _, r in step)
        close(state["hf"], sustain_hypergradient(problem, x, y, xi, zetas[0], zetas[1:], 4, 1.5))
        x, y = state["x"], state["y"]


def test_sustain_differences_the_same_sample_at_the_last_two_points(problem, rng):
    steps = [[], recorded(rng, "lull"), recorded(rng, "lulll")]
    first, second = sustain(problem, X0, Y0, Draws(steps), 2, **eta(0.3), **SUSTAIN)
    zeta_t, xi, *zetas = (r for _, r in steps[2])
    new, old = (
        sustain_hypergradient(problem, x, y, xi, zetas[0], zetas[1:], 4, 1.5)
        for x, y in [(first["x"], first["y"]), (X0, Y0)]
    )
    close(second["hf"], new + 0.7 * (first["hf"] - old))
    new, old = problem.G_y(first["x"], first["y"], zeta_t), problem.G_y(X0, Y0, zeta_t)
    close(second["hg"], new + 0.7 * (first["hg"] - old))


def test_sustain_refuses_a_truncation_beyond_its_range(problem, rng):
    with pytest.raises(AssertionError, match="k = 4"):
        sustain(problem, X0, Y0, Draws([[], recorded(rng, "lulllll")]), 1, **eta(1), **SUSTAIN)


def test_sustain_adam_step(problem, everything):
    run = sustain(problem, X0, Y0, everything, 3, upper="adam", ks=[1] * 3, **eta(0.5), **SUSTAIN)
    close(run[0]["x"], X0 - 0.3 * run[0]["hf"] / (np.abs(run[0]["hf"]) + 1e-8))
    weights = 0.1 * 0.9 ** np.arange(3)[::-1], 0.001 * 0.999 ** np.arange(3)[::-1]
    hf = np.stack([state["hf"] for state in run])
    m, s = weights[0] @ hf / weights[0].sum(), weights[1] @ hf**2 / weights[1].sum()
    close(run[2]["x"], run[1]["x"] - 0.1 * m / (np.sqrt(s) + 1e-8))


# FSLA


def test_fsla_first_iteration_by_hand(problem, rng):
    steps = [recorded(rng, "ul"), recorded(rng, "lulul"), recorded(rng, "lulul")]
    s = schedules(0.5, 0.4, 0.6, 0.7)
    run = fsla(problem, X0, Y0, Draws(steps), 2, **s)
    x, y, v = X0, Y0, np.zeros(problem.q)
    d = problem.F_x(X0, Y0, steps[0][0][1])  # v_0 = 0
    for k in range(2):
        (_, xi1), (_, xi2), (_, xi3), (_, xi4), (_, xi5) = steps[k + 1]
        a = 0.5 / math.sqrt(k + 1)
        old = problem.F_x(x, y, xi4) - cross(problem, x, y, xi5) @ v
        x = x - a * d
        A = np.eye(problem.q) - 0.6 * a * hessian(problem, x, y, xi3)
        v = A @ v + 0.6 * a * problem.F_y(x, y, xi2)
        y = y - 0.4 * a * problem.G_y(x, y, xi1)
        new = problem.F_x(x, y, xi4) - cross(problem, x, y, xi5) @ v
        d = new + (1 - 0.7 * a) * (d - old)
        for name, value in dict(x=x, y=y, v=v, d=d).items():
            close(run[k][name], value)


def test_fsla_without_noise_has_the_plain_direction(problem, everything):
    for state in fsla(problem, X0, Y0, everything, 4, **schedules(0.5, 1.0, 1.0, 0.3)):
        x, y, v = state["x"], state["y"], state["v"]
        h = problem.F_x(x, y, everything.upper()) - problem.J(x, y, v, everything.lower())
        close(state["d"], h)


# BO-REP

BOREP = dict(eta=0.05, beta=0.6, nu=0.3, gamma=0.4)


def test_borep_moves_by_eta_and_refreshes_y_every_I(problem, rng):
    steps = [[], *(recorded(rng, levels) for levels in ("lu", "lu", "lllu", "lu", "lllu"))]
    run = borep(problem, X0, Y0, Draws(steps), 5, I=2, N=2, R=0.5, **BOREP)
    xs = [X0, *(state["x"] for state in run)]
    close(np.linalg.norm(np.diff(xs, axis=0), axis=1), 0.05)
    ys = [Y0, *(state["y"] for state in run)]
    refreshed = [not np.array_equal(ys[k], ys[k + 1]) for k in range(5)]
    assert refreshed == [False, False, True, False, True]


def test_borep_z_and_m_use_the_old_point_and_share_their_samples(problem, rng):
    steps = [[], *(recorded(rng, levels) for levels in ("lu", "llu", "llu"))]
    run = borep(problem, X0, Y0, Draws(steps), 3, I=1, N=1, R=100.0, **BOREP)
    x, y, z, m = X0, Y0, np.zeros(problem.q), np.zeros(problem.p)
    for k in range(3):
        *inner, (_, xi), (_, zeta) = steps[k + 1]
        H, J = hessian(problem, x, y, xi), cross(problem, x, y, xi)
        m = 0.6 * m + 0.4 * (problem.F_x(x, y, zeta) - J @ z)
        z = z - 0.3 * (H @ z - problem.F_y(x, y, zeta))
        if k > 0:
            y = y - 0.4 * problem.G_y(x, y, inner[0][1])
        x = x - 0.05 * m / np.linalg.norm(m)
        for name, value in dict(x=x, y=y, z=z, m=m).items():
            close(run[k][name], value)


def test_update_lower_averages_projected_steps(problem, rng):
    def average(R):
        draws = Draws([recorded(np.random.default_rng(3), "ll")])
        draws.begin(0)
        return update_lower(problem, X0, Y0, draws, gamma=0.4, N=2, R=R)

    (_, r1), (_, r2) = recorded(np.random.default_rng(3), "ll")
    y1 = Y0 - 0.4 * problem.G_y(X0, Y0, r1)
    y2 = y1 - 0.4 * problem.G_y(X0, y1, r2)
    close(average(100.0), (y1 + y2) / 2)
    R = 0.5 * np.linalg.norm(y1 - Y0)
    y1 = (Y0 + y1) / 2
    y2 = y1 - 0.4 * problem.G_y(X0, y1, r2)
    y2 = Y0 + (y2 - Y0) * min(1.0, R / np.linalg.norm(y2 - Y0))
    close(average(R), (y1 + y2) / 2)


def test_zero_momentum_leaves_x(problem, everything):
    still = NumpyProblem(**problem.lower_arrays, P=problem.P, Q=0 * problem.Q, R=0 * problem.R, mu=1)
    state = borep(still, X0, Y0, everything, 1, I=2, N=1, R=1.0, **BOREP)[0]
    assert np.array_equal(state["x"], X0)


def test_epoch_sgd_averages_within_its_ball_and_plain_does_not(problem, rng):
    lower = [rows(rng) for _ in range(5)]

    def final(**settings):
        draws = Draws([[("lower", r) for r in lower]])
        draws.begin(0)
        y = epoch_sgd(problem, X0, Y0, draws, T=[2, 3], alphas=[0.4, 0.2], **settings)
        draws.end()
        return y

    plain = y = Y0
    for epoch, alpha in [(lower[:2], 0.4), (lower[2:], 0.2)]:
        iterates = [y]
        for r in epoch:
            iterates.append(iterates[-1] - alpha * problem.G_y(X0, iterates[-1], r))
            plain = plain - alpha * problem.G_y(X0, plain, r)
        y = np.mean(iterates[1:], axis=0)
    close(final(radii=[100.0, 100.0]), y)
    close(final(radii=None, plain=True), plain)
    assert np.linalg.norm(final(radii=[1e-3, 1e-4]) - Y0) <= 1.1e-3


def test_borep_begins_with_epoch_sgd(problem, rng):
    steps = [recorded(rng, "lll"), recorded(rng, "lu")]
    stage = dict(T=[3], alphas=[0.3], plain=True)
    state = borep(problem, X0, Y0, Draws(steps), 1, I=2, N=1, R=1.0, **stage, **BOREP)[0]
    y = Y0
    for _, r in steps[0]:
        y = y - 0.3 * problem.G_y(X0, y, r)
    close(state["y"], y)
    close(state["m"], 0.4 * problem.F_x(X0, y, steps[1][1][1]))


def test_epoch_sgd_constants_by_hand():
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


# SOBA


def test_soba_updates_all_three_from_the_old_point(problem, rng):
    steps = [[], recorded(rng, "lu"), recorded(rng, "lu")]
    run = soba(
        problem, X0, Y0, Draws(steps), 2,
        rho=lambda t: 0.4 / (t + 1), gamma=lambda t: 0.2 / (t + 2), rho_v=lambda t: 0.3 + t,
    )  # fmt: skip
    x, y, v = X0, Y0, np.zeros(problem.q)
    for t in range(2):
        (_, i), (_, j) = steps[t + 1]
        x, y, v = (
            x - 0.2 / (t + 2) * (problem.F_x(x, y, j) - cross(problem, x, y, i) @ v),
            y - 0.4 / (t + 1) * problem.G_y(x, y, i),
            v - (0.3 + t) * (hessian(problem, x, y, i) @ v - problem.F_y(x, y, j)),
        )
        for name, value in dict(x=x, y=y, v=v).items():
            close(run[t][name], value)


# every algorithm ends where the hypergradient vanishes


def runs():
    rng = np.random.default_rng(5)
    return {
        "itd": (itd, 100, dict(beta=lambda k: 1.0, alpha=0.8, D=20), 1e-5),
        "aid": (aid, 100, dict(beta=lambda k: 1.0, alpha=0.8, D=lambda k: 5, N=4), 1e-5),
        "stocbio": (stocbio, 100, dict(beta=lambda k: 1.0, alpha=0.8, D=5, Q=40, eta=0.8), 1e-5),
        "sustain": (
            sustain, 1500,
            dict(
                alpha=lambda t: 0.3 / (t + 1) ** (1 / 3), beta=lambda t: 1.0 / (t + 1) ** (1 / 3),
                K=12, L=1.2, ks=rng.integers(0, 12, 1500),
                eta_f=lambda t: t ** (-2 / 3), eta_g=lambda t: 1.0,
            ),
            1e-2,
        ),
        "fsla": (fsla, 600, schedules(2.0, 0.4, 0.4, 0.4), 1e-4),
        "borep": (borep, 500, dict(BOREP, eta=5e-3, I=2, N=3, R=0.5), 5e-3),
        "soba": (soba, 300, dict(rho=lambda t: 0.8, gamma=lambda t: 0.5), 1e-5),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(runs()))
def test_full_batches_reach_a_stationary_point(problem, everything, name):
    algorithm, steps, settings, tolerance = runs()[name]
    final = algorithm(problem, 2 * X0, Y0, everything, steps, **settings)[-1]
    assert steepness(problem, 2 * X0) > 0.1
    assert steepness(problem, final["x"]) < tolerance
    if name in ("itd", "aid", "stocbio", "soba"):
        close(final["y"], lower_solution(problem, final["x"]), 1e-5)
