"""The problem behind the penalized estimators, against NumPy and SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.sparse
from scipy.special import log_softmax

import bilevel as bl
from bilevel.estimators import _penalties as penalties
from bilevel.estimators import _tuning as tuning
from bilevel.estimators._units import in_units, new_table

N, D, FOLDS, SPREAD = 40, 6, 3, 0.5


def make(loss, c, groups, sparse=False):
    """A table in its units, its problem in float64, and a point x."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.5) * np.arange(1, D + 1)
    targets = np.eye(c)[rng.integers(c, size=N)] if loss is penalties.MULTINOMIAL else rng.normal(size=(N, c))
    weights, folds = rng.uniform(0.5, 2, size=N), np.arange(N) % (FOLDS + 1) - 1  # some rows are held out by none
    held_out = folds[:, None] == np.arange(FOLDS)
    X = scipy.sparse.csr_matrix(X) if sparse else X
    table, units = in_units(new_table(X, targets, weights, 1.0 - held_out, held_out.astype(float)), loss)
    problem, x, y = tuning.make_problem(table, units, groups, loss, spread=SPREAD, dtype=np.float64)
    p = int(groups.max()) + 1
    return table, units, problem, x.at[:p].set(rng.normal(size=p) + 1), y


def objective(table, units, groups, x, models):
    """f, in plain NumPy: `models(lambda_, training)` gives w (d, c) and b (c,) of the training rows' weights."""
    X = table.X.toarray() - units.offset if scipy.sparse.issparse(table.X) else table.X
    lambda_ = np.exp(x)[groups] * (units.scale / units.divisor)[:, None] ** 2
    total = 0.0
    for fold in range(FOLDS):
        out = table.holds_out[:, fold] > 0
        w, b, losses = models(X, table.targets, lambda_, np.where(out, 0, table.weights))
        total += table.weights[out] @ losses(X[out] @ w + b, table.targets[out])
    mean = total / table.held_out
    away = (x - x.mean()) / SPREAD
    return mean, 2 * np.log1p(away**2 / 3).sum() / table.held_out


def ridge(X, targets, lambda_, weights):
    """The closed form, the intercept being a column that is not penalized."""
    rows = np.hstack([X, np.ones((len(X), 1))])
    penalty = np.diag(np.append(lambda_[:, 0], 0))
    solution = np.linalg.solve(rows.T @ (weights[:, None] * rows) + penalty, rows.T @ (weights[:, None] * targets))
    return solution[:-1], solution[-1], lambda scores, t: ((scores - t) ** 2).sum(axis=1) / 2


def logistic(X, targets, lambda_, weights):
    d, c = X.shape[1], targets.shape[1]

    def value(flat):
        w, b = flat[: d * c].reshape(d, c), flat[d * c :]
        log_p = log_softmax(X @ w + b, axis=1)
        residual = weights[:, None] * (np.exp(log_p) - targets)
        loss = -(weights[:, None] * targets * log_p).sum() + (lambda_ * w**2).sum() / 2
        return loss, np.append(X.T @ residual + lambda_ * w, residual.sum(axis=0))

    found = scipy.optimize.minimize(value, np.zeros(d * c + c), jac=True, tol=1e-14, options={"maxiter": 5000}).x
    w, b = found[: d * c].reshape(d, c), found[d * c :]
    return w, b, lambda scores, t: -(t * log_softmax(scores, axis=1)).sum(axis=1)


CASES = {
    "ridge, a feature": (penalties.SQUARED, 2, np.arange(D)[:, None], False, ridge),
    "logistic, a group, sparse": (penalties.MULTINOMIAL, 3, np.array([0, 0, 1, 2, 2, 2])[:, None], True, logistic),
    "logistic, a class": (penalties.MULTINOMIAL, 3, np.arange(3)[None, :], False, logistic),
}


@pytest.mark.parametrize("case", CASES)
def test_the_hypergradient_is_the_derivative_of_the_held_out_loss(case, x64):
    loss, c, groups, sparse, models = CASES[case]
    table, units, problem, x, y = make(loss, c, groups, sparse)
    p = int(groups.max()) + 1

    def f(x):
        mean, prior = objective(table, units, np.broadcast_to(groups, (D, c)), x, models)
        return (c / 2 * np.log(mean) if loss is penalties.SQUARED else mean) + prior

    tuner = penalties.Tuner(bl.Rule(optax.adam, 0.1), jnp.asarray(1e-15), 30, 200, 1e-8)
    y = eqx.filter_jit(tuner.lower.solve)(problem.lower, x, y, key=jax.random.key(0)).y
    point = np.asarray(x[:p])
    assert float(problem.upper.loss(x, y, None)) == pytest.approx(f(point), rel=1e-7)
    h = np.asarray(bl.hypergradient(problem, x, y, method=bl.ConjugateGradient(steps=200)))
    expected = np.array([(f(point + step) - f(point - step)) / 2e-3 for step in 1e-3 * np.eye(p)])
    np.testing.assert_allclose(h[:p], expected, atol=2e-6)
    assert np.abs(expected).min() > 1e-4
    np.testing.assert_array_equal(h[p:], 0)  # of the entries that fill up the shape


def test_a_product_with_a_sparse_matrix_and_its_gradient(x64):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 7)) * (rng.random((20, 7)) < 0.3)
    offset = rng.normal(size=7)
    sparse = tuning._product(scipy.sparse.csr_matrix(X), offset, 20, 7, np.float64)
    X = X - offset
    W, R = rng.normal(size=(7, 2)), rng.normal(size=(20, 2))
    out, pull = jax.vjp(lambda W: penalties.product(sparse, W), jnp.asarray(W))
    np.testing.assert_allclose(out, X @ W, atol=1e-14)
    np.testing.assert_allclose(pull(jnp.asarray(R))[0], X.T @ R, atol=1e-14)
