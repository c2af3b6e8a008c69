"""Folds, units, compression and shapes of the tuning of penalties."""

import numpy as np
import pytest
import scipy.sparse

from bilevel.estimators import _penalties as penalties
from bilevel.estimators import _splits as splits
from bilevel.estimators import _tuning as tuning
from bilevel.estimators._units import in_units, new_table


def table(n=60, d=4, folds=3, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.array([1, 10, 0.1, 1])[:d] + 3
    t = X[:, :1] + rng.normal(size=(n, 1))
    return new_table(X * scale, t, rng.integers(1, 4, size=n).astype(float), *parts(np.arange(n) % folds))


def parts(folds):
    held_out = folds[:, None] == np.arange(folds.max() + 1)
    return 1.0 - held_out, held_out.astype(float)


def test_folds_hold_each_row_out_once_and_each_class_evenly():
    labels = np.repeat([0, 1, 2, 3], [31, 10, 2, 1])
    folds = splits.draw_folds(44, 5, np.random.RandomState(0), labels)
    assert folds[-1] == -1  # a class of one row
    assert folds[-3] != folds[-2]
    assert sorted(np.bincount(folds[:31])) == [6, 6, 6, 6, 7]
    assert (np.bincount(folds[31:41]) == 2).all()
    again = splits.draw_folds(44, 5, np.random.RandomState(0), labels)
    np.testing.assert_array_equal(folds, again)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_share_of_each_class_is_held_out(share):
    labels = np.repeat([0, 1], [40, 20])
    folds = splits.draw_folds(60, share, np.random.RandomState(0), labels)
    assert set(folds) == {0, -1}
    np.testing.assert_array_equal(np.bincount(labels[folds == 0]), [40 * share, 20 * share])


def test_compression_keeps_every_sum_of_squares():
    long, _ = in_units(table(n=200), penalties.SQUARED)
    short = tuning.compressed(long, penalties.SQUARED)
    assert len(short.X) == 3 * 6
    w, b = np.random.default_rng(1).normal(size=(4, 1)), 0.7
    for fold in range(3):
        sums = []
        for rows in (long, short):
            errors = rows.X @ w + rows.ones[:, None] * b - rows.targets
            held_out = rows.holds_out[:, fold] > 0
            sums.append(rows.weights[held_out] @ errors[held_out] ** 2)
        assert sums[0] == pytest.approx(sums[1])
    assert tuning.compressed(table(n=30), penalties.SQUARED).X.shape == (30, 4)  # would not shrink


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_units_do_not_matter(scale):
    """Though squares of either would not fit in single precision."""
    expected, found = (
        tuning.tune(table(scale=s), np.arange(4)[:, None], penalties.SQUARED, spread=0.5, steps=4) for s in (1.0, scale)
    )
    np.testing.assert_allclose(found.coefficients * scale, expected.coefficients, rtol=1e-3)
    np.testing.assert_allclose(found.scale, scale * expected.scale)
    np.testing.assert_allclose(found.penalties, expected.penalties, rtol=1e-2)


def test_sparse_columns_have_mean_zero_and_mean_square_one_in_their_units():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((50, 4)) < 0.4, rng.normal(size=(50, 4)), 0)
    dense[:, 1] += 5
    dense[:, 2] = 0.1
    weights, folds = rng.uniform(1, 2, 50), parts(np.arange(50) % 3)
    X = scipy.sparse.csr_matrix(1e100 * dense)
    before = X.copy()
    scaled, units = in_units(new_table(X, np.zeros((50, 1)), weights, *folds), penalties.BINARY)
    as_dense, expected = in_units(new_table(1e100 * dense, np.zeros((50, 1)), weights, *folds), penalties.BINARY)
    np.testing.assert_allclose(scaled.X.toarray() - units.offset, as_dense.X, atol=1e-12)
    np.testing.assert_allclose(scaled.weights @ as_dense.X, 0, atol=1e-12)
    np.testing.assert_allclose(scaled.weights @ as_dense.X**2 / 50, [1, 1, 0, 1], atol=1e-12)
    assert units.offset[1:3].tolist() == [0, 0] and units.offset[0] != 0  # two columns without zeros
    np.testing.assert_allclose(units.scale, expected.scale)
    np.testing.assert_allclose(units.divisor / units.scale, np.sqrt(weights @ (dense != 0) / weights.sum()))
    assert (before != X).nnz == 0  # the caller's is left alone


def test_a_row_that_several_splits_hold_out_judges_once():
    holds_out = np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 0]])
    made = new_table(np.ones((3, 1)), np.ones((3, 1)), np.array([1e-320, 2e-320, 3e-320]), 1 - holds_out, holds_out)
    np.testing.assert_allclose([made.total, made.held_out, made.judges], [3, 2, 1.5], rtol=1e-3)


def test_a_row_of_weight_two_is_two_rows():
    once = table()
    repeat = (once.weights / once.weights.min()).round().astype(int)
    twice = new_table(
        *(np.repeat(a, repeat, axis=0) for a in (once.X, once.targets)),
        np.ones(repeat.sum()),
        *(np.repeat(a, repeat, axis=0) for a in (once.trains, once.holds_out)),
    )
    found = [tuning.tune(t, np.arange(4)[:, None], penalties.SQUARED, spread=0.5, steps=0) for t in (once, twice)]
    np.testing.assert_allclose(found[0].coefficients, found[1].coefficients, rtol=1e-3)
    # its total is the number of rows
    share = len(once.X) / repeat.sum()
    np.testing.assert_allclose(found[0].penalties, share * found[1].penalties, rtol=1e-2)


def test_shapes_are_rounded_up_by_an_eighth_at_most():
    assert tuning._rounded(3, 256) == 256
    assert tuning._rounded(1437, 256) == tuning._rounded(1438, 256)
    for size in range(257, 5000, 37):
        assert size <= tuning._rounded(size, 256) <= 1.125 * size
