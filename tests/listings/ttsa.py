"""TTSA (Hong, Wai, Wang, Yang, SIAM J. Optim. 2023, Alg. 1).

Chosen where the source is unclear: c_h and t_max(k) are whatever the caller gives. zeta'_1 acts
first on F_y (the zeta' are independent and alike).

Draws of iteration k: lower zeta, upper xi, lower zeta'_0, lower zeta'_1..zeta'_p.
"""

from .hia import draw_factors, hia


def ttsa(problem, x0, y0, draws, steps, *, alpha, beta, order, eta, ps=None, project=lambda x: x):
    """`alpha`, `beta` and `order` (t_max) are functions of k; eta = c_h/L.

    p is the number of lower draws left once zeta'_0 is taken; `ps[k]` gives it in deterministic
    runs. `project` acts on x.
    """
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y_{k+1} = y_k - beta_k G_y(x_k, y_k; zeta)
        y = y - beta(k) * problem.G_y(x, y, draws.lower())
        # draw xi, zeta'_0.., independent of zeta
        xi = draws.upper()
        zeta_0 = draws.lower()
        zetas = draw_factors(draws, order(k), k, ps)
        # v = HIA(F_y(x_k, y_{k+1}; xi); x_k, y_{k+1}, t_max(k), c_h)
        v = hia(problem, problem.F_y(x, y, xi), x, y, order(k), eta, zetas)
        # x_{k+1} = Proj_X(x_k - alpha_k (F_x(x_k, y_{k+1}; xi) - J(x_k, y_{k+1}; zeta'_0)[v]))
        x = project(x - alpha(k) * (problem.F_x(x, y, xi) - problem.J(x, y, v, zeta_0)))
        draws.end()
        trajectory.append(dict(x=x, y=y))
    return trajectory
