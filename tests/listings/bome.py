"""BOME (Ye, Liu, Wright, Stone & Liu, NeurIPS 2022, Alg. 1).

The listing is deterministic, so the draws are our choice: in iteration k, one lower draw per inner step, one upper draw
for the gradients of f, and one lower draw for those of q.
"""

import numpy as np


def bome(problem, x0, y0, draws, steps, *, xi_x, xi_y, alpha, eta, T):
    """`xi_x`, `xi_y`, `alpha` and `eta` are functions of k."""
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^0 = y_k;  y^{t+1} = y^t - alpha G_y(x_k, y^t)
        end = y.copy()
        for _ in range(T):
            end = end - alpha(k) * problem.G_y(x, end, draws.lower())
        # grad f and grad q, q(x, y) = g(x, y) - g(x, y^T), at (x_k, y_k)
        j, i = draws.upper(), draws.lower()
        grad_f = np.concatenate([problem.F_x(x, y, j), problem.F_y(x, y, j)])
        grad_q = np.concatenate([problem.G_x(x, y, i) - problem.G_x(x, end, i), problem.G_y(x, y, i)])
        # lambda = max((phi - <grad f, grad q>)/|grad q|^2, 0),  phi = eta |grad q|^2
        phi = eta(k) * (grad_q @ grad_q)
        lam = max((phi - grad_f @ grad_q) / (grad_q @ grad_q), 0.0)
        # (x, y) <- (x, y) - xi (grad f + lambda grad q)
        step = grad_f + lam * grad_q
        x, y = x - xi_x(k) * step[: len(x)], y - xi_y(k) * step[len(x) :]
        draws.end()
        trajectory.append(dict(x=x, y=y))
    return trajectory
