"""Rows and Blocks: what is drawn, and how often."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import bilevel as bl

KEY = jax.random.key(3)
ARRAYS = {"a": np.arange(24.0).reshape(12, 2), "b": (np.arange(12), np.arange(12) % 2 == 0)}


def draws(source, size, n):
    """`n` independent batches' indices."""
    return np.asarray(jax.jit(jax.vmap(lambda key: source.draw(key, size).indices))(jax.random.split(KEY, n)))


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def test_rows_are_uniform():
    counts = np.bincount(draws(bl.Rows(np.zeros(10)), 6, 1000).ravel(), minlength=10)
    assert counts.size == 10
    assert chi_square(counts) < 27.9  # 0.999 quantile, 9 degrees of freedom


def test_the_rows_of_a_batch_are_independent():
    pairs = draws(bl.Rows(np.zeros(4)), 3, 2000)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        counts = np.bincount(4 * pairs[:, i] + pairs[:, j], minlength=16)
        assert chi_square(counts) < 37.7  # 0.999 quantile, 15 degrees of freedom


def test_blocks_are_uniform_contiguous_and_a_partition():
    source = bl.Blocks(np.arange(12))
    starts = draws(source, 3, 2000)
    assert starts.shape == (2000,)
    assert set(starts) == {0, 3, 6, 9}
    assert chi_square(np.bincount(starts // 3, minlength=4)) < 16.3  # 0.999 quantile, 3 degrees of freedom
    blocks = {int(s): np.asarray(source.take(jnp.asarray(s), 3)) for s in set(starts)}
    for start, block in blocks.items():
        np.testing.assert_array_equal(block, np.arange(start, start + 3))
    assert sorted(np.concatenate(list(blocks.values()))) == list(range(12))


def places(batch):
    indices = np.asarray(batch.indices)
    return indices if indices.ndim else np.arange(indices, indices + batch.size)


@pytest.mark.parametrize("source", [bl.Rows, bl.Blocks])
def test_a_batch_is_numpy_indexing(source):
    batch = jax.jit(lambda key: source(ARRAYS).draw(key, 4))(KEY)
    where = places(batch)
    assert batch.size == len(where) == 4
    assert jax.tree.structure(batch.rows) == jax.tree.structure(ARRAYS)
    for rows, array in zip(jax.tree.leaves(batch.rows), jax.tree.leaves(ARRAYS), strict=True):
        np.testing.assert_array_equal(rows, array[where])
    per_row = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.testing.assert_array_equal(batch.of(jnp.asarray(per_row)), per_row[where])


def test_a_full_batch_leaves_arrays_alone():
    batch = bl.Batch(None, None, 12)
    array = jnp.ones(12)
    assert batch.of(array) is array


def test_another_key_is_another_batch_and_the_same_key_the_same():
    source = bl.Rows(np.arange(1000))
    first, again, other = (np.asarray(source.draw(jax.random.key(seed), 8).indices) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_level_draws_its_batch_size_or_everything():
    def loss(x, y, batch):
        return jnp.mean(batch) * x * y

    data = np.arange(6.0)
    assert bl.Level(loss, data=data, batch_size=2).draw(KEY).rows.shape == (2,)
    assert bl.Level(loss, data=data, batch_size=2).draw(KEY, 3).rows.shape == (3,)
    full = bl.Level(loss, data=data).draw(KEY)
    assert (full.size, full.indices) == (6, None)
    np.testing.assert_array_equal(full.rows, data)
    assert bl.Level(loss).draw(KEY).rows is None


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({}, ValueError, "data: got a pytree without arrays"),
        (np.float32(1.0), ValueError, "data: got a scalar"),
        ({"a": np.ones(3), "b": np.ones((4, 2))}, ValueError, r"data: leading axes differ \(\(3,\), \(4, 2\)\)"),
        (np.ones((0, 2)), ValueError, "data: got zero rows"),
        (np.array(["x", "y"]), TypeError, "data: got an array of dtype <U1"),
        (np.array([1, None]), TypeError, "data: got an array of dtype object"),
        (np.array([1.0, np.nan]), ValueError, "data: contains NaN"),
        (jnp.array([1.0, jnp.inf]), ValueError, "data: contains NaN or infinity"),
        (jnp.array([1.0, jnp.nan], jnp.bfloat16), ValueError, "data: contains NaN or infinity"),
    ],
)
@pytest.mark.parametrize("source", [bl.Rows, bl.Blocks])
def test_bad_data(source, arrays, error, message, compiled):
    with pytest.raises(error, match=message):
        source(arrays)
    assert not compiled


def test_the_sizes_that_divide_many_rows_are_found_at_once():
    rows = np.zeros(2 * 10_000_019, np.int8)  # twice a prime
    begin = time.process_time()
    with pytest.raises(ValueError, match="use 2 or 10000019, drop 6 rows"):
        bl.Blocks(rows).check(16)
    with pytest.raises(ValueError, match="use 2 or 20000038"):
        bl.Blocks(rows[:20_000_038], strata=2).check(16)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("source", "size", "message"),
    [
        (bl.Rows, 13, "batch_size: got 13, but the data have 12 rows"),
        (bl.Blocks, 13, "batch_size: got 13, but the data have 12 rows"),
        (bl.Blocks, 5, "batch_size: 12 rows do not divide into blocks of 5; use 4 or 6, drop 2 rows"),
        (bl.Blocks, 7, "use 6 or 12, drop 5 rows"),
    ],
)
def test_bad_batch_sizes(source, size, message, compiled):
    for call in (lambda s: s.check(size), lambda s: s.draw(KEY, size)):
        with pytest.raises(ValueError, match=message):
            call(source(np.arange(12.0)))
    assert not compiled


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([1.0, 1e39]), "data: contains NaN or infinity as float32"),
        (np.array([1, 2**40 + 7]), "data: integers do not fit in int32"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "data: got an array of dtype datetime64"),
    ],
)
def test_what_the_device_cannot_hold_is_refused(rows, message):
    with pytest.raises((ValueError, TypeError), match=message):
        bl.Rows(rows)


# data that are no arrays of rows


class Loader:
    """What a PyTorch user passes."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return np.ones(2)


MASKED = np.ma.masked_array(np.ones(3), [True, False, False])
NO_ROWS = {
    "SciPy matrix": (scipy.sparse.eye(30, format="csr"), r"data: got a sparse matrix .*\.toarray"),
    "SciPy array": ({"X": scipy.sparse.coo_array(np.eye(3))}, r"data\['X'\]: got a sparse matrix"),
    "BCOO": (BCOO.fromdense(jnp.eye(3)), r"data: got a sparse matrix .*BCOO.*todense"),
    "BCOO beside": ({"X": BCOO.fromdense(jnp.eye(3)), "y": np.ones(3)}, r"data\['X'\]: got a sparse matrix"),
    "generator": ((np.ones(3) for _ in range(2)), "data: got a builtins.generator, which gives its rows one after"),
    "iterator": (iter([np.ones(3)]), "one after the other; pass arrays"),
    "loader": (Loader(), r"data: got a .*Loader; pass arrays"),
    "function": (jnp.ones, "data: got a .*; pass arrays"),
    "set": ({1.0, 2.0}, "data: got a builtins.set; pass arrays"),
    "text": ("abc", "data: got an array of dtype <U3; encode"),
    "masked": (MASKED, "data: got a masked array, whose mask would be lost"),
    "masked beside": ({"a": np.ones(3), "b": MASKED}, r"data\['b'\]: got a masked array"),
    "records": (np.zeros(3, [("a", float)]), "data: got an array of dtype .*; encode"),
    "void": (np.zeros(3, "V4"), "data: got an array of dtype .*; encode"),
    "dates": (np.zeros(3, "M8[D]"), "data: got an array of dtype .*; encode"),
    "long double": (np.ones(3, np.longdouble), "data: got an array of dtype float128, which JAX does not have"),
    "keys of two types": ({1: np.ones(3), "a": np.ones(3)}, "data: got a dictionary whose keys cannot be sorted"),
}


@pytest.mark.parametrize("name", NO_ROWS)
def test_data_that_are_no_arrays_of_rows(name, compiled):
    data, message = NO_ROWS[name]
    with pytest.raises(TypeError, match=message):
        bl.Level(lambda x, y, batch: 0.0, data, 2)
    assert not compiled


def test_rows_of_other_kinds():
    """Big-endian numbers, a masked array without a masked entry, a pandas table, and one random key per row."""
    keys = jax.random.split(KEY, 3)
    data = {"a": np.arange(3, dtype=">f4"), "b": np.ma.masked_array(np.ones(3)), "c": pd.Series([1, 2, 3]), "key": keys}
    rows = jax.jit(lambda source, key: source.draw(key, 2).rows)(bl.Rows(data), KEY)
    assert rows["key"].dtype == keys.dtype
    taken = np.asarray(rows["a"]).astype(int)
    np.testing.assert_array_equal(rows["c"], taken + 1)
    np.testing.assert_array_equal(jax.random.key_data(rows["key"]), jax.random.key_data(keys[taken]))


def test_the_users_memory_stays_the_users():
    memory = np.ones(10_016, np.float32)
    first = -memory.ctypes.data % 64 // 4  # JAX would share memory that begins here
    mine = memory[first : first + 10_000]
    rows = bl.Rows({"a": mine})
    mine[0] = 7
    assert rows.arrays["a"][0] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_rows_cost_one_copy():
    code = """
import resource
import numpy as np
import bilevel as bl

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

bl.Rows({"a": np.ones((10, 2), np.float32)})
array = np.ones((1_000_000, 64), np.float32)
before = peak()
rows = bl.Rows({"a": array})
print((peak() - before) / array.nbytes)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(found.stdout) < 1.2
