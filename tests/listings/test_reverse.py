"""Reverse mode and ITD-BiO: the derivative of the iterates that they compute."""

import pytest

from .dense import X0, Y0, close, numerical, recorded
from .draws import Draws
from .itd import itd
from .reverse import reverse

SETTINGS = dict(beta=lambda k: 0.5 / (k + 1), alpha=0.3, D=5)


def unrolled(problem, x, y, S):
    for r in S:
        y = y - 0.3 * problem.G_y(x, y, r)
    return y


@pytest.mark.parametrize("K", [0, 1, 3, 5])
def test_reverse_is_the_derivative_of_its_last_K_steps(problem, rng, K):
    """On samples, each of them shared by the step and the products at its point; K = D is ITD-BiO."""
    steps = [[], recorded(rng, "lllllu"), recorded(rng, "lllllu")]
    run = reverse(problem, X0, Y0, Draws(steps), 2, K=K, **SETTINGS)
    x, y = X0, Y0
    for k, state in enumerate(run):
        *S, upper = (r for _, r in steps[k + 1])
        start = unrolled(problem, x, y, S[: 5 - K])  # held constant
        g = numerical(lambda x, s=start, S=S, u=upper: problem.f(x, unrolled(problem, x, s, S[5 - K :]), u), x)
        close((x - state["x"]) * (k + 1) / 0.5, g, 1e-7)
        close(state["y"], unrolled(problem, x, y, S))
        x, y = state["x"], state["y"]
    if K == 5:
        for state, expected in zip(itd(problem, X0, Y0, Draws(steps), 2, **SETTINGS), run, strict=True):
            close(state["x"], expected["x"])
            close(state["y"], expected["y"])
