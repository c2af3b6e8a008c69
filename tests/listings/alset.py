"""ALSET (Chen, Sun, Yin, NeurIPS 2021, Alg. 1, eqs. (8)-(10), (12)).

Chosen where the source is unsettled: HIA's p is in {0..N-1}; the submission prints {1..N}, which
loses the identity term. phi_1 acts first on F_y. The listing has no projection: `project` is the
identity unless given.

Draws of iteration k: lower phi^0..phi^{T-1}, upper xi, lower phi_0, lower phi_1..phi_p. (The
listing draws phi_1..phi_{N-1}; those after phi_p are never used, so they are not asked for.)
"""

from .hia import draw_factors, hia


def alset(problem, x0, y0, draws, steps, *, alpha, beta, T, N, eta, ps=None, project=lambda x: x):
    """`alpha` and `beta` are functions of k; eta = 1/L.

    p is the number of lower draws left once phi_0 is taken; `ps[k]` gives it in deterministic
    runs. `project` acts on x.
    """
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^0 = y_k;  y^{t+1} = y^t - beta_k G_y(x_k, y^t; phi^t),  t = 0..T-1;  y_{k+1} = y^T
        for _ in range(T):
            y = y - beta(k) * problem.G_y(x, y, draws.lower())
        # draw xi, phi_0, phi_1..phi_{N-1}, independent
        xi = draws.upper()
        phi_0 = draws.lower()
        phis = draw_factors(draws, N, k, ps)
        # v = HIA(F_y(x_k, y_{k+1}; xi); x_k, y_{k+1}, N, 1)
        v = hia(problem, problem.F_y(x, y, xi), x, y, N, eta, phis)
        # x_{k+1} = x_k - alpha_k (F_x(x_k, y_{k+1}; xi) - J(x_k, y_{k+1}; phi_0)[v])
        x = project(x - alpha(k) * (problem.F_x(x, y, xi) - problem.J(x, y, v, phi_0)))
        draws.end()
        trajectory.append(dict(x=x, y=y))
    return trajectory
