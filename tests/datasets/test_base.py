"""A user's own data sets: inconsistent parts are refused."""

import numpy as np
import pytest

from bilevel import datasets

FEATURES, LABELS = np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32)
TEXTS = dict(texts=("a", "b", "c"), labels=LABELS, domains=LABELS, domain_names=("x", "y"), groups=LABELS, classes=2)


def test_a_set_needs_no_card():
    assert datasets.Dataset(FEATURES, LABELS, 2, 3).card.name == "own"
    assert datasets.TextDataset(**TEXTS).card.name == "own"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:2], "labels: got 2 for 3 rows"),
        (LABELS + 1, "labels: got 1 to 2; pass .* from 0 to 1"),
        (LABELS - 1, "-1"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    for make in (datasets.Dataset, datasets.SparseDataset):
        with pytest.raises(ValueError, match=message):
            make(FEATURES, labels, 2, 3)
    with pytest.raises(ValueError, match=message):
        datasets.TextDataset(**TEXTS | dict(labels=labels))


@pytest.mark.parametrize("name", ["domains", "groups"])
def test_texts_need_a_domain_and_a_group_each(name):
    with pytest.raises(ValueError, match=f"{name}: got 2 for 3 texts; pass one per text"):
        datasets.TextDataset(**TEXTS | {name: LABELS[:2]})
