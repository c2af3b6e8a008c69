"""stocBiO (Ji, Yang, Liang, ICML 2021, Alg. 2 and 3), the ICML form.

The listing has real-valued batch sizes and does not say how they are rounded: the sizes are what
was drawn.

Draws of iteration k: lower S_0..S_{D-1}, upper D_F, lower D_G, lower B_Q, ..., B_1.
"""


def stocbio(problem, x0, y0, draws, steps, *, beta, alpha, D, Q, eta):
    """`beta` is a function of k."""
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^0 = y_{k-1}^D;  y^t = y^{t-1} - alpha G_y(x_k, y^{t-1}; S_{t-1}),  t = 1..D
        for _ in range(D):
            y = y - alpha * problem.G_y(x, y, draws.lower())
        # draw D_F, D_G and B_1..B_Q, all independent
        D_F = draws.upper()
        D_G = draws.lower()
        B = {}
        for i in range(Q, 0, -1):
            B[i] = draws.lower()
        # r_Q = F_y(x_k, y^D; D_F)
        r = {Q: problem.F_y(x, y, D_F)}
        # r_{i-1} = r_i - eta H(x_k, y^D; B_i)[r_i],  i = Q..1
        for i in range(Q, 0, -1):
            r[i - 1] = r[i] - eta * problem.H(x, y, r[i], B[i])
        # v = eta sum_{i=0}^{Q} r_i
        total = r[0]
        for i in range(1, Q + 1):
            total = total + r[i]
        v = eta * total
        # h = F_x(x_k, y^D; D_F) - J(x_k, y^D; D_G)[v]
        h = problem.F_x(x, y, D_F) - problem.J(x, y, v, D_G)
        # x_{k+1} = x_k - beta h
        x = x - beta(k) * h
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v, h=h))
    return trajectory
