"""Reference rows: their training rows and their scores."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bilevel import tasks
from bilevel.compare import references, settings


@pytest.fixture(scope="module")
def digits():
    return settings.make_task("cleaning", 0, {})


def small_task():
    """Two classes told apart by the sign of one feature; half of the training labels of class 0 say 1."""
    features = np.array([[-2.0], [-1.9], [-1.8], [-1.7], [1.7], [1.8]])
    true = np.array([0, 0, 0, 0, 1, 1])
    noisy = np.array([0, 1, 1, 1, 1, 1])
    data = SimpleNamespace(
        features=features,
        noisy_labels=noisy,
        true_labels=true,
        wrong=noisy != true,
        trusted_features=np.array([[-1.0], [1.0]]),
        trusted_labels=np.array([0, 1]),
        test_features=np.array([[-1.5], [-0.1], [0.1], [1.5]]),
        test_labels=np.array([0, 0, 1, 1]),
    )
    return SimpleNamespace(data=data)


@pytest.mark.parametrize(
    ("name", "labels", "first"),
    [
        ("noisy labels", [0, 1, 1, 1, 1, 1], -2.0),
        ("trusted alone", [0, 1], -1.0),
        ("noisy + trusted", [0, 1, 1, 1, 1, 1, 0, 1], -2.0),
        ("true labels (ceiling)", [0, 1, 1], -2.0),
    ],
)
def test_rows_that_each_trains_on(name, labels, first):
    features, got = references.training_rows(small_task(), name)
    assert got.tolist() == labels
    assert features[0, 0] == first
    assert len(features) == len(labels)


def test_unknown_row():
    with pytest.raises(ValueError, match="'trusted' is unknown"):
        references.training_rows(small_task(), "trusted")


def test_scores_are_test_accuracy():
    strengths = dict.fromkeys([*references.ATTAINABLE, references.CEILING], 1.0)
    scores = references.references("cleaning", small_task(), strengths)
    assert scores["trusted alone"] == 1.0
    assert scores["noisy labels"] == 0.5  # it calls everything class 1 near zero and beyond
    assert list(scores) == list(strengths)


def test_a_task_without_reference_rows_has_none():
    assert references.references("quadratic", settings.make_task("quadratic", 0, {})) == {}


def test_digits_leave_room_for_a_gain(digits):
    """The demo's premise: plain training is far from hopeless, and far from the ceiling."""
    scores = references.references("cleaning", digits)
    assert all(scores[name] > 0.8 for name in references.ATTAINABLE)
    assert max(scores[name] for name in references.ATTAINABLE) < scores[references.CEILING] - 0.02


def test_no_row_looks_at_the_test_labels(digits):
    data = dataclasses.replace(digits.data, test_labels=1 - digits.data.test_labels)
    assert references.references("cleaning", SimpleNamespace(data=data), {"trusted alone": 1.0})["trusted alone"] < 0.1
    for name in (*references.ATTAINABLE, references.CEILING):
        for ours, theirs in zip(
            references.training_rows(digits, name),
            references.training_rows(SimpleNamespace(data=data), name),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_texts_have_no_reference_rows():
    settings_ = {"vocabulary": 20, "length": 3, "embedding": 2, "hidden": 2}
    task = tasks.cleaning("made-up", model="rnn", train=20, trusted=10, batch_size=None, model_settings=settings_)
    assert references.references("cleaning", task) == {}
