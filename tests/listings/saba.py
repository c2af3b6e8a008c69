"""SABA (Dagreou, Ablin, Vaiter, Moreau, NeurIPS 2022, Alg. 1 with (11a-c)).

Chosen where the listing is silent: v_0 = 0. The blocks are contiguous and of one size, so every
weight_i is one over their number. `full_pass` fills the tables at (x_0, y_0, v_0) without drawing;
otherwise they start at zero. `rho_v` is a separate step for v; the listing's own is rho for both.

Draws of iteration k: lower i, upper j, each all the rows of one block.
"""

import numpy as np


class Table:
    """phi of each block at the point of its last visit, with the running mean."""

    def __init__(self, values):
        self.values = np.array(values)
        self.mean = self.values.mean(axis=0)

    def estimate(self, i, now):
        # S[phi] = phi_i(now) - table_i + mean(table), with the old table and the old mean
        return now - self.values[i] + self.mean

    def store(self, i, now):
        # mean <- mean + weight_i (phi_i(now) - old table_i);  table_i <- phi_i(now)
        self.mean = self.mean + (now - self.values[i]) / len(self.values)
        self.values[i] = now


def saba(problem, x0, y0, draws, steps, *, rho, gamma, sizes, rho_v=None, full_pass=True):
    """`rho`, `gamma` and `rho_v` are functions of k; `sizes` is (upper size, lower size)."""
    rho_v = rho if rho_v is None else rho_v
    upper_blocks = blocks(problem.m, sizes[0])
    lower_blocks = blocks(problem.n, sizes[1])
    draws.begin(0)
    draws.end()
    x, y, v = x0.copy(), y0.copy(), np.zeros_like(y0)
    # tables over inner indices: A_i (G_y), B_i (H[v]), C_i (J[v]); outer: P_j (F_y), R_j (F_x)
    keep = 1.0 if full_pass else 0.0
    A = Table([keep * problem.G_y(x, y, rows) for rows in lower_blocks])
    B = Table([keep * problem.H(x, y, v, rows) for rows in lower_blocks])
    C = Table([keep * problem.J(x, y, v, rows) for rows in lower_blocks])
    P = Table([keep * problem.F_y(x, y, rows) for rows in upper_blocks])
    R = Table([keep * problem.F_x(x, y, rows) for rows in upper_blocks])
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # draw i, j
        i, lower = block(draws.lower(), lower_blocks)
        j, upper = block(draws.upper(), upper_blocks)
        # evaluate the five quantities at the current (x, y, v)
        a, b, c = problem.G_y(x, y, lower), problem.H(x, y, v, lower), problem.J(x, y, v, lower)
        p, r = problem.F_y(x, y, upper), problem.F_x(x, y, upper)
        # y <- y - rho S[A];  v <- v - rho (S[B] - S[P]);  x <- x - gamma (S[R] - S[C])
        y = y - rho(k) * A.estimate(i, a)
        v = v - rho_v(k) * (B.estimate(i, b) - P.estimate(j, p))
        x = x - gamma(k) * (R.estimate(j, r) - C.estimate(i, c))
        # then the tables and their means
        for table, index, now in [(A, i, a), (B, i, b), (C, i, c), (P, j, p), (R, j, r)]:
            table.store(index, now)
        draws.end()
        trajectory.append(dict(x=x, y=y, v=v))
    return trajectory


def blocks(number, size):
    assert number % size == 0, f"{number} rows do not split into blocks of {size}"
    return np.arange(number).reshape(-1, size)


def block(rows, partition):
    """The number of a drawn block, and its rows."""
    number = rows[0] // partition.shape[1]
    assert np.array_equal(rows, partition[number]), f"{rows} is not a block of the partition"
    return number, rows
