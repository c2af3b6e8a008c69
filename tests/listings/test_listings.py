"""The referee is itself examined: derivatives by finite differences, listings by dense algebra."""

import ast
import math
import pathlib

import numpy as np
import pytest

from .aid import aid
from .borep import borep, epoch_sgd, epoch_sgd_constants, update_lower
from .draws import Draws, Everything
from .fsla import fsla, schedules
from .itd import itd
from .problem import NumpyProblem
from .soba import soba
from .stocbio import stocbio
from .sustain import hypergradient as sustain_hypergradient
from .sustain import sustain

X0 = np.array([0.8, -0.6, 0.4])
Y0 = np.array([0.3, -0.2, 0.5, 0.1])


@pytest.fixture
def problem():
    return NumpyProblem.random(0)


@pytest.fixture
def everything(problem):
    return Everything(problem.n, problem.m)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def close(actual, desired, tolerance=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def rows(rng, size=7):
    return rng.integers(0, 40, size)  # within both levels; repetitions are likely


def recorded(rng, levels):
    """One step's draws, for a string such as "llu"."""
    return [({"l": "lower", "u": "upper"}[level], rows(rng)) for level in levels]


def numerical(function, at):
    step = 1e-6 * np.eye(len(at))
    return np.array([(function(at + e) - function(at - e)) / 2e-6 for e in step])


def hessian(problem, x, y, r):
    return np.stack([problem.H(x, y, e, r) for e in np.eye(problem.q)], axis=1)


def cross(problem, x, y, r):
    return np.stack([problem.J(x, y, e, r) for e in np.eye(problem.q)], axis=1)


def lower_solution(problem, x):
    y, every = np.zeros(problem.q), np.arange(problem.n)
    for _ in range(20):
        y = y - np.linalg.solve(hessian(problem, x, y, every), problem.G_y(x, y, every))
    assert np.linalg.norm(problem.G_y(x, y, every)) < 1e-13
    return y


def exact(problem, x, y):
    """v and h with an exact solve at (x, y), all rows."""
    lower, upper = np.arange(problem.n), np.arange(problem.m)
    v = np.linalg.solve(hessian(problem, x, y, lower), problem.F_y(x, y, upper))
    return v, problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ v


def steepness(problem, x):
    return np.linalg.norm(exact(problem, x, lower_solution(problem, x))[1])


# the folder


def test_the_referee_imports_numpy_only():
    for file in pathlib.Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [] if node.level else [node.module]
            elif not isinstance(node, ast.Import):
                names = []
            allowed = {"numpy", "math", "ast", "pathlib", "pytest"}
            assert {name.split(".")[0] for name in names} <= allowed, file


# the problem


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_derivatives_agree_with_finite_differences(seed):
    problem, rng = NumpyProblem.random(seed), np.random.default_rng(seed + 10)
    x, y, u = rng.normal(size=problem.p), rng.normal(size=problem.q), rng.normal(size=problem.q)
    r = np.append(rows(rng), [3, 3, 3])
    close(problem.F_x(x, y, r), numerical(lambda x: problem.f(x, y, r), x), 1e-8)
    close(problem.F_y(x, y, r), numerical(lambda y: problem.f(x, y, r), y), 1e-8)
    close(problem.G_x(x, y, r), numerical(lambda x: problem.g(x, y, r), x), 1e-8)
    close(problem.G_y(x, y, r), numerical(lambda y: problem.g(x, y, r), y), 1e-8)
    close(problem.H(x, y, u, r), numerical(lambda y: problem.G_y(x, y, r) @ u, y), 1e-8)
    close(problem.J(x, y, u, r), numerical(lambda x: problem.G_y(x, y, r) @ u, x), 1e-8)


def test_values_agree_with_the_formula_row_by_row(problem, rng):
    x, y = rng.normal(size=problem.p), rng.normal(size=problem.q)
    lower, upper, r = problem.lower_arrays, problem.upper_arrays, np.array([5, 2, 5])
    f = g = 0.0
    for i in r:
        rx, py = upper["R"][i] @ x, upper["P"][i] @ y
        f += 0.5 * (py - upper["Q"][i]) ** 2 + 0.1 * math.log(math.cosh(rx)) + 0.05 * rx * py
        weight = 1 / (1 + math.exp(-lower["c"][i] @ x))
        g += weight * math.log(1 + math.exp(-lower["b"][i] * (lower["a"][i] @ y)))
        g += problem.mu / 2 * (y @ y) + 0.1 * (lower["d"][i] @ x) * (lower["a"][i] @ y)
    close(problem.f(x, y, r), f / 3)
    close(problem.g(x, y, r), g / 3)


def test_problem_is_noisy_and_the_lower_solution_matters(problem):
    y = lower_solution(problem, X0)
    assert np.linalg.norm(problem.G_y(X0, y, np.array([0]))) > 0.1
    assert np.linalg.norm(hessian(problem, X0, Y0, [0, 1]) - hessian(problem, X0, y, [0, 1])) > 1e-3
    implicit = exact(problem, X0, y)[1] - problem.F_x(X0, y, np.arange(problem.m))
    assert np.linalg.norm(implicit) > 0.02
    h = numerical(lambda x: problem.f(x, lower_solution(problem, x), np.arange(problem.m)), X0)
    close(exact(problem, X0, y)[1], h, 1e-7)


# the draws


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


# ITD


@pytest.mark.parametrize("noisy", [False, True])
def test_itd_is_the_derivative_of_what_it_computes(problem, everything, rng, noisy):
    D, alpha = 6, 0.4
    steps = [[], *(recorded(rng, "llllllu") for _ in range(2))]
    draws = Draws(steps) if noisy else everything
    run = itd(problem, X0, Y0, draws, 2, beta=lambda k: 0.3 / (k + 1), alpha=alpha, D=D)

    def unrolled(x, y, k):
        lower = [r for level, r in steps[k + 1] if level == "lower"]
        for t in range(D):
            y = y - alpha * problem.G_y(x, y, lower[t] if noisy else everything.lower())
        return y, problem.f(x, y, steps[k + 1][-1][1] if noisy else everything.upper())

    x, y = X0, Y0
    for k in range(2):
        close(run[k]["h"], numerical(lambda x, y=y, k=k: unrolled(x, y, k)[1], x), 1e-7)
        y = unrolled(x, y, k)[0]
        close(run[k]["y"], y)
        x = x - 0.3 / (k + 1) * run[k]["h"]
        close(run[k]["x"], x)


def test_itd_without_warm_start_begins_at_y0(problem, everything):
    settings = dict(beta=lambda k: 0.0, alpha=0.3, D=2)
    cold = itd(problem, X0, Y0, everything, 2, warm_start=False, **settings)
    warm = itd(problem, X0, Y0, everything, 2, **settings)
    assert np.array_equal(cold[0]["y"], cold[1]["y"])
    assert np.linalg.norm(warm[1]["y"] - warm[0]["y"]) > 1e-3


# AID


def test_aid_with_as_many_cg_steps_as_unknowns_solves_exactly(problem, rng):
    steps = [[], recorded(rng, "lllul"), recorded(rng, "llul")]
    run = aid(
        problem, X0, Y0, Draws(steps), 2,
        beta=lambda k: 0.5 / (k + 1), alpha=0.3, D=lambda k: 3 - k, N=problem.q,
    )  # fmt: skip
    x, y = X0, Y0
    for k in range(2):
        *inner, (_, upper), (_, lower) = steps[k + 1]
        for _, r in inner:
            y = y - 0.3 * problem.G_y(x, y, r)
        close(run[k]["y"], y)
        v = np.linalg.solve(hessian(problem, x, y, lower), problem.F_y(x, y, upper))
        close(run[k]["v"], v, 1e-9)
        x = x - 0.5 / (k + 1) * (problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ v)
        close(run[k]["x"], x, 1e-9)


def test_aid_warm_starts_its_solve(problem, everything):
    settings = dict(beta=lambda k: 0.0, alpha=0.5, D=lambda k: 60, N=1)
    v = exact(problem, X0, lower_solution(problem, X0))[0]
    warm = aid(problem, X0, Y0, everything, 6, **settings)
    cold = aid(problem, X0, Y0, everything, 6, warm_start=False, **settings)
    errors = [np.linalg.norm(state["v"] - v) for state in warm]
    assert errors[5] < 0.1 * errors[0]
    assert np.array_equal(cold[5]["v"], cold[0]["v"])
    # one step from 0 on H v = F_y is the exact line search along F_y
    y = cold[0]["y"]
    F_y = problem.F_y(X0, y, everything.upper())
    length = F_y @ F_y / (F_y @ problem.H(X0, y, F_y, everything.lower()))
    close(cold[0]["v"], length * F_y)


# stocBiO


def test_stocbio_on_all_rows_is_the_truncated_neumann_series(problem, everything):
    settings = dict(beta=lambda k: 0.2 / (k + 1), alpha=0.5, D=3, eta=0.3)
    x, y = X0, Y0
    for k, state in enumerate(stocbio(problem, X0, Y0, everything, 2, Q=300, **settings)):
        for _ in range(3):
            y = y - 0.5 * problem.G_y(x, y, everything.lower())
        close(state["y"], y)
        v, h = exact(problem, x, y)
        close(state["v"], v, 1e-10)
        x = x - 0.2 / (k + 1) * h
        close(state["x"], x, 1e-10)
    short = stocbio(problem, X0, Y0, everything, 1, Q=4, **settings)[0]
    A = np.eye(problem.q) - 0.3 * hessian(problem, X0, short["y"], everything.lower())
    v = exact(problem, X0, short["y"])[0]
    close(short["v"], v - np.linalg.matrix_power(A, 5) @ v)  # Q + 1 terms


def test_stocbio_on_samples_agrees_with_dense_products(problem, rng):
    sizes = dict(S=3, D_F=6, D_G=4, B=[9, 5])
    steps = [[], []]
    for level, size in zip("llulll", [3, 3, 6, 4, 9, 5], strict=True):
        steps[1].append(({"l": "lower", "u": "upper"}[level], rows(rng, size)))
    settings = dict(beta=lambda k: 0.2, alpha=0.5, D=2, Q=2, eta=0.3)
    state = stocbio(problem, X0, Y0, Draws(steps), 1, sizes=sizes, **settings)[0]
    S0, S1, D_F, D_G, B2, B1 = (r for _, r in steps[1])
    y = Y0 - 0.5 * problem.G_y(X0, Y0, S0)
    y = y - 0.5 * problem.G_y(X0, y, S1)
    A1 = np.eye(problem.q) - 0.3 * hessian(problem, X0, y, B1)
    A2 = np.eye(problem.q) - 0.3 * hessian(problem, X0, y, B2)
    v = 0.3 * (np.eye(problem.q) + A2 + A1 @ A2) @ problem.F_y(X0, y, D_F)
    close(state["v"], v)
    close(state["h"], problem.F_x(X0, y, D_F) - cross(problem, X0, y, D_G) @ v)
    with pytest.raises(AssertionError, match="B_2"):
        stocbio(problem, X0, Y0, Draws(steps), 1, sizes=sizes | dict(B=[5, 9]), **settings)


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
