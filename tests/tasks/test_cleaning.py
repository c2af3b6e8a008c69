"""Hyper-cleaning: what the levels see, what is differentiated, and what is measured."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import point, tagged_set

import bilevel as bl
from bilevel import datasets, oracles, tasks, trees

cleaning = importlib.import_module("bilevel.tasks._cleaning")  # the function hides the module

TAGGED = tagged_set()


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


# What the levels see


def test_the_levels_see_their_own_rows_alone():
    task = tasks.cleaning(TAGGED, trusted=30)
    upper, lower = task.problem.upper.data.arrays, task.problem.lower.data.arrays
    np.testing.assert_array_equal(lower["features"], task.data.features)
    np.testing.assert_array_equal(lower["labels"], task.data.noisy_labels)
    np.testing.assert_array_equal(upper["features"], task.data.trusted_features)
    np.testing.assert_array_equal(upper["labels"], task.data.trusted_labels)
    assert task.x.shape == (250,)
    assert not any(leaf.any() for leaf in jax.tree.leaves((task.x, task.y)))


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
    G_y = oracles.gradient_y(level, x, y, batch)
    close(G_y["weights"], slope.T @ features + 0.1 * np.asarray(y["weights"]))
    close(G_y["bias"], slope.sum(0) + 0.1 * np.asarray(y["bias"]))


def test_one_step_moves_the_weights_of_its_batch_alone():
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=8)
    x, y = point(task)
    solver = bl.SOBA(upper_step=1.0, lower_step=0.1, adjoint_step=0.1)
    state, _ = solver.init(task.problem, x, y, key=jax.random.key(0))
    for t in (0, 1):  # the adjoint is zero at first
        old, (state, _) = state.x, solver.step(task.problem, state, t, key=jax.random.key(t))
    lower_key, _ = jax.random.split(jax.random.key(1))
    drawn = np.asarray(task.problem.lower.draw(lower_key).indices)
    np.testing.assert_array_equal(np.flatnonzero(state.x != old), np.unique(drawn))


def test_the_upper_gradient_ignores_x():
    task = tasks.cleaning(TAGGED, trusted=30, batch_size=None)
    (x, y), level = point(task), task.problem.upper
    F_x, F_y = oracles.upper_gradients(level, x, y, level.all_rows())
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
        ({"standardize": 1}, "standardize: got 1"),
        ({"standardize": True, "dataset": "made-up", "model": "rnn"}, "standardize: got True, but the rows of a text"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tasks.cleaning(**{"dataset": TAGGED, "trusted": 30, **settings})


# Networks, texts, and how labels go wrong


def test_x_starts_where_it_is_told():
    assert (np.asarray(tasks.cleaning(TAGGED, trusted=30, start_weight=1.0).x) == 1.0).all()


def test_features_are_standardized_by_the_training_rows():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, size=(100, 3)).astype(np.float32)
    features[:, 1] = 7  # constant
    own = datasets.Dataset(features, np.arange(100, dtype=np.int32) % 2, 2, 100)
    plain, made = (tasks.cleaning(own, trusted=20, batch_size=10, standardize=on).data for on in (False, True))
    rows = np.asarray(plain.features)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation[1] = 1
    for name in ("features", "trusted_features", "test_features"):
        expected = (np.asarray(getattr(plain, name)) - mean) / deviation
        np.testing.assert_allclose(getattr(made, name), expected, atol=1e-5)
        assert getattr(made, name).dtype == np.float32
    np.testing.assert_array_equal(made.noisy_labels, plain.noisy_labels)


def tiny_cnn(**more):
    settings = {"filters": 2, "layers": 1, "pool": 2}
    return tasks.cleaning("digits", model="cnn", train=40, trusted=20, batch_size=10, model_settings=settings, **more)


def tiny_rnn(test=60, seed=0, **more):
    settings = {"vocabulary": 40, "length": 6, "embedding": 3, "hidden": 3, "layers": 1}
    arguments = {"model": "rnn", "train": 40, "trusted": 20, "batch_size": 10, "noise": "flipped", "test": test}
    return tasks.cleaning("made-up", seed=seed, **arguments, model_settings=settings | more)


@pytest.mark.parametrize("make", [tiny_cnn, tiny_rnn])
def test_the_losses_of_a_network_are_what_they_say(make):
    task = make()
    x = jnp.linspace(-1.0, 1.0, 40)
    batch = task.problem.lower.all_rows().rows
    said = np.asarray(cleaning.CrossEntropies().logits(task.y, batch["features"]), np.float64)
    ce = np.log(np.exp(said).sum(1)) - said[np.arange(40), np.asarray(batch["labels"])]
    squares = sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in jax.tree.leaves(task.y))
    expected = np.mean(sigmoid(np.asarray(x)) * ce) + 1e-3 * squares
    assert float(task.problem.lower.loss(x, task.y, batch)) == pytest.approx(expected, rel=1e-4)
    assert task.metrics(x, task.y)["lower loss"] == pytest.approx(expected, rel=1e-4)


def test_a_network_sees_many_rows_in_chunks_of_nearly_equal_size(monkeypatch):
    task = tiny_cnn(test=152)
    rows = {"features": task.data.test_features, "labels": task.data.test_labels}
    monkeypatch.setattr(cleaning, "_CHUNK", 40)
    losses, right = cleaning._per_row(cleaning.CrossEntropies(), task.y, rows)
    assert losses.shape == right.shape == (152,)
    monkeypatch.undo()
    for start in (0, 38, 114):  # 4 chunks of 38; a chunk's own statistics normalize it
        part = {name: array[start : start + 38] for name, array in rows.items()}
        alone = cleaning._per_row(cleaning.CrossEntropies(), task.y, part)
        np.testing.assert_allclose(losses[start : start + 38], alone[0], rtol=1e-4)
        np.testing.assert_array_equal(right[start : start + 38], alone[1])


def test_unequal_chunks_lose_no_row(monkeypatch):
    task = tiny_rnn(test=47)
    rows = {"features": task.data.test_features, "labels": task.data.test_labels}
    whole = cleaning._per_row(cleaning.CrossEntropies(), task.y, rows)
    monkeypatch.setattr(cleaning, "_CHUNK", 10)  # 2 of 10 rows, 3 of 9
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        cleaning._per_row(cleaning.CrossEntropies(), task.y, rows),
        whole,
    )


def test_diagnose_shows_that_a_network_is_not_strongly_convex():
    settings = {"filters": 1, "layers": 1, "pool": 4, "normalize": False}
    task = tasks.cleaning("digits", model="cnn", train=20, trusted=10, batch_size=None, model_settings=settings)
    report = bl.diagnose(task.problem, task.x, task.y, key=jax.random.key(0))
    assert "not strongly convex" in {finding.name for finding in report.findings}


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


def test_frozen_word_vectors_are_no_part_of_the_network():
    learned, frozen = (tiny_rnn(vectors="corpus", frozen=frozen) for frozen in (False, True))
    vectors = learned.y.vectors
    jax.tree.map(np.testing.assert_array_equal, learned.y.without_vectors(), frozen.y)
    assert frozen.y.vectors is None and jnp.abs(vectors).max() > 0
    rows = learned.problem.lower.all_rows().rows
    x = jnp.zeros(len(learned.x))
    penalized = float(learned.problem.lower.loss(x, learned.y, rows) - frozen.problem.lower.loss(x, frozen.y, rows))
    assert penalized == pytest.approx(1e-3 * float(jnp.sum(vectors**2)), rel=1e-3)
    assert frozen.metrics(x, frozen.y)["test loss"] == pytest.approx(learned.metrics(x, learned.y)["test loss"])


def test_frozen_word_vectors_travel_as_arguments(compiled):
    solver = bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)
    for seed in (0, 1):
        task, before = tiny_rnn(vectors="corpus", frozen=True, seed=seed), len(compiled)
        vectors = task.problem.lower.loss.losses.vectors
        solution = bl.solve(
            task.problem, solver, task.x, task.y, steps=2, key=jax.random.key(0), metrics=task.metrics, signs=False
        )
        assert np.isfinite(solution.history["upper loss"]).all()
        np.testing.assert_array_equal(task.problem.lower.loss.losses.vectors, vectors)
    assert before > 0 and compiled[before:] == []
