"""MRBO (Yang, Ji, Liang, NeurIPS 2021, Alg. 1).

Chosen where the listing is silent: alpha_k and beta_k, the weights of the fresh samples of
iteration k, are clipped to at most 1. The steps gamma eta_k and lambda eta_k are `gx` and `gy`.
The Neumann factors are listed in their order of use, the first one acting first on F_y (they are
independent and alike, so the order changes no distribution).

Draws of iteration k: lower B_y, upper B_F, lower B_G, then Q lower factors.
"""


def draw(draws, Q):
    """B_y and B_x = (B_F, B_G, factors)."""
    B_y = draws.lower()
    B_F = draws.upper()
    B_G = draws.lower()
    factors = [draws.lower() for _ in range(Q)]
    return B_y, (B_F, B_G, factors)


def neumann(problem, u, x, y, factors, eta):
    """NEU(u; x, y, Q, eta), with Q = len(factors)."""
    # r = u, s = u
    r = s = u
    for B in factors:
        # r <- r - eta H(x, y; B_j)[r],  s <- s + r
        r = r - eta * problem.H(x, y, r, B)
        s = s + r
    # eta s
    return eta * s


def hyper(problem, x, y, B_x, eta):
    """hyper(x, y; B_x)."""
    B_F, B_G, factors = B_x
    # F_x(x,y;B_F) - J(x,y;B_G)[ NEU(F_y(x,y;B_F); x, y, Q, eta) with B_1..B_Q ]
    v = neumann(problem, problem.F_y(x, y, B_F), x, y, factors, eta)
    return problem.F_x(x, y, B_F) - problem.J(x, y, v, B_G)


def mrbo(problem, x0, y0, draws, steps, *, gx, gy, alpha, beta, Q, eta):
    """`gx`, `gy`, `alpha` and `beta` are functions of k: alpha(k) is the listing's alpha_k."""
    draws.begin(0)
    draws.end()
    x, y = x_old, y_old = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # draw B_y and B_x = {B_F, B_G, B_1..B_Q}, independent
        B_y, B_x = draw(draws, Q)
        d_new = hyper(problem, x, y, B_x, eta)
        s_new = problem.G_y(x, y, B_y)
        if k == 0:
            # k = 0:  d = hyper(x_0,y_0;B_x);  s = G_y(x_0,y_0;B_y)
            d, s = d_new, s_new
        else:
            # d <- STORM(d, hyper(x_{k-1},y_{k-1};B_x), hyper(x_k,y_k;B_x); alpha_k)
            weight = min(1.0, alpha(k))
            d = d_new + (1.0 - weight) * (d - hyper(problem, x_old, y_old, B_x, eta))
            # s <- STORM(s, G_y(x_{k-1},y_{k-1};B_y), G_y(x_k,y_k;B_y); beta_k)
            weight = min(1.0, beta(k))
            s = s_new + (1.0 - weight) * (s - problem.G_y(x_old, y_old, B_y))
        x_old, y_old = x, y
        # x_{k+1} = x_k - gamma eta_k d;  y_{k+1} = y_k - lambda eta_k s: simultaneous
        x = x - gx(k) * d
        y = y - gy(k) * s
        draws.end()
        trajectory.append(dict(x=x, y=y, d=d, s=s))
    return trajectory
