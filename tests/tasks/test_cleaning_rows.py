"""The rows of hyper-cleaning: which ones each level gets, and how labels go wrong."""

import dataclasses

import jax
import numpy as np
import pytest
from problems import tagged_set, tags

from bilevel import datasets, tasks
from bilevel.tasks import _cleaning_rows as cleaning_rows

ROWS = 400
TAGGED = tagged_set(ROWS)


def test_rows_are_disjoint_and_keep_their_labels():
    data = tasks.cleaning(TAGGED, trusted=30).data
    parts = [tags(f) for f in (data.features, data.trusted_features, data.test_features)]
    assert [len(part) for part in parts] == [250, 30, 120]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(ROWS))
    assert (np.sort(parts[2]) != np.arange(120)).any()  # drawn, not cut off
    for part, labels in zip(parts, (data.true_labels, data.trusted_labels, data.test_labels), strict=True):
        np.testing.assert_array_equal(labels, TAGGED.labels[part])


def test_everything_is_drawn_once_per_seed():
    a, b, other = (tasks.cleaning(TAGGED, trusted=30, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, (a.problem, vars(a.data)), (b.problem, vars(b.data)))
    assert (tags(a.data.test_features) != tags(other.data.test_features)).any()
    assert (a.data.wrong != other.data.wrong).mean() > 0.4  # 0.5 for independent noise, 0.2 for the same rows redrawn


@pytest.mark.parametrize("corruption", [0.0, 0.3, 0.6, 1.0])
def test_labels_are_redrawn_from_all_classes(corruption):
    data = tasks.cleaning("digits", corruption, seed=4).data
    n, wrong = len(data.true_labels), data.wrong
    expected = corruption * 0.9  # one redrawn label in ten is right by chance
    assert abs(wrong.mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)
    assert data.noisy_labels.dtype == np.int32


def test_redrawn_labels_are_uniform_and_independent_of_the_true_ones():
    data = tasks.cleaning("digits", corruption=1.0, seed=4).data
    for drawn in (data.noisy_labels, (data.noisy_labels - data.true_labels) % 10):
        counts = np.bincount(drawn, minlength=10)
        expected = len(drawn) / 10
        assert ((counts - expected) ** 2 / expected).sum() < 27.9  # 0.999 quantile, 9 degrees of freedom


def test_train_limits_the_rows():
    every, some = tasks.cleaning(TAGGED, trusted=30).data, tasks.cleaning(TAGGED, trusted=30, train=100).data
    np.testing.assert_array_equal(some.features, every.features[:100])
    np.testing.assert_array_equal(some.test_features, every.test_features)


def test_a_validation_split_never_sees_the_test_rows():
    test, validation = (tasks.cleaning(TAGGED, trusted=30, seed=7, split=split) for split in ("test", "validation"))
    forbidden = tags(test.data.test_features)
    seen = [validation.data.features, validation.data.trusted_features, validation.data.test_features]
    seen = [tags(part) for part in seen]
    assert [len(part) for part in seen] == [166, 30, 84]  # 30 % of the 280 that remain
    np.testing.assert_array_equal(np.sort(np.concatenate([*seen, forbidden])), np.arange(ROWS))

    features, labels = TAGGED.features.copy(), TAGGED.labels.copy()
    features[forbidden], labels[forbidden] = np.nan, (labels[forbidden] + 1) % 4
    poisoned = dataclasses.replace(TAGGED, features=features, labels=labels)
    again = tasks.cleaning(poisoned, trusted=30, seed=7, split="validation")
    jax.tree.map(
        np.testing.assert_array_equal, (again.problem, vars(again.data)), (validation.problem, vars(validation.data))
    )


def test_pooled_images_are_means_of_pixels():
    images = np.arange(2 * 16, dtype=np.float32).reshape(2, 16)
    by_hand = images.reshape(2, 4, 4)
    expected = [[by_hand[i, r : r + 2, c : c + 2].mean() for r in (0, 2) for c in (0, 2)] for i in range(2)]
    np.testing.assert_allclose(cleaning_rows.pooled(images, 2), expected)
    with pytest.raises(ValueError, match="pool=3, which does not divide the images' side of 4"):
        cleaning_rows.pooled(images, 3)
    assert cleaning_rows.pooled(images, 1) is images


def test_flipped_labels_are_never_the_true_ones_and_redrawn_ones_sometimes():
    flipped = tasks.cleaning("digits", corruption=1.0, noise="flipped", seed=3).data
    assert flipped.wrong.all()
    counts = np.bincount((np.asarray(flipped.noisy_labels) - np.asarray(flipped.true_labels)) % 10, minlength=10)
    assert counts[0] == 0 and (counts[1:] > 80).all()  # of 1158 rows, about 129 each
    assert 0.86 < tasks.cleaning("digits", corruption=1.0, seed=3).data.wrong.mean() < 0.94


@pytest.mark.parametrize("split", ["test", "validation"])
def test_rows_of_one_group_are_in_one_part(split):
    groups = np.repeat(np.arange(60), 3)
    sizes = cleaning_rows.Sizes(train=None, trusted=20, test=None, test_fraction=0.3)
    parts = cleaning_rows._parts(180, groups, sizes, split, np.random.default_rng(0))
    assert [len(part) for part in parts] in ([54, 20, 105], [38, 20, 66])
    assert sum(len(set(part)) for part in parts) == len(set(np.concatenate(parts)))
    owners = [set(groups[part]) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners))
    in_a_row = np.mean(np.diff(groups[parts[2]]) == 0)
    assert in_a_row < 0.1  # shuffled: 2/3 where the rows of a group follow each other


def test_texts_become_tokens_and_the_vocabulary_knows_the_training_rows_alone():
    texts = tuple(f"Word{i}, the" for i in range(40))
    zeros, rows = np.zeros(40, np.int32), np.arange(40, dtype=np.int32)
    made = datasets.TextDataset(texts, rows % 2, zeros, ("all",), rows, 2)
    settings = {"vocabulary": 60, "length": 3, "embedding": 2, "hidden": 2}
    task = tasks.cleaning(made, 0.0, 10, "rnn", test=5, batch_size=None, model_settings=settings)
    data = task.data
    word_of = {token: word for word, token in data.vocabulary.items()}
    the = data.vocabulary["the"]
    for row, label in zip(np.asarray(data.features), np.asarray(data.true_labels), strict=True):
        assert int(word_of[row[0]].removeprefix("word")) % 2 == label
        assert row[1:].tolist() == [the, 0]
    for features in (data.trusted_features, data.test_features):
        np.testing.assert_array_equal(features, np.tile([1, the, 0], (len(features), 1)))
    assert (len(data.features), len(data.test_features)) == (18, 5)
    assert task.y.vectors.shape == (60, 2)
