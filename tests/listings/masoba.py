"""MA-SOBA (Chen, Xiao, Balasubramanian, JMLR 2024, Alg. 1).

Chosen where the listing is silent or unclear: v_0 = 0 and h_0 = 0, so that the first step leaves
x as it is. The oracles share samples as in SOBA: G_y, H and J one, F_x and F_y another.

Draws of iteration k: lower i, upper j.
"""

import numpy as np


def masoba(problem, x0, y0, draws, steps, *, alpha, beta, gamma, theta):
    """`alpha` (x), `beta` (y), `gamma` (v) and `theta` are functions of k."""
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    # v_0, h_0: 0 if not given
    v, h = np.zeros_like(y0), np.zeros_like(x0)
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # draw samples at (x_k, y_k)
        i = draws.lower()
        j = draws.upper()
        # w = F_x(x_k,y_k) - J(x_k,y_k)[v_k]
        w = problem.F_x(x, y, j) - problem.J(x, y, v, i)
        # x_{k+1} = x_k - alpha_k h_k: the OLD average
        x_new = x - alpha(k) * h
        # y_{k+1} = y_k - beta_k G_y(x_k,y_k)
        y_new = y - beta(k) * problem.G_y(x, y, i)
        # v_{k+1} = v_k - gamma_k (H(x_k,y_k)[v_k] - F_y(x_k,y_k))
        v_new = v - gamma(k) * (problem.H(x, y, v, i) - problem.F_y(x, y, j))
        # h_{k+1} = (1 - theta_k) h_k + theta_k w
        h = (1.0 - theta(k)) * h + theta(k) * w
        x, y, v = x_new, y_new, v_new
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v, h=h))
    return trajectory
