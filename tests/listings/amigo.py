"""AmIGO (Arbel, Mairal, ICLR 2022, Alg. 1 to 3).

Chosen: v_{-1} = 0. (The paper stores -v.) The batch sizes are what was drawn; the paper's formulas
for them are unclear.

Draws of iteration k: T lower D_t, upper D_f, N lower D_n, lower D_J.
"""

import numpy as np


def amigo(problem, x0, y0, draws, steps, *, alpha, beta, gamma, T, N):
    """`alpha` (y), `beta` (v) and `gamma` (x) are functions of k."""
    draws.begin(0)
    draws.end()
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y <- y_{k-1};  T times: y <- y - alpha_k G_y(x_k, y; D_t), fresh D_t;  y_k = y
        for _ in range(T):
            y = y - alpha(k) * problem.G_y(x, y, draws.lower())
        # draw one D_f: u = F_x(x_k, y_k; D_f),  w = F_y(x_k, y_k; D_f)
        D_f = draws.upper()
        u = problem.F_x(x, y, D_f)
        w = problem.F_y(x, y, D_f)
        # v <- v_{k-1};  N times: v <- v - beta_k (H(x_k, y_k; D_n)[v] - w), fresh D_n;  v_k = v
        for _ in range(N):
            v = v - beta(k) * (problem.H(x, y, v, draws.lower()) - w)
        # x_{k+1} = x_k - gamma_k (u - J(x_k, y_k; D_J)[v_k]),  D_J fresh
        D_J = draws.lower()
        x = x - gamma(k) * (u - problem.J(x, y, v, D_J))
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v))
    return trajectory
