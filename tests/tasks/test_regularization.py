"""Regularization: what is drawn, dense and sparse rows alike, what is measured, and what is never allocated."""

import os
import sys

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import bilevel as bl
from bilevel import datasets, oracles, tasks
from bilevel.tasks._regularization import cross_entropy, penalized_loss, penalty

TRAIN, TEST, WIDTH, CLASSES = 60, 20, 30, 3


def sparse_set(train=TRAIN, test=TEST, width=WIDTH, density=0.2, seed=0):
    """Each row's feature 0 is its number, so that it can be told."""
    rng = np.random.default_rng(seed)
    features = scipy.sparse.random(train + test, width, density, random_state=rng, dtype=np.float32).tolil()
    features[:, 0] = np.arange(1, train + test + 1)[:, None] / 1000
    labels = np.argmax(features @ rng.normal(size=(width, CLASSES)), axis=1).astype(np.int32)
    return datasets.SparseDataset(features.tocsr(), labels, CLASSES, train)


SPARSE = sparse_set()


def make(**settings):
    return tasks.regularization(**{"dataset": SPARSE, "train": 24, "validation": 20, "batch_size": 8, **settings})


def numbers(rows):
    """The rows' numbers, from their feature 0."""
    at = np.asarray(rows["columns"]) == 0
    return np.rint(1000 * (np.asarray(rows["values"]) * at).sum(1)).astype(int) - 1


def dense(rows):
    full = np.zeros((len(rows["labels"]), WIDTH + 1), np.float32)
    np.add.at(full, (np.arange(len(full))[:, None], np.asarray(rows["columns"])), np.asarray(rows["values"]))
    return {"features": jnp.asarray(full), "labels": rows["labels"]}


def point(task, seed=3):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in (task.x, task.y, task.y)]


def close(actual, desired, tolerance=1e-5):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance * np.abs(desired).max())


# What is drawn


def test_rows_keep_their_labels_and_the_test_rows_are_the_published_ones():
    data = make().data
    parts = {name: numbers(getattr(data, name)) for name in ("train", "validation", "test")}
    np.testing.assert_array_equal(parts["test"], np.arange(TRAIN, TRAIN + TEST))
    chosen = np.concatenate([parts["train"], parts["validation"]])
    assert len(np.unique(chosen)) == 44 and chosen.max() < TRAIN
    for name, rows in parts.items():
        np.testing.assert_array_equal(getattr(data, name)["labels"], SPARSE.labels[rows])
        expected = np.hstack([SPARSE.features[rows].toarray(), np.ones((len(rows), 1), np.float32)])
        np.testing.assert_array_equal(dense(getattr(data, name))["features"], expected)


def test_a_validation_split_of_published_rows():
    data = make(split="validation", test_fraction=0.25).data
    parts = [numbers(getattr(data, name)) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [24, 20, 15]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == 59 and together.max() < TRAIN


@pytest.mark.parametrize("split", ["test", "validation"])
def test_dense_rows_are_disjoint(split):
    features = np.arange(100, dtype=np.float32)[:, None] / 100
    dataset = datasets.Dataset(features, (np.arange(100) % 5).astype(np.int32), 5, 100)
    sizes = {"test": 30, "validation": 21}
    data = tasks.regularization(dataset, validation=20, train=25, batch_size=5, split=split).data
    parts = [np.asarray(part["features"]) for part in (data.train, data.validation, data.test)]
    rows = [np.rint(part[:, 0] * 100).astype(int) for part in parts]
    assert [len(part) for part in rows] == [25, 20, sizes[split]]
    assert len(np.unique(np.concatenate(rows))) == sum(map(len, rows))
    assert all((part[:, 1] == 1).all() for part in parts)
    np.testing.assert_array_equal(data.train["labels"], rows[0] % 5)


# What is differentiated: the same as of dense rows


def test_oracles_of_sparse_rows_are_those_of_dense_ones(x64):
    task = make(batch_size=None)
    x, y, v = (leaf.astype(jnp.float64) for leaf in point(task))
    lower = bl.Level(penalized_loss, data=dense(task.data.train))
    upper = bl.Level(cross_entropy, data=dense(task.data.validation))

    @eqx.filter_jit
    def everything(lower, upper):
        products = oracles.lower_products(lower, x, y, v, lower.all_rows())
        return *products, oracles.upper_gradients(upper, x, y, upper.all_rows())[1]

    expected = everything(lower, upper)
    for actual, desired in zip(everything(task.problem.lower, task.problem.upper), expected, strict=True):
        close(actual, desired, 1e-12)


def test_the_penalty_is_the_mean_over_features_and_classes(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=7), rng.normal(size=(7, 3))
    assert float(penalty(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(np.mean(np.exp(x)[:, None] * y**2))


def test_two_classes_are_logistic_regression_with_the_penalty_of_benchmark_bilevel_at_a_shifted_x(x64):
    """½ Σ exp(x_j) y_j², where x is that of the task minus ln(d/2)."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3)).astype(np.float32)
    dataset = datasets.Dataset(features, (features[:, 0] > 0).astype(np.int32), 2, 40)
    task = tasks.regularization(dataset, validation=10, train=15, batch_size=None, bound=None)
    x, y = jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal(size=(4, 1)))
    assert task.y.shape == (4, 1)
    for level, rows in ((task.problem.upper, task.data.validation), (task.problem.lower, task.data.train)):
        signs = 2 * np.asarray(rows["labels"]) - 1
        expected = np.mean(np.logaddexp(0, -signs * (np.asarray(rows["features"]) @ np.asarray(y)[:, 0])))
        if level is task.problem.lower:
            expected += 0.5 * np.sum(np.exp(np.asarray(x)) * np.asarray(y)[:, 0] ** 2)
        assert float(level.loss(x + np.log(4 / 2), y, level.all_rows().rows)) == pytest.approx(expected)
    assert float(jnp.max(task.problem.project(jnp.array([1e3])))) == 1e3  # no box


def test_test_rows_are_drawn_where_none_are_published():
    data = make(dataset=sparse_set(train=TRAIN, test=0), test_fraction=0.25).data
    parts = [numbers(getattr(data, name)) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [24, 20, 15]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == 59 and parts[2].min() < TRAIN - 15


# What is never allocated


def sizes_within(jaxpr):
    """The number of entries of every array in a program, inner ones included."""
    for equation in jaxpr.eqns:
        yield from (getattr(variable.aval, "size", 0) for variable in (*equation.invars, *equation.outvars))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes_within(inner)


@pytest.mark.parametrize("oracle", ["G", "GHJ", "F"])
def test_nothing_of_rows_by_features_is_allocated(oracle):
    features, rows, entries = 20_000, 300, 12
    rng = np.random.default_rng(0)
    batch = {
        "columns": jnp.asarray(rng.integers(0, features, (rows, entries)), jnp.int32),
        "values": jnp.ones((rows, entries)),
        "labels": jnp.asarray(rng.integers(0, CLASSES, rows), jnp.int32),
    }
    level = bl.Level(penalized_loss if oracle != "F" else cross_entropy, data=batch)
    x, y = jnp.zeros(features), jnp.zeros((features, CLASSES))
    program = {
        "G": lambda x, y: oracles.gradient_y(level, x, y, level.all_rows()),
        "GHJ": lambda x, y: oracles.lower_products(level, x, y, y, level.all_rows()),
        "F": lambda x, y: oracles.upper_gradients(level, x, y, level.all_rows())[1],
    }[oracle]
    largest = max(sizes_within(jax.make_jaxpr(program)(x, y).jaxpr))
    assert largest == y.size  # 60,000, of the 6,000,000 that dense rows would take
    memory = jax.jit(program).lower(x, y).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * rows * features / 10


# What is measured


def test_metrics_of_sparse_rows(monkeypatch):
    monkeypatch.setattr(sys.modules[penalty.__module__], "_CHUNK", 7)  # leaves a rest
    task = make()
    x, y, _ = point(task)
    jax.clear_caches()
    found = task.metrics(x, y)
    assert list(found) == ["test accuracy", "test loss", "upper loss", "lower loss"]
    assert task.score == "test accuracy"

    def cross_entropies(rows):
        z = np.asarray(dense(rows)["features"], float) @ np.asarray(y, float)
        labels = np.asarray(rows["labels"])
        return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels], (z.argmax(1) == labels).mean()

    losses, accuracy = cross_entropies(task.data.test)
    close(found["test accuracy"], accuracy)
    close(found["test loss"], losses.mean())
    close(found["upper loss"], cross_entropies(task.data.validation)[0].mean())
    penalized = np.mean(np.exp(np.asarray(x, float))[:, None] * np.asarray(y, float) ** 2)
    close(found["lower loss"], cross_entropies(task.data.train)[0].mean() + penalized)


def test_seeds_share_their_programs(compiled):
    jax.clear_caches()
    solver = bl.SOBA(upper_step=1.0, lower_step=0.3, adjoint_step=0.1)
    for seed in (0, 1):
        task, before = make(seed=seed), len(compiled)
        solution = bl.solve(task.problem, solver, task.x, task.y, steps=20, key=jax.random.key(0), metrics=task.metrics)
        assert solution.history["upper loss"][-1] < solution.history["upper loss"][0]
        assert solution.x.dtype == jnp.float32
    assert before > 0
    assert compiled[before:] == []


def test_x_stays_in_its_box():
    task = make(bound=0.5)
    np.testing.assert_array_equal(task.problem.project(jnp.array([-3.0, 0.2, 0.7])), [-0.5, jnp.float32(0.2), 0.5])


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "newsgroup"}, "dataset: 'newsgroup' is unknown; did you mean newsgroups"),
        ({"entries": 0}, "entries: got 0"),
        ({"train": 41}, "train: got 41 with 20 validation rows, but 60 rows"),
        ({"split": "validation", "test_fraction": 0.0}, "test_fraction: got 0.0"),
        ({"bound": 0.0}, "bound: got 0.0"),
        ({"seed": None}, "seed: got None"),
        ({"batch_size": 21}, "batch_size: got 21, but the data have 20 rows"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**settings)


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the rated sentences in $BILEVEL_DATA")
def test_rated_sentences():
    task = tasks.regularization("sentences-tfidf", validation=3000, train=3000, batch_size=100)
    assert task.data.dropped == 0
    solver = bl.SOBA(upper_step=1.0, lower_step=2.0, adjoint_step=2.0)
    solution = bl.solve(task.problem, solver, task.x, task.y, steps=2000, key=jax.random.key(0), metrics=task.metrics)
    assert solution.history["test accuracy"][-1] > 0.5  # six classes
