"""Bias and spread of single hypergradients, over repeated draws."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from bilevel import oracles, trees
from bilevel.diagnostics.findings import terms
from bilevel.hypergradients.adjoint import AbstractAdjoint, RandomNeumann
from bilevel.problem import Problem
from bilevel.trees import Tree


def estimates(
    problem: Problem, whole: Problem, x: Tree, y: Tree, method: AbstractAdjoint, h: Tree, truth: Tree, keys: Any
) -> dict[str, Any]:
    """The fields of a `Report` on single draws around `truth`. Without randomness, every draw is `h`."""
    random = method.random
    noisy = problem.upper.batch_size is not None or problem.lower.batch_size is not None
    if not (random or noisy):
        distances, variance = np.array([float(_norm(trees.sub(h, truth)))]), 0.0
        bias = distances[0]
    else:
        distances, bias, variance = _moments(problem if noisy else whole, x, y, method, truth, keys)
    own = 0.0
    if isinstance(method, RandomNeumann):
        own = float(_random_neumann_variance(whole, x, y, method.step(0), jnp.asarray(terms(method))))
    elif random:
        own = _moments(whole, x, y, method, truth, keys)[2] if noisy else variance
    variance = max(variance, own) if noisy else own
    norm = float(_norm(truth))
    size, error = norm if norm > 0 else math.nan, variance / len(distances)
    return {
        "bias": math.sqrt(max(bias**2 - error, 0.0)) / size,
        "bias_error": math.sqrt(error) / size,
        "noise_spread": math.sqrt(max(variance - own, 0.0)),
        "method_spread": math.sqrt(own),
        "distances": distances / size,
    }


def _moments(
    problem: Problem, x: Tree, y: Tree, method: AbstractAdjoint, truth: Tree, keys: Any
) -> tuple[np.ndarray, float, float]:
    """‖h_i − truth‖ of each draw, the norm of their mean, and E‖h_i − E h_i‖²."""
    squares, mean = _draw(problem, x, y, method, truth, keys)
    squares, mean = np.asarray(squares, np.float64), float(mean)
    n = len(squares)
    with np.errstate(invalid="ignore"):  # a diverging method gives infinity
        variance = float(np.maximum(squares.mean() - mean**2, 0.0)) * n / (n - 1)
    return np.sqrt(squares), mean, variance


@eqx.filter_jit
def _random_neumann_variance(whole: Problem, x: Tree, y: Tree, eta: Any, K: Any) -> Float[Array, ""]:
    """E‖h − E h‖² of h = F_x − K η J (I − ηH)ᵏ F_y, k uniform on {0, …, K − 1}: few draws may miss the rare large h."""
    lower = whole.lower.all_rows()
    r = oracles.gradient_y(whole.upper, x, y, whole.upper.all_rows())

    def body(_: Any, carry: Any) -> Any:
        r, total, squares = carry
        _, Hr, Jr = oracles.lower_products(whole.lower, x, y, r, lower)
        Jr = trees.dense(Jr, x)
        return trees.axpy(-eta, Hr, r), trees.add(total, Jr), squares + trees.dot(Jr, Jr)

    start = (r, trees.zeros_like(x), jnp.zeros((), jnp.result_type(*jax.tree.leaves(x))))
    _, total, squares = jax.lax.fori_loop(0, K, body, start)
    return eta**2 * (K * squares - trees.dot(total, total))


_norm = eqx.filter_jit(trees.norm)


@eqx.filter_jit
def _draw(
    problem: Problem, x: Tree, y: Tree, method: AbstractAdjoint, truth: Tree, keys: Array
) -> tuple[Float[Array, " draws"], Float[Array, ""]]:
    """‖h_i − truth‖² of each draw, and the norm of the mean of h_i − truth."""

    def body(total: Tree, key: PRNGKeyArray) -> tuple[Tree, Array]:
        h = trees.dense(method.hypergradient(problem, x, y, key=key).h, x)
        deviation = trees.sub(h, truth)
        return trees.add(total, deviation), trees.dot(deviation, deviation)

    total, squares = jax.lax.scan(body, trees.zeros_like(truth), keys)
    return squares, trees.norm(total) / len(squares)
