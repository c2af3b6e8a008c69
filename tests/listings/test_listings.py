"""The referee is itself examined: the problem, the draws and the double loops."""

import ast
import math
import pathlib

import numpy as np
import pytest

from .aid import aid
from .dense import X0, Y0, close, cross, exact, hessian, lower_solution, numerical, recorded, rows
from .draws import Draws
from .itd import itd
from .problem import NumpyProblem
from .stocbio import stocbio

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
