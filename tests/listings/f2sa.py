"""F2SA (Kwon, Kwon, Wright, Nowak, ICML 2023, Alg. 1).

Chosen where the listing is silent or unclear: z_0 = y_0; no projection of x. lambda_k is given as
a function of k (the listing's is gamma_k / (2 alpha_k)) and not summed from delta_k; x's step
xi alpha_k is one function.

Draws of iteration k: T times lower phi_z, upper zeta_y, lower phi_y; then upper zeta_x, lower
phi_xy, lower phi_xz. With `common` (not in the listing) phi_y is phi_z, and phi_xz is phi_xy.
"""


def f2sa(problem, x0, y0, draws, steps, *, alpha, gamma, lam, xi_alpha, T, common=False):
    """`alpha` (y), `gamma` (z), `lam` and `xi_alpha` (x) are functions of k."""
    draws.begin(0)
    draws.end()
    x, y, z = x0.copy(), y0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # T times, both from their own last value, warm; every oracle on its own fresh sample
        for _ in range(T):
            # z <- z - gamma_k G_y(x_k, z; phi_z)
            phi_z = draws.lower()
            z = z - gamma(k) * problem.G_y(x, z, phi_z)
            # y <- y - alpha_k (F_y(x_k, y; zeta_y) + lambda_k G_y(x_k, y; phi_y))
            zeta_y = draws.upper()
            phi_y = phi_z if common else draws.lower()
            y = y - alpha(k) * (problem.F_y(x, y, zeta_y) + lam(k) * problem.G_y(x, y, phi_y))
        # y_{k+1}, z_{k+1} = y, z
        # x_{k+1} = x_k - xi alpha_k ( F_x(x_k,y_{k+1};zeta_x)
        #     + lambda_k (G_x(x_k,y_{k+1};phi_xy) - G_x(x_k,z_{k+1};phi_xz)) )
        zeta_x = draws.upper()
        phi_xy = draws.lower()
        phi_xz = phi_xy if common else draws.lower()
        difference = problem.G_x(x, y, phi_xy) - problem.G_x(x, z, phi_xz)
        x = x - xi_alpha(k) * (problem.F_x(x, y, zeta_x) + lam(k) * difference)
        draws.end()
        trajectory.append(dict(x=x, y=y, z=z))
    return trajectory
