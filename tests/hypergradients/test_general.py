"""Lemma 2 of FSLA: each method that it generalizes, and the recursions written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(1)
ROOT = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
A = ROOT * np.linspace(0.6, 2.6, 4) @ ROOT.T
B, C, D = RNG.normal(size=(4, 3)), RNG.normal(size=4), RNG.normal(size=(4, 3))
X, Y = RNG.normal(size=3), RNG.normal(size=4)
NOISE = RNG.normal(size=(12, 4))
K = 4
YS, BETAS = RNG.normal(size=(K + 1, 4)), np.array([0.3, 0.1, 0.25, 0.2])


def f(x, y, _):
    return 0.5 * jnp.sum((y - C) ** 2) + jnp.sum(jnp.sin(x)) + x[0] * y[1]


def g(x, y, _):
    """Its Hessians at two points do not commute."""
    return 0.5 * y @ (A @ y) - y @ (B @ x) - 0.3 * jnp.sum(jnp.cos(y) * jnp.tanh(D @ x))


def noisy_f(x, y, a):
    return f(x, y, None) + jnp.mean((a @ y) * (1 + a[:, 0] * x[1]))


def noisy_g(x, y, a):
    return g(x, y, None) + jnp.mean((a @ y) * (a @ (B @ x)) + 0.1 * (a @ y) ** 2)


PROBLEM = bl.Problem(upper=bl.Level(f), lower=bl.Level(g))
gradients = jax.jit(jax.grad(noisy_f, argnums=(0, 1)))
hessian = jax.jit(jax.hessian(noisy_g, argnums=1))
cross = jax.jit(jax.jacfwd(jax.grad(noisy_g, argnums=0), argnums=1))
gradient_y = jax.jit(jax.grad(g, argnums=1))
NONE = np.zeros((1, 4))  # a row without noise


def F(y, rows=NONE):
    return [np.asarray(part) for part in gradients(X, y, rows)]


def H(y, rows=NONE):
    return np.asarray(hessian(X, y, rows))


def J(y, rows=NONE):
    """Of shape (dim x, dim y)."""
    return np.asarray(cross(X, y, rows))


def backward_written_out(p, factors):
    """F_x − Σ_k β_k J_k Π_{s=k+1}^{K−1} (I − β_s H_s) p_K, where `factors` gives the s from left to right."""
    h = F(YS[K])[0]
    for k in range(K):
        product = np.eye(4)
        for s in factors(k):
            product = product @ (np.eye(4) - BETAS[s] * H(YS[s]))
        h = h - BETAS[k] * J(YS[k]) @ product @ p
    return h


def forward_written_out(ps, factors):
    """F_x − J_K Σ_k β_k Π_{s=k+1}^{K−1} (I − β_s H_s) p_k."""
    v = np.zeros(4)
    for k in range(K):
        product = np.eye(4)
        for s in factors(k):
            product = product @ (np.eye(4) - BETAS[s] * H(YS[s]))
        v = v + BETAS[k] * product @ ps[k]
    return F(YS[K])[0] - J(YS[K]) @ v


def test_the_lemma_written_out():
    """And that the order of the factors, and the mode, matter."""
    p, ps = RNG.normal(size=4), RNG.normal(size=(K, 4))
    rising, falling = (lambda k: range(k + 1, K)), (lambda k: range(K - 1, k, -1))
    for given in (p, None):
        expected = backward_written_out(F(YS[K])[1] if given is None else given, rising)
        h = bl.general_hypergradient(PROBLEM, X, YS, BETAS, mode="backward", p=given)
        np.testing.assert_allclose(h, expected, rtol=1e-11)
    for given in (ps, None):
        expected = forward_written_out([F(y)[1] for y in YS[:K]] if given is None else given, falling)
        h = bl.general_hypergradient(PROBLEM, X, YS, BETAS, mode="forward", p=given)
        np.testing.assert_allclose(h, expected, rtol=1e-11)
    as_printed = forward_written_out([F(y)[1] for y in YS[:K]], rising)
    backward = bl.general_hypergradient(PROBLEM, X, YS, BETAS, mode="backward")
    forward_from_one_p = bl.general_hypergradient(PROBLEM, X, YS, BETAS, mode="forward", p=np.tile(F(YS[K])[1], (K, 1)))
    for other in (as_printed, backward):
        assert np.linalg.norm(h - other) > 1e-3
    assert np.linalg.norm(forward_from_one_p - backward) > 1e-3


def test_backward_along_descent_is_back_propagation():
    ys = [Y]
    for beta in BETAS:
        ys.append(ys[-1] - beta * np.asarray(gradient_y(X, ys[-1], None)))

    @jax.jit
    @jax.grad
    def propagated(x):
        y = jnp.asarray(Y)
        for beta in BETAS:
            y = y - beta * jax.grad(g, argnums=1)(x, y, None)
        return f(x, y, None)

    h = bl.general_hypergradient(PROBLEM, X, np.stack(ys), BETAS, mode="backward")
    np.testing.assert_allclose(h, propagated(X), rtol=1e-12)


def test_at_one_point_with_one_weight_both_modes_are_neumann():
    expected = bl.hypergradient(PROBLEM, X, Y, method=bl.Neumann(order=K - 1, step=0.3))
    for mode in ("backward", "forward"):
        h = bl.general_hypergradient(PROBLEM, X, Y[None], np.full(K, 0.3), mode=mode)
        np.testing.assert_allclose(h, expected, rtol=1e-12)
        repeated = bl.general_hypergradient(PROBLEM, X, np.tile(Y, (K + 1, 1)), np.full(K, 0.3), mode=mode)
        np.testing.assert_allclose(repeated, expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_conjugate_gradient(steps):
    """β_k its step lengths and p_k = F_y + γ_k c_{k−1}: c_k = r_k + γ_k c_{k−1}, r_k = F_y − H v_k."""
    F_y, r, previous, rr = F(Y)[1], F(Y)[1], np.zeros(4), np.inf
    betas, ps = [], []
    for _ in range(steps):
        gamma = (r @ r) / rr
        c = r + gamma * previous
        ps.append(F_y + gamma * previous)
        betas.append((r @ r) / (c @ H(Y) @ c))
        rr, r, previous = r @ r, r - betas[-1] * H(Y) @ c, c
    h = bl.general_hypergradient(PROBLEM, X, Y[None], np.array(betas), mode="forward", p=np.stack(ps))
    method = bl.ConjugateGradient(steps=steps) if steps < 4 else bl.Direct()
    np.testing.assert_allclose(h, bl.hypergradient(PROBLEM, X, Y, method=method), rtol=1e-10)


def test_fsla():
    """Its v and hypergradient along its own y, where a projection holds x."""
    solver = bl.FSLA(0.1, bl.inverse_power(0.4, 0.5), bl.inverse_power(0.3, 0.5), storm_weight=1.0)
    held = bl.Problem(PROBLEM.upper, PROBLEM.lower, project=lambda x: jnp.asarray(X))
    solutions = [bl.solve(held, solver, X, Y, steps=k, key=jax.random.key(0), signs=False) for k in range(1, K + 1)]
    ys = np.stack([Y] + [solution.y for solution in solutions])
    h = bl.general_hypergradient(PROBLEM, X, ys, 0.3 / np.sqrt(1 + np.arange(K)), mode="forward")
    np.testing.assert_allclose(h, solutions[-1].state.d, rtol=1e-12)  # with weight 1, d is the fresh hypergradient


# batches


def batches(level, key):
    """One for each k = 0, …, K, from a key of its own."""
    return [level.draw(jax.random.fold_in(key, k)).rows for k in range(K + 1)]


def test_the_backward_mode_draws_what_unrolling_draws():
    problem = bl.Problem(upper=bl.Level(f), lower=bl.Level(noisy_g, NOISE, 2))
    key = jax.random.key(6)
    step = jax.jit(lambda y, rows: y - 0.2 * jax.grad(noisy_g, argnums=1)(X, y, rows))
    ys = [Y]
    for rows in batches(problem.lower, jax.random.split(key)[1])[:K]:
        ys.append(step(ys[-1], rows))
    h = bl.general_hypergradient(problem, X, np.stack(ys), np.full(K, 0.2), mode="backward", key=key)
    expected = bl.unrolled_hypergradient(problem, X, Y, steps=K, lower_step=0.2, key=key)
    np.testing.assert_allclose(h, expected, rtol=1e-12)


def test_the_forward_mode_draws_a_batch_of_each_level_at_each_k():
    problem = bl.Problem(upper=bl.Level(noisy_f, NOISE, 3), lower=bl.Level(noisy_g, NOISE, 2))
    key = jax.random.key(2)
    h = bl.general_hypergradient(problem, X, YS, BETAS, mode="forward", key=key)
    upper_key, lower_key = jax.random.split(key)
    ups, lows = batches(problem.upper, upper_key), batches(problem.lower, lower_key)
    v = np.zeros(4)
    for k in range(K):
        v = v - BETAS[k] * H(YS[k], lows[k]) @ v + BETAS[k] * F(YS[k], ups[k])[1]
    np.testing.assert_allclose(h, F(YS[K], ups[K])[0] - J(YS[K], lows[K]) @ v, rtol=1e-11)


# trees, dtypes, programs, errors


@pytest.mark.parametrize("mode", ["backward", "forward"])
def test_trees_and_dtypes(mode):
    """The flat problem's answer, in float32 throughout."""

    def on_trees(loss):
        return bl.Level(
            lambda x, y, _: loss(jnp.append(x["a"], x["b"]), jnp.append(y[0], y[1]), None).astype("float32")
        )

    x = {"a": X[:2].astype("float32"), "b": X[2].astype("float32")}
    split = (YS[:, :3].astype("float32"), YS[:, 3].astype("float32"))
    p = YS[0] if mode == "backward" else YS[1:]  # in float64, which gives way
    p_split = (p[..., :3], p[..., 3])
    h = bl.general_hypergradient(bl.Problem(on_trees(f), on_trees(g)), x, split, BETAS, mode=mode, p=p_split)
    assert {leaf.dtype for leaf in jax.tree.leaves(h)} == {np.dtype("float32")}
    expected = bl.general_hypergradient(PROBLEM, X, YS, BETAS, mode=mode, p=p)
    np.testing.assert_allclose(np.append(h["a"], h["b"]), expected, rtol=1e-4)


def test_other_numbers_compile_nothing(compiled):
    for scale in (1.0, 0.5):
        compiled.clear()
        bl.general_hypergradient(PROBLEM, scale * X, scale * YS, scale * BETAS, mode="backward")
    assert not compiled


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "reverse"}, ValueError, "mode: 'reverse' is unknown"),
        ({"betas": 0.1}, ValueError, r"betas: got shape \(\); pass one number for each step"),
        ({"betas": [1, 1, 1, 1]}, TypeError, "betas: got dtype int64"),
        ({"betas": [[0.1], [0.1, 0.2]]}, TypeError, "betas: "),
        ({"betas": [0.1, np.nan, 0.1, 0.1]}, ValueError, "betas: contains NaN"),
        ({"betas": []}, ValueError, "betas: got an empty array"),
        ({"ys": YS[1:]}, ValueError, r"ys: got leaves of shapes \[\(4, 4\)\] for K = 4 betas; .* of length 5, or of "),
        ({"ys": 1.0}, ValueError, r"ys: got leaves of shapes \[\(\)\]"),
        ({"p": YS}, ValueError, r"p: got leaves of shapes \[\(5, 4\)\].*; pass one vector like y, in the tree of y"),
        ({"p": (Y,)}, ValueError, "p: got leaves"),
        ({"p": YS, "mode": "forward"}, ValueError, "p: got .*; pass 4 vectors like y on a leading axis"),
        ({"problem": None}, TypeError, "problem: got NoneType"),
        ({"problem": bl.Problem(PROBLEM.upper, bl.Level(noisy_g, NOISE, 2))}, ValueError, "key: missing"),
    ],
)
def test_bad_arguments(arguments, error, message, compiled):
    with pytest.raises(error, match=message):
        bl.general_hypergradient(**(dict(problem=PROBLEM, x=X, ys=YS, betas=BETAS, mode="backward") | arguments))
    assert not [name for name in compiled if "general" in name]
