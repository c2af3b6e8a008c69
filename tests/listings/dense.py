"""Dense algebra and finite differences, which test the referee."""

import numpy as np

X0 = np.array([0.8, -0.6, 0.4])
Y0 = np.array([0.3, -0.2, 0.5, 0.1])


def close(actual, desired, tolerance=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def rows(rng, size=7):
    return rng.integers(0, 40, size)  # within both levels; repetitions are likely


def recorded(rng, levels):
    """One step's draws, for a string such as "llu"."""
    return [({"l": "lower", "u": "upper"}[level], rows(rng)) for level in levels]


def numerical(function, at):
    step = 1e-6 * np.eye(len(at))
    return np.array([(function(at + e) - function(at - e)) / 2e-6 for e in step])


def hessian(problem, x, y, r):
    return np.stack([problem.H(x, y, e, r) for e in np.eye(problem.q)], axis=1)


def cross(problem, x, y, r):
    return np.stack([problem.J(x, y, e, r) for e in np.eye(problem.q)], axis=1)


def lower_solution(problem, x):
    y, every = np.zeros(problem.q), np.arange(problem.n)
    for _ in range(20):
        y = y - np.linalg.solve(hessian(problem, x, y, every), problem.G_y(x, y, every))
    assert np.linalg.norm(problem.G_y(x, y, every)) < 1e-13
    return y


def exact(problem, x, y):
    """v and h with an exact solve at (x, y), all rows."""
    lower, upper = np.arange(problem.n), np.arange(problem.m)
    v = np.linalg.solve(hessian(problem, x, y, lower), problem.F_y(x, y, upper))
    return v, problem.F_x(x, y, upper) - cross(problem, x, y, lower) @ v


def steepness(problem, x):
    return np.linalg.norm(exact(problem, x, lower_solution(problem, x))[1])
