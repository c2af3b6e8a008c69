"""SOBA (Dagreou, Ablin, Vaiter, Moreau, NeurIPS 2022, Alg. 1).

Chosen where the listing is silent: v_0 = 0. `rho_v` is a separate step for v; the listing's own is
rho for both. (The paper stores -v.)

Draws of iteration t: lower i, upper j.
"""

import numpy as np


def soba(problem, x0, y0, draws, steps, *, rho, gamma, rho_v=None):
    """`rho`, `gamma` and `rho_v` are functions of t."""
    rho_v = rho if rho_v is None else rho_v
    draws.begin(0)
    draws.end()
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    trajectory = []
    for t in range(steps):
        draws.begin(t + 1)
        # draw i and j, independent
        i = draws.lower()
        j = draws.upper()
        # a = G_y(x,y;i);  b = H(x,y;i)[v] - F_y(x,y;j);  c = F_x(x,y;j) - J(x,y;i)[v]
        a = problem.G_y(x, y, i)
        b = problem.H(x, y, v, i) - problem.F_y(x, y, j)
        c = problem.F_x(x, y, j) - problem.J(x, y, v, i)
        # y <- y - rho a;  v <- v - rho b;  x <- x - gamma c, all from the old (x, y, v)
        y = y - rho(t) * a
        v = v - rho_v(t) * b
        x = x - gamma(t) * c
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v))
    return trajectory
