"""BO-REP (Hao, Gong, Liu, ICLR 2024, Alg. 1 to 3).

Chosen where the listing is silent: z_0 = 0 (only m_0 = 0 is given), and a zero m leaves x as it
is. `plain=True` is the initial stage of the papers' experiments: SGD without projection, where each
epoch starts at the last iterate.

Draws of `init`: one lower draw per step of EpochSGD. Draws of iteration k: N lower if k > 0
and I divides k, then lower xi_k, upper zeta_k.
"""

import math

import numpy as np


def project(y, center, radius):
    """Euclidean projection onto the ball."""
    distance = np.sqrt(np.sum((y - center) ** 2))
    if distance <= radius:
        return y
    return center + (radius / distance) * (y - center)


def epoch_sgd(problem, x, y, draws, *, T, alphas, radii, plain=False):
    """Alg. 2: epoch s has T[s] steps of alphas[s] within radii[s] of its start."""
    for s in range(len(T)):
        start = y
        iterate = start
        total = np.zeros_like(y)
        for _ in range(T[s]):
            iterate = iterate - alphas[s] * problem.G_y(x, iterate, draws.lower())
            if not plain:
                iterate = project(iterate, start, radii[s])
            total = total + iterate
        # the next epoch starts at the average of y^{s,1}..y^{s,T_s}
        y = iterate if plain else total / T[s]
    return y


def epoch_sgd_constants(mu, L, sigma, V0, epsilon, delta):
    """Appendix D.2, (28) to (30): k_dagger and the lists T_s, alpha_s, radii; `epsilon` is eps'."""
    # k_dagger = ceil(log2(V0 / eps'))
    k_dagger = max(0, math.ceil(math.log2(V0 / epsilon)))
    T, alphas, radii = [], [], []
    for s in range(k_dagger):
        # lambda = max(sqrt(3 ln(2 k_dagger / delta)), ln(2 k_dagger / delta))
        log = math.log(2 * k_dagger / delta)
        lam = max(math.sqrt(3 * log), log)
        # T_s = ceil(max(16 L / mu, 32 max(sigma^2, 4 lambda^2 sigma^2) / (mu V0 2^{-(s+2)})))
        noise = 32 * max(sigma**2, 4 * lam**2 * sigma**2) / (mu * V0 * 2.0 ** -(s + 2))
        T.append(math.ceil(max(16 * L / mu, noise)))
        # alpha_s = min(1 / (2 L), (1 / sigma) sqrt(V0 2^{-s} / (2 mu T_s)))
        alpha = 1 / (2 * L)
        if sigma > 0:
            alpha = min(alpha, (1 / sigma) * math.sqrt(V0 * 2.0**-s / (2 * mu * T[s])))
        alphas.append(alpha)
        # the ball (1/2) |y - y^{s,0}|^2 <= V0 / (mu 2^s)
        radii.append(math.sqrt(2 * V0 / (mu * 2.0**s)))
    return k_dagger, T, alphas, radii


def update_lower(problem, x, y, draws, *, gamma, N, R):
    """Alg. 3: the average of N projected SGD steps around y."""
    start = y
    iterate = start
    total = np.zeros_like(y)
    for _ in range(N):
        iterate = project(iterate - gamma * problem.G_y(x, iterate, draws.lower()), start, R)
        total = total + iterate
    return total / N


def borep(
    problem, x0, y0, draws, steps, *, eta, beta, nu, gamma, I, N, R,  # noqa: E741
    T=(), alphas=(), radii=None, plain=False,
):  # fmt: skip
    """`T`, `alphas`, `radii` (one entry an epoch) and `plain` describe EpochSGD (T=(): none)."""
    # y_0 = EpochSGD(x_0, y'_0);  m_0 = 0
    draws.begin(0)
    x = x0.copy()
    y = epoch_sgd(problem, x, y0.copy(), draws, T=T, alphas=alphas, radii=radii, plain=plain)
    m, z = np.zeros_like(x0), np.zeros_like(y0)
    draws.end()
    trajectory = []
    for k in range(steps):
        draws.begin(k + 1)
        # y_{k+1} = UpdateLower(x_k, y_k), only when k > 0 and I divides k
        y_new = y
        if k > 0 and k % I == 0:
            y_new = update_lower(problem, x, y, draws, gamma=gamma, N=N, R=R)
        xi = draws.lower()
        zeta = draws.upper()
        # z_{k+1} = z_k - nu (H(x_k, y_k; xi_k)[z_k] - F_y(x_k, y_k; zeta_k))
        z_new = z - nu * (problem.H(x, y, z, xi) - problem.F_y(x, y, zeta))
        # m_{k+1} = beta m_k + (1 - beta) (F_x(x_k, y_k; zeta_k) - J(x_k, y_k; xi_k)[z_k])
        m_new = beta * m + (1 - beta) * (problem.F_x(x, y, zeta) - problem.J(x, y, z, xi))
        # x_{k+1} = x_k - eta m_{k+1} / |m_{k+1}|
        norm = np.sqrt(np.sum(m_new**2))
        x_new = x - eta * m_new / norm if norm > 0 else x
        x, y, z, m = x_new, y_new, z_new, m_new
        draws.end()
        trajectory.append(dict(x=x, y=y, z=z, m=m))
    return trajectory
