"""SRBA (Dagreou, Moreau, Vaiter, Ablin, AISTATS 2024, Alg. 1), after the authors' code in benchmark_bilevel.

Chosen where our sources are silent: v_0 = 0. `R` is the radius of the ball onto which v is projected,
which is not in the code (None: no projection). `rho_v` is a separate
step for v; the listing's own is rho for both. v has the sign of H^{-1} F_y.

Draws of iteration k, unless q divides k: lower i, upper j.
"""

import numpy as np


def srba(problem, x0, y0, draws, steps, *, gamma, rho, rho_v, q, R=None, project=lambda x: x):
    """`gamma`, `rho` and `rho_v` are functions of k."""
    draws.begin(0)
    draws.end()
    lower_rows, upper_rows = np.arange(problem.n), np.arange(problem.m)
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    old = x, y, v
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        if k % q == 0:
            # the directions on all rows
            delta = directions(problem, x, y, v, lower_rows, upper_rows)
        else:
            # D(u_k; i, j) - D(u_{k-1}; i, j) + the last directions
            i, j = draws.lower(), draws.upper()
            now = directions(problem, x, y, v, i, j)
            before = directions(problem, *old, i, j)
            delta = [a - b + c for a, b, c in zip(now, before, delta, strict=True)]
        old = x, y, v
        # z <- z - rho Delta_z;  v <- Proj(v - rho Delta_v);  x <- x - gamma Delta_x
        x = project(x - gamma(k) * delta[0])
        y = y - rho(k) * delta[1]
        v = v - rho_v(k) * delta[2]
        if R is not None and np.linalg.norm(v) > R:
            v = v * (R / np.linalg.norm(v))
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v))
    return trajectory


def directions(problem, x, y, v, i, j):
    d_x = problem.F_x(x, y, j) - problem.J(x, y, v, i)
    d_y = problem.G_y(x, y, i)
    d_v = problem.H(x, y, v, i) - problem.F_y(x, y, j)
    return d_x, d_y, d_v
