"""Recursive momentum: exact without noise, and an average at a fixed point."""

import numpy as np
import pytest

from .dense import X0, Y0, close, cross, exact, hessian, lower_solution, recorded
from .draws import Draws
from .fsla import fsla
from .mrbo import mrbo
from .stable import project_below, project_norm, stable
from .sustain import sustain
from .svrb import svrb
from .vrbo import vrbo

STEPS = dict(alpha=lambda k: 0.2 / (k + 1), beta=lambda k: 0.4 / (k + 2))
NEUMANN = dict(Q=300, eta=0.4)  # the whole series
MU, C = 0.7, 0.1
# listing, names of its two steps, names of its weights, draws of a step, what is estimated, other settings
RECURSIVE = {
    "sustain": (sustain, "alpha beta", "eta_f eta_g", "lul", "hf hg", dict(K=1, L=1.5, ks=[0] * 4)),
    "mrbo": (mrbo, "gx gy", "alpha beta", "lul" + 300 * "l", "d s", NEUMANN),
    "stable": (stable, "alpha beta", "tau", "lu", "Hxy Hyy", dict(mu=0.0)),
    "svrb": (svrb, "alpha beta", "a", "lu", "u w V M s", dict(mu=0.0)),
}
BOUNDS = {"stable": dict(mu=MU, C=C), "svrb": dict(mu=MU)}
PROJECTIONS = dict(
    Hxy=lambda m: project_norm(m, C), Hyy=lambda m: project_below(m, MU), M=lambda m: project_below(m, MU)
)


def rates(value, names):
    return {name: lambda k: value for name in names.split()}


@pytest.mark.parametrize("name", RECURSIVE)
def test_estimates_are_exact_without_noise(problem, everything, name):
    """Whatever the weight: the two points of a difference are the present one and the last one."""
    listing, steps, weights, _, fields, settings = RECURSIVE[name]
    x, y, r, s = X0, Y0, everything.lower(), everything.upper()
    for state in listing(problem, X0, Y0, everything, 4, **rates(0.3, steps), **rates(0.1, weights), **settings):
        F_x, F_y, G_y = problem.F_x(x, y, s), problem.F_y(x, y, s), problem.G_y(x, y, r)
        H, J = hessian(problem, x, y, r), cross(problem, x, y, r)
        exactly = dict(u=F_x, w=F_y, s=G_y, hg=G_y, V=J, Hxy=J, M=H, Hyy=H)
        exactly |= dict(d=F_x - J @ np.linalg.solve(H, F_y), hf=F_x - J @ F_y / 1.5)
        for field in fields.split():
            close(state[field], exactly[field], 1e-10)
        x, y = state["x"], state["y"]


@pytest.mark.parametrize("name", RECURSIVE)
def test_at_rest_the_noise_is_averaged_and_projections_are_kept(problem, rng, name):
    """The two samples of a difference are the same draw; the first weight is 1, and none is larger."""
    listing, steps, weights, levels, fields, settings = RECURSIVE[name]
    draws, still = [[], *(recorded(rng, levels) for _ in range(4))], rates(0.0, steps)
    plain, clipped, run = (
        listing(problem, X0, Y0, Draws(draws), 4, **still, **rates(weight, weights), **settings | more)
        for weight, more in ((1.0, {}), (5.0, {}), (0.3, BOUNDS.get(name, {})))
    )
    for field in fields.split():
        project = PROJECTIONS.get(field, lambda average: average)
        average = project(plain[0][field])
        close(run[0][field], average)
        for k in range(1, 4):
            close(clipped[k][field], plain[k][field])
            average = project(0.3 * plain[k][field] + 0.7 * average)
            close(run[k][field], average)
        assert np.linalg.norm(run[3][field] - plain[3][field]) > 1e-3


def test_fsla_is_exact_at_the_new_point_and_moves_y_and_v_from_the_new_x_and_the_old_y(problem, everything):
    r, s = everything.lower(), everything.upper()
    x, y, v = X0, Y0, np.zeros(4)
    settings = STEPS | rates(0.3, "tau eta") | dict(beta=lambda k: 0.4)
    d = problem.F_x(X0, Y0, s)  # v_0 = 0
    for k, state in enumerate(fsla(problem, X0, Y0, everything, 4, **settings)):
        x = x - 0.2 / (k + 1) * d
        close(state["x"], x)
        close(state["v"], v - 0.4 * (hessian(problem, x, y, r) @ v - problem.F_y(x, y, s)))
        close(state["y"], y - 0.3 * problem.G_y(x, y, r))
        y, v = state["y"], state["v"]
        d = problem.F_x(x, y, s) - cross(problem, x, y, r) @ v
        close(state["d"], d)


@pytest.mark.parametrize(("q", "m1"), [(1, 1), (3, 1), (3, 4)])
def test_vrbo_leaves_its_lower_loop_at_the_new_point_after_m1_steps(problem, everything, q, m1):
    x, y, h = X0, Y0, exact(problem, X0, Y0)[1]
    for k, state in enumerate(vrbo(problem, X0, Y0, everything, 4, q=q, m1=m1, **STEPS, **NEUMANN)):
        x = x - 0.2 / (k + 1) * h
        for _ in range(m1):
            y = y - 0.4 / (k + 2) * problem.G_y(x, y, everything.lower())
        h = exact(problem, x, y)[1]
        for field, value in dict(x=x, y=y, d=h, s=problem.G_y(x, y, everything.lower())).items():
            close(state[field], value, 1e-10)


def test_vrbo_at_rest_keeps_the_sample_that_began_its_period(problem, rng):
    steps = [[], *(recorded(rng, "lulll" * (3 if k % 2 == 0 else 2)) for k in range(4))]
    still = rates(0.0, "alpha beta") | dict(q=2, m1=1, Q=2, eta=0.4)
    run = vrbo(problem, X0, Y0, Draws(steps), 4, **still)
    for k, state in enumerate(run):
        close(state["s"], problem.G_y(X0, Y0, steps[k // 2 * 2 + 1][0][1]))
        close(state["d"], run[k // 2 * 2]["d"])
    assert np.linalg.norm(run[2]["d"] - run[1]["d"]) > 1e-3


def test_the_corrector_of_stable_follows_the_lower_solution(problem, everything):
    """From y*(x_0), y_1 is y*(x_1) up to the square of the step; x_1 is the projected point."""
    start = lower_solution(problem, X0)

    def errors(alpha, project=lambda x: x):
        settings = rates(1.0, "tau") | dict(alpha=lambda k: alpha, beta=lambda k: 0.4, mu=0.1, project=project)
        state = stable(problem, X0, start, everything, 1, **settings)[0]
        solution = lower_solution(problem, state["x"])
        return np.linalg.norm(state["y"] - solution), np.linalg.norm(start - solution)

    (coarse, _), (fine, uncorrected) = errors(0.2), errors(0.1)
    assert 3.5 < coarse / fine < 4.5 and fine < 0.05 * uncorrected
    assert errors(0.2, lambda x: X0)[0] < 1e-12
