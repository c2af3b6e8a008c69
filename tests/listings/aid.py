"""AID-BiO (Ji, Yang, Liang, ICML 2021, Alg. 1).

Chosen where the listing is silent: all Hessian products of one solve, and J, share one lower
sample, so that conjugate gradients solve one linear system. The solve stops early only when its
residual is exactly zero (the next step would divide by zero). v_{-1} = 0. `warm_start=False`
starts y at y0 and v at 0 in every iteration.

Draws of iteration k: D(k) lower, upper, lower.
"""

import numpy as np


def conjugate_gradient(product, right, v, N):
    """N textbook steps on product(v) = right (Hestenes and Stiefel), started at v."""
    residual = right - product(v)
    direction = residual
    for _ in range(N):
        if residual @ residual == 0.0:
            break
        H_direction = product(direction)
        length = (residual @ residual) / (direction @ H_direction)
        v = v + length * direction
        new_residual = residual - length * H_direction
        gamma = (new_residual @ new_residual) / (residual @ residual)
        direction = new_residual + gamma * direction
        residual = new_residual
    return v


def aid(problem, x0, y0, draws, steps, *, beta, alpha, D, N, warm_start=True):
    """`beta` and `D` are functions of k."""
    draws.begin(0)
    draws.end()
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        if not warm_start:
            y, v = y0.copy(), np.zeros_like(y0)
        # y^t = y^{t-1} - alpha G_y(x_k, y^{t-1}),  t = 1..D
        for _ in range(D(k)):
            y = y - alpha * problem.G_y(x, y, draws.lower())
        # v: N conjugate-gradient steps on H v = F_y at (x_k, y^D), started at the previous v
        upper = draws.upper()
        F_x = problem.F_x(x, y, upper)
        F_y = problem.F_y(x, y, upper)
        lower = draws.lower()
        v = conjugate_gradient(lambda u, x=x, y=y, rows=lower: problem.H(x, y, u, rows), F_y, v, N)
        # h = F_x - J[v]
        h = F_x - problem.J(x, y, v, lower)
        # x_{k+1} = x_k - beta h
        x = x - beta(k) * h
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v, h=h))
    return trajectory
