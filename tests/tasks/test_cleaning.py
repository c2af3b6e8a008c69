"""Hyper-cleaning: what is drawn, what is differentiated, and what is measured."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import point

import bilevel as bl
from bilevel import datasets, oracles, tasks, trees
from bilevel.tasks import _cleaning_rows as cleaning_rows

cleaning = importlib.import_module("bilevel.tasks._cleaning")  # the function hides the module

ROWS = 400


def tagged_set():
    """A set whose feature 0 is the row's number, over 1000."""
    rng = np.random.default_rng(0)
    features = rng.random((ROWS, 6), np.float32)
    features[:, 0] = np.arange(ROWS) / 1000
    labels = rng.integers(0, 4, ROWS).astype(np.int32)
    return datasets.Dataset(features, labels, 4, ROWS)


TAGGED = tagged_set()


def numbers(features):
    return np.rint(np.asarray(features)[:, 0] * 1000).astype(int)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def probabilities(y, features):
    z = np.asarray(features, np.float64) @ np.asarray(y["weights"], np.float64).T + np.asarray(y["bias"], np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cross_entropies(y, features, labels):
    return -np.log(probabilities(y, features)[np.arange(len(labels)), labels])


def close(actual, desired, tolerance=2e-5):
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance * np.abs(desired).max())


# What is drawn


def test_rows_are_disjoint_and_keep_their_labels():
    data = tasks.cleaning(TAGGED, trusted=30).data
    parts = [numbers(f) for f in (data.features, data.trusted_features, data.test_features)]
    assert [len(part) for part in parts] == [250, 30, 120]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(ROWS))
    assert (np.sort(parts[2]) != np.arange(120)).any()  # drawn, not cut off
    for part, labels in zip(parts, (data.true_labels, data.trusted_labels, data.test_labels), strict=True):
        np.testing.assert_array_equal(labels, TAGGED.labels[part])


def test_the_levels_see_their_own_rows_alone():
    task = tasks.cleaning(TAGGED, trusted=30)
    upper, lower = task.problem.upper.data.arrays, task.problem.lower.data.arrays
    np.testing.assert_array_equal(lower["features"], task.data.features)
    np.testing.assert_array_equal(lower["labels"], task.data.noisy_labels)
    np.testing.assert_array_equal(upper["features"], task.data.trusted_features)
    np.testing.assert_array_equal(upper["labels"], task.data.trusted_labels)
    assert task.x.shape == (250,)
    assert not any(leaf.any() for leaf in jax.tree.leaves((task.x, task.y)))


def test_everything_is_drawn_once_per_seed():
    a, b, other = (tasks.cleaning(TAGGED, trusted=30, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, (a.problem, vars(a.data)), (b.problem, vars(b.data)))
    assert (numbers(a.data.test_features) != numbers(other.data.test_features)).any()
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
    forbidden = numbers(test.data.test_features)
    seen = [validation.data.features, validation.data.trusted_features, validation.data.test_features]
    seen = [numbers(part) for part in seen]
    assert [len(part) for part in seen] == [166, 30, 84]  # 30 % of the 280 that remain
    np.testing.assert_array_equal(np.sort(np.concatenate([*seen, forbidden])), np.arange(ROWS))

    features, labels = TAGGED.features.copy(), TAGGED.labels.copy()
    features[forbidden], labels[forbidden] = np.nan, (labels[forbidden] + 1) % 4
    poisoned = dataclasses.replace(TAGGED, features=features, labels=labels)
    again = tasks.cleaning(poisoned, trusted=30, seed=7, split="validation")
    jax.tree.map(
        np.testing.assert_array_equal, (again.problem, vars(again.data)), (validation.problem, vars(validation.data))
    )


def test_sources_and_batch_sizes():
    task = tasks.cleaning(TAGGED, trusted=30)
    assert (task.problem.upper.batch_size, task.problem.lower.batch_size) == (30, 64)
    assert type(task.problem.lower.data) is bl.Rows
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=None)
    assert (task.problem.upper.batch_size, task.problem.lower.batch_size) == (None, None)
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=10, source="blocks")
    assert type(task.problem.upper.data) is type(task.problem.lower.data) is bl.Blocks
    assert task.problem.lower.draw(jax.random.key(0)).indices.ndim == 0


@pytest.mark.parametrize(("train", "kept"), [(None, 192), (200, 192), (128, 128)])
def test_blocks_leave_out_a_remainder_and_nothing_else(train, kept):
    shared = {"trusted": 30, "batch_size": 64, "train": train, "seed": 3}
    rows, blocks = tasks.cleaning(TAGGED, **shared), tasks.cleaning(TAGGED, **shared, source="blocks")
    assert (blocks.problem.upper.batch_size, blocks.problem.lower.batch_size) == (30, 64)
    assert blocks.x.shape == (kept,)
    assert blocks.problem.lower.length == kept
    whole, cut = vars(rows.data), vars(blocks.data)
    for name in ("features", "noisy_labels", "true_labels"):
        np.testing.assert_array_equal(cut.pop(name), whole.pop(name)[:kept])
    jax.tree.map(np.testing.assert_array_equal, cut, whole)


def test_the_upper_batch_of_blocks_divides_the_trusted_rows():
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=20, source="blocks")
    assert (task.problem.upper.batch_size, task.problem.lower.batch_size) == (15, 20)
    assert tasks.cleaning(TAGGED, trusted=31, batch_size=20, source="blocks").problem.upper.batch_size == 1
    whole = tasks.cleaning(TAGGED, trusted=30, batch_size=None, source="blocks")
    assert (whole.problem.upper.batch_size, whole.problem.lower.batch_size) == (None, None)
    assert whole.x.shape == (250,)


# What is differentiated


def test_gradients_against_numpy():
    task = tasks.cleaning(TAGGED, trusted=30, regularization=0.05)
    (x, y), level = point(task), task.problem.lower
    indices = np.array([5, 17, 5, 200])  # a row that is drawn twice counts twice
    batch = bl.Batch(level.data.take(jnp.asarray(indices), 4), jnp.asarray(indices), 4)

    features, labels = np.asarray(task.data.features)[indices], np.asarray(task.data.noisy_labels)[indices]
    s, ce = sigmoid(np.asarray(x)[indices]), cross_entropies(y, features, labels)
    slope = s[:, None] * (probabilities(y, features) - np.eye(4)[labels]) / 4
    norm = sum((np.asarray(leaf) ** 2).sum() for leaf in y.values())
    close(oracles.loss(level, x, y, batch), np.mean(s * ce) + 0.05 * norm)

    by_hand = np.zeros(250)
    np.add.at(by_hand, indices, s * (1 - s) * ce / 4)
    close(trees.dense(oracles.gradient_x(level, x, y, batch), x), by_hand)
    G_y = oracles.lower_gradient(level, x, y, batch)
    close(G_y["weights"], slope.T @ features + 0.1 * np.asarray(y["weights"]))
    close(G_y["bias"], slope.sum(0) + 0.1 * np.asarray(y["bias"]))


def test_one_step_moves_the_weights_of_its_batch_alone():
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=8)
    x, y = point(task)
    solver = bl.SOBA(upper_step=1.0, lower_step=0.1, adjoint_step=0.1)
    state = solver.init(task.problem, x, y, key=jax.random.key(0))
    for t in (0, 1):  # the adjoint is zero at first
        old, state = state.x, solver.step(task.problem, state, t, key=jax.random.key(t))
    lower_key, _ = jax.random.split(jax.random.key(1))
    drawn = np.asarray(task.problem.lower.draw(lower_key).indices)
    np.testing.assert_array_equal(np.flatnonzero(state.x != old), np.unique(drawn))


def test_the_upper_gradient_ignores_x():
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=None)
    (x, y), level = point(task), task.problem.upper
    F_x, F_y = oracles.upper_gradients(level, x, y, level.everything())
    assert not trees.dense(F_x, x).any()
    features, labels = np.asarray(task.data.trusted_features), np.asarray(task.data.trusted_labels)
    close(F_y["weights"], (probabilities(y, features) - np.eye(4)[labels]).T @ features / 30)


# What is measured


def test_metrics_by_hand():
    task = tasks.cleaning(TAGGED, trusted=30)
    x, y = point(task)
    x = jnp.round(x)  # with ties
    measured, data = task.metrics(x, y), task.data
    guess = probabilities(y, data.test_features).argmax(1)
    close(measured["test accuracy"], (guess == np.asarray(data.test_labels)).mean(), 1e-6)
    close(measured["upper loss"], cross_entropies(y, data.trusted_features, np.asarray(data.trusted_labels)).mean())
    wrong, right = np.asarray(x)[data.wrong], np.asarray(x)[~data.wrong]
    wins = (wrong[:, None] < right[None, :]) + 0.5 * (wrong[:, None] == right[None, :])
    close(measured["AUROC"], wins.mean(), 1e-6)
    assert 0.3 < measured["AUROC"] < 0.7
    assert task.score == "test accuracy"


def test_perfect_weights_have_an_auroc_of_one():
    task = tasks.cleaning(TAGGED, trusted=30)
    assert task.metrics(jnp.where(task.data.wrong, -1.0, 1.0), task.y)["AUROC"] == 1
    clean = tasks.cleaning(TAGGED, trusted=30, corruption=0.0)
    assert np.isnan(clean.metrics(clean.x, clean.y)["AUROC"])


def test_the_test_rows_touch_the_accuracy_alone():
    task = tasks.cleaning(TAGGED, trusted=30)
    x, y = point(task)
    other = dataclasses.replace(task.data, test_labels=(task.data.test_labels + 1) % 4)
    before, after = task.metrics(x, y), task.metrics.func(other, task.problem.lower.loss, x, y)
    assert [name for name in before if before[name] != after[name]] == ["test accuracy", "test loss"]


def test_seeds_share_their_programs(compiled):
    jax.clear_caches()
    solver = bl.SOBA(upper_step=10.0, lower_step=0.3, adjoint_step=0.1)
    for seed, corruption, regularization in ((0, 0.6, 1e-3), (1, 0.5, 2e-3)):
        task = tasks.cleaning(seed=seed, corruption=corruption, regularization=regularization)
        before = len(compiled)
        solution = bl.solve(task.problem, solver, task.x, task.y, steps=50, key=jax.random.key(0), metrics=task.metrics)
        assert solution.history["upper loss"][-1] < solution.history["upper loss"][0]
        assert solution.x.dtype == jnp.float32
    assert before > 0
    assert compiled[before:] == []


def test_cleaning_helps():
    task = tasks.cleaning("digits", batch_size=None)
    solver = bl.SOBA(upper_step=300.0, lower_step=0.5, adjoint_step=0.5)
    solution = bl.solve(task.problem, solver, task.x, task.y, steps=1000, key=jax.random.key(0), metrics=task.metrics)
    assert solution.history["AUROC"][-1] > 0.9
    assert solution.history["test accuracy"][-1] > 0.9


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "digit"}, "dataset: 'digit' is unknown; did you mean digits"),
        ({"model": "lineal"}, "model: 'lineal' is unknown; did you mean linear"),
        ({"split": "valid"}, "split: 'valid' is unknown; did you mean validation"),
        ({"source": "block"}, "source: 'block' is unknown; did you mean blocks"),
        ({"corruption": 1.1}, "corruption: got 1.1"),
        ({"corruption": np.nan}, "corruption: got nan"),
        ({"trusted": 0}, "trusted: got 0"),
        ({"trusted": 10.0}, "trusted: got 10.0"),
        ({"trusted": 280}, "trusted: got 280, but only 280 rows"),
        ({"test_fraction": 0.0}, "test_fraction: got 0.0"),
        ({"test_fraction": 1.0}, "test_fraction: got 1.0"),
        ({"test_fraction": -0.1}, "test_fraction: got -0.1"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 251}, "batch_size: got 251, but the data have 250 rows"),
        ({"batch_size": 64, "train": 50, "source": "blocks"}, "batch_size: got 64, but the data have 50 rows"),
        ({"regularization": -1e-3}, "regularization: got -0.001"),
        ({"train": 0}, "train: got 0"),
        ({"train": 251}, "train: got 251, but 250 rows"),
        ({"seed": None}, "seed: got None"),
        ({"seed": 0.5}, "seed: got 0.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tasks.cleaning(**{"dataset": TAGGED, "trusted": 30, **settings})


# Networks, texts, and how labels go wrong


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


def test_x_starts_where_it_is_told():
    assert (np.asarray(tasks.cleaning(TAGGED, trusted=30, start_weight=1.0).x) == 1.0).all()


def tiny_cnn(**more):
    settings = {"filters": 2, "layers": 1, "pool": 2}
    return tasks.cleaning("digits", model="cnn", train=40, trusted=20, batch_size=10, model_settings=settings, **more)


def tiny_rnn(test=60, **more):
    settings = {"vocabulary": 40, "length": 6, "embedding": 3, "hidden": 3, "layers": 1}
    arguments = {"model": "rnn", "train": 40, "trusted": 20, "batch_size": 10, "noise": "flipped", "test": test}
    return tasks.cleaning("made-up", **arguments, model_settings=settings | more)


@pytest.mark.parametrize("make", [tiny_cnn, tiny_rnn])
def test_the_losses_of_a_network_are_what_they_say(make):
    task = make()
    x = jnp.linspace(-1.0, 1.0, 40)
    batch = task.problem.lower.everything().rows
    said = np.asarray(cleaning.logits(task.y, batch["features"]), np.float64)
    ce = np.log(np.exp(said).sum(1)) - said[np.arange(40), np.asarray(batch["labels"])]
    squares = sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in jax.tree.leaves(task.y))
    expected = np.mean(sigmoid(np.asarray(x)) * ce) + 1e-3 * squares
    assert float(task.problem.lower.loss(x, task.y, batch)) == pytest.approx(expected, rel=1e-4)
    assert task.metrics(x, task.y)["lower loss"] == pytest.approx(expected, rel=1e-4)


def test_a_network_sees_many_rows_in_chunks_of_nearly_equal_size(monkeypatch):
    task = tiny_cnn(test=152)
    rows = {"features": task.data.test_features, "labels": task.data.test_labels}
    monkeypatch.setattr(cleaning, "_CHUNK", 40)
    losses, right = cleaning._per_row(task.y, rows)
    assert losses.shape == right.shape == (152,)
    monkeypatch.undo()
    for start in (0, 38, 114):  # 4 chunks of 38; a chunk's own statistics normalize it
        part = {name: array[start : start + 38] for name, array in rows.items()}
        alone = cleaning._per_row(task.y, part)
        np.testing.assert_allclose(losses[start : start + 38], alone[0], rtol=1e-4)
        np.testing.assert_array_equal(right[start : start + 38], alone[1])


def test_unequal_chunks_lose_no_row(monkeypatch):
    task = tiny_rnn(test=47)
    rows = {"features": task.data.test_features, "labels": task.data.test_labels}
    whole = cleaning._per_row(task.y, rows)
    monkeypatch.setattr(cleaning, "_CHUNK", 10)  # 2 of 10 rows, 3 of 9
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), cleaning._per_row(task.y, rows), whole)


def test_diagnose_shows_that_a_network_is_not_strongly_convex():
    settings = {"filters": 1, "layers": 1, "pool": 4, "normalize": False}
    task = tasks.cleaning("digits", model="cnn", train=20, trusted=10, batch_size=None, model_settings=settings)
    report = bl.diagnose(task.problem, task.x, task.y, key=jax.random.key(0))
    assert "not strongly convex" in {finding.name for finding in report.findings}


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


def test_word_vectors_start_where_a_file_says(tmp_path):
    (tmp_path / "vectors.txt").write_text("the 1 2 3\nvery 4 5 6\n")
    task = tiny_rnn(vectors=str(tmp_path / "vectors.txt"))
    known = task.data.vocabulary
    np.testing.assert_array_equal(task.y.vectors[known["the"]], [1, 2, 3])
    np.testing.assert_array_equal(task.y.vectors[known["very"]], [4, 5, 6])
    with pytest.raises(ValueError, match="vectors: got shape"):
        tiny_rnn(vectors=str(tmp_path / "vectors.txt"), embedding=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "made-up"}, "model: got 'linear' for 'made-up'"),
        ({"model": "rnn"}, "model: got 'rnn' for 'digits'"),
        ({"model": "cnn", "model_settings": {"filter": 3}}, "did you mean filters"),
        ({"model": "cnn", "model_settings": {"filters": 0}}, r"model_settings\['filters'\]: got 0"),
        ({"dataset": TAGGED, "model": "cnn"}, "dataset: its rows have 6 features; the convolutional network takes"),
        ({"dataset": TAGGED, "model": "rnn"}, "model: got 'rnn' for a Dataset"),
        ({"noise": "swapped"}, "noise: 'swapped' is unknown"),
    ],
)
def test_errors_name_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.cleaning(**arguments)
