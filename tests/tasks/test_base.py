"""The parts that tasks share: splits of rows by group, and data sets given by name or as objects."""

import jax
import numpy as np
import pytest

from bilevel import datasets, tasks
from bilevel.tasks._base import by_group


def test_parts_have_their_sizes_and_share_no_group():
    groups = np.random.default_rng(1).integers(0, 30, 100)
    sizes = {"a": 20, "b": 31, "c": 7}
    parts = by_group(groups, sizes, np.random.default_rng(0))
    assert {name: len(part) for name, part in parts.items()} == sizes
    assert len(np.unique(np.concatenate(list(parts.values())))) == 58
    held = [set(groups[part].tolist()) for part in parts.values()]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    other = by_group(groups, sizes, np.random.default_rng(5))
    assert set(other["a"].tolist()) != set(parts["a"].tolist())


def test_single_rows_may_be_used_to_the_last():
    parts = by_group(np.arange(10), {"a": 4, "b": 6}, np.random.default_rng(0))
    assert sorted(np.concatenate([parts["a"], parts["b"]])) == list(range(10))
    with pytest.raises(ValueError, match=r"b: got 7, but 6 of 10 rows are left after the other parts \(a 4\)"):
        by_group(np.arange(10), {"a": 4, "b": 7}, np.random.default_rng(0))


def test_a_task_says_what_it_read():
    assert tasks.cleaning("digits").dataset == "digits: 1,797 rows in 10 classes"
    made_up = tasks.weight_decay("made-up", 20, train=20, test=20, batch_size=None).dataset
    assert made_up.startswith("made-up: 4,800 rows in 2 classes (books ") and made_up.count(",") >= 8
    own = datasets.Dataset(np.zeros((50, 3), np.float32), np.zeros(50, np.int32), classes=2, train_rows=50)
    assert tasks.regularization(own, 10, train=10, batch_size=None).dataset == "own: 50 rows in 2 classes"
    assert tasks.quadratic().dataset == ""


def test_a_set_of_ones_own_is_as_good_as_its_name():
    named, own = tasks.cleaning("digits"), tasks.cleaning(datasets.load("digits"))
    jax.tree.map(np.testing.assert_array_equal, (named.problem, vars(named.data)), (own.problem, vars(own.data)))


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (tasks.cleaning, "a datasets.Dataset or a datasets.TextDataset"),
        (tasks.regularization, "a datasets.Dataset or a datasets.SparseDataset"),
        (tasks.weight_decay, "a datasets.TextDataset"),
        (tasks.representation, "a datasets.TextDataset"),
        (tasks.fewshot, "a datasets.FewshotDataset"),
    ],
)
def test_what_is_no_data_set_is_refused(task, wanted):
    with pytest.raises(TypeError, match=f"^dataset: got ndarray; pass the name of a data set or {wanted}$"):
        task(np.ones((3, 2)))
    with pytest.raises(ValueError, match="^dataset: 'digit' is unknown"):
        task("digit")
