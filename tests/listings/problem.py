"""A noisy, non-quadratic finite-sum bilevel problem whose derivatives are written by hand.

Lower row i, with s = sigmoid(c_i.x):
    g_i(x, y) = s log(1 + exp(-b_i a_i.y)) + (mu/2) |y|^2 + 0.1 (d_i.x)(a_i.y)
Upper row j:
    f_j(x, y) = 0.5 (p_j.y - q_j)^2 + 0.1 log(cosh(r_j.x)) + 0.05 (r_j.x)(p_j.y)
Every method takes the row indices and returns the mean over them; a row that is listed twice
counts twice.
"""

import numpy as np


def sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


class NumpyProblem:
    def __init__(self, *, a, b, c, d, P, Q, R, mu):
        self.a, self.b, self.c, self.d = a, b, c, d
        self.P, self.Q, self.R = P, Q, R
        self.mu = mu
        self.n, self.m = len(b), len(Q)
        self.q, self.p = a.shape[1], c.shape[1]
        self.lower_arrays = dict(a=a, b=b, c=c, d=d)
        self.upper_arrays = dict(P=P, Q=Q, R=R)

    @classmethod
    def random(cls, seed, n=200, m=150, p=3, q=4, mu=0.5):
        """Random data; c and d depend on a, so that y*(x) really moves with x."""
        rng = np.random.default_rng(seed)
        w = rng.normal(size=q)
        a = rng.normal(size=(n, q))
        b = np.where(a @ w + 0.5 * rng.normal(size=n) > 0, 1.0, -1.0)
        c = a @ rng.normal(size=(q, p)) / np.sqrt(q) + 0.5 * rng.normal(size=(n, p))
        d = a @ rng.normal(size=(q, p)) / np.sqrt(q) + 0.5 * rng.normal(size=(n, p))
        P = rng.normal(size=(m, q))
        Q = P @ w + 0.5 * rng.normal(size=m)
        R = rng.normal(size=(m, p)) + 0.3
        return cls(a=a, b=b, c=c, d=d, P=P, Q=Q, R=R, mu=mu)

    # upper level

    def f(self, x, y, rows):
        rx, py = self.R[rows] @ x, self.P[rows] @ y
        log_cosh = np.logaddexp(rx, -rx) - np.log(2.0)
        return np.mean(0.5 * (py - self.Q[rows]) ** 2 + 0.1 * log_cosh + 0.05 * rx * py)

    def F_x(self, x, y, rows):
        rx, py = self.R[rows] @ x, self.P[rows] @ y
        return self.R[rows].T @ (0.1 * np.tanh(rx) + 0.05 * py) / len(rows)

    def F_y(self, x, y, rows):
        rx, py = self.R[rows] @ x, self.P[rows] @ y
        return self.P[rows].T @ (py - self.Q[rows] + 0.05 * rx) / len(rows)

    # lower level; e = sigmoid(-b a.y), so -b e is the slope of log(1 + exp(-b a.y)) in a.y

    def g(self, x, y, rows):
        s, ay, dx = sigmoid(self.c[rows] @ x), self.a[rows] @ y, self.d[rows] @ x
        loss = np.logaddexp(0.0, -self.b[rows] * ay)
        return np.mean(s * loss + 0.1 * dx * ay) + 0.5 * self.mu * (y @ y)

    def G_x(self, x, y, rows):
        s, ay = sigmoid(self.c[rows] @ x), self.a[rows] @ y
        loss = np.logaddexp(0.0, -self.b[rows] * ay)
        total = self.c[rows].T @ (s * (1.0 - s) * loss) + 0.1 * (self.d[rows].T @ ay)
        return total / len(rows)

    def G_y(self, x, y, rows):
        s, ay, dx = sigmoid(self.c[rows] @ x), self.a[rows] @ y, self.d[rows] @ x
        slope = -self.b[rows] * sigmoid(-self.b[rows] * ay)
        return self.a[rows].T @ (s * slope + 0.1 * dx) / len(rows) + self.mu * y

    def H(self, x, y, u, rows):
        """Hessian of g in y, times u."""
        s, ay, au = sigmoid(self.c[rows] @ x), self.a[rows] @ y, self.a[rows] @ u
        e = sigmoid(-self.b[rows] * ay)
        return self.a[rows].T @ (s * e * (1.0 - e) * au) / len(rows) + self.mu * u

    def J(self, x, y, u, rows):
        """Gradient in x of G_y(x, y).u."""
        s, ay, au = sigmoid(self.c[rows] @ x), self.a[rows] @ y, self.a[rows] @ u
        slope = -self.b[rows] * sigmoid(-self.b[rows] * ay)
        total = self.c[rows].T @ (s * (1.0 - s) * slope * au) + 0.1 * (self.d[rows].T @ au)
        return total / len(rows)


class NumpyCleaning:
    """One weight a row: g = mean_i s(x_i) log(1 + exp(-b_i a_i.y)) + (mu/2) |y|^2, f ignores x.

    x has one entry for each lower row; a batch that lists a row twice moves it twice.
    """

    def __init__(self, problem):
        self.a, self.b, self.P, self.Q, self.mu = (
            problem.a, problem.b, problem.P, problem.Q, problem.mu,
        )  # fmt: skip
        self.n, self.m = len(self.b), len(self.Q)

    def f(self, x, y, rows):
        return np.mean(0.5 * (self.P[rows] @ y - self.Q[rows]) ** 2)

    def F_x(self, x, y, rows):
        return np.zeros(self.n)

    def F_y(self, x, y, rows):
        return self.P[rows].T @ (self.P[rows] @ y - self.Q[rows]) / len(rows)

    def g(self, x, y, rows):
        loss = np.logaddexp(0.0, -self.b[rows] * (self.a[rows] @ y))
        return np.mean(sigmoid(x[rows]) * loss) + 0.5 * self.mu * (y @ y)

    def G_x(self, x, y, rows):
        s = sigmoid(x[rows])
        loss = np.logaddexp(0.0, -self.b[rows] * (self.a[rows] @ y))
        result = np.zeros(self.n)
        np.add.at(result, rows, s * (1.0 - s) * loss / len(rows))
        return result

    def G_y(self, x, y, rows):
        slope = -self.b[rows] * sigmoid(-self.b[rows] * (self.a[rows] @ y))
        return self.a[rows].T @ (sigmoid(x[rows]) * slope) / len(rows) + self.mu * y

    def H(self, x, y, u, rows):
        e = sigmoid(-self.b[rows] * (self.a[rows] @ y))
        weights = sigmoid(x[rows]) * e * (1.0 - e)
        return self.a[rows].T @ (weights * (self.a[rows] @ u)) / len(rows) + self.mu * u

    def J(self, x, y, u, rows):
        s = sigmoid(x[rows])
        slope = -self.b[rows] * sigmoid(-self.b[rows] * (self.a[rows] @ y))
        result = np.zeros(self.n)
        np.add.at(result, rows, s * (1.0 - s) * slope * (self.a[rows] @ u) / len(rows))
        return result
