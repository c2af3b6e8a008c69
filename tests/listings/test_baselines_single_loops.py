"""The referee is itself examined: the single-loop baselines except SABA, and VRBO."""

import numpy as np
import pytest

from .dense import X0, Y0, close, cross, exact, hessian, lower_solution, recorded, rows, steepness
from .draws import Draws, Everything
from .f2sa import f2sa
from .masoba import masoba
from .mrbo import mrbo
from .problem import NumpyCleaning
from .saba import saba
from .stable import project_below, project_norm, stable
from .svrb import svrb
from .vrbo import vrbo

STEPS = dict(alpha=lambda k: 0.2 / (k + 1), beta=lambda k: 0.4 / (k + 2))
WEIGHT = [None, 0.3, 0.6, 0.2]  # of the fresh sample at k = 1, 2, 3; that of k = 0 is never asked for


def samples(step):
    return [r for _, r in step]


def agree(state, **values):
    for name, value in values.items():
        close(state[name], value)


def points(run):
    """(x_k, y_k) for k = 0, 1, ..."""
    return [(X0, Y0), *((state["x"], state["y"]) for state in run)]


# every draw is used: the levels of two iterations, in order

BATCH_SET = "lulll"  # B_y, B_F, B_G and Q = 2 factors
NEUMANN = dict(Q=2, eta=0.4)
MRBO = dict(gx=STEPS["alpha"], gy=STEPS["beta"], beta=lambda k: WEIGHT[k] / 2, **NEUMANN)
MASOBA = STEPS | dict(gamma=lambda k: 0.3 + k, theta=lambda k: 0.5 / (k + 1))
F2SA = STEPS | dict(
    alpha=lambda k: 0.1 / (k + 1), gamma=lambda k: 0.5 / (k + 2), lam=lambda k: 3.0 + k,
    xi_alpha=lambda k: 0.3 / (k + 3), T=2,
)  # fmt: skip
F2SA.pop("beta")
RUNS = {
    "stable": (stable, ["lu", "lu"], STEPS | dict(tau=lambda k: 0.3, mu=0.5)),
    "svrb": (svrb, ["lu", "lu"], STEPS | dict(a=lambda k: 0.3, mu=0.5)),
    "mrbo": (mrbo, [BATCH_SET] * 2, MRBO | dict(alpha=lambda k: 0.3)),
    "vrbo": (vrbo, [BATCH_SET * 4, BATCH_SET * 3], STEPS | NEUMANN | dict(q=2, m1=2)),
    "masoba": (masoba, ["lu", "lu"], MASOBA),
    "f2sa": (f2sa, ["lullulull"] * 2, F2SA),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_every_draw_is_used_and_none_is_missing(problem, rng, name):
    algorithm, levels, settings = RUNS[name]
    steps = [[], *(recorded(rng, line) for line in levels)]
    run = algorithm(problem, X0, Y0, Draws(steps), 2, **settings)
    assert len(run) == 2 and all(np.isfinite(run[1][key]).all() for key in run[1])
    for level in ("lower", "upper"):
        more = [*steps[:2], [*steps[2], (level, rows(rng))]]
        with pytest.raises(AssertionError, match=f"step 2: 1 {level} draws were never used"):
            algorithm(problem, X0, Y0, Draws(more), 2, **settings)
        last = max(i for i, (name, _) in enumerate(steps[2]) if name == level)
        fewer = [*steps[:2], steps[2][:last] + steps[2][last + 1 :]]
        with pytest.raises(AssertionError, match=f"step 2: the listing needs one more {level}"):
            algorithm(problem, X0, Y0, Draws(fewer), 2, **settings)
    with pytest.raises(AssertionError, match="step 0"):
        algorithm(problem, X0, Y0, Draws([recorded(rng, "l"), *steps[1:]]), 2, **settings)


# the projections


def test_the_projections_satisfy_their_optimality_conditions(rng):
    A = rng.normal(size=(4, 4))
    M = (A + A.T) / 2
    P = project_below(A, 0.5)
    assert np.linalg.eigvalsh(M)[0] < 0 < 0.5 < np.linalg.eigvalsh(M)[-1]
    close(P, P.T)
    # P >= mu I, P - M >= 0 and <P - mu I, P - M> = 0
    assert np.linalg.eigvalsh(P)[0] > 0.5 - 1e-12 and np.linalg.eigvalsh(P - M)[0] > -1e-12
    close(np.sum((P - 0.5 * np.eye(4)) * (P - M)), 0.0)
    B = rng.normal(size=(3, 4))
    P = project_norm(B, 1.0)
    # B - P is normal to the ball at P: <B - P, P> = C ||B - P||_nuclear
    assert np.linalg.norm(P, 2) < 1.0 + 1e-12 < np.linalg.norm(B, 2)
    close(np.sum((B - P) * P), np.linalg.norm(B - P, "nuc"))
    # what is feasible stays
    close(project_below(np.diag([0.5, 2.0]), 0.5), np.diag([0.5, 2.0]))
    close(project_norm(B, 10.0), B)
    assert project_norm(B, None) is B


# STABLE


def test_stable_without_noise_holds_the_exact_matrices(problem, everything):
    run = stable(problem, X0, Y0, everything, 4, tau=lambda k: 0.1, mu=problem.mu, **STEPS)
    r = everything.lower()
    for k, (x, y) in enumerate(points(run)[:-1]):
        H, J = hessian(problem, x, y, r), cross(problem, x, y, r)
        agree(run[k], Hxy=J, Hyy=H)
        x_new = x - 0.2 / (k + 1) * exact(problem, x, y)[1]
        agree(run[k], x=x_new)
        slope = -np.linalg.inv(H) @ J.T
        agree(run[k], y=y - 0.4 / (k + 2) * problem.G_y(x, y, r) + slope @ (x_new - x))


@pytest.mark.parametrize(("mu", "C"), [(0.0, None), (0.7, 0.1)])
def test_stable_continues_from_the_projected_matrices(problem, rng, mu, C):
    steps = [[], *(recorded(rng, "lu") for _ in range(4))]
    settings = dict(tau=lambda k: WEIGHT[k], mu=mu, C=C, **STEPS)
    run = stable(problem, X0, Y0, Draws(steps), 4, **settings)
    at, bound = points(run), []
    for k in range(4):
        phi, xi = samples(steps[k + 1])
        (x, y), state = at[k], run[k]
        Hxy, Hyy = cross(problem, x, y, phi), hessian(problem, x, y, phi)
        if k > 0:
            Hxy = Hxy + (1 - WEIGHT[k]) * (run[k - 1]["Hxy"] - cross(problem, *at[k - 1], phi))
            Hyy = Hyy + (1 - WEIGHT[k]) * (run[k - 1]["Hyy"] - hessian(problem, *at[k - 1], phi))
        bound.append((np.linalg.norm(Hxy, 2) > 0.1, np.linalg.eigvalsh(Hyy)[0] < 0.7))
        agree(state, Hxy=project_norm(Hxy, C), Hyy=project_below(Hyy, mu))
        inverse = np.linalg.inv(state["Hyy"])
        d = problem.F_x(x, y, xi) - state["Hxy"] @ inverse @ problem.F_y(x, y, xi)
        agree(state, x=x - 0.2 / (k + 1) * d)
        shift = inverse @ state["Hxy"].T @ (state["x"] - x)
        agree(state, y=y - 0.4 / (k + 2) * problem.G_y(x, y, phi) - shift)
    assert np.sum(bound, axis=0).min() >= 3  # both constraints of the second setting bind


def test_stable_clips_its_weight_at_one(problem, rng):
    steps = [[], *(recorded(rng, "lu") for _ in range(3))]
    settings = dict(tau=lambda k: 5.0, mu=0.0, **STEPS)
    run = stable(problem, X0, Y0, Draws(steps), 3, **settings)
    for (x, y), state, step in zip(points(run), run, steps[1:], strict=False):
        phi = step[0][1]
        agree(state, Hxy=cross(problem, x, y, phi), Hyy=hessian(problem, x, y, phi))


def test_stable_corrector_follows_the_lower_solution(problem, everything):
    """From y*(x_0), y_1 is y*(x_1) up to the square of the step."""
    start = lower_solution(problem, X0)

    def errors(alpha):
        settings = dict(beta=lambda k: 0.4, tau=lambda k: 1.0, mu=0.1)
        state = stable(problem, X0, start, everything, 1, alpha=lambda k: alpha, **settings)[0]
        solution = lower_solution(problem, state["x"])
        return np.linalg.norm(state["y"] - solution), np.linalg.norm(start - solution)

    (coarse, _), (fine, uncorrected) = errors(0.2), errors(0.1)
    assert 3.5 < coarse / fine < 4.5
    assert fine < 0.05 * uncorrected


def test_stable_corrector_uses_the_projected_step(problem, everything):
    settings = dict(tau=lambda k: 1.0, mu=0.1, **STEPS)
    still = stable(problem, X0, Y0, everything, 1, project=lambda x: X0, **settings)[0]
    agree(still, x=X0, y=Y0 - 0.2 * problem.G_y(X0, Y0, everything.lower()))
    free = stable(problem, X0, Y0, everything, 1, **settings)[0]
    half = stable(problem, X0, Y0, everything, 1, project=lambda x: (x + X0) / 2, **settings)[0]
    agree(half, x=(X0 + free["x"]) / 2, y=(still["y"] + free["y"]) / 2)


# SVRB


def test_svrb_without_noise_holds_the_exact_parts(problem, everything):
    run = svrb(problem, X0, Y0, everything, 4, a=lambda k: 0.1, mu=problem.mu, **STEPS)
    r, s = everything.lower(), everything.upper()
    for k, (x, y) in enumerate(points(run)[:-1]):
        agree(run[k], u=problem.F_x(x, y, s), w=problem.F_y(x, y, s), s=problem.G_y(x, y, r))
        agree(run[k], V=cross(problem, x, y, r), M=hessian(problem, x, y, r))
        agree(run[k], x=x - 0.2 / (k + 1) * exact(problem, x, y)[1])
        agree(run[k], y=y - 0.4 / (k + 2) * problem.G_y(x, y, r))


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_svrb_continues_from_its_estimates_and_projects_M_alone(problem, rng, mu):
    steps = [[], *(recorded(rng, "lu") for _ in range(4))]
    run = svrb(problem, X0, Y0, Draws(steps), 4, a=lambda k: WEIGHT[k], mu=mu, **STEPS)
    at = points(run)
    for k in range(4):
        zeta, xi = samples(steps[k + 1])
        state, (x, y) = run[k], at[k]
        parts = dict(
            u=(problem.F_x, xi), w=(problem.F_y, xi), s=(problem.G_y, zeta),
            V=(lambda *where: cross(problem, *where), zeta),
            M=(lambda *where: hessian(problem, *where), zeta),
        )  # fmt: skip
        for name, (part, sample) in parts.items():
            value = part(x, y, sample)
            if k > 0:
                value = value + (1 - WEIGHT[k]) * (run[k - 1][name] - part(*at[k - 1], sample))
            if name == "M":
                assert np.linalg.eigvalsh(value)[0] < 0.7  # the second mu binds
                value = project_below(value, mu)
            close(state[name], value)
        d = state["u"] - state["V"] @ np.linalg.inv(state["M"]) @ state["w"]
        agree(state, x=x - 0.2 / (k + 1) * d, y=y - 0.4 / (k + 2) * state["s"])


def test_svrb_clips_its_weight_at_one(problem, rng):
    steps = [[], *(recorded(rng, "lu") for _ in range(3))]
    run = svrb(problem, X0, Y0, Draws(steps), 3, a=lambda k: 5.0, mu=0.0, **STEPS)
    for (x, y), state, step in zip(points(run), run, steps[1:], strict=False):
        zeta, xi = samples(step)
        agree(state, u=problem.F_x(x, y, xi), w=problem.F_y(x, y, xi), s=problem.G_y(x, y, zeta))
        agree(state, V=cross(problem, x, y, zeta), M=hessian(problem, x, y, zeta))


# MRBO and VRBO


def hyper(problem, x, y, B_F, B_G, factors, eta):
    """The Neumann estimate with dense products."""
    eye = np.eye(problem.q)
    product, total = eye, eye
    for B in factors:
        product = (eye - eta * hessian(problem, x, y, B)) @ product
        total = total + product
    v = eta * total @ problem.F_y(x, y, B_F)
    return problem.F_x(x, y, B_F) - cross(problem, x, y, B_G) @ v


def everywhere(problem, x, y, Q, eta):
    """The same, on all rows."""
    every = Everything(problem.n, problem.m)
    return hyper(problem, x, y, every.upper(), every.lower(), [every.lower()] * Q, eta)


def at_batch_set(problem, x, y, batches, eta):
    """d and s on one batch set."""
    B_y, B_F, B_G, *factors = batches
    return hyper(problem, x, y, B_F, B_G, factors, eta), problem.G_y(x, y, B_y)


def test_mrbo_without_noise_has_the_plain_direction(problem, everything):
    run = mrbo(problem, X0, Y0, everything, 4, alpha=lambda k: 0.1, **MRBO)
    for k, (x, y) in enumerate(points(run)[:-1]):
        d, s = everywhere(problem, x, y, 2, 0.4), problem.G_y(x, y, everything.lower())
        agree(run[k], d=d, s=s, x=x - 0.2 / (k + 1) * d, y=y - 0.4 / (k + 2) * s)
    long = mrbo(problem, X0, Y0, everything, 3, alpha=lambda k: 0.1, **(MRBO | dict(Q=300)))
    for state, (x, y) in zip(long, points(long), strict=False):
        close(state["d"], exact(problem, x, y)[1], 1e-10)


def test_mrbo_differences_the_same_samples_at_the_last_two_points(problem, rng):
    steps = [[], *(recorded(rng, BATCH_SET) for _ in range(4))]
    run = mrbo(problem, X0, Y0, Draws(steps), 4, alpha=lambda k: WEIGHT[k], **MRBO)
    at = points(run)
    for k in range(4):
        d, s = at_batch_set(problem, *at[k], samples(steps[k + 1]), 0.4)
        if k > 0:
            d_old, s_old = at_batch_set(problem, *at[k - 1], samples(steps[k + 1]), 0.4)
            d = d + (1 - WEIGHT[k]) * (run[k - 1]["d"] - d_old)
            s = s + (1 - WEIGHT[k] / 2) * (run[k - 1]["s"] - s_old)
        agree(run[k], d=d, s=s)
        agree(run[k], x=at[k][0] - 0.2 / (k + 1) * d, y=at[k][1] - 0.4 / (k + 2) * s)


def test_mrbo_clips_its_weights_at_one(problem, rng):
    steps = [[], *(recorded(rng, BATCH_SET) for _ in range(3))]
    settings = MRBO | dict(alpha=lambda k: 5.0, beta=lambda k: 6.0)
    run = mrbo(problem, X0, Y0, Draws(steps), 3, **settings)
    for state, where, step in zip(run, points(run), steps[1:], strict=False):
        d, s = at_batch_set(problem, *where, samples(step), 0.4)
        agree(state, d=d, s=s)


@pytest.mark.parametrize(("q", "m1"), [(1, 1), (3, 1), (3, 4)])
def test_vrbo_without_noise_leaves_at_the_new_point(problem, everything, q, m1):
    settings = STEPS | NEUMANN | dict(q=q, m1=m1)
    run = vrbo(problem, X0, Y0, everything, 5, **settings)
    r, d = everything.lower(), everywhere(problem, X0, Y0, 2, 0.4)
    for k, (x, y) in enumerate(points(run)[:-1]):
        x = x - 0.2 / (k + 1) * d
        for _ in range(m1):
            y = y - 0.4 / (k + 2) * problem.G_y(x, y, r)
        d, s = everywhere(problem, x, y, 2, 0.4), problem.G_y(x, y, r)
        agree(run[k], x=x, y=y, d=d, s=s)


def test_vrbo_sums_differences_and_starts_afresh_every_period(problem, rng):
    q, m1 = 2, 2
    steps = [[], *(recorded(rng, BATCH_SET * (4 if k % q == 0 else 3)) for k in range(5))]
    run = vrbo(problem, X0, Y0, Draws(steps), 5, q=q, m1=m1, **STEPS, **NEUMANN)
    x, y, d, s = X0, Y0, np.nan, np.nan
    for k, state in enumerate(run):
        batches = samples(steps[k + 1])
        sets = [batches[i : i + 5] for i in range(0, len(batches), 5)]
        if len(sets) == 4:
            d, s = at_batch_set(problem, x, y, sets.pop(0), 0.4)
        path = [(x, y), (x - 0.2 / (k + 1) * d, y)]
        for t, batch_set in enumerate(sets):
            (d_old, s_old), (d_new, s_new) = (at_batch_set(problem, *path[i], batch_set, 0.4) for i in (t, t + 1))
            d, s = d + d_new - d_old, s + s_new - s_old
            path.append((path[1][0], path[-1][1] - 0.4 / (k + 2) * s))
        x, y = path[-2]
        agree(state, x=x, y=y, d=d, s=s)


def test_vrbo_moves_to_the_projected_point(problem, everything):
    settings = STEPS | NEUMANN | dict(q=2, m1=1)
    state = vrbo(problem, X0, Y0, everything, 1, project=lambda x: 0.5 * X0, **settings)[0]
    agree(state, x=0.5 * X0, y=Y0 - 0.2 * problem.G_y(0.5 * X0, Y0, everything.lower()))
    agree(state, d=everywhere(problem, state["x"], state["y"], 2, 0.4))


# MA-SOBA


def test_masoba_moves_by_the_old_average(problem, rng):
    steps = [[], *(recorded(rng, "lu") for _ in range(3))]
    run = masoba(problem, X0, Y0, Draws(steps), 3, **MASOBA)
    assert np.array_equal(run[0]["x"], X0)
    x, y, v, h = X0, Y0, np.zeros(problem.q), np.zeros(problem.p)
    for k in range(3):
        i, j = samples(steps[k + 1])
        theta = 0.5 / (k + 1)
        x, y, v, h = (
            x - 0.2 / (k + 1) * h,
            y - 0.4 / (k + 2) * problem.G_y(x, y, i),
            v - (0.3 + k) * (hessian(problem, x, y, i) @ v - problem.F_y(x, y, j)),
            (1 - theta) * h + theta * (problem.F_x(x, y, j) - cross(problem, x, y, i) @ v),
        )
        agree(run[k], x=x, y=y, v=v, h=h)
    assert np.linalg.norm(run[1]["x"] - X0) > 1e-3


# F2SA


def test_f2sa_on_samples_by_hand(problem, rng):
    steps = [[], *(recorded(rng, "lullulull") for _ in range(3))]
    run = f2sa(problem, X0, Y0, Draws(steps), 3, **F2SA)
    x, y, z = X0, Y0, Y0
    for k in range(3):
        z1, u1, y1, z2, u2, y2, u, xy, xz = samples(steps[k + 1])
        alpha, gamma, lam = 0.1 / (k + 1), 0.5 / (k + 2), 3.0 + k
        for r in (z1, z2):
            z = z - gamma * problem.G_y(x, z, r)
        for s, r in ((u1, y1), (u2, y2)):
            y = y - alpha * problem.F_y(x, y, s) - alpha * lam * problem.G_y(x, y, r)
        d = problem.F_x(x, y, u) + lam * problem.G_x(x, y, xy) - lam * problem.G_x(x, z, xz)
        x = x - 0.3 / (k + 3) * d
        agree(run[k], x=x, y=y, z=z)


@pytest.mark.parametrize("per_row", [False, True])
def test_f2sa_approaches_the_hypergradient_like_one_over_lambda(problem, everything, per_row):
    if per_row:
        problem = NumpyCleaning(problem)
        problem.q = len(Y0)
    x0 = np.linspace(-1, 1, problem.n) if per_row else X0
    h = exact(problem, x0, lower_solution(problem, x0))[1]

    def error(lam):
        """With both inner loops at their ends, and x's step 1."""
        state = f2sa(
            problem, x0, Y0, everything, 1, alpha=lambda k: 0.8 / (lam + 5), gamma=lambda k: 0.8,
            lam=lambda k: lam, xi_alpha=lambda k: 1.0, T=100,
        )[0]  # fmt: skip
        close(state["z"], lower_solution(problem, x0), 1e-9)
        return np.linalg.norm(x0 - state["x"] - h)

    coarse, middle, fine = (error(lam) for lam in (500.0, 1000.0, 2000.0))
    assert fine < 0.01 * np.linalg.norm(h)
    assert 1.9 < coarse / middle < 2.1 and 1.9 < middle / fine < 2.1


# every algorithm ends where the hypergradient vanishes


def constant(**values):
    return {name: lambda k, value=value: value for name, value in values.items()}


ENDS = {
    "stable": (stable, 250, dict(mu=0.3, **constant(alpha=0.5, beta=0.8, tau=0.3)), 1e-5),
    "svrb": (svrb, 300, dict(mu=0.3, **constant(alpha=0.5, beta=0.8, a=0.3)), 1e-5),
    "mrbo": (mrbo, 300, dict(Q=30, eta=0.8, **constant(gx=0.5, gy=0.8, alpha=0.3, beta=0.3)), 1e-5),
    "vrbo": (vrbo, 200, dict(Q=30, eta=0.8, q=3, m1=3, **constant(alpha=0.5, beta=0.8)), 1e-5),
    "saba": (saba, 300, dict(sizes=(150, 200), **constant(rho=0.8, gamma=0.5)), 1e-5),
    "masoba": (masoba, 400, constant(alpha=0.5, beta=0.8, gamma=0.8, theta=0.5), 1e-5),
    "f2sa": (
        f2sa, 100,
        dict(T=20, alpha=lambda k: 0.8 / (105 + 5 * k), lam=lambda k: 100.0 + 5 * k,
             **constant(gamma=0.8, xi_alpha=0.5)),
        1e-2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ENDS))
def test_full_batches_reach_a_stationary_point(problem, everything, name):
    algorithm, steps, settings, tolerance = ENDS[name]
    final = algorithm(problem, 2 * X0, Y0, everything, steps, **settings)[-1]
    assert steepness(problem, 2 * X0) > 0.1
    assert steepness(problem, final["x"]) < tolerance
    if name != "f2sa":  # its y minimizes f + lambda g
        close(final["y"], lower_solution(problem, final["x"]), 1e-5)
