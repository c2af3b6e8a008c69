"""The referee is itself examined: MAML, ANIL and recursive momentum around the double loops."""

import numpy as np
import pytest

from .aid import aid
from .dense import X0, Y0, close, numerical, recorded
from .draws import Draws
from .itd import itd
from .maml import Features, Logistic, anil, maml, run
from .recursive import bp, cg, ns, recursive
from .stocbio import stocbio

DIM, HEAD = 4, 3


def rows(rng, n):
    a = rng.normal(size=(n, DIM))
    return a, np.where(a @ rng.normal(size=DIM) > 0, 1.0, -1.0)


@pytest.fixture
def pairs(rng):
    return [(rows(rng, 5), rows(rng, 6)) for _ in range(6)]


def of(loss, pairs, mu=0.1):
    return [tuple(loss(a, b, mu) for a, b in pair) for pair in pairs]


DRAWN = [[3, 0, 3], [1, 2, 5]]


def test_maml_is_the_derivative_of_the_adapted_loss(pairs, rng):
    tasks, x = of(Logistic, pairs), rng.normal(size=DIM)

    def adapted(x, chosen):
        ends = []
        for i in chosen:
            y = x
            for _ in range(3):
                y = y - 0.4 * tasks[i][0].gradient(y)
            ends.append(y)
        return np.array(ends), np.mean([tasks[i][1].value(y) for i, y in zip(chosen, ends, strict=True)])

    first, second = run(maml(tasks, x, DRAWN, alpha=0.4, D=3), x, DRAWN, beta=lambda k: 0.5 / (k + 1))
    close(first["y"], adapted(x, DRAWN[0])[0])
    close(first["x"], x - 0.5 * numerical(lambda x: adapted(x, DRAWN[0])[1], x), 1e-8)
    step = 0.25 * numerical(lambda x: adapted(x, DRAWN[1])[1], first["x"])
    close(second["x"], first["x"] - step, 1e-8)


def test_anil_is_the_derivative_of_the_adapted_loss(pairs, rng):
    tasks, x = of(Features, pairs), rng.normal(size=HEAD * DIM + HEAD)

    def split(x):
        return x[:-HEAD].reshape(HEAD, DIM), x[-HEAD:]

    def adapted(x, chosen):
        (W, theta), values = split(x), []
        for i in chosen:
            y = theta
            for _ in range(3):
                y = y - 0.4 * tasks[i][0].gradient_y(W, y)
            values.append(tasks[i][1].value(W, y))
        return np.mean(values)

    first, _ = run(anil(tasks, split(x), DRAWN, alpha=0.4, D=3), split(x), DRAWN, beta=lambda k: 0.5)
    expected = x - 0.5 * numerical(lambda x: adapted(x, DRAWN[0]), x)
    close(np.concatenate([part.ravel() for part in first["x"]]), expected, 1e-8)
    # the parts that are easily forgotten matter
    W, theta = split(x)
    support, query = tasks[3]
    assert np.linalg.norm(support.cross(W, theta, query.gradient_y(W, theta))) > 0.01


def test_adam_moves_by_the_step_at_first(pairs, rng):
    tasks, x = of(Logistic, pairs), rng.normal(size=DIM)
    first, second = run(maml(tasks, x, DRAWN, alpha=0.4, D=1), x, DRAWN, beta=lambda k: 0.1, upper="adam")
    close(np.abs(first["x"] - x), 0.1, 1e-6)
    assert np.linalg.norm(second["x"] - first["x"]) > 1e-3


INSIDE = {
    "itd": ("lllu", bp(0.4, 3), itd, dict(alpha=0.4, D=3)),
    "aid": ("llul", cg(0.4, 2, 3), aid, dict(alpha=0.4, D=lambda k: 2, N=3)),
    "stocbio": ("llullll", ns(0.4, 2, 3, 0.3), stocbio, dict(alpha=0.4, D=2, Q=3, eta=0.3)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_recursive_momentum(problem, rng, name):
    """With weights of 1 it is the listing inside; with others, two steps by hand from that listing's h."""
    levels, hypergradient, listing, settings = INSIDE[name]
    steps = [[], *(recorded(rng, levels) for _ in range(3))]
    arguments = dict(beta=lambda t: 0.3 / (t + 1))
    plain = listing(problem, X0, Y0, Draws(steps), 3, **arguments, **settings)
    run = recursive(problem, X0, Y0, Draws(steps), 3, eta=lambda t: 5.0, hypergradient=hypergradient, **arguments)
    for found, expected in zip(run, plain, strict=True):
        close(found["x"], expected["x"])
        close(found["y"], expected["y"])
    run = recursive(problem, X0, Y0, Draws(steps), 2, eta=lambda t: 0.4, hypergradient=hypergradient, **arguments)
    estimate = hypergradient(_begun(steps, 2))
    state = plain[0]
    start = state["y"], state.get("v", np.zeros(4))
    new, old = estimate(problem, state["x"], *start)[0], estimate(problem, X0, *start)[0]
    close(run[1]["d"], new + 0.6 * (state["h"] - old))
    close(run[1]["x"], state["x"] - 0.15 * run[1]["d"])
    assert np.linalg.norm(run[1]["d"] - plain[1]["h"]) > 1e-3


def _begun(steps, step):
    draws = Draws(steps)
    draws.begin(step)
    return draws
