"""Adjoints: sums and samples of the Neumann series sum_n (I - eta H)^n eta F_y, and solves."""

import numpy as np
import pytest

from .aid import aid
from .alset import alset
from .amigo import amigo
from .ba import ba
from .bsa import bsa
from .dense import X0, Y0, close, cross, exact, hessian, lower_solution, rows
from .draws import Draws
from .hoag import hoag
from .mrbo import mrbo
from .reverse import aid_cg, aid_fp
from .stocbio import stocbio
from .sustain import sustain
from .ttsa import ttsa

K = 4
BY_K = dict(alpha=lambda k: 1.0, beta=lambda k: 0.7)
HIA = BY_K | dict(eta=0.4)
SUSTAIN = BY_K | dict(eta_f=lambda k: 1.0, eta_g=lambda k: 1.0, L=1 / 0.4)
WEIGHTS = dict(gx=lambda k: 1.0, gy=lambda k: 0.7, alpha=lambda k: 1.0, beta=lambda k: 1.0)
DOUBLE = dict(beta=lambda k: 1.0, alpha=0.7, D=1)
# name: listing, settings, number of terms; and whether x's step sees the new y
SUMS = {
    "stocbio": (stocbio, DOUBLE | dict(Q=K, eta=0.4), K + 1, True),  # the identity and Q products
    "mrbo": (mrbo, WEIGHTS | dict(Q=K, eta=0.4), K + 1, False),
    "aid_fp": (aid_fp, DOUBLE | dict(alpha=0.4, K=K), K, True),
    "aid_fp of no term": (aid_fp, DOUBLE | dict(alpha=0.4, K=0), 0, True),
    "amigo": (amigo, dict(alpha=lambda k: 0.7, beta=lambda k: 0.4, gamma=lambda k: 1.0, T=1, N=K), K, True),
    # that of very many terms is the solution
    "ba": (ba, BY_K | dict(t_k=lambda k: 2), 300, True),
    "aid with a step for each unknown": (aid, DOUBLE | dict(D=lambda k: 1, N=4), 300, True),
    "aid_cg with a step for each unknown": (aid_cg, DOUBLE | dict(K=4), 300, True),
}
# the factors' number is uniform on 0..K-1, so that the mean over it has K terms, the identity first
SAMPLES = {
    "bsa": (bsa, HIA | dict(order=lambda k: K, t_k=lambda k: 1), "ps", True),
    "ttsa": (ttsa, HIA | dict(order=lambda k: K), "ps", True),
    "alset": (alset, HIA | dict(T=1, N=K), "ps", True),
    "sustain": (sustain, SUSTAIN | dict(K=K), "ks", False),
}


def truncated(problem, everything, x, y, terms):
    lower, upper = everything.lower(), everything.upper()
    A, F_y = np.eye(4) - 0.4 * hessian(problem, x, y, lower), problem.F_y(x, y, upper)
    v = 0.4 * sum((np.linalg.matrix_power(A, n) @ F_y for n in range(terms)), np.zeros(4))
    return problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ v


@pytest.mark.parametrize("name", SUMS)
def test_the_direction_is_the_truncated_series(problem, everything, name):
    listing, settings, terms, sees_new_y = SUMS[name]
    state = listing(problem, X0, Y0, everything, 1, **settings)[0]
    close(X0 - state["x"], truncated(problem, everything, X0, state["y"] if sees_new_y else Y0, terms), 1e-10)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_mean_over_the_number_of_factors_is_the_truncated_series(problem, everything, name):
    listing, settings, number, sees_new_y = SAMPLES[name]
    runs = [listing(problem, X0, Y0, everything, 1, **{number: [p]}, **settings)[0] for p in range(K)]
    y = runs[0]["y"] if sees_new_y else Y0
    close(X0 - np.mean([run["x"] for run in runs], axis=0), truncated(problem, everything, X0, y, K))
    assert np.linalg.norm(truncated(problem, everything, X0, y, 300) - exact(problem, X0, y)[1]) < 1e-10


def test_amigo_goes_on_from_the_last_adjoint(problem, everything):
    settings = SUMS["amigo"][1]
    x, v = X0, np.zeros(4)
    for state in amigo(problem, X0, Y0, everything, 3, **settings):
        A = np.eye(4) - 0.4 * hessian(problem, x, state["y"], everything.lower())
        solution = exact(problem, x, state["y"])[0]
        v = solution + np.linalg.matrix_power(A, K) @ (v - solution)
        close(state["v"], v)
        x = state["x"]


def test_the_first_factor_that_stocbio_draws_acts_first(problem, rng):
    """The sample of B_Q, for which the theorem asks the largest batch."""
    upper, lower, B_2, B_1 = (rows(rng, size) for size in (6, 4, 9, 5))
    draws = Draws([[], [("upper", upper), *(("lower", r) for r in (lower, B_2, B_1))]])
    state = stocbio(problem, X0, Y0, draws, 1, **DOUBLE | dict(D=0, Q=2, eta=0.4))[0]
    A_2, A_1 = (np.eye(4) - 0.4 * hessian(problem, X0, Y0, r) for r in (B_2, B_1))
    close(state["v"], 0.4 * (np.eye(4) + A_2 + A_1 @ A_2) @ problem.F_y(X0, Y0, upper))
    assert np.linalg.norm(A_1 @ A_2 - A_2 @ A_1) > 1e-4


def test_the_lower_loop_of_bsa_begins_anew_at_y0_and_with_the_first_step(problem, everything):
    still = HIA | dict(alpha=lambda k: 0.0, beta=lambda t: 0.7 / (t + 1), order=lambda k: 1, ps=[0, 0], t_k=lambda k: 2)
    first, second = bsa(problem, X0, Y0, everything, 2, **still)
    assert np.array_equal(first["y"], second["y"])
    y = Y0 - 0.7 * problem.G_y(X0, Y0, everything.lower())
    close(first["y"], y - 0.35 * problem.G_y(X0, y, everything.lower()))


def test_aid_bio_begins_its_solve_at_the_end_of_the_last_one(problem, everything):
    settings = dict(beta=lambda k: 0.0, alpha=0.3, D=lambda k: 60, N=1)
    warm, cold = (aid(problem, X0, Y0, everything, 8, warm_start=begin, **settings) for begin in (True, False))
    v = exact(problem, X0, lower_solution(problem, X0))[0]
    assert np.linalg.norm(warm[7]["v"] - v) < 0.05 * np.linalg.norm(warm[0]["v"] - v)
    assert np.array_equal(cold[7]["v"], cold[0]["v"]) and np.array_equal(cold[7]["y"], cold[0]["y"])


def test_hoag_stops_at_the_first_iterates_that_meet_its_tolerances(problem, everything):
    r, s = everything.lower(), everything.upper()
    settings = dict(alpha=0.5, beta=lambda k: 0.5, mu=0.5, max_inner=99, max_cg=99)
    x, y = X0, Y0
    for tolerance in (50.0, 0.1, 0.01):  # none of the first, from y_0 and v_0 = 0
        state = hoag(problem, X0, Y0, Draws([[]] * 2), 1, epsilon=lambda k, eps=tolerance: eps, **settings)[0]
        while np.linalg.norm(problem.G_y(x, y, r)) > 0.5 * tolerance:
            y = y - 0.5 * problem.G_y(x, y, r)
        close(state["y"], y)
        assert np.linalg.norm(y - lower_solution(problem, x)) <= tolerance
        # the j-th iterate of CG minimizes the energy over span(F_y, H F_y, .., H^{j-1} F_y)
        H, F_y, iterates = hessian(problem, x, y, r), problem.F_y(x, y, s), [np.zeros(4)]
        for j in range(1, 5):
            basis = np.stack([np.linalg.matrix_power(H, i) @ F_y for i in range(j)], axis=1)
            iterates.append(basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ F_y))
        close(state["v"], next(v for v in iterates if np.linalg.norm(H @ v - F_y) <= tolerance), 1e-8)
