"""Each oracle against dense derivatives of the flattened loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import bilevel as bl
from bilevel import oracles, trees
from bilevel.trees import SparseRows

N, SIZE = 6, 3
TREES = [
    lambda draw: draw,
    lambda draw: [draw, (draw,)],
    lambda draw: {"u": draw, "v": {"w": draw}},
    lambda draw: (draw, {"k": [draw]}),
]


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


class Loss:
    """Not quadratic and not separable; `used` says which leaves of x it looks at.

    A leaf with one entry per row enters each row's term by that row's entry, any other leaf enters all.
    """

    def __init__(self, per_row, used):
        self.per_row, self.used = per_row, used

    def __call__(self, x, y, batch):
        y = flat(y)
        s = 0.0 * batch["a"]
        for leaf, per_row, used in zip(jax.tree.leaves(x), self.per_row, self.used, strict=True):
            if used and per_row:
                s = s + (leaf * leaf + leaf).reshape(len(s), -1).sum(1)
            elif used:
                s = s + batch["a"] * jnp.sum(leaf * leaf * leaf - leaf)
        r = batch["b"] * (jnp.arange(1.0, 1 + len(y)) @ (y * y)) + batch["a"] * y.sum()
        return jnp.mean(s * r + 0.3 * s * s * r + r * r)


def build(choose, seed, mode=None):
    """A random problem at one point on one batch; `choose(options)` picks one."""
    rng = np.random.default_rng(seed)
    mode = mode or choose(["all", "none", "prefix"])

    def tree(tall):
        shapes = [(N,), (N, 2)] if tall else [(), (2,), (1, 2)]
        make = choose(TREES)(lambda: jnp.asarray(rng.normal(size=choose(shapes))))
        return jax.tree.map(lambda leaf: leaf(), make, is_leaf=callable)

    if mode == "prefix":
        x, per_row = {"tall": tree(True), "flat": tree(False)}, {"tall": True, "flat": False}
        flags = [False] * len(jax.tree.leaves(x["flat"])) + [True] * len(jax.tree.leaves(x["tall"]))
    else:
        x, per_row = tree(mode == "all"), mode == "all"
        flags = [per_row] * len(jax.tree.leaves(x))
    used = [choose([True, True, False]) for _ in flags]
    y = tree(False)
    v = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), y)
    source = choose([bl.Rows, bl.Blocks, None])
    data = {"a": rng.normal(size=N), "b": rng.normal(size=N)}
    level = bl.Level(Loss(flags, used), (source or bl.Rows)(data), None if source is None else SIZE, per_row)
    batch = level.draw(jax.random.key(seed))
    if source is None:
        places = np.arange(N)
    else:
        places = np.asarray(batch.indices) if source is bl.Rows else int(batch.indices) + np.arange(SIZE)
    return level, x, y, v, batch, places


@st.composite
def cases(draw):
    return build(lambda options: draw(st.sampled_from(options)), draw(st.integers(0, 2**16)))


def dense(level, x, y, places):
    """Gradient and Hessian of (x, y) ↦ loss, over all of x, by plain indexing of the rows."""
    z, unravel = ravel_pytree((x, y))
    data = jax.tree.map(lambda array: array[places], level.data.arrays)

    def loss(z):
        x, y = unravel(z)
        leaves, structure = jax.tree.flatten(x)
        leaves = [leaf[places] if flag else leaf for leaf, flag in zip(leaves, level.loss.per_row, strict=True)]
        return level.loss(jax.tree.unflatten(structure, leaves), y, data)

    def derivatives(z):
        value, gradient = jax.value_and_grad(loss)(z)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.jit(jax.jacfwd(derivatives, has_aux=True))(z)
    return value, gradient, hessian


@settings(max_examples=7)
@given(case=cases())
def test_the_passes_are_the_dense_derivatives(x64, case):
    level, x, y, v, batch, places = case

    @jax.jit
    def passes(x, y, v):
        G_y, Hv, Jv = oracles.lower_products(level, x, y, v, batch)
        F_x, F_y = oracles.upper_gradients(level, x, y, batch)
        return {"y": (F_y, G_y), "x": (trees.dense(F_x, x),), "Hv": (Hv,), "Jv": (trees.dense(Jv, x),)}

    _, gradient, hessian = dense(level, x, y, places)
    n, u = flat(x).size, flat(v)
    got = passes(x, y, v)
    expected = {"y": gradient[n:], "x": gradient[:n], "Hv": hessian[n:, n:] @ u, "Jv": hessian[:n, n:] @ u}
    for name, value in expected.items():
        like = y if name in ("y", "Hv") else x
        for actual in got[name]:
            assert jax.tree.structure(actual) == jax.tree.structure(like)
            shapes = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), actual, like)
            assert jax.tree.all(shapes)
            np.testing.assert_allclose(flat(actual), value, rtol=1e-10, atol=1e-10, err_msg=name)


def test_each_oracle_by_itself_is_the_dense_derivative(x64):
    rng = np.random.default_rng(5)
    level, x, y, v, batch, places = build(lambda options: options[rng.integers(len(options))], 4, "prefix")
    assert level.batch_size
    assert len(level.loss.used) > 2
    assert 0 < sum(level.loss.used) < len(level.loss.used)
    loss, gradient, hessian = dense(level, x, y, places)
    n, u = flat(x).size, flat(v)
    for oracle, point, value in (
        (oracles.loss, (x, y), loss[None]),
        (oracles.gradient_y, (x, y), gradient[n:]),
        (oracles.gradient_y, (x, y), gradient[n:]),
        (oracles.gradient_x, (x, y), gradient[:n]),
        (oracles.hessian_product, (x, y, v), hessian[n:, n:] @ u),
        (oracles.cross_product, (x, y, v), hessian[:n, n:] @ u),
        (lambda *at: oracles.dense_hessian(*at)[0], (x, y), hessian[n:, n:].ravel()),
    ):
        actual = jax.jit(lambda *at, oracle=oracle: oracle(level, *at, batch))(*point)
        if oracle in (oracles.gradient_x, oracles.cross_product):
            actual = trees.dense(actual, x)
        np.testing.assert_allclose(flat(actual), value, rtol=1e-10, atol=1e-10)


@settings(max_examples=8)
@given(case=cases())
def test_a_gradient_in_x_holds_only_the_rows_of_the_batch(x64, case):
    level, x, y, v, batch, _ = case
    for oracle, *point in ((oracles.gradient_x, x, y), (oracles.cross_product, x, y, v)):
        tree = eqx.filter_eval_shape(oracle, level, *point, batch)
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, SparseRows))
        for leaf, like, per_row, used in zip(
            leaves, jax.tree.leaves(x), level.loss.per_row, level.loss.used, strict=True
        ):
            if not used and like.ndim:
                assert leaf.parts == ()
            elif per_row and level.batch_size is not None:
                assert [rows.shape[0] for _, rows in leaf.parts] == [SIZE]
            else:
                assert leaf.shape == like.shape
                assert not isinstance(leaf, SparseRows)


def test_dense_hessian_unravels_like_y(x64):
    level = bl.Level(lambda x, y, _: jnp.sum(y["a"] ** 2) * y["b"] + x)
    y = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    matrix, unravel = oracles.dense_hessian(level, jnp.ones(()), y, level.all_rows())
    np.testing.assert_allclose(matrix, [[6, 0, 2], [0, 6, 4], [2, 4, 0]])
    assert jax.tree.map(lambda leaf: leaf.tolist(), unravel(jnp.arange(3.0))) == {"a": [0.0, 1.0], "b": 2.0}
