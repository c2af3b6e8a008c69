"""HOAG (Pedregosa, ICML 2016, Alg. 1), with the fixed step 1/L.

Chosen where the listing is silent: the lower solver is gradient descent, stopped by the listing's
test ||G_y|| <= mu eps_k; the adjoint's is textbook CG, stopped by the absolute residual of its own
recursion; both tests come before each step, and neither solver exceeds its number of steps, whether
its test is met or not. v_{-1} = 0. k counts from 0.

Draws: none; every oracle uses all rows.
"""

import numpy as np


def descend(problem, x, y, rows, *, alpha, tolerance, max_inner):
    """Gradient descent on g(x, .) from y until ||G_y|| <= tolerance."""
    for _ in range(max_inner):
        G_y = problem.G_y(x, y, rows)
        if np.linalg.norm(G_y) <= tolerance:
            break
        y = y - alpha * G_y
    return y


def conjugate_gradient(product, right, v, *, tolerance, max_cg):
    """CG (Hestenes and Stiefel) on product(v) = right from v until ||residual|| <= tolerance."""
    residual = right - product(v)
    direction = residual
    for _ in range(max_cg):
        if np.linalg.norm(residual) <= tolerance:
            break
        H_direction = product(direction)
        length = (residual @ residual) / (direction @ H_direction)
        v = v + length * direction
        new_residual = residual - length * H_direction
        ratio = (new_residual @ new_residual) / (residual @ residual)
        direction = new_residual + ratio * direction
        residual = new_residual
    return v


def hoag(
    problem, x0, y0, draws, steps, *, alpha, beta, epsilon, mu, max_inner, max_cg,
    project=lambda x: x,
):  # fmt: skip
    """`epsilon` and `beta` (1/L) are functions of k; `alpha` is the lower step.

    `project` acts on x.
    """
    draws.begin(0)
    draws.end()
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    lower, upper = np.arange(problem.n), np.arange(problem.m)
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # find y_k with ||y_k - y*(x_k)|| <= eps_k, started at y_{k-1}; test ||G_y(x_k, y)|| <= mu eps_k
        y = descend(problem, x, y, lower, alpha=alpha, tolerance=mu * epsilon(k), max_inner=max_inner)
        # find v_k with ||H(x_k, y_k)[v] - F_y(x_k, y_k)|| <= eps_k, CG started at v_{k-1}
        v = conjugate_gradient(
            lambda u, x=x, y=y: problem.H(x, y, u, lower), problem.F_y(x, y, upper), v,
            tolerance=epsilon(k), max_cg=max_cg,
        )  # fmt: skip
        # h = F_x(x_k, y_k) - J(x_k, y_k)[v_k]
        h = problem.F_x(x, y, upper) - problem.J(x, y, v, lower)
        # x_{k+1} = Proj_D(x_k - h / L)
        x = project(x - beta(k) * h)
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v))
    return trajectory
