"""The digits that come with scikit-learn."""

import numpy as np
import sklearn.datasets

from bilevel import datasets


def test_digits_need_no_network(empty_world):
    digits = datasets.load("digits")
    assert digits.features.shape == (1797, 64)
    assert (digits.features.dtype, digits.labels.dtype) == (np.float32, np.int32)
    assert (digits.features.min(), digits.features.max()) == (0.0, 1.0)
    assert digits.train_rows == 1797
    np.testing.assert_array_equal(np.unique(digits.labels), range(digits.classes))
    np.testing.assert_array_equal(digits.features * 16, sklearn.datasets.load_digits().data)
