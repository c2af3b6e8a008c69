"""PZOBO and PZOBO-S (Sow, Ji, Liang, NeurIPS 2022, Alg. 1 and 2), after two implementations of them.

Chosen where our sources are silent or differ: the loops of an iteration share their lower samples (the
authors' code); each begins at the last y (both codes), or at y_0 without `warm_start`; u_j is a standard
normal vector like x (benchmark_bilevel), so that the mean over j has no factor.

Draws of iteration k: N times lower S_t; upper D; all u_j at once.
"""


def pzobo(problem, x0, y0, draws, steps, *, beta, alpha, N, Q, mu, warm_start=True):
    """`beta` is a function of k, `alpha` a number."""
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        samples = [draws.lower() for _ in range(N)]
        start = y if warm_start else y0
        # y_k^t = y_k^{t-1} - alpha G_y(x_k, y_k^{t-1}; S_{t-1})
        y = loop(problem, x, start, samples, alpha)
        D = draws.upper()
        u = draws.directions()
        assert u.shape == (Q, len(x))
        h = problem.F_x(x, y, D)
        for j in range(Q):
            # the same loop at x_k + mu u_j;  delta_j = (y_{k,j}^N - y_k^N) / mu
            delta = (loop(problem, x + mu * u[j], start, samples, alpha) - y) / mu
            h = h + delta @ problem.F_y(x, y, D) * u[j] / Q
        x = x - beta(k) * h
        draws.end()
        trajectory.append(dict(x=x, y=y))
    return trajectory


def loop(problem, x, y, samples, alpha):
    for rows in samples:
        y = y - alpha * problem.G_y(x, y, rows)
    return y
