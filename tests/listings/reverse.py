"""Reverse-HG (Franceschi, Donini, Frasconi, Pontil, ICML 2017, Alg. 1), AID-FP and AID-CG (Grazzi,
Franceschi, Pontil, Salzo, ICML 2020).

Chosen: y is warm started across iterations k, as in the papers' experiments; u starts at 0 in each;
no solver stops early (CG stops only where its next step would divide by zero). On samples, the
reverse pass reuses the batch of the step taken at y^t, and all H products of one solve share one
lower draw with J. AID-CG solves H u = F_y, not Grazzi's alpha H u = F_y.

Draws of iteration k: reverse: D lower, upper. AID-FP and AID-CG: D lower, upper, lower.
"""

import numpy as np

from .aid import conjugate_gradient


def reverse_pass(problem, x, y, S, upper, *, alpha, K):
    """g, and p on exit: y[t+1] = y[t] - alpha G_y(x, y[t]; S[t]), t = 0..D-1."""
    D = len(S)
    # p = F_y(x, y^D); g = F_x(x, y^D)
    p = problem.F_y(x, y[D], upper)
    g = problem.F_x(x, y[D], upper)
    # for t = D-1 down to D-K: g <- g - alpha J(x, y^t)[p];  p <- p - alpha H(x, y^t)[p]
    for t in range(D - 1, D - K - 1, -1):
        g = g - alpha * problem.J(x, y[t], p, S[t])
        p = p - alpha * problem.H(x, y[t], p, S[t])
    return g, p


def reverse(problem, x0, y0, draws, steps, *, beta, alpha, D, K):
    """`beta` is a function of k; the last K <= D steps are back-propagated."""
    assert 0 <= K <= D, f"K = {K} is not in 0..{D}"
    draws.begin(0)
    draws.end()
    x, y_last = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^t = y^{t-1} - alpha G_y(x, y^{t-1}), t = 1..D, store all y^t
        y, S = [y_last], []
        for t in range(1, D + 1):
            S.append(draws.lower())
            y.append(y[t - 1] - alpha * problem.G_y(x, y[t - 1], S[t - 1]))
        g, _ = reverse_pass(problem, x, y, S, draws.upper(), alpha=alpha, K=K)
        # x <- x - beta g
        x = x - beta(k) * g
        y_last = y[D]
        draws.end()
        trajectory.append(dict(x=x, y=y_last))
    return trajectory


def aid_fp(problem, x0, y0, draws, steps, *, beta, alpha, D, K):
    """`beta` is a function of k."""
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^t = y^{t-1} - alpha G_y(x, y^{t-1}), t = 1..D
        for _ in range(D):
            y = y - alpha * problem.G_y(x, y, draws.lower())
        upper = draws.upper()
        lower = draws.lower()
        # u = 0;  K times: u <- u - alpha H(x, y^D)[u] + F_y(x, y^D)
        u = np.zeros_like(y)
        for _ in range(K):
            u = u - alpha * problem.H(x, y, u, lower) + problem.F_y(x, y, upper)
        # g = F_x - alpha J(x, y^D)[u]
        g = problem.F_x(x, y, upper) - alpha * problem.J(x, y, u, lower)
        # x <- x - beta g
        x = x - beta(k) * g
        draws.end()
        trajectory.append(dict(x=x, y=y))
    return trajectory


def aid_cg(problem, x0, y0, draws, steps, *, beta, alpha, D, K):
    """`beta` is a function of k."""
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^t = y^{t-1} - alpha G_y(x, y^{t-1}), t = 1..D
        for _ in range(D):
            y = y - alpha * problem.G_y(x, y, draws.lower())
        upper = draws.upper()
        lower = draws.lower()
        # u = CG(H(x, y^D), F_y(x, y^D); K steps, from 0)
        u = conjugate_gradient(
            lambda w, x=x, y=y, rows=lower: problem.H(x, y, w, rows),
            problem.F_y(x, y, upper), np.zeros_like(y), K,
        )  # fmt: skip
        # g = F_x - J(x, y^D)[u]
        g = problem.F_x(x, y, upper) - problem.J(x, y, u, lower)
        # x <- x - beta g
        x = x - beta(k) * g
        draws.end()
        trajectory.append(dict(x=x, y=y))
    return trajectory
