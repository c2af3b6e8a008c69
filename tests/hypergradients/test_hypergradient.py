"""`hypergradient` and `unrolled_hypergradient` as users call them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as bl

METHODS = {
    "default": None,
    "cg": bl.ConjugateGradient(steps=30),
    "neumann": bl.Neumann(order=200, step=0.2),
    "fixed point": bl.FixedPoint(steps=200, step=0.2),
    "direct": bl.Direct(),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_at_the_lower_solution_it_is_the_gradient_of_phi(x64, quadratic, name):
    q = quadratic()
    h = bl.hypergradient(q.problem, q.x, q.y_star(q.x), method=METHODS[name])
    np.testing.assert_allclose(h, q.hypergradient(q.x), rtol=1e-8)
    at_solution = bl.hypergradient(q.problem, q.x_star, q.y_star(q.x_star), method=METHODS[name])
    np.testing.assert_allclose(at_solution, 0, atol=1e-8)


def test_unrolled_reaches_the_gradient_of_phi(x64, quadratic):
    q = quadratic()
    h = bl.unrolled_hypergradient(q.problem, q.x, 0 * q.b, steps=200, lower_step=1 / q.L)
    np.testing.assert_allclose(h, q.hypergradient(q.x), rtol=1e-8)


def test_under_jit_and_vmap(x64, quadratic):
    q = quadratic()
    x = jnp.stack([q.x, 2 * q.x])
    y = jnp.stack([jnp.asarray(q.y_star(row)) for row in (q.x, 2 * q.x)])
    expected = [q.hypergradient(q.x), q.hypergradient(2 * q.x)]
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda x, y: bl.hypergradient(q.problem, x, y)))(x, y), expected)

    def unrolled(x):
        return bl.unrolled_hypergradient(q.problem, x, jnp.asarray(q.b), steps=100, lower_step=0.2)

    np.testing.assert_allclose(jax.jit(jax.vmap(unrolled))(x), expected, rtol=1e-3)


# pytrees and modules


class Ridge:
    """A lower loss on an MLP (or any tree) with a penalty whose weight is exp(x), and an upper loss on it."""

    def __init__(self, predict):
        self.predict = predict
        rng = np.random.default_rng(0)
        self.data = {"u": rng.normal(size=(12, 2)), "t": rng.normal(size=12)}

    def residual(self, y, batch):
        return jax.vmap(lambda u: self.predict(y, u))(batch["u"]) - batch["t"]

    def lower(self, x, y, batch):
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(y, eqx.is_inexact_array)))
        return jnp.mean(self.residual(y, batch) ** 2) + 2.0 * jnp.exp(x["penalty"][0]) * penalty + x["unused"].sum()

    def upper(self, x, y, batch):
        return jnp.mean((self.residual(y, batch) - 0.3) ** 2) + x["penalty"][0] ** 2

    def problem(self, size=None):
        return bl.Problem(*(bl.Level(loss, data=self.data, batch_size=size) for loss in (self.upper, self.lower)))

    def dense(self, x, y):
        """F_x − J H⁻¹ F_y by dense derivatives of the raveled arrays."""
        arrays, static = eqx.partition(y, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(arrays)
        data = jax.tree.map(jnp.asarray, self.data)

        def of(loss):
            return lambda p, flat: loss(x | {"penalty": (p,)}, eqx.combine(unravel(flat), static), data)

        p, f, g = x["penalty"][0], of(self.upper), of(self.lower)

        @jax.jit
        def gradient(p, flat):
            F_p, F_y = jax.grad(f, argnums=(0, 1))(p, flat)
            J, H = jax.jacfwd(jax.grad(g, argnums=1), argnums=(0, 1))(p, flat)
            return F_p - J @ jnp.linalg.solve(H, F_y)

        return gradient(p, flat)


def mlp(dtype=None):
    model = eqx.nn.MLP(2, "scalar", width_size=3, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if dtype and eqx.is_array(leaf) else leaf, model)


def nested(y, u):
    return u @ y["w"][0] + jnp.tanh(y["b"]) * u[0]


NESTED = {"w": [np.array([0.1, -0.2])], "b": 0.3}
START = {"penalty": (0.2,), "unused": np.ones((2, 2))}


@pytest.mark.parametrize("kind", ["module", "nested"])
def test_trees_and_modules(x64, kind):
    ridge, y = (Ridge(lambda y, u: y(u)), mlp()) if kind == "module" else (Ridge(nested), NESTED)
    y = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float | np.ndarray) else leaf, y)
    expected = ridge.dense(START, y)
    method = bl.ConjugateGradient(steps=60) if kind == "module" else bl.Direct()
    h = bl.hypergradient(ridge.problem(), START, y, method=method)
    assert jax.tree.structure(h) == jax.tree.structure(START)
    np.testing.assert_allclose(h["penalty"][0], expected, rtol=1e-7)
    np.testing.assert_array_equal(h["unused"], np.zeros((2, 2)))
    unrolled = bl.unrolled_hypergradient(ridge.problem(), START, y, steps=3, lower_step=0.01)
    assert jax.tree.structure(unrolled) == jax.tree.structure(START)
    np.testing.assert_array_equal(unrolled["unused"], np.zeros((2, 2)))


def test_a_module_as_x(x64):
    """What comes back is a module too, its activation in place."""
    x = mlp()
    u = np.random.default_rng(0).normal(size=(5, 2))
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, u: jnp.mean((u @ y - 1.0) ** 2), data=u),
        lower=bl.Level(lambda x, y, u: jnp.mean((u @ y - jax.vmap(x)(u)) ** 2) + jnp.sum(y**2), data=u),
    )
    y = jnp.linalg.solve(u.T @ u / 5 + jnp.eye(2), u.T @ jax.vmap(x)(jnp.asarray(u)) / 5)
    h = bl.hypergradient(problem, x, y)
    assert h.activation is x.activation

    def phi(x):
        y = jnp.linalg.solve(u.T @ u / 5 + jnp.eye(2), u.T @ jax.vmap(x)(jnp.asarray(u)) / 5)
        return jnp.mean((u @ y - 1.0) ** 2)

    expected = eqx.filter_jit(eqx.filter_grad(phi))(x)
    for a, b in zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (h, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_a_per_row_variable_gets_a_dense_answer_with_zeros_elsewhere(x64):
    n, rows = 30, np.random.default_rng(0).normal(size=(30, 2))
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, _: jnp.sum((y - 1.0) ** 2)),
        lower=bl.Level(
            lambda x, y, a: jnp.mean(jnp.exp(x) * (a @ y - 1.0) ** 2) + jnp.sum(y**2), rows, 3, per_row=True
        ),
    )
    h = bl.hypergradient(problem, np.zeros(n), np.zeros(2), key=jax.random.key(0))
    assert h.shape == (n,)
    assert 1 <= np.count_nonzero(h) <= 3
    # two unrolled steps from zero see at most six rows
    h = bl.unrolled_hypergradient(problem, np.zeros(n), np.ones(2), steps=2, lower_step=0.1, key=jax.random.key(0))
    assert 4 <= np.count_nonzero(h) <= 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [METHODS["cg"], bl.RandomNeumann(3, np.float64(0.1))])
@pytest.mark.parametrize("step", [bl.inverse_power(0.01, 0.5), bl.Rule(optax.adam, 0.01, b1=0.8, eps_root=1e-8)])
def test_a_dtype_stays(x64, dtype, method, step):
    """The data's and the variables', whatever that of the settings."""
    target = jnp.asarray([0.5, -1.0], dtype)
    problem = bl.Problem(
        upper=bl.Level(lambda x, y, t: jnp.sum((y["a"] - t) ** 2) + y["b"], data=target),
        lower=bl.Level(lambda x, y, t: jnp.sum((y["a"] - x * t) ** 2) + (y["b"] - x[0]) ** 2, data=target),
    )
    x, y = jnp.ones(2, dtype), {"a": jnp.zeros(2, dtype), "b": jnp.zeros((), dtype)}
    h = bl.hypergradient(problem, x, y, method=method, key=jax.random.key(0))
    assert h.dtype == dtype
    assert bl.unrolled_hypergradient(problem, x, y, steps=2, lower_step=step).dtype == dtype


def test_the_mean_over_keys_is_the_full_batch(x64):
    """Noise in J and F_x alone is unbiased: H is the identity's multiple on every row."""
    rows = np.random.default_rng(0).normal(size=(8, 2))
    levels = [
        (lambda x, y, a: jnp.mean(a @ y) + jnp.mean(a @ x) ** 2, 2),
        (lambda x, y, a: 0.5 * jnp.sum((y - jnp.sin(x)) ** 2) + jnp.mean((a @ y) * (a @ x)), 2),
    ]
    noisy, full = (
        bl.Problem(*(bl.Level(loss, rows, size if random else None) for loss, size in levels))
        for random in (True, False)
    )
    x, y = jnp.array([0.3, -0.5]), jnp.array([0.2, 0.4])
    keys = jax.random.split(jax.random.key(1), 4000)
    h = np.asarray(jax.jit(jax.vmap(lambda key: bl.hypergradient(noisy, x, y, key=key)))(keys))
    F_x = 2 * np.mean(
        [(a @ np.asarray(x)) * a for a in (rows[i] / 2 + rows[j] / 2 for i in range(8) for j in range(8))], 0
    )
    correction = F_x - 2 * np.mean(rows @ np.asarray(x)) * rows.mean(0)  # the square of a mean is biased itself
    np.testing.assert_array_less(abs(h.mean(0) - bl.hypergradient(full, x, y) - correction), 5 * h.std(0) / 4000**0.5)


# errors


def body_and_head(upper, lower=lambda x, y: 0.5 * jnp.sum((y["body"] - x) ** 2)):
    """A lower loss that does not hold the head."""
    return bl.Problem(bl.Level(upper), bl.Level(lambda x, y, _: lower(x, y)))


def sum_of_body(x, y, _):
    return jnp.sum(y["body"])


FLAT = body_and_head(lambda x, y, _: jnp.sum(y["body"]) + jnp.sum(y["head"] ** 2))
NORM = body_and_head(lambda x, y, _: jnp.sqrt(jnp.sum((y["body"] - x) ** 2)))
LOWER_NORM = body_and_head(sum_of_body, lambda x, y: jnp.sqrt(jnp.sum((y["body"] - x) ** 2)))
ROUGH = body_and_head(sum_of_body, lambda x, y: jnp.sum(jnp.abs(y["body"] - x) ** 1.5))
PLAIN = body_and_head(sum_of_body)
QUADRATIC = body_and_head(lambda x, y, _: jnp.sum(y["body"] ** 2))
Y = {"body": jnp.ones(5), "head": jnp.ones(3)}


def by(method):
    return lambda x, y: bl.hypergradient(PLAIN, x, y, method=method)


NOT_FINITE = {
    "flat": (lambda x, y: bl.hypergradient(FLAT, x, y), "method: it found that .* not positive"),
    "upper": (
        lambda x, y: bl.hypergradient(NORM, x, y),
        r"upper.loss: its gradient at \(x, y\) is not finite; look for a square root",
    ),
    "lower": (lambda x, y: bl.hypergradient(LOWER_NORM, x, y), "lower.loss: its gradient"),
    "second": (lambda x, y: bl.hypergradient(ROUGH, x, y), "lower.loss: its second derivative"),
    "neumann": (
        by(bl.Neumann(500, 2.5)),
        "method: its series .* grows: the step is above 2/L",
    ),
    "a few": (by(bl.Neumann(5, 2.5)), "method: its series"),
    "fixed point": (by(bl.FixedPoint(20, 2.5)), "method: its series"),
    "unrolled": (
        lambda x, y: bl.unrolled_hypergradient(QUADRATIC, 2 * x, y, steps=500, lower_step=2.5),
        "lower_step: reduce it, .* not finite",
    ),
    "general": (
        lambda x, y: bl.general_hypergradient(
            PLAIN, x, jax.tree.map(lambda leaf: leaf[None], y), jnp.full(500, 2.5), mode="forward"
        ),
        "betas: reduce them, .* not finite",
    ),
}


@pytest.mark.parametrize(("call", "message"), NOT_FINITE.values(), ids=NOT_FINITE)
def test_what_is_not_finite_or_means_nothing_is_said_by_name(call, message):
    """Under jit it is NaN or infinite; a series that grows is noticed before it overflows."""
    with pytest.raises(ValueError, match=f"^{message}"):
        call(jnp.ones(5), Y)
    assert not jnp.isfinite(jax.jit(call)(jnp.ones(5), Y)).any()


def test_the_batch_that_is_drawn_is_the_one_that_is_looked_at():
    rows = np.arange(4.0)  # the root of row 0 has no derivative
    problem = bl.Problem(
        bl.Level(lambda x, y, a: jnp.mean(jnp.sqrt(a * y**2)), rows, 1), bl.Level(lambda x, y, _: (y - x) ** 2)
    )
    messages = set()
    for seed in range(12):
        try:
            bl.hypergradient(problem, 1.0, 1.0, key=jax.random.key(seed))
            messages.add("")
        except ValueError as error:
            messages.add(str(error)[:10])
    assert messages == {"", "upper.loss"}


ENTRIES = {
    "hypergradient": lambda problem: bl.hypergradient(problem, 1.0, 1.0),
    "unrolled": lambda problem: bl.unrolled_hypergradient(problem, 1.0, 1.0, steps=2, lower_step=0.1),
    "general": lambda problem: bl.general_hypergradient(problem, 1.0, np.ones(1), np.full(3, 0.1), mode="backward"),
    "map": lambda problem: bl.solution_map(problem.lower, bl.GradientDescent(40, 0.5))(1.0, 0.0),
    "slope": lambda problem: jax.grad(lambda x: bl.solution_map(problem.lower, lambda x, y0: x)(x, 0.0))(1.0),
    "solve": lambda problem: bl.solve(problem, bl.SOBA(0.1, 0.1, 0.1), 1.0, 1.0, steps=2, key=jax.random.key(0)),
}


@pytest.mark.parametrize("call", ENTRIES.values(), ids=ENTRIES)
def test_no_tracer_outlives_its_trace(call):
    levels = [bl.Level(lambda x, y, _, c=c: 0.5 * (y - c * x) ** 2) for c in (1.0, 1.0)]
    with jax.checking_leaks():
        call(bl.Problem(*levels))


ROWS = np.arange(6.0)
STOCHASTIC = bl.Problem(
    upper=bl.Level(lambda x, y, _: (y - 1.0) ** 2),
    lower=bl.Level(lambda x, y, a: jnp.mean((y - x * a) ** 2), data=ROWS, batch_size=2),
)
DETERMINISTIC = bl.Problem(STOCHASTIC.upper, bl.Level(STOCHASTIC.lower.loss, data=ROWS))
CALLS = {
    "hypergradient": lambda problem, **options: bl.hypergradient(problem, 1.0, 1.0, **options),
    "unrolled": lambda problem, **options: bl.unrolled_hypergradient(
        problem, 1.0, 1.0, steps=2, lower_step=0.1, **options
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_key_is_asked_for_where_something_is_drawn(call):
    for problem in (STOCHASTIC, bl.Problem(bl.Level(STOCHASTIC.lower.loss, ROWS, 2), DETERMINISTIC.lower)):
        with pytest.raises(ValueError, match=r"key: missing; pass key=jax.random.key\(0\)"):
            call(problem)
    with pytest.raises(TypeError, match="key: got 3; pass a single key"):
        call(STOCHASTIC, key=3)
    assert jnp.isfinite(call(DETERMINISTIC))


def test_a_random_method_asks_for_a_key():
    with pytest.raises(ValueError, match="key: missing"):
        CALLS["hypergradient"](DETERMINISTIC, method=bl.RandomNeumann(3, 0.1))


@pytest.mark.parametrize("method", ["cg", bl.ConjugateGradient, 20])
def test_a_method_that_is_none(method):
    with pytest.raises(TypeError, match=r"method: got .*; pass e.g. bl.ConjugateGradient\(steps=20\)"):
        CALLS["hypergradient"](DETERMINISTIC, method=method)


def test_another_point_of_the_same_problem_compiles_nothing(compiled):
    for x in (1.0, 2.0):
        compiled.clear()
        bl.hypergradient(DETERMINISTIC, x, 1.0, method=bl.Neumann(3, 0.1 * x))
        bl.unrolled_hypergradient(DETERMINISTIC, x, 1.0, steps=2, lower_step=0.1 * x)
    assert not compiled
