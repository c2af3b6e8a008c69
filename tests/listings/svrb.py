"""SVRB (Guo, Hu, Zhang, Yang, arXiv 2105.02266, Alg. 1).

Chosen where the listing is silent or unclear: w and V are NOT projected, only M is (its samples
at k = 0 too). s, V and M share one zeta. All five estimates share one weight a_k, that of the
fresh sample of iteration k, clipped to at most 1.

Draws of iteration k: lower zeta, upper xi.
"""

import numpy as np

from .stable import project_below, second_derivatives


def svrb(problem, x0, y0, draws, steps, *, alpha, beta, a, mu):
    """`alpha`, `beta` and `a` are functions of k."""
    draws.begin(0)
    draws.end()
    x, y = x_old, y_old = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        # draw xi, zeta
        draws.begin(k + 1)
        zeta = draws.lower()
        xi = draws.upper()
        u_new = problem.F_x(x, y, xi)
        w_new = problem.F_y(x, y, xi)
        V_new, M_new = second_derivatives(problem, x, y, zeta)
        s_new = problem.G_y(x, y, zeta)
        if k == 0:
            # all five estimates start as plain samples at (x_0, y_0)
            u, w, V, M, s = u_new, w_new, V_new, M_new, s_new
        else:
            # old = (x_{k-1},y_{k-1}), new = (x_k,y_k), on the same xi and zeta; momentum a_k
            keep = 1.0 - min(1.0, a(k))
            V_old, M_old = second_derivatives(problem, x_old, y_old, zeta)
            # u <- STORM(u, F_x(old;xi), F_x(new;xi); a_k)
            u = u_new + keep * (u - problem.F_x(x_old, y_old, xi))
            # w <- STORM(w, F_y(old;xi), F_y(new;xi); a_k)
            w = w_new + keep * (w - problem.F_y(x_old, y_old, xi))
            # V <- STORM(V, Hxy(old;zeta), Hxy(new;zeta); a_k)
            V = V_new + keep * (V - V_old)
            # M <- Proj_{>= mu I}( STORM(M, Hyy(old;zeta), Hyy(new;zeta); a_k) )
            M = M_new + keep * (M - M_old)
            # s <- STORM(s, G_y(old;zeta), G_y(new;zeta); a_k)
            s = s_new + keep * (s - problem.G_y(x_old, y_old, zeta))
        M = project_below(M, mu)
        x_old, y_old = x, y
        # x_{k+1} = x_k - alpha_k (u - V M^{-1} w);  y_{k+1} = y_k - beta_k s: simultaneous
        x = x - alpha(k) * (u - V @ np.linalg.solve(M, w))
        y = y - beta(k) * s
        draws.end()
        trajectory.append(dict(x=x, y=y, u=u, w=w, V=V, M=M, s=s))
    return trajectory
