"""SUSTAIN and Adam-SUSTAIN (Khanduri et al., NeurIPS 2021, Alg. 1; appendix, Alg. 2).

Chosen where the listing is silent or contradicts itself: eta_0 = 1 whatever the schedules say,
and later ones are clipped to at most 1. In eq. (7), zeta_1 acts first on F_y (the zetas are
independent and alike, so the order changes no distribution). Option I; as printed, Option II
telescopes: hf_t - h_t = (1 - eta)(hf_{t-1} - h_{t-1}) = 0, so hf_t is the plain sample for every
eta. Adam is the standard one, with bias-corrected copies, and does not touch the recursion's state.

Draws of iteration t: lower zeta_t, upper xi, lower zeta_0, lower zeta_1..zeta_k.
"""

import numpy as np


def hypergradient(problem, x, y, xi, zeta_0, zetas, K, L):
    """Eq. (7), with k = len(zetas)."""
    # prod_{i=1}^{k} (I - H(zeta_i)/L_g) F_y(xi): zeta_1 acts first
    r = problem.F_y(x, y, xi)
    for zeta in zetas:
        r = r - problem.H(x, y, r, zeta) / L
    # F_x(xi) - (K/L_g) J(zeta_0) prod ...
    return problem.F_x(x, y, xi) - (K / L) * problem.J(x, y, r, zeta_0)


def sustain(
    problem, x0, y0, draws, steps, *, alpha, beta, eta_f, eta_g, K, L,
    upper="plain", b1=0.9, b2=0.999, eps=1e-8, ks=None,
):  # fmt: skip
    """`alpha`, `beta`, `eta_f`, `eta_g` are functions of t: eta_f(t) is the listing's eta^f_t.

    k is the number of lower draws left once zeta_0 is taken; `ks[t]` gives it in deterministic
    runs. `upper` is "plain" or "adam"; alpha(t) is Adam's step too.
    """
    assert upper in ("plain", "adam")
    draws.begin(0)
    draws.end()
    x, y = x0.copy(), y0.copy()
    # x_{-1} = y_{-1} = h_{-1} = 0
    x_old, y_old = np.zeros_like(x0), np.zeros_like(y0)
    hf, hg = np.zeros_like(x0), np.zeros_like(y0)
    m, s = np.zeros_like(x0), np.zeros_like(x0)
    trajectory = []
    for t in range(steps):
        draws.begin(t + 1)
        # eta_0 = 1; at most 1 afterwards
        etaf = 1.0 if t == 0 else min(1.0, eta_f(t))
        etag = 1.0 if t == 0 else min(1.0, eta_g(t))
        zeta_t = draws.lower()
        xi = draws.upper()
        zeta_0 = draws.lower()
        k = draws.left("lower") if ks is None else ks[t]
        assert 0 <= k <= K - 1, f"iteration {t}: k = {k} is not in 0..{K - 1}"
        zetas = [draws.lower() for _ in range(k)]
        # (13) hg_t = eta G_y(x_t, y_t; zeta_t)
        #          + (1 - eta) (hg_{t-1} + G_y(x_t, y_t; zeta_t) - G_y(x_{t-1}, y_{t-1}; zeta_t))
        new = problem.G_y(x, y, zeta_t)
        old = problem.G_y(x_old, y_old, zeta_t)
        hg = etag * new + (1.0 - etag) * (hg + new - old)
        new = hypergradient(problem, x, y, xi, zeta_0, zetas, K, L)
        # (14) hf_t = eta h(x_t, y_t; xi_t)
        #          + (1 - eta) (hf_{t-1} + h(x_t, y_t; xi_t) - h(x_{t-1}, y_{t-1}; xi_t))
        old = hypergradient(problem, x_old, y_old, xi, zeta_0, zetas, K, L)
        hf = etaf * new + (1.0 - etaf) * (hf + new - old)
        # both from (x_t, y_t): simultaneous
        x_old, y_old = x, y
        # y_{t+1} = y_t - beta_t hg_t
        y = y - beta(t) * hg
        if upper == "plain":
            # x_{t+1} = x_t - alpha_t hf_t
            x = x - alpha(t) * hf
        else:
            # x moves by Adam(hf)
            m = b1 * m + (1.0 - b1) * hf
            s = b2 * s + (1.0 - b2) * hf**2
            m_hat = m / (1.0 - b1 ** (t + 1))
            s_hat = s / (1.0 - b2 ** (t + 1))
            x = x - alpha(t) * m_hat / (np.sqrt(s_hat) + eps)
        draws.end()
        trajectory.append(dict(x=x, y=y, hf=hf, hg=hg))
    return trajectory
