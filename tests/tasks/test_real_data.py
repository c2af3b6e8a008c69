"""The papers' tasks on the papers' data: what is read of each set, and that a few steps learn from it."""

import os

import jax
import numpy as np
import pytest

import bilevel as bl
from bilevel import datasets, tasks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the data sets in $BILEVEL_DATA"),
]
WORDS = {"vocabulary": 5000, "length": 40, "embedding": 50, "hidden": (32, 16), "vectors": "corpus", "frozen": True}


def need(name):
    if not datasets.find(name):
        pytest.skip(f"no {name} in BILEVEL_DATA or in the cache")
    return name


def losses(task, solver, steps, metric="upper loss"):
    """At the start and at the end."""
    options = {"key": jax.random.key(0), "metrics": task.metrics, "every": steps, "signs": False}
    return bl.solve(task.problem, solver, task.x, task.y, steps=steps, **options).history[metric]


def test_penalties_on_newsgroups():
    task = tasks.regularization(need("newsgroups"), 1000, train=4000, batch_size=200)
    assert task.dataset == "newsgroups: 18,846 rows in 20 classes" and task.data.test["labels"].shape == (7532,)
    found = losses(task, bl.StocBiO(10.0, 100.0, 10, 10, 10.0), 20)
    assert found[0] == pytest.approx(np.log(20), rel=1e-3) and found[-1] < 1.6


@pytest.mark.parametrize("ways", [5, 20])
def test_few_shots_on_fc100(ways):
    task = tasks.fewshot(need("fc100"), ways, 5, tasks=2, filters=8, test_tasks=2)
    assert task.dataset == "fc100: 60 training, 20 validation and 20 test classes of 600 images (32×32×3)"
    assert task.problem.draw(jax.random.key(0)).lower.data.arrays["images"].shape == (2, 5 * ways, 32, 32, 3)
    assert np.isfinite(losses(task, bl.ITDBiO(0.1, 0.1, inner_steps=5), 3, "test loss")).all()


def test_cleaning_of_a_part_of_sentiment140():
    settings = {"train": 4000, "test": 1000, "noise": "flipped", "model_settings": WORDS}
    task = tasks.cleaning(need("sentiment140-part"), 0.3, 500, "rnn", **settings)
    assert task.dataset == "sentiment140-part: 100,359 rows in 2 classes"
    found = losses(task, bl.SOBA(upper_step=0.1, lower_step=0.3, adjoint_step=0.05), 1000)
    assert found[-1] < np.log(2) < found[0]


def test_fresh_tasks_of_reviews():
    settings = {"tasks_per_step": 20, "fresh": True, "support": 20, "query": 20, "batch_size": None, "held_out": 1}
    task = tasks.representation(
        need("amazon-reviews"), tasks=20, **settings, model_settings=WORDS | {"embedding": 100, "hidden": 32}
    )
    assert task.dataset.startswith("amazon-reviews: 8,000 rows in 2 classes (books 2,000, dvd 2,000, ")
    found = losses(task, bl.SOBA(upper_step=0.3, lower_step=0.1, adjoint_step=0.1), 300)
    assert found[-1] < np.log(2) < found[0]
