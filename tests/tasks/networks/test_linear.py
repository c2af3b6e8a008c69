"""The linear model: sparse rows in their padded form, and logits that do not depend on it."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from bilevel.tasks.networks.linear import all_logits, logits, padded

ROWS, WIDTH, CLASSES = 80, 30, 3
SPARSE = scipy.sparse.random(ROWS, WIDTH, 0.2, format="csr", random_state=np.random.default_rng(0), dtype=np.float32)


def test_padded_rows_are_the_rows():
    columns, values, dropped = padded(SPARSE, 1000)
    assert columns.dtype == np.int32 and values.dtype == np.float32
    assert columns.shape == values.shape == (ROWS, np.diff(SPARSE.indptr).max())
    full = np.zeros(SPARSE.shape, np.float32)
    np.add.at(full, (np.arange(len(full))[:, None], columns), values)
    np.testing.assert_array_equal(full, SPARSE.toarray())
    assert dropped == 0


def test_a_limit_keeps_the_largest_and_says_what_is_lost():
    matrix = np.array([[0, 3, 0, -4, 1], [0, 0, 0, 0, 0], [2, 0, 0, 0, 0]], np.float32)
    columns, values, dropped = padded(scipy.sparse.csr_matrix(matrix), 2)
    np.testing.assert_array_equal(columns, [[3, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(values, [[-4, 3], [0, 0], [2, 0]])
    assert dropped == pytest.approx(1 / 10)


def test_an_empty_matrix():
    columns, values, dropped = padded(scipy.sparse.csr_matrix((4, 7), dtype=np.float32), 5)
    assert columns.shape == (4, 1) and not columns.any() and not values.any() and dropped == 0


def test_a_repeated_column_counts_twice():
    rows = {"columns": jnp.array([[1, 1, 0]]), "values": jnp.array([[2.0, 3.0, 0.0]])}
    y = jnp.array([[7.0], [1.0], [9.0]])
    assert logits(y, rows).tolist() == [[0, 5]]


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("columns_of_y", [CLASSES, 1])
def test_logits_of_sparse_rows_are_those_of_dense_ones(columns_of_y, chunk):
    y = jnp.asarray(np.random.default_rng(1).normal(size=(WIDTH, columns_of_y)), jnp.float32)
    columns, values, _ = padded(SPARSE, WIDTH)
    expected = SPARSE.toarray() @ np.asarray(y)
    if columns_of_y == 1:  # two classes, of which the first has the logit zero
        expected = np.hstack([np.zeros_like(expected), expected])
    for rows in ({"features": SPARSE.toarray()}, {"columns": columns, "values": values}):
        np.testing.assert_allclose(logits(y, rows), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(all_logits(y, rows, chunk), expected, rtol=1e-5, atol=1e-5)
