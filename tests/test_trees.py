"""Arithmetic on trees against dense NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilevel import trees
from bilevel.trees import SparseRows

SIZE = 5


@st.composite
def sparse(draw, tail):
    """A SparseRows of SIZE rows with small whole numbers, and what it means as a dense array."""
    parts, dense = [], np.zeros((SIZE, *tail), np.float32)
    for _ in range(draw(st.integers(0, 3))):
        size = draw(st.sampled_from([0, 1, 3]))
        if draw(st.booleans()):  # a contiguous block
            start = draw(st.integers(0, SIZE - size))
            indices, places = np.int32(start), range(start, start + size)
        else:
            places = draw(st.lists(st.integers(0, SIZE - 1), min_size=size, max_size=size))
            indices = np.array(places, np.int32)
        rows = np.array(draw(st.lists(st.integers(-9, 9), min_size=size, max_size=size)), np.float32)
        rows = np.multiply.outer(rows, np.arange(1, 1 + int(np.prod(tail))).reshape(tail)).astype(np.float32)
        parts.append((jnp.asarray(indices), jnp.asarray(rows)))
        for place, row in zip(places, rows, strict=True):
            dense[place] += row
    return SparseRows(tuple(parts), dense.shape), dense


@st.composite
def cases(draw):
    tail = draw(st.sampled_from([(), (2,)]))
    array = np.full((SIZE, *tail), draw(st.integers(-9, 9)), np.float32)
    return draw(sparse(tail)), draw(sparse(tail)), array, draw(st.sampled_from([-2.0, 0.5, 3.0]))


@settings(max_examples=25)
@given(cases())
def test_sparse_rows_behave_like_the_dense_array(case):
    (a, A), (b, B), array, c = case
    array_j = jnp.asarray(array)
    pairs = {
        "dense": (a.dense(jnp.float32), A),
        "neg": ((-a).dense(jnp.float32), -A),
        "mul": ((a * c).dense(jnp.float32), A * c),
        "rmul": ((np.float32(c) * a).dense(jnp.float32), A * c),
        "mul by array": ((jnp.float32(c) * a).dense(jnp.float32), A * c),
        "sparse + sparse": ((a + b).dense(jnp.float32), A + B),
        "sparse - sparse": ((a - b).dense(jnp.float32), A - B),
        "sparse + dense": (a + array_j, A + array),
        "dense + sparse": (array_j + a, A + array),
        "sparse - dense": (a - array_j, A - array),
        "dense - sparse": (array_j - a, array - A),
        "trees.add": (trees.add([array_j], [a])[0], array + A),
        "trees.sub": (trees.sub([array_j], [a])[0], array - A),
        "trees.axpy": (trees.axpy(-c, [a], [array_j])[0], array - c * A),
        "trees.scale": (trees.scale(c, [a])[0].dense(jnp.float32), A * c),
        "trees.dense": (trees.dense({"k": a + b}, {"k": array_j})["k"], A + B),
    }
    for name, (actual, desired) in pairs.items():
        np.testing.assert_array_equal(actual, desired, err_msg=name)


def test_a_numpy_array_and_sparse_rows():
    """`__array_ufunc__ = None` leaves these operators to SparseRows."""
    rows = SparseRows(((jnp.array([1, 1]), jnp.ones(2)),), (3,))
    np.testing.assert_array_equal(np.ones(3, np.float32) + rows, [1.0, 3.0, 1.0])
    np.testing.assert_array_equal(np.ones(3, np.float32) - rows, [1.0, -1.0, 1.0])


def test_empty_rows_are_zero():
    none = SparseRows((), (4, 2))
    np.testing.assert_array_equal(none.dense(jnp.float32), np.zeros((4, 2)))
    empty = SparseRows(((jnp.zeros(0, jnp.int32), jnp.zeros((0, 2))),), (4, 2))
    np.testing.assert_array_equal(empty.dense(jnp.float32), np.zeros((4, 2)))
    assert none.dense(jnp.bfloat16).dtype == jnp.bfloat16


def test_a_sparse_step_touches_only_its_rows():
    """No array as tall as the data but the result of the scatter itself."""

    def step(x, indices, rows):
        return trees.axpy(-0.1, SparseRows(((indices, rows),), x.shape), x)

    jaxpr = jax.make_jaxpr(step)(jnp.ones(1000), jnp.arange(3), jnp.ones(3))
    tall = [e.primitive.name for e in jaxpr.eqns if any(v.aval.shape == (1000,) for v in e.outvars)]
    assert len(tall) == 1
    assert tall[0].startswith("scatter")


def test_take_and_add_rows_agree_with_indexing():
    array = jnp.arange(12.0).reshape(6, 2)
    for indices, places in ((jnp.array([4, 0, 4]), [4, 0, 4]), (jnp.array(2), [2, 3, 4])):
        rows = trees.take_rows(array, indices, 3)
        np.testing.assert_array_equal(rows, np.asarray(array)[places])
        expected = np.asarray(array).copy()
        np.add.at(expected, places, 10 * np.asarray(rows))
        np.testing.assert_array_equal(trees.add_rows(array, indices, 10 * rows), expected)


def mixed(values=(1.0, 2.0)):
    a, b = values
    rows = ((jnp.array([0, 0]), jnp.full(2, a, jnp.bfloat16)),)
    return {"f": jnp.full((2,), a, jnp.float32), "b": jnp.full((), b, jnp.bfloat16), "s": SparseRows(rows, (3,))}


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


@pytest.mark.parametrize("by", [0.5, np.float64(0.5), "array"])
def test_a_scale_takes_the_dtype_of_each_leaf(x64, by):
    by = jnp.asarray(0.5, jnp.float64) if by == "array" else by
    tree = mixed()
    assert dtypes(trees.scale(by, tree)) == dtypes(tree) == [jnp.bfloat16, jnp.float32, jnp.bfloat16]
    dense = trees.dense(tree, {"f": jnp.zeros(2), "b": jnp.zeros(()), "s": jnp.zeros(3, jnp.bfloat16)})
    out = trees.axpy(by, tree, dense)
    assert dtypes(out) == [jnp.bfloat16, jnp.float32, jnp.bfloat16]
    np.testing.assert_array_equal(out["s"].astype(jnp.float32), [3.0, 0.0, 0.0])
    assert jax.tree.leaves(trees.scale(by, [jnp.ones(2)]))[0].dtype == jnp.float64


def test_adding_rows_keeps_the_dtype_of_the_array(x64):
    wide = SparseRows(((jnp.array([1]), jnp.ones(1, jnp.float64)),), (3,))
    assert (jnp.zeros(3, jnp.float32) - wide).dtype == jnp.float32
    assert trees.dense({"a": wide}, {"a": jnp.zeros(3, jnp.bfloat16)})["a"].dtype == jnp.bfloat16


def test_dot_and_norm_run_over_all_leaves():
    a = {"u": jnp.array([1.0, 2.0]), "v": (jnp.array([[2.0], [-1.0]]), jnp.array(3.0))}
    b = jax.tree.map(lambda leaf: 2 * leaf + 1, a)
    flat_a, flat_b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (a, b))
    assert float(trees.dot(a, b)) == flat_a @ flat_b
    assert float(trees.norm(a)) == pytest.approx(np.linalg.norm(flat_a))


def test_where_finite_and_zeros():
    a, b = {"x": jnp.ones(2), "n": jnp.array(3)}, {"x": jnp.zeros(2), "n": jnp.array(4)}
    for condition, expected in ((True, a), (False, b)):
        out = trees.where(jnp.array(condition), a, b)
        assert jax.tree.all(jax.tree.map(lambda u, v: bool((u == v).all()), out, expected))
    assert bool(trees.all_finite(a))
    assert bool(trees.all_finite({"key": jax.random.key(0), "n": jnp.array(2**31 - 1)}))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not bool(trees.all_finite({"x": jnp.ones(2), "y": jnp.array([0.0, bad])}))
    assert float(trees.norm(trees.zeros_like(a)["x"])) == 0.0
