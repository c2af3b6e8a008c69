"""Folds, units, compression and shapes of the tuning of penalties."""

import numpy as np
import pytest
import scipy.sparse

from bilevel.estimators import _penalties as penalties
from bilevel.estimators import _tuning as tuning


def table(n=60, d=4, folds=3, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.array([1, 10, 0.1, 1])[:d] + 3
    t = X[:, :1] + rng.normal(size=(n, 1))
    return tuning.new_table(X * scale, t, rng.integers(1, 4, size=n).astype(float), np.arange(n) % folds)


def test_folds_hold_each_row_out_once_and_each_class_evenly():
    labels = np.repeat([0, 1, 2, 3], [31, 10, 2, 1])
    folds = tuning.draw_folds(44, 5, np.random.RandomState(0), labels)
    assert folds[-1] == -1  # a class of one row
    assert folds[-3] != folds[-2]
    assert sorted(np.bincount(folds[:31])) == [6, 6, 6, 6, 7]
    assert (np.bincount(folds[31:41]) == 2).all()
    again = tuning.draw_folds(44, 5, np.random.RandomState(0), labels)
    np.testing.assert_array_equal(folds, again)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_share_of_each_class_is_held_out(share):
    labels = np.repeat([0, 1], [40, 20])
    folds = tuning.draw_folds(60, share, np.random.RandomState(0), labels)
    assert set(folds) == {0, -1}
    np.testing.assert_array_equal(np.bincount(labels[folds == 0]), [40 * share, 20 * share])


def test_compression_keeps_every_sum_of_squares():
    long, _ = tuning.in_units(table(n=200), penalties.SQUARED)
    short = tuning.compressed(long, penalties.SQUARED)
    assert len(short.X) == 3 * 6
    w, b = np.random.default_rng(1).normal(size=(4, 1)), 0.7
    for fold in range(3):
        sums = []
        for rows in (long, short):
            errors = rows.X @ w + rows.ones[:, None] * b - rows.targets
            sums.append(rows.weights[rows.folds == fold] @ errors[rows.folds == fold] ** 2)
        assert sums[0] == pytest.approx(sums[1])
    assert tuning.compressed(table(n=30), penalties.SQUARED).X.shape == (30, 4)  # would not shrink


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_units_do_not_matter(scale):
    """Though squares of either would not fit in single precision."""
    expected, found = (
        tuning.tune(table(scale=s), np.arange(4)[:, None], penalties.SQUARED, folds=3, spread=0.5, steps=4)
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(found.coefficients * scale, expected.coefficients, rtol=1e-3)
    np.testing.assert_allclose(found.penalties / scale / scale, expected.penalties, rtol=1e-2)


def test_sparse_columns_have_mean_square_one_in_their_units():
    X = scipy.sparse.random(50, 8, 0.4, random_state=0, format="csr")
    X.data *= 1e100
    before = X.copy()
    t = tuning.new_table(X, np.zeros((50, 1)), np.ones(50), np.arange(50) % 3)
    scaled, units = tuning.in_units(t, penalties.BINARY)
    np.testing.assert_allclose(scaled.X.power(2).mean(axis=0), np.ones((1, 8)))
    np.testing.assert_allclose((scaled.X.multiply(units.divisor[None, :])).toarray(), before.toarray())
    assert (before != X).nnz == 0  # the caller's is left alone


def test_a_row_of_weight_two_is_two_rows():
    once = table()
    repeat = once.weights.astype(int)
    twice = tuning.new_table(
        *(np.repeat(a, repeat, axis=0) for a in (once.X, once.targets)),
        np.ones(repeat.sum()),
        np.repeat(once.folds, repeat),
    )
    found = [
        tuning.tune(t, np.arange(4)[:, None], penalties.SQUARED, folds=3, spread=0.5, steps=0) for t in (once, twice)
    ]
    np.testing.assert_allclose(found[0].coefficients, found[1].coefficients, rtol=1e-3)


def test_shapes_are_rounded_up_by_an_eighth_at_most():
    assert tuning._rounded(3, 256) == 256
    assert tuning._rounded(1437, 256) == tuning._rounded(1438, 256)
    for size in range(257, 5000, 37):
        assert size <= tuning._rounded(size, 256) <= 1.125 * size
