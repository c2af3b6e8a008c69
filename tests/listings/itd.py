"""ITD-BiO (Ji, Yang, Liang, ICML 2021, Alg. 1), and deterBiO.

Chosen where the listing is silent: on samples, J and H at y^t use the sample of the descent step
taken at y^t, so that h is the derivative of what was computed. `warm_start=False` starts every
inner loop at y0 (deterBiO's free inputs, all equal).

Draws of iteration k: lower S_0..S_{D-1}, upper.
"""

import numpy as np


def itd(problem, x0, y0, draws, steps, *, beta, alpha, D, warm_start=True):
    """`beta` is a function of k."""
    draws.begin(0)
    draws.end()
    x, y_last = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y^0 = y_{k-1}^D
        y = [y_last.copy() if warm_start else y0.copy()]
        # y^t = y^{t-1} - alpha G_y(x_k, y^{t-1}),  t = 1..D
        S = []
        for t in range(1, D + 1):
            S.append(draws.lower())
            y.append(y[t - 1] - alpha * problem.G_y(x, y[t - 1], S[t - 1]))
        # h = F_x(x_k, y^D) - alpha sum_{t=0}^{D-1} J(y^t) prod_{j=t+1}^{D-1} (I - alpha H(y^j)) F_y
        rows = draws.upper()
        F_x = problem.F_x(x, y[D], rows)
        F_y = problem.F_y(x, y[D], rows)
        total = np.zeros_like(x)
        for t in range(D):
            u = F_y
            for j in range(D - 1, t, -1):  # the factor of j = D-1 stands next to F_y: it acts first
                u = u - alpha * problem.H(x, y[j], u, S[j])
            total = total + problem.J(x, y[t], u, S[t])
        h = F_x - alpha * total
        # x_{k+1} = x_k - beta h
        x = x - beta(k) * h
        y_last = y[D]
        draws.end()
        trajectory.append(dict(x=x, y=y_last, h=h))
    return trajectory
