"""BA (Ghadimi, Wang, arXiv 1802.02246, Alg. 1).

Chosen where the source is unclear: every inner loop starts at the fixed y_0, which carries no k
(`warm_start=True` starts it at the last y_bar); t_k is whatever the caller gives. H and J share one
lower draw, so that v and the direction belong to one lower problem; F_x and F_y share the upper
draw. The listing has all rows in each of them.

Draws of iteration k: t_k(k) lower, upper, lower (H and J).
"""

import numpy as np


def ba(problem, x0, y0, draws, steps, *, alpha, beta, t_k, warm_start=False, project=lambda x: x):
    """`alpha` and `t_k` are functions of k, `beta` of the inner index t; `project` acts on x."""
    draws.begin(0)
    draws.end()
    x, y_bar = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^0 = y_0
        y = y_bar if warm_start else y0.copy()
        # y^{t+1} = y^t - beta_t G_y(x_k, y^t),  t = 0..t_k-1
        for t in range(t_k(k)):
            y = y - beta(t) * problem.G_y(x, y, draws.lower())
        # y_bar = y^{t_k}
        y_bar = y
        # v = H(x_k, y_bar)^{-1} F_y(x_k, y_bar)
        upper = draws.upper()
        lower = draws.lower()
        columns = [problem.H(x, y_bar, unit, lower) for unit in np.eye(y_bar.size)]
        v = np.linalg.solve(np.stack(columns, axis=1), problem.F_y(x, y_bar, upper))
        # x_{k+1} = Proj_X(x_k - alpha_k (F_x(x_k, y_bar) - J(x_k, y_bar)[v]))
        x = project(x - alpha(k) * (problem.F_x(x, y_bar, upper) - problem.J(x, y_bar, v, lower)))
        draws.end()
        trajectory.append(dict(x=x, y=y_bar, v=v))
    return trajectory
