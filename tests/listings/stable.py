"""STABLE (Chen, Sun, Xiao, Yin, AISTATS 2022, Alg. 1).

Chosen where the listing is silent or unclear: at k = 0 the matrices are the plain samples, which
are projected too. G_y shares phi with the matrices. The projected matrices are the ones that are
stored, so the recursion continues from them. tau_k is the weight of the fresh sample of iteration
k, clipped to at most 1. C = None projects Hxy on nothing; Proj_X is the identity unless `project`
is given.

Draws of iteration k: lower phi, upper xi.
"""

import numpy as np


def second_derivatives(problem, x, y, rows):
    """Hxy (dim x, dim y) and Hyy (dim y, dim y), a column for each basis vector of y's space."""
    basis = np.eye(len(y))
    Hxy = np.stack([problem.J(x, y, e, rows) for e in basis], axis=1)
    Hyy = np.stack([problem.H(x, y, e, rows) for e in basis], axis=1)
    return Hxy, Hyy


def project_below(matrix, mu):
    """Proj_{>= mu I}: symmetrize, eigendecompose, clip the eigenvalues at mu from below."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ np.diag(np.maximum(values, mu)) @ vectors.T


def project_norm(matrix, C):
    """Proj_{|| . || <= C} in the spectral norm: clip the singular values at C from above."""
    if C is None:
        return matrix
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ np.diag(np.minimum(values, C)) @ right


def stable(problem, x0, y0, draws, steps, *, alpha, beta, tau, mu, C=None, project=lambda x: x):
    """`alpha`, `beta` and `tau` are functions of k."""
    draws.begin(0)
    draws.end()
    x, y = x_old, y_old = x0.copy(), y0.copy()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # draw phi, xi
        phi = draws.lower()
        xi = draws.upper()
        new_xy, new_yy = second_derivatives(problem, x, y, phi)
        if k == 0:
            # k = 0: take the plain samples
            Hxy, Hyy = new_xy, new_yy
        else:
            # STORM(h, old, new; tau_k) = new + (1 - tau_k) (h - old), old and new on the same phi
            weight = min(1.0, tau(k))
            old_xy, old_yy = second_derivatives(problem, x_old, y_old, phi)
            Hxy = new_xy + (1.0 - weight) * (Hxy - old_xy)
            Hyy = new_yy + (1.0 - weight) * (Hyy - old_yy)
        # Hxy <- Proj_{|| . || <= C}(...);  Hyy <- Proj_{>= mu I}(...)
        Hxy = project_norm(Hxy, C)
        Hyy = project_below(Hyy, mu)
        # d = F_x(x_k,y_k;xi) - Hxy Hyy^{-1} F_y(x_k,y_k;xi)
        d = problem.F_x(x, y, xi) - Hxy @ np.linalg.solve(Hyy, problem.F_y(x, y, xi))
        # x_{k+1} = Proj_X(x_k - alpha_k d)
        x_new = project(x - alpha(k) * d)
        # y_{k+1} = y_k - beta_k G_y(x_k,y_k;phi) - Hyy^{-1} Hxy^T (x_{k+1} - x_k)
        corrector = np.linalg.solve(Hyy, Hxy.T @ (x_new - x))
        y_new = y - beta(k) * problem.G_y(x, y, phi) - corrector
        x_old, y_old = x, y
        x, y = x_new, y_new
        draws.end()
        trajectory.append(dict(x=x, y=y, Hxy=Hxy, Hyy=Hyy))
    return trajectory
