"""`root`, `fixed_point` and the solvers of optimistix and lineax, against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl

lineax = pytest.importorskip("lineax")
optimistix = pytest.importorskip("optimistix")

N = 6
RNG = np.random.default_rng(0)
B, C = RNG.normal(size=(N, N)) + 3 * np.eye(N), RNG.normal(size=(N, 3))
X, Y0 = RNG.normal(size=3), np.zeros(N)
NEWTON = optimistix.Newton(rtol=1e-12, atol=1e-12)


def equation(x, y):
    """No gradient of anything: B is not symmetric."""
    return B @ y + 0.1 * y**3 - C @ x


def slope_of(y):
    return np.linalg.solve(B + np.diag(0.3 * np.asarray(y) ** 2), C)


LINEAR = {
    "default": None,
    "normal": lineax.Normal(lineax.CG(1e-12, 1e-12)),
    "dense": lineax.AutoLinearSolver(well_posed=True),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_root_has_the_dense_derivative_in_both_modes(x64, name):
    y_star = bl.root(equation, NEWTON, LINEAR[name])
    value = jax.jit(lambda x: y_star(x, Y0))
    y = value(X)
    np.testing.assert_allclose(equation(X, y), 0, atol=1e-12)
    for jacobian in (jax.jacfwd, jax.jacrev):
        batch = jax.jit(jax.vmap(jacobian(value)))(jnp.stack([X, 0 * X]))
        np.testing.assert_allclose(batch, [slope_of(y), slope_of(0 * y)], rtol=1e-9, atol=1e-10)


def test_the_second_derivative_of_a_root(x64):
    y_star = bl.root(equation, NEWTON)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(y_star(x, Y0) ** 2)))
    along = np.array([1.0, -0.5, 2.0])
    curvature = jax.jit(lambda x: jax.jvp(gradient, (x,), (jnp.asarray(along),))[1])(X)
    difference = (gradient(X + 1e-5 * along) - gradient(X - 1e-5 * along)) / 2e-5
    np.testing.assert_allclose(curvature, difference, rtol=1e-6)


def test_a_preconditioner_is_transposed_in_reverse_mode(x64):
    """With the inverse as preconditioner a few steps of GMRES(1) are enough, and without it they are not."""
    inverse = np.linalg.inv(B)
    few = lineax.GMRES(rtol=1e-8, atol=1e-8, restart=1, max_steps=6)

    def slopes(**options):
        y_star = bl.root(lambda x, y: B @ y - C @ x, lambda x, y0: inverse @ (C @ x), few, throw=False, **options)
        return [jax.jit(jacobian(lambda x: y_star(x, Y0)))(X) for jacobian in (jax.jacfwd, jax.jacrev)]

    for found in slopes(preconditioner=lambda x, y, v: inverse @ v):
        np.testing.assert_allclose(found, inverse @ C, rtol=1e-7)
    assert all(np.isnan(found).any() for found in slopes())
    y_star = bl.root(lambda x, y: B @ y - C @ x, lambda x, y0: inverse @ (C @ x), few)
    with pytest.raises(Exception, match="linear: the linear system of the derivative is not solved"):
        jax.grad(lambda x: jnp.sum(y_star(x, Y0)))(X)


def test_a_fixed_point_of_trees_that_closes_over_traced_arrays(x64):
    """y = x/4 + M y with a rotation M, which has no symmetric part, differentiated in x and in what T closes over."""

    def value(x, scale):
        def T(x, y):
            return {"a": 0.25 * x - scale * y["b"], "b": scale * y["a"]}

        inner = optimistix.FixedPointIteration(rtol=1e-12, atol=1e-12)
        y = bl.fixed_point(T, inner)(x, {"a": 0.0, "b": 0.0})
        return y["a"] + 2 * y["b"]

    def exact(x, scale):  # a = 0.25 x / (1 + s²), b = s a
        return 0.25 * x / (1 + scale**2) * (1 + 2 * scale)

    for found, expected in zip(*(jax.jit(jax.grad(f, (0, 1)))(0.7, 0.5) for f in (value, exact)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_how_it_ended_is_told(x64):
    y_star = bl.root(equation, NEWTON)
    found = jax.jit(y_star.solve)(X, Y0)
    assert bool(found.solved) and 1 < int(found.steps) < 10 and float(found.residual) < 1e-10
    with pytest.raises(ValueError, match="inner: it ended at a point that is no root"):
        bl.root(equation, lambda x, y0: y0)(X, Y0)
    with pytest.raises(Exception, match="inner: it ended at a point that is no fixed point"):
        jax.jit(bl.fixed_point(lambda x, y: 0.5 * y + x, lambda x, y0: y0))(1.0, 0.0)
    loose = bl.fixed_point(lambda x, y: 0.5 * y + x, lambda x, y0: (1.5 * x, "aux"), has_aux=True, throw=False)
    found = loose.solve(1.0, 0.0)
    assert float(found.distance) == pytest.approx(0.5 / 1.5)  # y* = 2
    assert (bool(found.solved), found.aux) == (False, "aux")


MINIMIZERS = {
    "bfgs": optimistix.BFGS(1e-9, 1e-9),
    "newton": NEWTON,
    "optax's lbfgs": optimistix.OptaxMinimiser(optax.lbfgs(), 1e-9, 1e-9),
}


@pytest.mark.parametrize("name", MINIMIZERS)
def test_solvers_of_optimistix_are_inner_solvers_as_they_are(x64, quadratic, name):
    q = quadratic()
    y_star = bl.solution_map(q.problem.lower, MINIMIZERS[name])
    found = y_star.solve(q.x, jnp.zeros(q.dim))
    np.testing.assert_allclose(found.y, q.y_star(q.x), atol=1e-7)
    assert int(found.steps) == int(found.aux["num_steps"]) > 0
    gradient = jax.jit(jax.grad(lambda x: q.f(x, y_star(x, jnp.zeros(q.dim)), None)))(q.x)
    np.testing.assert_allclose(gradient, q.hypergradient(q.x), atol=1e-6)
    with pytest.raises(TypeError, match="knows no constraints"):
        bl.solution_map(q.problem.lower, MINIMIZERS[name], project=lambda x, y: y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bl.root(3, NEWTON), TypeError, "function: got 3"),
        (lambda: bl.root(equation, 3), TypeError, "inner: got 3; pass a solver of optimistix for a root"),
        (lambda: bl.root(equation, optimistix.Newton), TypeError, "inner: got"),
        (lambda: bl.root(equation, optimistix.FixedPointIteration(1e-3, 1e-3)), TypeError, "inner: got"),
        (lambda: bl.root(equation, NEWTON, "gmres"), TypeError, "linear: got 'gmres'; pass a solver of lineax"),
        (lambda: bl.root(equation, NEWTON, preconditioner=3), TypeError, "preconditioner: got 3"),
        (lambda: bl.root(equation, NEWTON, has_aux=True), ValueError, "has_aux: got True, but"),
        (lambda: bl.root(equation, NEWTON, tolerance=-1.0), ValueError, "tolerance: got -1.0"),
        (lambda: bl.root(equation, NEWTON, throw=1), TypeError, "throw: got 1"),
        (lambda: bl.root(lambda x, y: y[:2], lambda x, y0: y0)(X, Y0), ValueError, "function: returned leaves"),
        (lambda: bl.fixed_point(lambda x, y: y[:2], lambda x, y0: y0)(X, Y0), ValueError, "function: returned leaves"),
        (lambda: bl.root(equation, lambda x, y0: float(x[0]) * y0)(X, Y0), TypeError, "inner: it is no JAX function"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_lineax_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed: lineax; pip install .*\[implicit\]"):
        bl.root(equation, NEWTON)
