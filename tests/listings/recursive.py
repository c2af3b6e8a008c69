"""Recursive momentum on the outer variable around ITD-BiO, AID-BiO and stocBiO.

It is (14) of SUSTAIN (Khanduri et al., NeurIPS 2021) and line 9 of FSLA (Li, Gu, Huang, AAAI 2022, Alg. 1), as
FSLA's experiments run BP-T, CG-T-K and NS-T-K. Neither paper lists the combination. Chosen: eta_0 = 1;
later ones are at most 1; both terms of a difference start from the y (and v) at the start of iteration t, on
the same draws; the y and v computed at the new x are kept.

Draws of iteration t: those of the inner solver, once.
"""

import numpy as np

from .aid import conjugate_gradient


def recursive(problem, x0, y0, draws, steps, *, beta, eta, hypergradient):
    """`beta` and `eta` are functions of t; `hypergradient(problem, draws, x, y, v)` gives (h, y, v)."""
    draws.begin(0)
    draws.end()
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    x_old, d = None, None
    trajectory = []
    for t in range(steps):
        draws.begin(t + 1)
        estimate = hypergradient(draws)
        new, y_new, v_new = estimate(problem, x, y, v)
        if t == 0:
            # d_0 = h(x_0; xi_0)
            d = new
        else:
            # d_t = h(x_t; xi_t) + (1 - eta_t) (d_{t-1} - h(x_{t-1}; xi_t))
            old, _, _ = estimate(problem, x_old, y, v)
            d = new + (1.0 - min(1.0, eta(t))) * (d - old)
        # x_{t+1} = x_t - beta_t d_t
        x_old, x = x, x - beta(t) * d
        y, v = y_new, v_new
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v, d=d))
    return trajectory


def bp(alpha, D):
    """BP-T: back-propagation through D steps."""

    def with_draws(draws):
        S = [draws.lower() for _ in range(D)]
        rows = draws.upper()

        def estimate(problem, x, y, v):
            path = [y]
            for t in range(D):
                path.append(path[t] - alpha * problem.G_y(x, path[t], S[t]))
            # Reverse-HG: p = F_y; g = F_x; t = D-1..0: g -= alpha J(y^t)[p], p -= alpha H(y^t)[p]
            p, g = problem.F_y(x, path[D], rows), problem.F_x(x, path[D], rows)
            for t in range(D - 1, -1, -1):
                g = g - alpha * problem.J(x, path[t], p, S[t])
                p = p - alpha * problem.H(x, path[t], p, S[t])
            return g, path[D], v

        return estimate

    return with_draws


def cg(alpha, D, N):
    """CG-T-K: D steps, then N conjugate-gradient steps from the last v."""

    def with_draws(draws):
        S = [draws.lower() for _ in range(D)]
        upper, lower = draws.upper(), draws.lower()

        def estimate(problem, x, y, v):
            for t in range(D):
                y = y - alpha * problem.G_y(x, y, S[t])
            v = conjugate_gradient(lambda u: problem.H(x, y, u, lower), problem.F_y(x, y, upper), v, N)
            return problem.F_x(x, y, upper) - problem.J(x, y, v, lower), y, v

        return estimate

    return with_draws


def ns(alpha, D, Q, gamma):
    """NS-T-K: D steps, then a Neumann series of Q factors of step gamma."""

    def with_draws(draws):
        S = [draws.lower() for _ in range(D)]
        D_F, D_G = draws.upper(), draws.lower()
        B = [draws.lower() for _ in range(Q)]  # B_Q, ..., B_1

        def estimate(problem, x, y, v):
            for t in range(D):
                y = y - alpha * problem.G_y(x, y, S[t])
            r = problem.F_y(x, y, D_F)
            total = r
            for rows in B:
                r = r - gamma * problem.H(x, y, r, rows)
                total = total + r
            u = gamma * total
            return problem.F_x(x, y, D_F) - problem.J(x, y, u, D_G), y, v

        return estimate

    return with_draws
