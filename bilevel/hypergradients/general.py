"""The general formulation of hypergradients: back-propagation, Neumann, conjugate gradient and FSLA in one form."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._prepare import prepare
from bilevel.disk import reading
from bilevel.hypergradients._not_finite import check_finite
from bilevel.hypergradients.unrolled import key_if_random
from bilevel.problem import Problem, stores_of
from bilevel.trees import Tree


def general_hypergradient(
    problem: Problem,
    x: Tree,
    ys: Tree,
    betas: Float[Array | np.ndarray, " K"],
    *,
    mode: str,
    p: Tree | None = None,
    key: PRNGKeyArray | None = None,
) -> Tree:
    """The hypergradient defined by points y_0, …, y_K, weights β_0, …, β_{K−1} and vectors p.

    `mode="backward"`, from u = p_K, for k = K−1, …, 0:

        h ← h − β_k J(x, y_k)[u],   u ← u − β_k H(x, y_k)[u];           from h = F_x(x, y_K)

    `mode="forward"`, from v = 0, for k = 0, …, K−1:

        v ← v − β_k H(x, y_k)[v] + β_k p_k;                             then h = F_x(x, y_K) − J(x, y_K)[v]

    The known methods are special cases:

    | | mode | y_k | β_k | p |
    |---|---|---|---|---|
    | back-propagation | backward | the iterates of gradient descent | its step sizes | the default |
    | Neumann, K terms | either | one point | one number η ≤ 1/L | the default |
    | conjugate gradient | forward | one point | its step lengths | F_y + γ_k c_{k−1}, c its directions |
    | FSLA, x held | forward | its iterates | its adjoint steps | the default |

    If the Hessians at the y_k commute, for example at one point, the modes agree for a single p.

    **Arguments**

    - `ys`: like y, each leaf with an additional leading axis of length K + 1, or of length 1 to use one point for all.
    - `betas`: K numbers.
    - `p`: in backward mode p_K, like y, default F_y(x, y_K); in forward mode p_0, …, p_{K−1}, like y with a leading
      axis of length K, default F_y(x, y_k).
    - `key`: required if a level has a `batch_size`. At each k a level draws one batch, independent of the others. In
      backward mode the batches of the lower level are those that `unrolled_hypergradient` draws from the same key.

    **Returns** a pytree like x.

    **Raises** `ValueError` or `TypeError`, naming the argument, for leading axes of wrong lengths, entries that are
    not finite, an unknown mode or a missing key. `ValueError`, except under `jit`, if the result is not finite.

    Example:

        >>> import bilevel as bl, jax.numpy as jnp
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> ys, betas = jnp.array([3.0]), jnp.full(10, 0.5)  # Neumann: the one point y*(1) and a constant weight
        >>> float(bl.general_hypergradient(problem, 1.0, ys, betas, mode="backward"))  # (1 − 0.5¹⁰) (3x − 1) · 3
        5.994140625

    Reference: Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse",
    AAAI 2022, Lemma 2.

    Differences from the paper: the lemma prints the same order of the factors I − β_k H(x, y_k) for both modes. In
    forward mode its recursion (8), of which FSLA is an instance, needs the reverse order, as above. A level with a
    `batch_size` is sampled.
    """
    checks.one_of("mode", mode, ("backward", "forward"))
    betas = _numbers(betas)
    ys = checks.tree("ys", ys)
    arrays = eqx.filter(ys, eqx.is_inexact_array)
    _check_axis(arrays, len(betas))
    y = jax.tree.map(lambda leaf: leaf[0] if eqx.is_inexact_array(leaf) else leaf, ys)
    prepared = prepare(problem, x, y)
    x, y = prepared.x, prepared.y
    if p is not None:
        p = _as_p(p, y, None if mode == "backward" else len(betas))
    key = key_if_random(prepared.problem, key)
    with reading(stores_of(prepared.problem)):
        h, finite = _general(prepared.problem, x, arrays, betas, mode, p, key)
        check_finite(finite, prepared.problem, x, y, key, "betas: reduce them, as the factors I − β H grow")
    return prepared.restore_x(h)


@eqx.filter_jit
def _general(problem: Problem, x: Tree, ys: Tree, betas: Array, mode: str, p: Tree | None, key: PRNGKeyArray) -> Any:
    K = len(betas)
    upper_key, lower_key = jax.random.split(key)

    def y_at(k: Any) -> Tree:
        return jax.tree.map(lambda leaf: leaf[k if len(leaf) > 1 else 0], ys)

    def upper_batch(k: Any) -> Any:
        return problem.upper.draw(jax.random.fold_in(upper_key, k))

    def lower_batch(k: Any) -> Any:
        return problem.lower.draw(jax.random.fold_in(lower_key, k))

    def backward(carry: tuple[Tree, Tree], at: Any) -> tuple[tuple[Tree, Tree], None]:
        h, u = carry
        k, beta = at
        _, Hu, Ju = oracles.lower_products(problem.lower, x, y_at(k), u, lower_batch(k))
        return (trees.sub(h, trees.scale(beta, Ju)), trees.axpy(-beta, Hu, u)), None

    def forward(v: Tree, at: Any) -> tuple[Tree, None]:
        k, beta, p_k = at
        y = y_at(k)
        if p_k is None:
            p_k = oracles.gradient_y(problem.upper, x, y, upper_batch(k))
        Hv = oracles.hessian_product(problem.lower, x, y, v, lower_batch(k))
        return trees.axpy(beta, trees.sub(p_k, Hv), v), None

    F_x, F_y = oracles.upper_gradients(problem.upper, x, y_at(K), upper_batch(K))
    h, steps = trees.dense(F_x, x), jnp.arange(K)
    if mode == "backward":
        (h, _), _ = jax.lax.scan(backward, (h, F_y if p is None else p), (steps, betas), reverse=True)
    else:
        v, _ = jax.lax.scan(forward, trees.zeros_like(F_y), (steps, betas, p))
        h = trees.sub(h, oracles.cross_product(problem.lower, x, y_at(K), v, lower_batch(K)))
    return h, trees.all_finite(h)


def _numbers(betas: Any) -> Array:
    try:
        array = betas if isinstance(betas, jax.Array) else np.asarray(betas)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    array = checks.tree("betas", array)
    if array.ndim != 1:
        raise ValueError(f"betas: got shape {array.shape}; pass one number for each step, as in jnp.full(10, 0.1)")
    return array


def _check_axis(ys: Tree, K: int) -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(ys)]
    if {shape[:1] for shape in shapes} not in ({(1,)}, {(K + 1,)}):
        raise ValueError(
            f"ys: got leaves of shapes {shapes} for K = {K} betas; each needs a leading axis of length {K + 1}, "
            "or of length 1 to use one point for all, as in y[None]"
        )


def _as_p(p: Any, y: Tree, K: int | None) -> Tree:
    """p in the dtypes of y, checked to be one vector like y, or K vectors on a leading axis."""
    p = eqx.filter(checks.tree("p", p), eqx.is_inexact_array)
    axis = () if K is None else (K,)
    wanted = [(*axis, *leaf.shape) for leaf in jax.tree.leaves(y)]
    got = [leaf.shape for leaf in jax.tree.leaves(p)]
    if jax.tree.structure(p) != jax.tree.structure(y) or got != wanted:
        kind = "one vector like y" if K is None else f"{K} vectors like y on a leading axis"
        raise ValueError(f"p: got leaves of shapes {got}, but {wanted} are needed; pass {kind}, in the tree of y")
    return jax.tree.map(lambda p_leaf, y_leaf: p_leaf.astype(y_leaf.dtype), p, y)
