"""VRBO (Yang, Ji, Liang, NeurIPS 2021, Alg. 2).

Chosen where the listing is unclear: t runs to m + 1 and the last step of y is thrown away, so
that d and s belong to (x_{k+1}, y_{k+1}) after the inner loop; `m1` = m + 1 is the number of y steps that
are kept. S_1 and S_2 do not split over the parts; the sizes are those of the draws. Both ends of a
difference use the same draws. Proj_X, which the listing lacks, is the identity unless `project` is
given.

Draws of iteration k: one set when q divides k, then one for each t = 0..m+1. A set is that of MRBO:
lower B_y, upper B_F, lower B_G, Q lower factors.
"""

from .mrbo import draw, hyper


def vrbo(problem, x0, y0, draws, steps, *, alpha, beta, q, m1, Q, eta, project=lambda x: x):
    """`alpha` and `beta` are functions of k; d and s are recorded on exit of the inner loop."""
    assert m1 >= 1
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        if k % q == 0:
            # draw a batch set of size S_1: s = G_y(x_k,y_k;S_1), d = hyper(x_k,y_k;S_1)
            B_y, B_x = draw(draws, Q)
            s = problem.G_y(x, y, B_y)
            d = hyper(problem, x, y, B_x, eta)
        # x_{k+1} = x_k - alpha d
        x_new = project(x - alpha(k) * d)
        # (x~,y~)_{-1} = (x_k, y_k);  (x~,y~)_0 = (x_{k+1}, y_k)
        previous, current = (x, y), (x_new, y)
        # for t = 0..m+1
        for _ in range(m1 + 1):
            # draw a batch set of size S_2 (all parts, B_1..B_Q included)
            B_y, B_x = draw(draws, Q)
            # d <- d + hyper((x~,y~)_t;S_2) - hyper((x~,y~)_{t-1};S_2)
            d = d + hyper(problem, *current, B_x, eta) - hyper(problem, *previous, B_x, eta)
            # s <- s + G_y((x~,y~)_t;S_2) - G_y((x~,y~)_{t-1};S_2)
            s = s + problem.G_y(*current, B_y) - problem.G_y(*previous, B_y)
            # x~_{t+1} = x~_t;  y~_{t+1} = y~_t - beta s
            previous, current = current, (current[0], current[1] - beta(k) * s)
        # y_{k+1} = y~_{m+1}: the step of t = m+1 is thrown away
        x, y = previous
        draws.end()
        trajectory.append(dict(x=x, y=y, d=d, s=s))
    return trajectory
