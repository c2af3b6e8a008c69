"""Schedules and step rules."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.trees import SparseRows

PROBLEM = bl.Problem(
    upper=bl.Level(lambda x, y, _: 0.5 * jnp.sum((y - 1.0) ** 2)),
    lower=bl.Level(lambda x, y, _: 0.5 * jnp.sum((y - 3.0 * x) ** 2)),
)
GRADIENTS = [{"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}, {"a": jnp.array([0.3, 0.0]), "b": jnp.array(-4.0)}]
START = {"a": jnp.array([0.5, 1.5]), "b": jnp.array(2.0)}


def as_rule(value):
    """The rule that a solver makes of a setting."""
    return bl.SOBA(upper_step=value, lower_step=0.1, adjoint_step=0.1).upper_step


def walk(rule, z, gradients, jit=True):
    """The iterates of a rule over a list of gradients."""
    call = eqx.filter_jit(lambda rule, *args: rule(*args)) if jit else (lambda rule, *args: rule(*args))
    state, path = rule.init(z), []
    for t, gradient in enumerate(gradients):
        z, state = call(rule, z, gradient, state, jnp.asarray(t))
        path.append(z)
    return path


def close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(u, v, **({"rtol": 1e-6} | tolerance))


def test_inverse_power(x64):
    schedule = bl.inverse_power(0.5, power=2 / 3, offset=3)
    for t in (0, 1, 17):
        assert float(schedule(t)) == pytest.approx(0.5 * (3 + t) ** (-2 / 3), rel=1e-14)
        assert float(jax.jit(lambda t: schedule(t))(t)) == pytest.approx(0.5 * (3 + t) ** (-2 / 3), rel=1e-14)
    assert float(bl.inverse_power(2.0, 1)(3)) == 0.5  # the offset is 1


@pytest.mark.parametrize("rate", [0.1, np.float32(0.1), 1, lambda t: 0.1 / (1 + t), bl.inverse_power(0.1, 0.5)])
def test_a_number_or_a_schedule_is_a_gradient_step(rate):
    rule, z = as_rule(rate), START
    for t, (got, gradient) in enumerate(zip(walk(rule, START, GRADIENTS), GRADIENTS, strict=True)):
        alpha = float(rate(t)) if callable(rate) else float(rate)
        z = jax.tree.map(lambda a, g, alpha=alpha: np.asarray(a) - alpha * np.asarray(g), z, gradient)
        close(got, z)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (optax.sgd, {"momentum": 0.9, "nesterov": True}),
        (optax.adam, {}),
        (optax.adam, {"b1": 0.5, "eps_root": 1e-8}),
        (optax.adamw, {"weight_decay": 0.1}),
        (optax.rmsprop, {"decay": 0.8}),
    ],
)
def test_a_rule_is_optax_by_hand(optimizer, settings):
    rule, reference = bl.Rule(optimizer, 0.05, **settings), optimizer(0.05, **settings)
    z, state = START, reference.init(START)
    for got, gradient in zip(walk(rule, START, GRADIENTS), GRADIENTS, strict=True):
        updates, state = reference.update(gradient, state, z)
        z = optax.apply_updates(z, updates)
        close(got, z)


def test_a_rule_follows_the_schedule_of_the_driver():
    """The rate is that of iteration t, not of optax's own count."""
    rule = bl.Rule(optax.sgd, lambda t: 0.1 * t)
    z, _ = rule(START, GRADIENTS[0], rule.init(START), 7)
    close(z, jax.tree.map(lambda a, g: a - 0.7 * g, START, GRADIENTS[0]))


def test_a_rule_takes_sparse_rows():
    sparse = SparseRows(((jnp.array([2, 0, 2]), jnp.ones(3)),), (4,))
    for rule in (bl.Rule(optax.adam, 0.1), as_rule(0.1)):
        z = jnp.zeros(4)
        close(walk(rule, z, [sparse, sparse])[-1], walk(rule, z, [sparse.dense(z.dtype)] * 2)[-1])


SOLVERS = {
    "number": lambda a: bl.SOBA(upper_step=a, lower_step=2 * a, adjoint_step=0.1),
    "schedule": lambda a: bl.SOBA(upper_step=bl.inverse_power(a, a), lower_step=a, adjoint_step=0.1),
    "rule": lambda a: bl.SOBA(
        upper_step=bl.Rule(optax.adam, a, b1=a), lower_step=bl.Rule(optax.sgd, bl.inverse_power(a, 0.5)), adjoint_step=a
    ),
}


@pytest.mark.parametrize("kind", list(SOLVERS))
def test_another_rate_compiles_nothing(kind, compiled):
    make, args = SOLVERS[kind], (jnp.ones(2), jnp.zeros(2))
    options = {"steps": 4, "every": 2, "key": jax.random.key(0)}
    first = bl.solve(PROBLEM, make(0.1), *args, **options)
    assert "jit(_advance)" in compiled
    compiled.clear()
    second = bl.solve(PROBLEM, make(0.2), *args, **options)
    assert not compiled
    assert not jnp.array_equal(first.x, second.x)


@pytest.mark.parametrize("kind", list(SOLVERS))
def test_a_grid_of_rates_equals_the_loop(kind):
    rates = jnp.array([0.05, 0.1, 0.3])
    key = jax.random.key(0)

    @jax.jit
    def run(rate):
        solver = SOLVERS[kind](rate)
        state, _ = bl.initial_state(solver, PROBLEM, jnp.ones(2), jnp.zeros(2), key)
        return bl.advance(solver, PROBLEM, state, key, 0, 4)[0].x

    loop = jnp.stack([run(rate) for rate in rates])
    np.testing.assert_allclose(jax.vmap(run)(rates), loop, rtol=2e-6)
    assert len({float(x) for x in loop[:, 0]}) == 3


def test_a_grid_of_a_rule_as_a_pytree():
    """The rates are array leaves, so that solvers stack."""
    rules = [bl.Rule(optax.adam, a, b1=b) for a, b in ((0.1, 0.9), (0.2, 0.5))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rules)
    last = jax.jit(jax.vmap(lambda rule: walk(rule, START, GRADIENTS, jit=False)[-1]))(stacked)
    for i, rule in enumerate(rules):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], last), walk(rule, START, GRADIENTS)[-1])


# dtypes

RULES = {
    "number": 0.1,
    "array": lambda: jnp.asarray(0.1, jnp.float64),
    "schedule": bl.inverse_power(0.1, 0.5),
    "function": lambda: lambda t: jnp.float64(0.1) / (1 + t),
    "sgd": bl.Rule(optax.sgd, 0.1),
    "adam": bl.Rule(optax.adam, 0.1, b1=0.8, eps_root=1e-8),
    "momentum": bl.Rule(optax.sgd, bl.inverse_power(0.1, 0.5), momentum=0.9),
}


def keeps_dtypes(rule, z):
    g = jax.tree.map(lambda leaf: 0.5 * leaf, z)
    loop = jax.jit(lambda z: jax.lax.fori_loop(0, 3, lambda t, c: rule(c[0], g, c[1], t), (z, rule.init(z))))
    end, state = loop(z)  # a loop whose carry changes its dtype is an error
    assert [leaf.dtype for leaf in jax.tree.leaves(end)] == [leaf.dtype for leaf in jax.tree.leaves(z)]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(end))
    assert not bool((jax.tree.leaves(end)[0] == jax.tree.leaves(z)[0]).all())
    moments = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert moments <= {leaf.dtype for leaf in jax.tree.leaves(z)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(RULES))
def test_an_iterate_keeps_its_dtype(x64, name, dtype):
    rule = RULES[name]
    rule = as_rule(rule() if name in ("array", "function") else rule)
    keeps_dtypes(rule, {"a": jnp.ones(2, dtype), "b": jnp.asarray(2.0, dtype)})


@pytest.mark.parametrize("name", ["number", "schedule", "sgd", "adam", "momentum"])
def test_an_iterate_of_two_dtypes_keeps_both(name):
    keeps_dtypes(as_rule(RULES[name]), {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.bfloat16)})


TREES = bl.Problem(
    bl.Level(lambda x, y, _: 0.5 * (y["w"] - 1) ** 2 + 0.5 * (y["b"] - 1) ** 2),
    bl.Level(lambda x, y, _: 0.5 * (y["w"] - x["w"]) ** 2 + 0.5 * (y["b"] - x["b"]) ** 2),
)


def run(rule, steps=40, problem=PROBLEM, x=5.0, y=5.0, **options):
    solver = bl.SOBA(upper_step=rule, lower_step=0.5, adjoint_step=0.5)
    return bl.solve(problem, solver, x, y, steps=steps, every=10, key=jax.random.key(0), **options)


@pytest.mark.parametrize("of", ["multi_transform", "masked"])
def test_a_rule_that_names_parameters(of):
    """The variable is no vector here, so the rule can be tried only when a run starts."""
    make = {
        "multi_transform": lambda rate: optax.multi_transform(
            {"train": optax.adam(rate), "freeze": optax.set_to_zero()}, {"w": "train", "b": "freeze"}
        ),
        "masked": lambda rate: optax.chain(
            optax.masked(optax.set_to_zero(), {"w": False, "b": True}), optax.adam(rate)
        ),
    }[of]
    start = {"w": 5.0, "b": 5.0}
    solution = run(bl.Rule(make, 0.1), problem=TREES, x=start, y=start)
    assert float(solution.x["b"]) == 5 and float(solution.x["w"]) < 4
    with pytest.raises(TypeError, match=r"(?s)^Rule: optax.<lambda> cannot step a variable of the structure .*'c': \*"):
        run(bl.Rule(make, 0.1), problem=TREES, x=start | {"c": 5.0}, y=start)


def test_a_gradient_transformation_is_a_step():
    """Also with a schedule of its own, whose count is optax's."""
    for made, rule in (
        (optax.adam(0.05), bl.Rule(optax.adam, 0.05)),
        (optax.sgd(optax.linear_schedule(0.1, 0.0, 5)), bl.Rule(optax.sgd, optax.linear_schedule(0.1, 0.0, 5))),
    ):
        close(run(made).x, run(rule).x)
    with pytest.raises(TypeError, match="the optax transformation cannot take a step from a gradient alone"):
        run(optax.lbfgs(0.1))


@pytest.mark.parametrize("wrap", [lambda made: made, lambda made: optax.chain(optax.clip(1e6), made)])
def test_an_injected_rate_follows_the_schedule(wrap):
    """`optax.inject_hyperparams` keeps the rate in its state, where the first would stay for ever."""
    schedule = optax.linear_schedule(0.1, 0.0, 5)
    rule = bl.Rule(lambda rate: wrap(optax.inject_hyperparams(optax.sgd)(rate)), schedule)
    solution, plain = run(rule), run(bl.Rule(optax.sgd, schedule))
    close(solution.x, plain.x)
    state = solution.state.x_rule
    injected = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_injected) if is_injected(leaf)]
    assert [float(leaf.hyperparams["learning_rate"]) for leaf in injected] == [pytest.approx(0, abs=1e-7)]


def is_injected(node):
    return hasattr(node, "hyperparams")


def keeps_its_rate(rate):
    """A transformation that no library has."""
    return optax.GradientTransformation(
        lambda z: rate, lambda g, rate, z=None: (jax.tree.map(lambda g: -rate * g, g), rate)
    )


def test_a_rate_that_stays_in_a_state_takes_no_schedule(compiled):
    with pytest.raises(ValueError, match="keeps its rate in its state, where a schedule does not reach it"):
        bl.Rule(keeps_its_rate, lambda t: 0.1 / (1 + t))
    assert not compiled
    close(run(bl.Rule(keeps_its_rate, 0.02)).x, run(0.02).x)


# errors


@pytest.mark.parametrize("optimizer", [optax.lbfgs, optax.polyak_sgd, optax.scale_by_backtracking_linesearch])
def test_an_optimizer_that_needs_more_than_a_gradient(optimizer, compiled):
    with pytest.raises(TypeError, match=f"Rule: optax.{optimizer.__name__} cannot take a step from a gradient alone"):
        bl.Rule(optimizer, 1)
    assert not compiled


SCHEDULES = {
    "nothing": (lambda t: None, TypeError, "upper_step: got .*; pass a number, a function of t"),
    "complex": (lambda t: 1j, TypeError, "upper_step: the function of t gave dtype complex"),
    "raises": (lambda t: {}["rate"], TypeError, "upper_step: got .*; pass a number, a function of t.*'rate'"),
    "boolean": (lambda t: t > 0, TypeError, "upper_step: the function of t gave dtype bool"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_function_of_t_that_gives_no_number(name, compiled):
    schedule, error, message = SCHEDULES[name]
    with pytest.raises(error, match=message):
        as_rule(schedule)
    assert not compiled


def test_an_optimizer_without_its_line_search_is_a_rule():
    bl.Rule(optax.lbfgs, 0.1, linesearch=None)


def test_an_optax_function_in_place_of_a_rule(compiled):
    with pytest.raises(TypeError, match=r"(?s)^upper_step: got .*bl\.Rule\(optax\.adam"):
        as_rule(optax.adam)
    with pytest.raises(TypeError, match=r"Rule: got .*pass an optax function such as optax.adam, not its result"):
        bl.Rule(optax.adam(0.1), 0.1)
    assert not compiled


class Nothing:
    def __repr__(self):
        return "an object"


NOTHING = Nothing()
BAD = ["fast", NOTHING, [0.1, "a"], None, 0, -0.1, float("nan"), float("inf"), np.array(-1.0), jnp.array(0.0)]


@pytest.mark.parametrize("value", BAD, ids=str)
def test_a_rate_that_is_no_positive_number(value, compiled):
    with pytest.raises((ValueError, TypeError), match=r"^upper_step: got"):
        as_rule(value)
    with pytest.raises((ValueError, TypeError), match=r"^learning_rate: got"):
        bl.Rule(optax.sgd, value)
    assert not compiled


@pytest.mark.parametrize("value", [bad for bad in BAD if bad is not NOTHING], ids=str)
def test_a_schedule_of_no_positive_numbers(value, compiled):
    with pytest.raises((ValueError, TypeError), match=r"^scale: got"):
        bl.inverse_power(value, 0.5)
    with pytest.raises((ValueError, TypeError), match=r"^offset: got"):
        bl.inverse_power(1.0, 0.5, value)
    assert not compiled


@pytest.mark.parametrize("first", [-0.1, np.nan, np.inf])
def test_a_schedule_is_looked_at_where_it_begins(first):
    with pytest.raises(ValueError, match="adjoint_step: the function of t gave"):
        bl.SOBA(0.1, 0.1, lambda t: first + 0.0 * t)


def test_a_schedule_that_divides_by_zero_at_first():
    with pytest.raises(ValueError, match="adjoint_step: the function of t gave inf at t = 0"):
        bl.SOBA(0.1, 0.1, lambda t: 0.1 / t**2)
