"""HIA, the randomized Neumann estimator of Ghadimi and Wang (arXiv 1802.02246).

Chosen where the source is unsettled: p ~ U{0..K-1}, p = 0 included, so that the mean over p of
the full-batch estimate is the truncated series (c/L) sum_{n=0}^{K-1} (I - c H/L)^n u.
"""


def draw_factors(draws, K, k, ps):
    """zeta_1..zeta_p of iteration k: the lower draws that are left, or `ps[k]` of them."""
    p = draws.left("lower") if ps is None else ps[k]
    assert 0 <= p <= K - 1, f"iteration {k}: p = {p} is not in 0..{K - 1}"
    return [draws.lower() for _ in range(p)]


def hia(problem, u, x, y, K, eta, zetas):
    """HIA(u; x, y, K, c) with eta = c/L and p = len(zetas)."""
    # r = u;  for i = 1..p: r <- r - (c/L) H(x, y; zeta_i)[r]
    r = u
    for zeta in zetas:
        r = r - eta * problem.H(x, y, r, zeta)
    # return (K c/L) r
    return K * eta * r
