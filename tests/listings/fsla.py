"""FSLA (Li, Gu, Huang, AAAI 2022, Alg. 1).

Chosen where the listing is silent: v_0 = 0, d_0 = grad f_0(xi), alpha_k = delta / sqrt(k + 1), and
no clipping of eta. Line 7 (v) uses the new x and the old y, as in the listing, not eq. (10).

Draws of `init`: upper xi4, lower xi5. Draws of iteration k: lower xi1, upper xi2, lower xi3, upper
xi4, lower xi5.
"""

import numpy as np


def schedules(delta, c_tau, c_beta, c_eta):
    """alpha, tau, beta, eta as functions of the listing's index."""
    # alpha_k = delta / sqrt(k + 1)
    # tau_{k+1}, beta_{k+1}, eta_{k+1} = c_tau alpha_k, c_beta alpha_k, c_eta alpha_k
    return dict(
        alpha=lambda k: delta / np.sqrt(k + 1),
        tau=lambda k: c_tau * delta / np.sqrt((k - 1) + 1),
        beta=lambda k: c_beta * delta / np.sqrt((k - 1) + 1),
        eta=lambda k: c_eta * delta / np.sqrt((k - 1) + 1),
    )


def fsla(problem, x0, y0, draws, steps, *, alpha, tau, beta, eta):
    """All four are functions of the listing's index: iteration k uses alpha(k), tau(k + 1),
    beta(k + 1) and eta(k + 1).
    """

    def grad_f(x, y, v, xi4, xi5):
        # F_x(x, y; xi4) - J(x, y; xi5)[v]
        return problem.F_x(x, y, xi4) - problem.J(x, y, v, xi5)

    draws.begin(0)
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    xi4 = draws.upper()
    xi5 = draws.lower()
    d = grad_f(x, y, v, xi4, xi5)
    draws.end()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        xi1 = draws.lower()
        xi2 = draws.upper()
        xi3 = draws.lower()
        xi4 = draws.upper()
        xi5 = draws.lower()
        # x_{k+1} = x_k - alpha_k d_k
        x_new = x - alpha(k) * d
        # y_{k+1} = y_k - tau G_y(x_{k+1}, y_k; xi1)
        y_new = y - tau(k + 1) * problem.G_y(x_new, y, xi1)
        # v_{k+1} = beta F_y(x_{k+1}, y_k; xi2) + v_k - beta H(x_{k+1}, y_k; xi3)[v_k]
        F_y = problem.F_y(x_new, y, xi2)
        v_new = beta(k + 1) * F_y + v - beta(k + 1) * problem.H(x_new, y, v, xi3)
        # grad f_{k+1}(xi) at (x_{k+1}, y_{k+1}, v_{k+1}), grad f_k(xi) at (x_k, y_k, v_k), same xi
        new = grad_f(x_new, y_new, v_new, xi4, xi5)
        old = grad_f(x, y, v, xi4, xi5)
        # d_{k+1} = grad f_{k+1}(xi) + (1 - eta) (d_k - grad f_k(xi))
        d = new + (1.0 - eta(k + 1)) * (d - old)
        x, y, v = x_new, y_new, v_new
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v, d=d))
    return trajectory
