"""Iterative differentiation against finite differences and against its sum, written out in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.hypergradients import unrolled
from bilevel.hypergradients.unrolled import unroll
from bilevel.steps import as_step

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
Q = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
MU, L = 0.5, 3.0
A = Q * np.linspace(MU, L - 0.2, 4) @ Q.T
B, C, D = RNG.normal(size=(4, 3)), RNG.normal(size=4), RNG.normal(size=(4, 3))
X, Y = RNG.normal(size=3), 0.3 * RNG.normal(size=4)


def f(x, y, _):
    return 0.5 * jnp.sum((y - C) ** 2) + jnp.sum(jnp.sin(x)) + x[0] * y[1]


def g(x, y, _):
    """Not quadratic in y, and its cross derivative depends on y."""
    return 0.5 * y @ (A @ y) - y @ (B @ x) - 0.1 * jnp.sum(jnp.cos(y) * jnp.tanh(D @ x))


PROBLEM = bl.Problem(upper=bl.Level(f), lower=bl.Level(g))
NOISE = RNG.normal(size=(20, 4))


def noisy_g(x, y, a):
    return g(x, y, None) + jnp.mean((a @ y) * (a @ (B @ x)) + 0.1 * (a @ y) ** 2)


NOISY = bl.Problem(upper=bl.Level(f), lower=bl.Level(noisy_g, data=NOISE, batch_size=2))


class NumPy:
    """The derivatives of f and g by hand."""

    @staticmethod
    def F_x(x, y):
        return np.cos(x) + np.array([y[1], 0, 0])

    @staticmethod
    def F_y(x, y):
        return y - C + np.array([0, x[0], 0, 0])

    @staticmethod
    def G_y(x, y):
        return A @ y - B @ x + 0.1 * np.sin(y) * np.tanh(D @ x)

    @staticmethod
    def H(x, y):
        return A + np.diag(0.1 * np.cos(y) * np.tanh(D @ x))

    @staticmethod
    def J(x, y):
        """∇_x∇_y g, of shape (dim x, dim y)."""
        return (-B + (0.1 * np.sin(y) / np.cosh(D @ x) ** 2)[:, None] * D).T


def differences(function, x, step=1e-5):
    def one(e):
        return (function(x + step * e) - function(x - step * e)) / (2 * step)

    return np.array([one(e) for e in np.eye(len(x))])


RULES = {
    "plain": (0.2, lambda: optax.sgd(0.2)),
    "schedule": (bl.inverse_power(0.4, 0.5, 4.0), lambda: optax.sgd(0.2)),  # at iteration 0
    "momentum": (bl.Rule(optax.sgd, 0.1, momentum=0.9), lambda: optax.sgd(0.1, momentum=0.9)),
    "adam": (bl.Rule(optax.adam, 0.1, eps_root=1e-8), lambda: optax.adam(0.1, eps_root=1e-8)),
}


@pytest.mark.parametrize("name", list(RULES))
def test_the_derivative_of_the_value_after_d_steps(name):
    rule, make = RULES[name]
    optimizer = make()

    @jax.jit
    def value(x):
        y, state = jnp.asarray(Y), optimizer.init(jnp.asarray(Y))
        for _ in range(5):
            updates, state = optimizer.update(jax.grad(g, argnums=1)(x, y, None), state, y)
            y = y + updates
        return f(x, y, None)

    h = bl.unrolled_hypergradient(PROBLEM, X, Y, steps=5, lower_step=rule)
    np.testing.assert_allclose(h, differences(value, X), rtol=1e-7, atol=1e-7)


def truncated(x, y, alpha, steps, kept):
    """h = F_x − α Σ_{t=D−K}^{D−1} J(y^t) Π_{j=t+1}^{D−1} (I − α H(y^j)) F_y(x, y^D), and y^D."""
    path = [y]
    for _ in range(steps):
        path.append(path[-1] - alpha * NumPy.G_y(x, path[-1]))
    h = NumPy.F_x(x, path[-1])
    for t in range(steps - kept, steps):
        product = np.eye(4)
        for j in range(t + 1, steps):
            product = product @ (np.eye(4) - alpha * NumPy.H(x, path[j]))
        h = h - alpha * NumPy.J(x, path[t]) @ product @ NumPy.F_y(x, path[-1])
    return h, path[-1]


@pytest.mark.parametrize(("steps", "truncation"), [(6, None), (6, 6), (6, 2), (1, 1)])
def test_the_sum_written_out(steps, truncation):
    expected, _ = truncated(X, Y, 0.3, steps, steps if truncation is None else truncation)
    for rule in (0.3, bl.Rule(optax.sgd, 0.3)):  # both ways back
        h = bl.unrolled_hypergradient(PROBLEM, X, Y, steps=steps, lower_step=rule, truncation=truncation)
        np.testing.assert_allclose(h, expected, rtol=1e-10)


def test_the_error_falls_with_the_number_of_steps():
    """‖h_D − ∇Φ(x)‖ shrinks at least by (1 − αμ)^{1/2} a step, for α ≤ 1/L."""
    y = np.zeros(4)
    for _ in range(30):
        y = y - np.linalg.solve(NumPy.H(X, y), NumPy.G_y(X, y))
    exact = NumPy.F_x(X, y) - NumPy.J(X, y) @ np.linalg.solve(NumPy.H(X, y), NumPy.F_y(X, y))
    alpha, mu = 1 / L, np.linalg.eigvalsh(A).min() - 0.1

    depths = [5, 15, 45]
    errors = [
        np.linalg.norm(bl.unrolled_hypergradient(PROBLEM, X, Y, steps=depth, lower_step=alpha) - exact)
        for depth in depths
    ]
    for i in (1, 2):
        assert errors[i] <= (1 - alpha * mu) ** ((depths[i] - depths[i - 1]) / 2) * errors[i - 1]
    assert errors[-1] < 1e-3 * errors[0]


def test_truncation_drops_terms_that_have_shrunk():
    full = bl.unrolled_hypergradient(PROBLEM, X, Y, steps=45, lower_step=1 / L)
    last = [truncated(X, Y, 1 / L, 45, kept)[0] for kept in (5, 15, 30)]
    errors = [np.linalg.norm(h - full) for h in last]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("rule", [bl.SOBA(0.1, 0.2, 0.1).lower_step, bl.Rule(optax.sgd, 0.2, momentum=0.5)])
def test_the_reverse_pass_sees_the_batches_of_the_forward_pass(rule):
    key = jax.random.key(4)

    @eqx.filter_jit
    def run(x, key):
        out = unroll(NOISY, x, jnp.asarray(Y), NOISY.upper.all_rows(), steps=4, lower_step=rule, key=key)
        return out.h, f(x, out.y, None)

    np.testing.assert_allclose(run(X, key)[0], differences(lambda x: run(x, key)[1], X), rtol=1e-7, atol=1e-7)
    assert float(run(X, key)[1]) != float(run(X, jax.random.key(5))[1])


# rematerialization, and tangents that go along

WAYS = ({"store": "segments"}, {"store": "residuals"}, {"mode": "forward"})


ADAM = bl.Rule(optax.adam, 0.1, eps_root=1e-8)


@pytest.mark.parametrize(
    ("problem", "rule", "steps", "truncation"),
    [(PROBLEM, 0.2, 1, None), (PROBLEM, 0.2, 7, None), (NOISY, ADAM, 12, 7)],
    ids=["one step", "a square and a rest", "adam on batches, truncated"],
)
def test_every_mode_gives_the_same(problem, rule, steps, truncation):
    options = dict(steps=steps, lower_step=rule, truncation=truncation, key=jax.random.key(3))
    expected = bl.unrolled_hypergradient(problem, X, Y, **options)
    for way in WAYS:
        np.testing.assert_allclose(bl.unrolled_hypergradient(problem, X, Y, **options, **way), expected, rtol=1e-11)


def test_every_mode_takes_trees_of_several_dtypes_and_rows():
    """x = (a number for each row of data, of which a batch sees some; a float32 matrix), y a dictionary."""

    def lower(x, y, a):
        weights, M = x["rows"], x["M"][0]
        residual = a @ y["w"] + y["b"] - jnp.sin(a[:, 0])
        return jnp.mean(jax.nn.sigmoid(weights) * residual**2) + jnp.sum((M @ y["w"]) ** 2)

    problem = bl.Problem(
        upper=bl.Level(lambda x, y, _: jnp.sum((y["w"] - 1) ** 2) + y["b"] + jnp.sum(x["M"][0]) ** 2),
        lower=bl.Level(lower, NOISE, 2, per_row={"rows": True, "M": False}),
    )
    x = {"rows": np.linspace(-1, 1, 20), "M": (np.full((2, 4), 0.3, np.float32),)}
    y = {"w": Y, "b": 0.1}
    options = dict(steps=5, lower_step=0.1, key=jax.random.key(0))
    expected = bl.unrolled_hypergradient(problem, x, y, **options)
    assert 4 <= np.count_nonzero(expected["rows"]) <= 10
    for way in WAYS:
        h = bl.unrolled_hypergradient(problem, x, y, **options, **way)
        assert h["M"][0].dtype == np.float32
        np.testing.assert_allclose(h["rows"], expected["rows"], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(h["M"][0], expected["M"][0], rtol=1e-5)


@pytest.mark.parametrize("cut", [False, True])
def test_segments_cover_every_step_once(cut):
    for kept in range(1, 60):
        rows, last = unrolled._segments(4, 4 + kept, cut)
        np.testing.assert_array_equal(np.concatenate([rows.ravel(), last]), np.arange(4, 4 + kept))
        if cut:
            root = int(np.ceil(np.sqrt(kept)))
            assert 1 <= len(last) <= root and len(rows) < root and rows.shape[1] == root
        else:
            assert len(last) == kept


def temporaries(steps, mode, store):
    """Of the compiled program, in iterates of 10⁴ float32 entries."""
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, _: jnp.sum(y**2)),
        lower=bl.Level(lambda x, y, _: jnp.sum(jnp.cosh(y - x[0])) * x[1]),
    )
    x, y = jnp.ones(2, "float32"), jnp.zeros(10_000, "float32")
    options = dict(steps=steps, truncation=None, mode=mode, store=store)
    program = unrolled._unrolled.lower(problem, x, y, as_step(0.1), jax.random.key(0), **options).compile()
    return program.compiled.memory_analysis().temp_size_in_bytes / 40_000


def test_memory_grows_like_the_steps_or_their_root_or_not_at_all():
    plain, segments, forward = (
        [temporaries(steps, *way) for steps in (100, 1600)]
        for way in (("reverse", "iterates"), ("reverse", "segments"), ("forward", "iterates"))
    )
    for steps, n in zip((100, 1600), plain, strict=True):
        assert steps <= n < steps + 10
    for root, n in zip((10, 40), segments, strict=True):
        assert n < 2 * root + 10
    assert max(forward) < 10  # x has two entries


def test_forward_mode_on_too_many_hyperparameters_is_a_named_error(compiled):
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, _: jnp.sum(y**2)), lower=bl.Level(lambda x, y, _: jnp.sum((y - x[:1]) ** 2))
    )
    x, y = np.ones(5_000), np.ones(60_000)
    with pytest.raises(ValueError, match=r"mode: x has 5000 entries and y 60000, .* take 2.6 GB; .* mode='reverse'"):
        bl.unrolled_hypergradient(problem, x, y, steps=2, lower_step=0.1, mode="forward")
    assert not [name for name in compiled if "unrolled" in name]


# a square root of zero


@pytest.mark.parametrize("settings", [{}, {"eps_root": 0.0}, {"b1": 0.5}])
def test_adam_without_eps_root_is_a_named_error(settings, compiled):
    adam = bl.Rule(optax.adam, 0.1, **settings)
    message = r"lower_step: optax.adam has no derivative at a zero gradient .*pass a positive eps_root"
    with pytest.raises(ValueError, match=message):
        bl.unrolled_hypergradient(PROBLEM, X, Y, steps=2, lower_step=adam)
    with pytest.raises(ValueError, match=message):
        bl.ITDBiO(upper_step=0.1, lower_step=adam, inner_steps=2)
    assert not [name for name in compiled if "unrolled" in name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_with_eps_root_at_gradients_of_zero(dtype):
    """y[0] never has a gradient, and y[1] none at the start."""
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, _: jnp.sum(y**2 + y) * x), lower=bl.Level(lambda x, y, _: 0.5 * (y[1] - x + 1) ** 2)
    )
    rule = bl.Rule(optax.adam, 0.1, eps_root=1e-8)
    h = bl.unrolled_hypergradient(problem, jnp.ones((), dtype), jnp.zeros(2, dtype), steps=3, lower_step=rule)
    assert bool(jnp.isfinite(h))
    assert h.dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"steps": 2.0}, TypeError, "steps: got 2.0"),
        ({"steps": 3, "truncation": 0}, ValueError, "truncation: got 0"),
        ({"steps": 3, "truncation": 4}, ValueError, "truncation: got 4 for 3 steps"),
        ({"steps": 3, "lower_step": -0.1}, ValueError, "lower_step: got -0.1"),
        ({"steps": 3, "lower_step": "fast"}, TypeError, "lower_step: got "),
        ({"steps": 3, "mode": "backward"}, ValueError, "mode: 'backward' is unknown"),
        ({"steps": 3, "store": "residual"}, ValueError, "store: 'residual' is unknown; did you mean residuals"),
        ({"steps": 3, "store": "segments", "mode": "forward"}, ValueError, "store: forward mode stores no"),
    ],
)
def test_bad_arguments(arguments, error, message, compiled):
    with pytest.raises(error, match=message):
        bl.unrolled_hypergradient(PROBLEM, X, Y, **({"lower_step": 0.1} | arguments))
    assert not compiled
