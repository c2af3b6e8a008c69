"""BSA (Ghadimi, Wang, arXiv 1802.02246, their stochastic algorithm).

Chosen where the source is unclear: every inner loop starts at the fixed y_0, and beta restarts
with it (`warm_start=True` starts it at the last y_bar); beta, t_k and b_k are whatever the caller
gives. HIA has c = 1. zeta'_1 acts first on F_y (the zeta' are independent and alike).

Draws of iteration k: t_k(k) lower, upper xi, lower zeta'_0, lower zeta'_1..zeta'_p.
"""

from .hia import draw_factors, hia


def bsa(
    problem, x0, y0, draws, steps, *, alpha, beta, t_k, order, eta,
    ps=None, warm_start=False, project=lambda x: x,
):  # fmt: skip
    """`alpha`, `t_k` and `order` (b_k) are functions of k, `beta` of the inner index t; eta = 1/L.

    p is the number of lower draws left once zeta'_0 is taken; `ps[k]` gives it in deterministic
    runs. `project` acts on x.
    """
    draws.begin(0)
    draws.end()
    x, y_bar = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^0 = y_0
        y = y_bar if warm_start else y0.copy()
        # y^{t+1} = y^t - beta_t G_y(x_k, y^t; zeta_t),  t = 0..t_k-1,  one fresh sample each
        for t in range(t_k(k)):
            y = y - beta(t) * problem.G_y(x, y, draws.lower())
        # y_bar = y^{t_k};  draw xi, zeta'_0, and zeta'_1..zeta'_p inside HIA, all independent
        y_bar = y
        xi = draws.upper()
        zeta_0 = draws.lower()
        zetas = draw_factors(draws, order(k), k, ps)
        # v = HIA(F_y(x_k, y_bar; xi); x_k, y_bar, b_k, 1)
        v = hia(problem, problem.F_y(x, y_bar, xi), x, y_bar, order(k), eta, zetas)
        # x_{k+1} = Proj_X(x_k - alpha_k (F_x(x_k, y_bar; xi) - J(x_k, y_bar; zeta'_0)[v]))
        x = project(x - alpha(k) * (problem.F_x(x, y_bar, xi) - problem.J(x, y_bar, v, zeta_0)))
        draws.end()
        trajectory.append(dict(x=x, y=y_bar))
    return trajectory
