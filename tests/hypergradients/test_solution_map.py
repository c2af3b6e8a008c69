"""`solution_map` against closed forms, finite differences and `hypergradient`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import bilevel as bl

DESCENT = bl.GradientDescent(steps=400, step=0.2)
SLOW = bl.GradientDescent(steps=400, step=0.05)
EXACT = bl.ConjugateGradient(steps=40)


def phi_of(q, y_star):
    return lambda x: q.f(x, y_star(x, jnp.zeros(q.dim)), None)


# the derivative

INNER = {"descent": lambda q: DESCENT, "function": lambda q: lambda x, y0: jnp.linalg.solve(q.A, q.B @ x)}
ADJOINTS = {"cg": EXACT, "direct": bl.Direct(), "nystrom": bl.Nystrom(6, 1e-10), "neumann": bl.Neumann(200, 0.2)}


@pytest.mark.parametrize(("inner", "adjoint"), [("descent", name) for name in ADJOINTS] + [("function", "cg")])
def test_the_gradient_is_the_closed_form_and_hypergradient(x64, quadratic, inner, adjoint):
    q = quadratic()
    method = ADJOINTS[adjoint]
    phi = phi_of(q, bl.solution_map(q.problem.lower, INNER[inner](q), method))
    value, gradient = jax.jit(jax.value_and_grad(phi))(q.x)
    assert value == pytest.approx(q.f(q.x, q.y_star(q.x), None))
    np.testing.assert_allclose(gradient, q.hypergradient(q.x), rtol=1e-7)
    np.testing.assert_allclose(gradient, bl.hypergradient(q.problem, q.x, q.y_star(q.x), method=method), rtol=1e-7)


def test_without_jit_and_with_the_default_adjoint(x64, quadratic):
    q = quadratic()
    gradient = jax.grad(phi_of(q, bl.solution_map(q.problem.lower, DESCENT)))(q.x)
    np.testing.assert_allclose(gradient, q.hypergradient(q.x), rtol=1e-7)


def curved(theta):
    """A lower loss that is no quadratic, closing over theta; trees for x and y."""

    def g(x, y, _):
        pull = jnp.sum(y["a"] * jnp.sin(x["p"])) + y["b"][0] * x["p"][0] * theta["slope"]
        return (
            jnp.sum(jnp.cosh(y["a"])) + theta["weight"] * y["b"][0] ** 2 + jnp.sum(y["a"] ** 2) * y["b"][0] ** 2 - pull
        )

    return bl.Level(g)


X, THETA = {"p": np.array([0.4, -0.7])}, {"slope": 0.8, "weight": 1.1}
Y0 = {"a": np.zeros(2), "b": (0.0,)}


def curved_phi(x, theta, inner=DESCENT):
    y = bl.solution_map(curved(theta), inner, EXACT)(x, Y0)
    return jnp.sum(y["a"] ** 3) + y["b"][0] ** 2 + jnp.sum(x["p"]) * y["b"][0]


def test_finite_differences_in_x_and_in_what_the_loss_closes_over(x64):
    """Forward and reverse, and the second derivative."""
    at, unravel = ravel_pytree((X, THETA))

    def phi(flat):
        return curved_phi(*unravel(flat))

    value, gradient = jax.jit(phi), jax.jit(jax.grad(phi))
    h = 1e-4 * jnp.eye(len(at))
    by_difference = [(value(at + e) - value(at - e)) / 2e-4 for e in h]
    np.testing.assert_allclose(gradient(at), by_difference, rtol=1e-5, atol=1e-7)
    along = jnp.array([1.0, -0.5, 2.0, 0.7])
    slope, curvature = jax.jit(lambda at: jax.jvp(jax.grad(phi), (at,), (along,)))(at)
    np.testing.assert_allclose(slope, gradient(at), rtol=1e-10)
    step = 1e-4 * along
    np.testing.assert_allclose(curvature, (gradient(at + step) - gradient(at - step)) / 2e-4, rtol=1e-5, atol=1e-7)
    forward = jax.jit(lambda at: jax.jvp(phi, (at,), (along,))[1])(at)
    np.testing.assert_allclose(forward, gradient(at) @ along, rtol=1e-10)


def test_no_derivative_of_any_order_is_taken_through_the_inner_solver(x64, quadratic):
    q = quadratic()
    y_star = bl.solution_map(
        q.problem.lower, lambda x, y0: jax.lax.stop_gradient(jnp.linalg.solve(q.A, q.B @ x)), EXACT
    )
    M = np.linalg.solve(q.A, q.B)
    np.testing.assert_allclose(jax.jit(jax.hessian(phi_of(q, y_star)))(q.x), np.eye(3) + M.T @ M, rtol=1e-8)


def test_closed_over_arrays_reach_a_function_that_is_an_inner_too(x64, quadratic):
    """Its closure has no derivative of its own: all of it comes from the equation."""
    q = quadratic()

    def phi(c):
        level = bl.Level(lambda x, y, _: 0.5 * y @ (q.A @ y) - c * y @ (q.B @ x))
        y_star = bl.solution_map(level, lambda x, y0: c * jnp.linalg.solve(q.A, q.B @ x), EXACT)
        return jnp.sum(y_star(q.x, jnp.zeros(q.dim)))

    for run in (phi, jax.jit(phi)):
        assert jax.grad(run)(2.0) == pytest.approx(q.y_star(q.x).sum())


class Scaled(eqx.Module):
    """A loss that holds its array in a leaf."""

    c: jax.Array

    def __call__(self, x, y, rows):
        return jnp.mean((rows * y - self.c * x) ** 2)


def test_leaves_of_a_loss_and_the_data_are_closed_over_too(x64):
    """y* = c x mean(a)/mean(a²), differentiated in c, and in the rows a."""
    rows = jnp.array([1.0, 2.0, 4.0])

    def value(c, rows):
        return bl.solution_map(bl.Level(Scaled(c), data=rows), SLOW)(3.0, 0.0)

    def exact(c, rows):
        return 3.0 * c * jnp.mean(rows) / jnp.mean(rows**2)

    for found, expected in zip(*(jax.jit(jax.grad(f, (0, 1)))(0.7, rows) for f in (value, exact)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)


# under the transformations


def test_vmap_outside_and_inside_of_grad(x64, quadratic):
    q = quadratic()
    y_star = bl.solution_map(q.problem.lower, DESCENT, EXACT)
    phi, xs = phi_of(q, y_star), jnp.stack([q.x, 2 * q.x, q.x - 1])
    expected = [q.hypergradient(x) for x in np.asarray(xs)]
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(phi)))(xs), expected, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda xs: jax.vmap(phi)(xs).sum()))(xs), expected, rtol=1e-7)


def test_a_batch_of_tasks_with_integer_data_of_their_own(x64):
    """grad over vmap: what each task closes over, integers too, must outlive the batching."""
    labels = jnp.array([[0, 1, 1], [1, 1, 1]])

    def task(x, labels):
        level = bl.Level(lambda x, y, t: jnp.mean((y - x * t) ** 2), data=labels)
        return bl.solution_map(level, DESCENT)(x, 0.0) ** 2

    def total(x):
        return jnp.sum(jax.vmap(task, (None, 0))(x, labels))

    expected = 2 * 0.7 * ((2 / 3) ** 2 + 1)
    assert jax.grad(total)(0.7) == pytest.approx(expected)
    assert jax.jit(jax.grad(total))(0.7) == pytest.approx(expected)


def test_what_the_equation_does_not_depend_on_has_no_derivative():
    """y0, what only `inner` closes over, and a part of y that does not depend on x."""
    level = bl.Level(lambda x, y, _: 0.5 * (y["a"] - x) ** 2 + 0.5 * (y["b"] - 1.0) ** 2)

    def value(x, y0, c):
        y = bl.solution_map(level, lambda x, y0: {"a": x + 0 * c * y0["a"], "b": 1.0 + 0 * y0["b"]})(x, y0)
        return y["a"] + 3 * y["b"]

    for argument in (0, 1, 2):
        gradient = jax.jit(jax.grad(value, argnums=argument))(1.0, {"a": 0.5, "b": 0.5}, 2.0)
        assert jax.tree.leaves(gradient) == ([1.0] if argument == 0 else [0.0] * len(jax.tree.leaves(gradient)))


def test_modules_and_float32():
    """y an MLP whose activation is a leaf: it comes back in place, and the derivative stays in float32."""
    model = eqx.nn.MLP(2, "scalar", width_size=3, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)

    def loss(x, y, u):
        size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(y, eqx.is_inexact_array)))
        return jnp.mean((jax.vmap(y)(u) - x) ** 2) + size

    y_star = bl.solution_map(bl.Level(loss, data=u), bl.GradientDescent(100, 0.1))
    assert eqx.filter_jit(y_star)(jnp.float32(0.5), model).activation is model.activation
    level = bl.Level(loss, data=u)
    copied = bl.solution_map(level, lambda x, y0: y0 if y0.activation is model.activation else None, throw=False)
    np.testing.assert_array_equal(copied(0.5, model).layers[0].weight, model.layers[0].weight)

    def phi(x):
        return jnp.mean(jax.vmap(y_star(x, model))(u))

    slope = jax.jit(jax.grad(phi))(jnp.float32(0.5))
    assert slope.dtype == np.float32
    above, below = (float(jax.jit(phi)(jnp.float32(x))) for x in (0.55, 0.45))
    assert float(slope) == pytest.approx((above - below) / 0.1, rel=0.02)


# how the lower problem is solved


def test_descent_is_the_steps_of_its_rule(x64, quadratic):
    q = quadratic()
    for step, optimizer in ((0.1, optax.sgd(0.1)), (bl.Rule(optax.adam, 0.1), optax.adam(0.1))):
        y = jnp.ones(q.dim)
        state = optimizer.init(y)
        for _ in range(5):
            update, state = optimizer.update(q.A @ y - q.B @ q.x, state)
            y = y + update
        y_star = bl.solution_map(q.problem.lower, bl.GradientDescent(5, step), throw=False)
        np.testing.assert_allclose(y_star(q.x, jnp.ones(q.dim)), y, rtol=1e-10)


def test_descent_stops_at_its_tolerance_and_its_schedule_sees_the_inner_iteration(x64):
    level = bl.Level(lambda x, y, _: 0.5 * (y - x) ** 2)
    for tolerance, steps in ((0.3, 2), (0.2, 3), (0.0, 9)):  # the gradient at y is y: 1, 1/2, 1/4, …
        found = bl.solution_map(level, bl.GradientDescent(9, 0.5, tolerance), throw=False).solve(0.0, 1.0)
        assert float(found.y) == 0.5**steps
        assert int(found.steps) == (9 if tolerance == 0 else steps + 1)  # the last gradient is the one that is small
    y_star = bl.solution_map(level, bl.GradientDescent(3, bl.inverse_power(1.0, 1.0, offset=2)), throw=False)
    assert float(y_star(0.0, 1.0)) == pytest.approx(1 / 2 * 2 / 3 * 3 / 4)


def test_a_level_that_draws_takes_a_fresh_batch_for_each_step_and_one_for_the_derivative(x64):
    rows = np.arange(8.0)
    level = bl.Level(lambda x, y, a: 0.5 * jnp.mean((y - x * a) ** 2), data=rows, batch_size=2)
    y_star = bl.solution_map(level, bl.GradientDescent(2, 0.5))  # (m_1/4 + m_2/2) x, m_i the mean of a batch
    keys = jax.random.split(jax.random.key(0), 400)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda x, key: y_star(x, 0.0, key=key)), (None, 0)))(2.0, keys)
    assert (value / 2).var() == pytest.approx((1 / 16 + 1 / 4) * rows.var() / 2, rel=0.3)  # one batch: 9/16
    for found, expected in ((value / 2, 0.75 * 3.5), (slope, 3.5)):
        assert abs(found.mean() - expected) < 4.5 * found.std() / 20
    assert abs(np.corrcoef(value, slope)[0, 1]) < 0.25  # independent batches
    with pytest.raises(ValueError, match="key: missing"):
        y_star(2.0, 0.0)
    with pytest.raises(ValueError, match="key: missing"):
        bl.solution_map(bl.Level(Scaled(1.0), data=rows), DESCENT, bl.RandomNeumann(3, 0.1))(2.0, 0.0)


# outer loops


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_an_outer_loop_of_optax_reaches_x_star(x64, quadratic, name):
    q = quadratic()
    phi = phi_of(q, bl.solution_map(q.problem.lower, DESCENT, EXACT))
    optimizer, steps = {"adam": (optax.adam(0.1), 400), "lbfgs": (optax.lbfgs(), 15)}[name]
    value_and_grad = optax.value_and_grad_from_state(phi) if name == "lbfgs" else jax.value_and_grad(phi)

    @jax.jit
    def run(x):
        def step(_, carry):
            x, state = carry
            if name == "lbfgs":
                value, gradient = value_and_grad(x, state=state)
                update, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=phi)
            else:
                update, state = optimizer.update(jax.grad(phi)(x), state)
            return optax.apply_updates(x, update), state

        return jax.lax.fori_loop(0, steps, step, (x, optimizer.init(x)))[0]

    np.testing.assert_allclose(run(jnp.asarray(q.x)), q.x_star, atol=1e-6)


def test_another_x_compiles_nothing(quadratic, compiled):
    q = quadratic()
    gradient = jax.jit(jax.grad(phi_of(q, bl.solution_map(q.problem.lower, DESCENT))))
    gradient(jnp.asarray(q.x, jnp.float32))
    compiled.clear()
    gradient(jnp.asarray(q.x_star, jnp.float32))
    assert not compiled


# errors


def test_a_curvature_that_is_not_positive_is_an_error_or_nan(x64):
    level = bl.Level(lambda x, y, _: x * jnp.sum(y) - jnp.sum(y**2))

    def slope(throw):
        y_star = bl.solution_map(level, lambda x, y0: jnp.full(2, x / 2), throw=throw)
        return jax.grad(lambda x: jnp.sum(y_star(x, jnp.zeros(2))))

    assert jnp.isnan(jax.jit(slope(False))(1.0))
    with pytest.raises(Exception, match="adjoint: it found that the lower level's curvature is not positive"):
        jax.jit(slope(True))(1.0)
    series = bl.solution_map(LEVEL, lambda x, y0: x, bl.Neumann(20, 2.0), throw=False)
    assert jnp.isnan(jax.grad(series)(1.0, 0.0))


# how the inner solve ended


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e9])
def test_a_point_that_is_not_stationary_is_told_whatever_the_scales(x64, quadratic, scale):
    q = quadratic(mu=1e-3, L=4.0)
    level = bl.Level(lambda x, y, _: scale * q.g(scale * x, y / scale, None))
    step = 0.25 * scale
    x, y0 = q.x / scale, jnp.zeros(q.dim)
    early, far = (bl.solution_map(level, bl.GradientDescent(steps, step)) for steps in (3, 60))
    exact = bl.solution_map(level, lambda x, y0: scale * jnp.linalg.solve(q.A, q.B @ (scale * x)))
    for y_star in (early, far):  # 60 steps do nothing along the smallest eigenvalue
        for call in (
            y_star,
            jax.jit(y_star),
            jax.jit(jax.grad(lambda x, y0, y_star=y_star: (y_star(x, y0) ** 2).sum())),
        ):
            with pytest.raises(Exception, match="inner: it ended at a point that is not stationary"):
                call(x, y0)
    found = jax.jit(exact.solve)(x, y0)
    assert bool(found.solved) and found.steps is None and float(found.distance) < 1e-12
    loose = bl.solution_map(level, far_inner := bl.GradientDescent(60, step), throw=False).solve(x, y0)
    true = jnp.linalg.norm(loose.y - found.y) / jnp.linalg.norm(loose.y)
    assert not bool(loose.solved) and int(loose.steps) == 60
    assert 0.05 * true < loose.distance <= true
    G_y = jax.grad(level.loss, argnums=1)(x, loose.y, None)
    assert float(loose.residual) == pytest.approx(float(jnp.linalg.norm(G_y)))
    assert bool(bl.solution_map(level, far_inner, tolerance=1.01 * loose.distance).solve(x, y0).solved)


def test_one_of_a_batch_that_is_not_stationary_is_told(x64):
    y_star = bl.solution_map(LEVEL, lambda x, y0: jnp.where(x > 1, 0.9 * x, x))
    batch = jax.jit(jax.vmap(jax.grad(lambda x: y_star(x, 0.0) ** 2)))
    np.testing.assert_allclose(batch(jnp.array([0.5, 0.7])), [1.0, 1.4])
    with pytest.raises(Exception, match="not stationary"):
        batch(jnp.array([0.5, 2.0]))


def test_rounding_and_a_start_at_the_solution_count_as_solved(quadratic):
    q = quadratic()
    for dtype in ("float32", "bfloat16"):
        A, B = (jnp.asarray(a, dtype) for a in (q.A, q.B))
        level = bl.Level(lambda x, y, _, A=A, B=B: 0.5 * y @ (A @ y) - y @ (B @ x))
        found = bl.solution_map(level, bl.GradientDescent(300, 0.2)).solve(jnp.asarray(q.x, dtype), jnp.zeros(6, dtype))
        assert bool(found.solved) and found.distance.dtype == dtype
    zero = bl.solution_map(bl.Level(lambda x, y, _: jnp.sum(y**2) * x), bl.GradientDescent(3, 0.1)).solve(1.0, 0.0)
    assert bool(zero.solved) and float(zero.distance) == 0.0
    flat = bl.solution_map(bl.Level(lambda x, y, _: jnp.sum(y) * x), lambda x, y0: y0, throw=False).solve(1.0, 0.0)
    assert not bool(flat.solved)


def test_aux_of_an_inner_function(x64):
    def inner(x, y0):
        return x, {"calls": 3, "seen": 2 * x}

    y_star = bl.solution_map(LEVEL, inner, has_aux=True)

    def value(x):
        found = y_star.solve(x, 0.0)
        return found.y * found.aux["seen"], found.aux

    slope, aux = jax.jit(jax.grad(value, has_aux=True))(2.0)
    assert (float(slope), int(aux["calls"]), float(aux["seen"])) == (4.0, 3, 4.0)  # aux has no derivative
    with pytest.raises(ValueError, match="inner: returned .*; with has_aux=True, return the pair"):
        bl.solution_map(LEVEL, lambda x, y0: x, has_aux=True)(1.0, 0.0)
    with pytest.raises(ValueError, match="has_aux: got True, but GradientDescent"):
        bl.solution_map(LEVEL, DESCENT, has_aux=True)


def test_a_solver_outside_of_jax(x64):
    """By itself it is refused by name; through `pure_callback` it has a derivative."""

    def scipy_inner(x, y0):
        return scipy.optimize.minimize(lambda v: float(np.sum((v - np.asarray(x)) ** 2)), np.asarray(y0), tol=1e-12).x

    for inner in (scipy_inner, lambda x, y0: float(x[0]) * y0, lambda x, y0: y0 if x[0] > 0 else x):
        with pytest.raises(TypeError, match="inner: it is no JAX function, .* through jax.pure_callback"):
            bl.solution_map(LEVEL, inner)(jnp.ones(2), jnp.zeros(2))

    def host(x, y0):
        return jax.pure_callback(scipy_inner, y0, x, y0, vmap_method="sequential")

    y_star = bl.solution_map(LEVEL, host)
    slope = jax.jit(jax.jacobian(lambda x: y_star(x, jnp.zeros(2))))(jnp.ones(2))
    np.testing.assert_allclose(slope, np.eye(2), atol=1e-12)


def test_a_level_that_draws_tells_the_distance_on_all_rows_and_raises_nothing(x64):
    rows = np.arange(8.0)
    level = bl.Level(lambda x, y, a: 0.5 * jnp.mean((y - x * a) ** 2), data=rows, batch_size=2)
    found = bl.solution_map(level, bl.GradientDescent(2, 0.5)).solve(2.0, 0.0, key=jax.random.key(0))
    assert float(found.residual) == pytest.approx(abs(float(found.y) - 7.0))
    assert not bool(found.solved)


# in a set

PROJECTIONS = optax.projections
SETS = {
    "non-negative": lambda x, y: PROJECTIONS.projection_non_negative(y),
    "box of x": lambda x, y: PROJECTIONS.projection_box(y, -jnp.abs(x[0]), 0.2 + x[1] ** 2),
    "simplex of x": lambda x, y: PROJECTIONS.projection_simplex(y, 1 + x[0] ** 2),
    "ball of x": lambda x, y: PROJECTIONS.projection_l2_ball(y, 0.5 + 0.1 * x[0] ** 2),
    "affine": lambda x, y: y - jnp.mean(y),
}


@pytest.mark.parametrize("name", SETS)
def test_the_derivative_in_a_set_is_that_of_finite_differences(x64, quadratic, name):
    q = quadratic()
    for method in [EXACT, bl.Direct()] if name == "ball of x" else [EXACT]:
        y_star = bl.solution_map(q.problem.lower, bl.GradientDescent(600, 0.2), method, project=SETS[name])
        value = jax.jit(lambda x, y_star=y_star: y_star(x, jnp.zeros(q.dim)))
        differences = [(value(q.x + e) - value(q.x - e)) / 2e-6 for e in 1e-6 * np.eye(3)]
        for jacobian in (jax.jacfwd, jax.jacrev):
            found = jax.jit(jacobian(value))(jnp.asarray(q.x))
            np.testing.assert_allclose(found, np.stack(differences, 1), atol=1e-7)
    assert np.abs(differences).max() > 0.05
    assert np.abs(value(q.x) - q.y_star(q.x)).max() > 0.01  # the set holds it back


def test_the_derivative_on_a_simplex_is_the_closed_form(x64, quadratic):
    """On the face of the active set: [A 1; 1ᵀ 0] with the sum 1 + x_0² below; the second derivative is along x_0."""
    q = quadratic()
    y_star = bl.solution_map(q.problem.lower, bl.GradientDescent(600, 0.2), EXACT, project=SETS["simplex of x"])
    x, value = jnp.asarray(q.x), jax.jit(lambda x: y_star(x, jnp.zeros(q.dim)))
    free = np.flatnonzero(np.asarray(value(x)) > 1e-9)
    assert 1 < len(free) < q.dim
    ones = np.ones((len(free), 1))
    system = np.block([[q.A[np.ix_(free, free)], ones], [ones.T, np.zeros((1, 1))]])
    right = np.vstack([q.B[free], [2 * q.x[0], 0.0, 0.0]])
    exact = np.zeros((q.dim, 3))
    exact[free] = np.linalg.solve(system, right)[:-1]
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacrev(value)))(x[None])[0], exact, atol=1e-9)
    by_sum = np.linalg.solve(system, np.append(np.zeros(len(free)), 2.0))[0]
    curvature = jax.jit(jax.hessian(lambda x: value(x)[free[0]]))(x)
    np.testing.assert_allclose(curvature, np.diag([by_sum, 0.0, 0.0]), atol=1e-8)


def test_a_point_that_is_not_stationary_in_the_set_is_told(x64, quadratic):
    """The unconstrained minimizer, the projection of it, and an early stop."""
    q = quadratic()
    project = SETS["non-negative"]
    free = jnp.asarray(q.y_star(q.x))
    for inner in (lambda x, y0: free, lambda x, y0: jnp.maximum(free, 0), bl.GradientDescent(2, 0.2)):
        with pytest.raises(ValueError, match="inner: it ended at a point that is not stationary in the set"):
            bl.solution_map(q.problem.lower, inner, project=project)(q.x, jnp.zeros(q.dim))
    for inner in (bl.Newton(), "3"):
        with pytest.raises(TypeError, match="inner: "):
            bl.solution_map(q.problem.lower, inner, project=project)
    with pytest.raises(TypeError, match="project: got 3; pass a function"):
        bl.solution_map(q.problem.lower, DESCENT, project=3)
    with pytest.raises(ValueError, match="project: returned leaves"):
        bl.solution_map(q.problem.lower, DESCENT, project=lambda x, y: y.sum())(q.x, jnp.zeros(q.dim))


LEVEL = bl.Level(lambda x, y, _: jnp.sum((y - x) ** 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bl.solution_map(Scaled(1.0), DESCENT), TypeError, r"lower: got Scaled; pass bl.Level"),
        (lambda: bl.solution_map(LEVEL, 100), TypeError, r"inner: got 100; pass bl.GradientDescent\(steps"),
        (lambda: bl.solution_map(LEVEL, bl.GradientDescent), TypeError, "inner: got"),
        (lambda: bl.solution_map(LEVEL, DESCENT, "cg"), TypeError, r"adjoint: got 'cg'; pass e.g. bl.Conj"),
        (lambda: bl.solution_map(LEVEL, DESCENT)(1, 0.0), TypeError, r"^x: got 1 \(int\)"),
        (lambda: bl.solution_map(LEVEL, DESCENT)(1.0, np.nan), ValueError, "^y0: contains NaN"),
        (lambda: bl.solution_map(LEVEL, DESCENT)(1.0, 0.0, key=3), TypeError, "^key: got 3"),
        (lambda: bl.solution_map(LEVEL, lambda x, y0: jnp.ones(2))(1.0, 0.0), ValueError, "^inner: returned leaves"),
        (lambda: bl.solution_map(LEVEL, lambda x, y0: (y0, y0))(1.0, 0.0), ValueError, "^inner: returned leaves"),
        (
            lambda: bl.solution_map(bl.Level(lambda x, y, _: y), DESCENT)(1.0, np.zeros(2)),
            ValueError,
            "^lower.loss: ret",
        ),
        (lambda: bl.GradientDescent(0, 0.1), ValueError, "^steps: got 0"),
        (lambda: bl.GradientDescent(3, -0.1), ValueError, "^step: got -0.1"),
        (lambda: bl.GradientDescent(3, 0.1, -1.0), ValueError, "^tolerance: got -1.0"),
        (lambda: bl.GradientDescent(3, 0.1, np.nan), ValueError, "^tolerance: got nan"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
