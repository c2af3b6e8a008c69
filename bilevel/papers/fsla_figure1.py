"""FSLA's figure 1: the error of hypergradient estimators on a quadratic with a known solution."""

import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bilevel import _checks as checks
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.oracles import HessianOperator, cross_product, gradient_y, hessian_product
from bilevel.papers._estimation import DIM, Quadratic, quadratic
from bilevel.problem import Problem

STEP = 0.2  # on the mean over 10⁴ rows: the paper's 2e-5 on their sum
POWERS = {f"a = {a:g}": a for a in (2.0, 1.0, 0.5, 0.25)}  # of the sequences y* + ỹ/k^a
ESTIMATORS = ("FSLA", "NS", "BP", "CG")
POINTS = 50  # rows of a curve
X = np.zeros(DIM)

Row = dict[str, float]
State = tuple[Array, Array]  # FSLA's v, and y_0, …, y_K, of which y_0, …, y_k are there


def estimator_errors(
    estimator: str, seed: int, *, iterations: int = 500, rows: int = 10_000, step: float = STEP
) -> list[Row]:
    """Squared distances from ∇Φ(x) of one estimator, in float64, on the paper's quadratic; x stays at zero.

    For the left panel y_0, …, y_K come from gradient descent with the step β from zero. At every k = 1, …, K the
    estimate F_x(x, y_k) − J(x, y_k)[v] is made anew:

    | estimator | v | products for each k |
    |---|---|---|
    | FSLA | v_k = β F_y(x, y_{k−1}) + (I − β H(x, y_{k−1})) v_{k−1}, kept from k to k + 1 | 1 H, 1 J |
    | NS | k terms of the Neumann series with weight β, at y_k | k − 1 H, 1 J |
    | CG | k conjugate-gradient steps from zero at y_k, fewer where rounding is reached | at most k H, 1 J |
    | BP | back-propagation through the k steps, which has J at each of them | k − 1 H, k J |

    H and J are constant here, so that BP and NS are the same number.

    For the right panel, `estimator` "a = 2", "a = 1", "a = 0.5" or "a = 0.25", y_k = y* + ỹ/k^a with ỹ uniform, and the
    estimate is NS (Corollary 3.1). Its error is of the order of that of y_k: squared, k^(−2a).

    **Arguments**

    - `seed`: draws the data and ỹ. `iterations`: K. `rows`: n for each level.
    - `step`: β for means of squares; for their sums it is β/n.

    **Returns** up to 50 rows, evenly spaced in k up to K or just beyond, or in log k in the right panel. `step` is k,
    `relative error` is the squared distance over ‖∇Φ(x)‖², and `digits` is −log₁₀ of it. For the left panel there are
    `H` and `J`, the products of the estimates at 1, …, k in full passes over the rows, and `seconds`, the time that
    these estimates and the descent took, without compilation.

    **Raises** `ValueError` or `TypeError`, naming the argument, for an unknown name, sizes out of range and a step
    above 1/L.

    Example:

        >>> from bilevel.papers.fsla_figure1 import estimator_errors
        >>> errors = {row["step"]: row["relative error"] for row in estimator_errors("a = 0.5", 0, iterations=1_000)}
        >>> round(errors[1_000] * 1_000 / (errors[494] * 494), 2)  # squared errors fall as k^-2a
        1.0

    Reference: Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse", AAAI
    2022, section 6.1 and Figure 1.
    """
    checks.one_of("estimator", estimator, (*ESTIMATORS, *POWERS))
    checks.count("iterations", iterations, least=2)
    checks.positive("step", step)
    with jax.enable_x64(True):  # relative squared errors fall to 1e-15
        problem = quadratic(rows, seed=seed)
        if step * problem.L > 1:
            raise ValueError(f"step: got {step}; it must be at most 1/L, here {1 / problem.L:.3g}")
        if estimator in POWERS:
            return _sequence(problem, POWERS[estimator], iterations, step, seed)
        return _descent(problem, estimator, iterations, step)


def _row(quadratic: Quadratic, k: int, estimate: Any) -> Row:
    answer = quadratic.hypergradient(X)
    relative = float(np.sum((np.asarray(estimate) - answer) ** 2) / np.sum(answer**2))
    return {"step": k, "relative error": relative, "digits": -math.log10(max(relative, 1e-300))}


def _descent(quadratic: Quadratic, estimator: str, last: int, step: float) -> list[Row]:
    """The estimates at 1, …, K in chunks, each of which is timed."""
    problem: Any = quadratic.problem
    x, every = jnp.asarray(X), math.ceil(last / POINTS)
    begins = jnp.arange(0, last, every)  # arrays: a number would be compiled in
    state = jnp.zeros(DIM), jnp.zeros((last + every + 1, DIM))
    jax.block_until_ready(_chunk(problem, x, step, state, begins[0], estimator, every))  # compiles
    table, seconds, H, J = [], 0.0, 0, 0
    for k in begins:
        start = time.perf_counter()
        state, h, products = jax.block_until_ready(_chunk(problem, x, step, state, k, estimator, every))
        seconds += time.perf_counter() - start
        H, J = H + int(products[0]), J + int(products[1])
        table.append(_row(quadratic, int(k) + every, h) | {"H": H, "J": J, "seconds": seconds})
    return table


@eqx.filter_jit
def _chunk(
    problem: Problem, x: Array, step: Any, state: State, k: Any, estimator: str, every: int
) -> tuple[State, Array, Array]:
    """From y_k to y_{k+every}, with an estimate at each: the last one, and the number of products with H and with J."""

    def move(carry: tuple[State, Array, Array], k: Any) -> tuple[tuple[State, Array, Array], None]:
        (v, ys), _, products = carry
        y, rows = ys[k], problem.lower.all_rows()
        if estimator == "FSLA":
            v = v + step * (_F_y(problem, x, y) - hessian_product(problem.lower, x, y, v, rows))
        ys = ys.at[k + 1].set(y - step * gradient_y(problem.lower, x, y, rows))
        h, used = _estimate(problem, x, step, (v, ys), k + 1, estimator)
        return ((v, ys), h, products + used), None

    carry = state, jnp.zeros_like(x), jnp.zeros(2, int)
    return jax.lax.scan(move, carry, k + jnp.arange(every))[0]


def _F_y(problem: Problem, x: Array, y: Array) -> Array:
    return gradient_y(problem.upper, x, y, problem.upper.all_rows())


def _estimate(problem: Problem, x: Array, step: Any, state: State, k: Any, estimator: str) -> tuple[Array, Array]:
    """The estimate at y_k, and its products with H and with J. F_x is zero: f does not depend on x directly."""
    lower, rows = problem.lower, problem.lower.all_rows()
    v, ys = state
    y = ys[k]
    if estimator == "NS":
        return _neumann(problem, x, y, step, k), jnp.array([k - 1, 1])
    if estimator == "BP":
        return _back_propagated(problem, x, ys, step, k), jnp.array([k - 1, k])
    products: Any = 1
    if estimator == "CG":
        method, H = ConjugateGradient(lambda t: t), HessianOperator(lower, x, y, rows)
        found = method.solve(H, _F_y(problem, x, y), None, key=jax.random.key(0), t=k)
        v, products = found.v, found.products[0]
    return -cross_product(lower, x, y, v, rows), jnp.array([products, 1])


@eqx.filter_jit
def _neumann(problem: Problem, x: Array, y: Array, step: Any, k: Any) -> Array:
    """−J[v] with k terms of the series for v, at y."""
    lower, rows = problem.lower, problem.lower.all_rows()

    def add(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        u, total = carry
        u = u - step * hessian_product(lower, x, y, u, rows)
        return u, total + u

    F_y = _F_y(problem, x, y)
    total = jax.lax.fori_loop(1, k, add, (F_y, F_y))[1]
    return -cross_product(lower, x, y, step * total, rows)


def _back_propagated(problem: Problem, x: Array, ys: Array, step: Any, k: Any) -> Array:
    """The reverse pass through y_1, …, y_k."""
    lower, rows = problem.lower, problem.lower.all_rows()

    def back(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        u, total = carry
        u = u - step * hessian_product(lower, x, ys[k - i + 1], u, rows)
        return u, total + cross_product(lower, x, ys[k - i], u, rows)

    u = _F_y(problem, x, ys[k])
    total = jax.lax.fori_loop(2, k + 1, back, (u, cross_product(lower, x, ys[k - 1], u, rows)))[1]
    return -step * total


def _sequence(quadratic: Quadratic, a: float, last: int, step: float, seed: int) -> list[Row]:
    """NS at y* + ỹ/k^a, on the triangular factors of the data: nothing is timed."""
    x, y_star = jnp.asarray(X), quadratic.y_star(X)
    offset = np.random.default_rng((seed, 1)).uniform(size=DIM)
    ks = np.unique(np.geomspace(1, last, POINTS).round().astype(int))
    return [
        _row(quadratic, k, _neumann(quadratic.reduced, x, jnp.asarray(y_star + offset / k**a), step, jnp.asarray(k)))
        for k in map(int, ks)
    ]
