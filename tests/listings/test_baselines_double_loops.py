"""The referee is itself examined: BA, BSA, TTSA, ALSET, AmIGO, HOAG, reverse and AID-FP, AID-CG."""

import numpy as np
import pytest

from .aid import aid
from .alset import alset
from .amigo import amigo
from .ba import ba
from .bsa import bsa
from .dense import X0, Y0, close, cross, exact, hessian, lower_solution, numerical, recorded, rows, steepness
from .draws import Draws
from .hia import hia
from .hoag import hoag
from .itd import itd
from .problem import NumpyCleaning
from .reverse import aid_cg, aid_fp, reverse, reverse_pass
from .stocbio import stocbio
from .ttsa import ttsa


def sphere(x):
    return 0.6 / norm(x) * x  # unlike a projection onto a convex set, it acts in every step


def anywhere(x):
    return x


def norm(u):
    return np.linalg.norm(u)


def descent(problem, x, y, samples, step):
    """`step` is a function of the inner index."""
    for t, r in enumerate(samples):
        y = y - step(t) * problem.G_y(x, y, r)
    return y


def samples(step):
    return [r for _, r in step]


# the problem


def test_derivatives_of_data_cleaning_agree_with_finite_differences(problem, rng):
    cleaning = NumpyCleaning(problem)
    x, y, u = rng.normal(size=cleaning.n), rng.normal(size=4), rng.normal(size=4)
    r = np.append(rows(rng), [3, 3, 3])
    close(cleaning.F_x(x, y, r), numerical(lambda x: cleaning.f(x, y, r), x), 1e-8)
    close(cleaning.F_y(x, y, r), numerical(lambda y: cleaning.f(x, y, r), y), 1e-8)
    close(cleaning.G_x(x, y, r), numerical(lambda x: cleaning.g(x, y, r), x), 1e-8)
    close(cleaning.G_y(x, y, r), numerical(lambda y: cleaning.g(x, y, r), y), 1e-8)
    close(cleaning.H(x, y, u, r), numerical(lambda y: cleaning.G_y(x, y, r) @ u, y), 1e-8)
    close(cleaning.J(x, y, u, r), numerical(lambda x: cleaning.G_y(x, y, r) @ u, x), 1e-8)
    assert np.count_nonzero(cleaning.G_x(x, y, r)) == len(set(r))


# every draw is used: the levels of one step, in order, and a second step of another length


STEP = dict(alpha=lambda k: 0.5 / (k + 1), beta=lambda k: 0.4 / (k + 2))
HIA = STEP | dict(eta=0.4)
AID = dict(beta=lambda k: 0.5 / (k + 1), alpha=0.3, D=3, K=2)
RUNS = {
    "ba": (ba, ["llul", "lllul"], STEP | dict(t_k=lambda k: k + 2)),
    "bsa": (bsa, ["llulll", "lllul"], HIA | dict(t_k=lambda k: k + 2, order=lambda k: 3 - k)),
    "ttsa": (ttsa, ["lulll", "lul"], HIA | dict(order=lambda k: 3 - k)),
    "alset": (alset, ["llulll", "llull"], HIA | dict(T=2, N=3)),
    "amigo": (amigo, ["llullll"] * 2, STEP | dict(gamma=lambda k: 0.3 / (k + 3), T=2, N=3)),
    "hoag": (
        hoag, ["", ""],
        dict(alpha=0.3, beta=lambda k: 0.5, epsilon=lambda k: 0.1, mu=0.5, max_inner=5, max_cg=5),
    ),
    "reverse": (reverse, ["lllu"] * 2, AID),
    "aid_fp": (aid_fp, ["lllul"] * 2, AID),
    "aid_cg": (aid_cg, ["lllul"] * 2, AID),
}  # fmt: skip


@pytest.mark.parametrize("name", list(RUNS))
def test_every_draw_is_used(problem, rng, name):
    algorithm, levels, settings = RUNS[name]
    steps = [[], *(recorded(rng, s) for s in levels)]
    run = algorithm(problem, X0, Y0, Draws(steps), 2, **settings)
    keys = {"x", "y", "v"} if name in ("ba", "amigo", "hoag") else {"x", "y"}
    assert len(run) == 2 and all(set(state) == keys for state in run)
    surplus = [*steps[:2], steps[2] + recorded(rng, "u")]
    with pytest.raises(AssertionError, match="step 2: 1 upper draws were never used"):
        algorithm(problem, X0, Y0, Draws(surplus), 2, **settings)
    with pytest.raises(AssertionError, match="step 0"):
        algorithm(problem, X0, Y0, Draws([recorded(rng, "l"), *steps[1:]]), 2, **settings)
    surplus = [*steps[:2], steps[2] + recorded(rng, "ll")]
    message = "is not in 0.." if name in ("bsa", "ttsa", "alset") else "2 lower draws were never used"
    with pytest.raises(AssertionError, match=message):
        algorithm(problem, X0, Y0, Draws(surplus), 2, **settings)


# BA


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("project", [sphere, anywhere])
def test_ba_by_hand(problem, rng, warm_start, project):
    steps = [[], recorded(rng, "llul"), recorded(rng, "lllul"), recorded(rng, "ul")]
    run = ba(
        problem, X0, Y0, Draws(steps), 3, **STEP,
        t_k=lambda k: [2, 3, 0][k], warm_start=warm_start, project=project,
    )  # fmt: skip
    x, y = X0, Y0
    for k, step in enumerate(steps[1:]):
        *inner, upper, lower = samples(step)
        y = descent(problem, x, y if warm_start else Y0, inner, lambda t: 0.4 / (t + 2))
        v = np.linalg.solve(hessian(problem, x, y, lower), problem.F_y(x, y, upper))
        x = project(x - 0.5 / (k + 1) * (problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ v))
        for key, value in dict(x=x, y=y, v=v).items():
            close(run[k][key], value)


def test_ba_tends_to_the_exact_hypergradient_with_its_inner_loop(problem, everything):
    y = lower_solution(problem, X0)
    v, h = exact(problem, X0, y)
    errors = []
    for t_k in (5, 20, 80):
        state = ba(
            problem, X0, Y0, everything, 1,
            alpha=lambda k: 1.0, beta=lambda t: 0.9, t_k=lambda k, t_k=t_k: t_k,
        )[0]  # fmt: skip
        errors.append([norm(state["y"] - y), norm(state["v"] - v), norm(X0 - state["x"] - h)])
    errors = np.array(errors)
    assert np.all(errors[0] > 1e-4) and np.all(errors[1] < 0.05 * errors[0]) and np.all(errors[2] < 1e-12)
    # at a finite t_k the direction is the exact one of the point that was reached
    close(exact(problem, X0, state["y"])[0], state["v"])


# HIA, and the three that use it


def test_hia_without_factors_is_the_scaled_argument_and_zeta_1_acts_first(problem, rng):
    u, zeta_1, zeta_2 = rng.normal(size=4), rows(rng), rows(rng)
    close(hia(problem, u, X0, Y0, 5, 0.3, []), 1.5 * u)
    A1, A2 = (np.eye(4) - 0.3 * hessian(problem, X0, Y0, zeta) for zeta in (zeta_1, zeta_2))
    close(hia(problem, u, X0, Y0, 5, 0.3, [zeta_1, zeta_2]), 1.5 * A2 @ A1 @ u)
    assert norm(A1 @ A2 @ u - A2 @ A1 @ u) > 1e-4


@pytest.mark.parametrize("name", ["bsa", "ttsa", "alset"])
def test_mean_over_p_is_the_truncated_neumann_series(problem, everything, name):
    algorithm, more = {
        "bsa": (bsa, lambda K: dict(order=lambda k: K, t_k=lambda k: 1)),
        "ttsa": (ttsa, lambda K: dict(order=lambda k: K)),
        "alset": (alset, lambda K: dict(T=1, N=K)),
    }[name]
    settings = dict(alpha=lambda k: 1.0, beta=lambda k: 0.7, eta=0.6)
    r, s = everything.lower(), everything.upper()
    y = Y0 - 0.7 * problem.G_y(X0, Y0, r)
    H = hessian(problem, X0, y, r)
    for K in (1, 4, 80):
        runs = [algorithm(problem, X0, Y0, everything, 1, ps=[p], **settings, **more(K)) for p in range(K)]
        mean = np.mean([X0 - run[0]["x"] for run in runs], axis=0)
        A, F_y = np.eye(4) - 0.6 * H, problem.F_y(X0, y, s)
        v = 0.6 * sum(np.linalg.matrix_power(A, n) @ F_y for n in range(K))
        close(mean, problem.F_x(X0, y, s) - cross(problem, X0, y, r) @ v)
    close(mean, exact(problem, X0, y)[1], 1e-9)


@pytest.mark.parametrize("name", ["bsa", "bsa warm", "ttsa", "alset"])
@pytest.mark.parametrize("project", [sphere, anywhere])
def test_hia_methods_by_hand(problem, rng, name, project):
    loops = dict(t_k=lambda k: 2 + k, order=lambda k: 3 + k)
    algorithm, inner, more = {
        "bsa": (bsa, [2, 3], loops),
        "bsa warm": (bsa, [2, 3], loops | dict(warm_start=True)),
        "ttsa": (ttsa, [1, 1], dict(order=loops["order"])),
        "alset": (alset, [2, 2], dict(T=2, N=4)),
    }[name]
    ps = [2, 3]
    steps = [[], *(recorded(rng, "l" * inner[k] + "ul" + "l" * ps[k]) for k in range(2))]
    run = algorithm(problem, X0, Y0, Draws(steps), 2, **HIA, **more, project=project)
    x, y = X0, Y0
    for k in range(2):
        first, (xi, zeta_0, *zetas) = samples(steps[k + 1][: inner[k]]), samples(steps[k + 1][inner[k] :])
        # BSA's inner step size depends on the inner index, the others' on k
        y = descent(
            problem, x, Y0 if name == "bsa" else y, first,
            (lambda t: 0.4 / (t + 2)) if "bsa" in name else lambda t, k=k: 0.4 / (k + 2),
        )  # fmt: skip
        P = np.eye(4)
        for zeta in zetas:
            P = (np.eye(4) - 0.4 * hessian(problem, x, y, zeta)) @ P
        K = 4 if name == "alset" else 3 + k
        v = 0.4 * K * P @ problem.F_y(x, y, xi)
        x = project(x - 0.5 / (k + 1) * (problem.F_x(x, y, xi) - cross(problem, x, y, zeta_0) @ v))
        close(run[k]["y"], y)
        close(run[k]["x"], x)


# AmIGO


def test_amigo_by_hand(problem, rng):
    steps = [[], recorded(rng, "llullll"), recorded(rng, "llullll")]
    settings = RUNS["amigo"][2]
    run = amigo(problem, X0, Y0, Draws(steps), 2, **settings)
    x, y, v = X0, Y0, np.zeros(4)
    for k in range(2):
        *inner, D_f, D_1, D_2, D_3, D_J = samples(steps[k + 1])
        y = descent(problem, x, y, inner, lambda t, k=k: 0.5 / (k + 1))
        for r in (D_1, D_2, D_3):
            v = v - 0.4 / (k + 2) * (hessian(problem, x, y, r) @ v - problem.F_y(x, y, D_f))
        x = x - 0.3 / (k + 3) * (problem.F_x(x, y, D_f) - cross(problem, x, y, D_J) @ v)
        for key, value in dict(x=x, y=y, v=v).items():
            close(run[k][key], value)


def test_amigo_on_all_rows_nears_the_exact_adjoint_from_the_last_one(problem, everything):
    settings = dict(alpha=lambda k: 0.8, beta=lambda k: 0.6, gamma=lambda k: 0.5, T=2, N=3)
    x, v = X0, np.zeros(4)
    for state in amigo(problem, X0, Y0, everything, 3, **settings):
        A = np.eye(4) - 0.6 * hessian(problem, x, state["y"], everything.lower())
        solution = exact(problem, x, state["y"])[0]
        v = solution + np.linalg.matrix_power(A, 3) @ (v - solution)
        close(state["v"], v)
        x = state["x"]
    state = amigo(problem, X0, Y0, everything, 1, **settings | dict(N=300))[0]
    close(X0 - 0.5 * exact(problem, X0, state["y"])[1], state["x"], 1e-10)


# HOAG


HOAG = dict(alpha=0.5, beta=lambda k: 0.8 / (k + 1), mu=0.5)
NOTHING = Draws([[]] * 6)


def test_hoag_meets_its_tolerances_and_stops_at_the_first_iterate_that_does(problem, everything):
    r, s = everything.lower(), everything.upper()
    x, y, v = X0, Y0, np.zeros(4)
    counts = []
    run = hoag(problem, X0, Y0, NOTHING, 5, epsilon=lambda k: 0.01 * 0.05**k, max_inner=99, max_cg=99, **HOAG)
    for k, state in enumerate(run):
        eps = 0.01 * 0.05**k
        path = [y]
        while norm(problem.G_y(x, path[-1], r)) > 0.5 * eps:
            path.append(path[-1] - 0.5 * problem.G_y(x, path[-1], r))
        y = path[-1]
        close(state["y"], y)
        assert norm(y - lower_solution(problem, x)) <= eps
        # the j-th iterate of CG minimizes the energy over v + span(r, Hr, .., H^{j-1} r)
        H, F_y = hessian(problem, x, y, r), problem.F_y(x, y, s)
        residual = F_y - H @ v
        iterates = [v]
        for j in range(1, 5):
            basis = np.stack([np.linalg.matrix_power(H, i) @ residual for i in range(j)], axis=1)
            iterates.append(v + basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ residual))
        enough = [j for j, w in enumerate(iterates) if norm(H @ w - F_y) <= eps]
        v = iterates[enough[0]]
        close(state["v"], v, 1e-7)
        assert norm(H @ state["v"] - F_y) <= eps * (1 + 1e-9)
        # x moves last, along the direction at the new y and v
        x = x - 0.8 / (k + 1) * (problem.F_x(x, y, s) - cross(problem, x, y, r) @ state["v"])
        close(state["x"], x, 1e-7)
        x, v = state["x"], state["v"]
        counts.append((len(path) - 1, enough[0]))
    descents, solves = zip(*counts, strict=True)
    # both solvers work, and stop by their tests
    assert min(descents) > 0 and max(descents) < 99 and min(solves) == 1 and max(solves) == 3


def test_hoag_takes_no_step_where_its_tests_are_met(problem, everything):
    state = hoag(problem, X0, Y0, NOTHING, 1, epsilon=lambda k: 50.0, max_inner=9, max_cg=9, **HOAG)[0]
    assert np.array_equal(state["y"], Y0) and np.array_equal(state["v"], np.zeros(4))
    close(state["x"], X0 - 0.8 * problem.F_x(X0, Y0, everything.upper()))


@pytest.mark.parametrize("project", [sphere, anywhere])
def test_hoag_never_exceeds_its_numbers_of_steps(problem, everything, project):
    r, s = everything.lower(), everything.upper()
    settings = HOAG | dict(epsilon=lambda k: 0.0, max_inner=2, project=project)
    x, y, v = X0, Y0, np.zeros(4)
    for k, state in enumerate(hoag(problem, X0, Y0, NOTHING, 2, max_cg=1, **settings)):
        y = descent(problem, x, y, [r, r], lambda t: 0.5)
        # one step of CG is the exact line search along the residual
        H = hessian(problem, x, y, r)
        residual = problem.F_y(x, y, s) - H @ v
        v = v + residual @ residual / (residual @ H @ residual) * residual
        x = project(x - 0.8 / (k + 1) * (problem.F_x(x, y, s) - cross(problem, x, y, r) @ v))
        for key, value in dict(x=x, y=y, v=v).items():
            close(state[key], value)
    state = hoag(problem, X0, Y0, NOTHING, 1, max_cg=4, **settings)[0]
    close(state["v"], exact(problem, X0, state["y"])[0], 1e-9)


# reverse


def unrolled(problem, x, y, S):
    for r in S:
        y = y - 0.3 * problem.G_y(x, y, r)
    return y


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("K", [0, 1, 3, 5])
def test_reverse_is_the_derivative_of_its_last_K_steps(problem, everything, rng, noisy, K):
    steps = [[], recorded(rng, "lllllu"), recorded(rng, "lllllu")]
    settings = AID | dict(D=5, K=K)
    run = reverse(problem, X0, Y0, Draws(steps) if noisy else everything, 2, **settings)
    x, y = X0, Y0
    for k in range(2):
        *S, upper = samples(steps[k + 1]) if noisy else [everything.lower()] * 5 + [everything.upper()]
        start = unrolled(problem, x, y, S[: 5 - K])  # held constant; K = D: y^0
        g = numerical(lambda x, s=start, S=S, u=upper: problem.f(x, unrolled(problem, x, s, S[5 - K :]), u), x)
        close((x - run[k]["x"]) * (k + 1) / 0.5, g, 1e-7)
        y = unrolled(problem, x, y, S)
        close(run[k]["y"], y)
        x = run[k]["x"]


def test_reverse_of_every_step_is_itd(problem, rng):
    steps = [[], recorded(rng, "llllu"), recorded(rng, "llllu")]
    run = reverse(problem, X0, Y0, Draws(steps), 2, **AID | dict(D=4, K=4))
    other = itd(problem, X0, Y0, Draws(steps), 2, beta=AID["beta"], alpha=0.3, D=4)
    for state, expected in zip(run, other, strict=True):
        close(state["x"], expected["x"])
        close(state["y"], expected["y"])


def test_reverse_pass_leaves_the_gradient_in_the_starting_point(problem, rng):
    *S, upper = samples(recorded(rng, "llllu"))
    y = [unrolled(problem, X0, Y0, S[:t]) for t in range(5)]
    g, p = reverse_pass(problem, X0, y, S, upper, alpha=0.3, K=4)
    close(p, numerical(lambda y: problem.f(X0, unrolled(problem, X0, y, S), upper), Y0), 1e-8)
    close(g, numerical(lambda x: problem.f(x, unrolled(problem, x, Y0, S), upper), X0), 1e-8)


def test_reverse_refuses_more_steps_than_it_has(problem, everything):
    with pytest.raises(AssertionError, match="K = 4"):
        reverse(problem, X0, Y0, everything, 1, **AID | dict(K=4))


# AID-FP and AID-CG


def test_fixed_point_is_the_neumann_series_of_K_terms(problem, rng):
    steps = [[], recorded(rng, "lllul"), recorded(rng, "lllul")]
    for K in (0, 1, 4):
        x, y = X0, Y0
        for k, state in enumerate(aid_fp(problem, X0, Y0, Draws(steps), 2, **AID | dict(K=K))):
            *S, upper, lower = samples(steps[k + 1])
            y = unrolled(problem, x, y, S)
            A, F_y = np.eye(4) - 0.3 * hessian(problem, x, y, lower), problem.F_y(x, y, upper)
            v = sum((0.3 * np.linalg.matrix_power(A, i) @ F_y for i in range(K)), np.zeros(4))
            x = x - 0.5 / (k + 1) * (problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ v)
            close(state["y"], y)
            close(state["x"], x)


def test_fixed_point_has_one_term_less_than_stocbio(problem, everything):
    state = aid_fp(problem, X0, Y0, everything, 1, **AID | dict(K=6))[0]
    other = stocbio(problem, X0, Y0, everything, 1, beta=AID["beta"], alpha=0.3, D=3, Q=5, eta=0.3)[0]
    close(state["x"], other["x"])
    close(state["y"], other["y"])


def test_conjugate_gradients_start_at_zero_and_end_at_the_solution(problem, rng):
    steps = [[], recorded(rng, "lllul"), recorded(rng, "lllul")]
    for K in (1, 4):
        x, y = X0, Y0
        for k, state in enumerate(aid_cg(problem, X0, Y0, Draws(steps), 2, **AID | dict(K=K))):
            *S, upper, lower = samples(steps[k + 1])
            y = unrolled(problem, x, y, S)
            H, F_y = hessian(problem, x, y, lower), problem.F_y(x, y, upper)
            # one step is the exact line search along F_y, dim y steps solve
            u = F_y @ F_y / (F_y @ H @ F_y) * F_y if K == 1 else np.linalg.solve(H, F_y)
            x = x - 0.5 / (k + 1) * (problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ u)
            close(state["y"], y, 1e-9)
            close(state["x"], x, 1e-9)


def test_conjugate_gradients_begin_as_aid_bio(problem, everything):
    states = aid_cg(problem, X0, Y0, everything, 2, **AID)
    others = aid(problem, X0, Y0, everything, 2, beta=AID["beta"], alpha=0.3, D=lambda k: 3, N=2)
    close(states[0]["x"], others[0]["x"])
    assert norm(states[1]["x"] - others[1]["x"]) > 1e-6  # AID-BiO's second solve starts at the first's


# every algorithm ends where the hypergradient vanishes


def ends():
    # p in random order, each value once in twelve iterations
    ps = np.random.default_rng(5).permuted(np.tile(np.arange(12), (25, 1)), axis=1).ravel()
    hia = dict(alpha=lambda k: min(1.0, 3.0 / (k + 1) ** 0.6), eta=0.8, ps=ps)
    aid = dict(beta=lambda k: 1.0, alpha=0.8, D=20)
    return {
        "ba": (ba, 100, dict(alpha=lambda k: 1.0, beta=lambda t: 0.8, t_k=lambda k: 40), 1e-5),
        "bsa": (bsa, 300, hia | dict(beta=lambda t: 0.8, t_k=lambda k: 30, order=lambda k: 12), 1e-3),
        "ttsa": (ttsa, 300, hia | dict(beta=lambda k: 0.8, order=lambda k: 12), 1e-3),
        "alset": (alset, 300, hia | dict(beta=lambda k: 0.8, T=2, N=12), 1e-3),
        "amigo": (
            amigo, 200,
            dict(alpha=lambda k: 0.8, beta=lambda k: 0.8, gamma=lambda k: 0.8, T=2, N=2), 1e-5,
        ),
        "hoag": (
            hoag, 100,
            dict(
                alpha=0.8, beta=lambda k: 1.0, epsilon=lambda k: 0.1 * 0.85**k, mu=0.5,
                max_inner=99, max_cg=9,
            ),
            1e-5,
        ),
        "reverse": (reverse, 100, aid | dict(K=20), 1e-5),
        "reverse of the last steps": (reverse, 100, aid | dict(K=15), 1e-5),
        "aid_fp": (aid_fp, 100, aid | dict(K=30), 1e-5),
        "aid_cg": (aid_cg, 100, aid | dict(K=4), 1e-5),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(ends()))
def test_full_batches_reach_a_stationary_point(problem, everything, name):
    algorithm, steps, settings, tolerance = ends()[name]
    final = algorithm(problem, 2 * X0, Y0, everything, steps, **settings)[-1]
    assert steepness(problem, 2 * X0) > 0.1
    assert steepness(problem, final["x"]) < tolerance
