"""Few-shot episodes: what is drawn, what is differentiated, and what is measured."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel import datasets, oracles
from bilevel.tasks import _fewshot
from bilevel.tasks._fewshot import fewshot

SIDE, CLASSES, PER_CLASS = 8, 9, 6  # as many classes in each part, so that the parts share their programs
SMALL = {"ways": 3, "shots": 2, "queries": 3, "tasks": 2, "filters": 3, "layers": 1, "test_tasks": 40, "test_steps": 4}


def numbered(first):
    """Each class a pattern of its own and noise; pixel (0, 0) says which class it is, and pixel (0, 1) which image."""
    rng = np.random.default_rng(first)
    patterns = rng.integers(0, 130, (CLASSES, 1, SIDE, SIDE, 1))
    images = (patterns + rng.integers(0, 126, (CLASSES, PER_CLASS, SIDE, SIDE, 1))).astype(np.uint8)
    images[:, :, 0, 0, 0] = first + np.arange(CLASSES)[:, None]
    images[:, :, 0, 1, 0] = np.arange(PER_CLASS)
    return images


KEY = jax.random.key(0)
GLYPHS = datasets.FewshotDataset(numbered(0), numbered(100), numbered(200))


# Without jit each of their operations would be compiled.
loss_at = eqx.filter_jit(oracles.loss)
outputs = eqx.filter_jit(lambda network, images: network(images))
draw = eqx.filter_jit(lambda episodes, key: episodes.draw(key))
start_at = eqx.filter_jit(lambda problem, x: problem.start(x))


def which(images):
    """The numbers of the classes and of the images within them."""
    pixels = np.rint(np.asarray(images)[..., 0, :2, 0] * 255).astype(int)
    return pixels[..., 0], pixels[..., 1]


def rows(problem):
    return problem.lower.data.arrays, problem.upper.data.arrays


def point(task, seed=3):
    """An (x, y) where nothing is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), (task.x, task.y))


def cross_entropies(y, features, labels):
    z = np.asarray(features, np.float64) @ np.asarray(y["weights"], np.float64).T + np.asarray(y["bias"], np.float64)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), np.asarray(labels)]


def of_task(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


# What is drawn


def test_a_task_has_different_classes_and_different_images():
    problem = fewshot(GLYPHS, **SMALL).problem
    for seed in range(5):
        support, query = rows(problem.draw(jax.random.key(seed)))
        assert support["images"].shape == (2, 6, SIDE, SIDE, 1) and query["images"].shape == (2, 9, SIDE, SIDE, 1)
        assert support["images"].dtype == jnp.float32 and support["labels"].dtype == jnp.int32
        for i in range(2):
            class_of = {}
            seen = set()
            for part, each in ((support, 2), (query, 3)):
                classes, images = which(part["images"][i])
                labels = np.asarray(part["labels"][i])
                np.testing.assert_array_equal(np.bincount(labels), [each] * 3)
                for label, number, image in zip(labels, classes, images, strict=True):
                    assert class_of.setdefault(label, number) == number
                    assert (number, image) not in seen
                    seen.add((number, image))
                    assert number < CLASSES
            assert len(set(class_of.values())) == 3


def test_images_are_those_of_the_data_in_0_to_1():
    support, _ = rows(fewshot(GLYPHS, **SMALL).problem.draw(KEY))
    classes, numbers = which(support["images"])
    np.testing.assert_allclose(support["images"], GLYPHS.train[classes, numbers] / 255, rtol=1e-6)


def test_classes_and_images_are_uniform():
    episodes = fewshot(GLYPHS, **SMALL).data.training
    draw = jax.jit(lambda episodes, keys: jax.vmap(episodes.draw)(keys))
    support, query = draw(episodes, jax.random.split(jax.random.key(0), 1200))
    for part, each in ((support, 2), (query, 3)):
        classes, images = which(part["images"])
        label_of_class = classes[:, ::each]  # the first image of each label
        for drawn, cells in (
            (label_of_class[:, 0], CLASSES),
            (label_of_class[:, 2], CLASSES),
            (images[:, 0], PER_CLASS),
        ):
            counts = np.bincount(drawn, minlength=cells)
            assert ((counts - 1200 / cells) ** 2 / (1200 / cells)).sum() < {9: 26.1, 6: 20.5}[cells]  # 0.999 quantiles
    # tasks of one batch, and those of different keys, differ
    assert len({tuple(task) for task in which(support["images"])[0]}) > 400  # of 504


def test_every_outer_step_has_tasks_of_its_own():
    task = fewshot(GLYPHS, **SMALL)
    a, b, again = (rows(task.problem.draw(jax.random.key(seed))) for seed in (0, 1, 0))
    jax.tree.map(np.testing.assert_array_equal, a, again)
    assert (which(a[0]["images"])[0] != which(b[0]["images"])[0]).any()


def test_everything_is_drawn_once_per_seed():
    a, b, other = (fewshot(GLYPHS, **SMALL, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, (a.x, rows(a.problem.draw(KEY))), (b.x, rows(b.problem.draw(KEY))))
    assert a.metrics(a.x, None) == b.metrics(b.x, None)
    assert (jax.random.key_data(a.data.test_keys) != jax.random.key_data(other.data.test_keys)).any()
    assert (jax.tree.leaves(a.x)[0] != jax.tree.leaves(other.x)[0]).any()


# What is differentiated


def test_losses_of_heads_by_hand():
    task = fewshot(GLYPHS, **SMALL, regularization=0.05)
    x, y = point(task)
    problem = task.problem.draw(KEY)
    support, query = rows(problem)
    lower, upper = (loss_at(level, x, y, level.all_rows()) for level in (problem.lower, problem.upper))
    by_task = [
        [
            cross_entropies(of_task(y, i), outputs(x["body"], part["images"][i]), part["labels"][i]).mean()
            for i in range(2)
        ]
        for part in (support, query)
    ]
    norm = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in y.values())
    np.testing.assert_allclose(lower, np.sum(by_task[0]) + 0.05 * norm, rtol=1e-5)
    np.testing.assert_allclose(upper, np.mean(by_task[1]), rtol=1e-5)


def test_losses_of_networks_by_hand():
    task = fewshot(GLYPHS, **SMALL, adapt="network", regularization=0.05)
    x, y = point(task)
    problem = task.problem.draw(KEY)
    support, query = rows(problem)
    lower, upper = (loss_at(level, x, y, level.all_rows()) for level in (problem.lower, problem.upper))
    identity = {"weights": np.eye(3), "bias": np.zeros(3)}
    by_task = [
        [
            cross_entropies(identity, outputs(of_task(y, i), part["images"][i]), part["labels"][i]).mean()
            for i in range(2)
        ]
        for part in (support, query)
    ]
    norm = sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(y))
    np.testing.assert_allclose(lower, np.sum(by_task[0]) + 0.05 * norm, rtol=1e-5)
    np.testing.assert_allclose(upper, np.mean(by_task[1]), rtol=1e-5)
    assert fewshot(GLYPHS, **SMALL, adapt="network").problem.redraw.regularization == 0


def test_tasks_share_x_alone():
    """Neither y nor the batch statistics of a task reach another."""
    task = fewshot(GLYPHS, **SMALL)
    x, y = point(task)
    problem = task.problem.draw(KEY)
    level = problem.lower
    support, _ = rows(problem)
    other = {"images": support["images"].at[1].multiply(0.5), "labels": support["labels"]}
    G_y, moved = (
        eqx.filter_jit(oracles.gradient_y)(level, x, y, bl.Batch(batch, None, 2)) for batch in (support, other)
    )
    for before, after in zip(jax.tree.leaves(G_y), jax.tree.leaves(moved), strict=True):
        np.testing.assert_array_equal(before[0], after[0])
        assert (before[1] != after[1]).any()


def test_the_lower_level_of_heads_is_strongly_convex():
    task = fewshot(GLYPHS, **SMALL, regularization=0.05)
    x, y = point(task)
    level = task.problem.draw(KEY).lower
    matrix = eqx.filter_jit(lambda level, x, y: oracles.dense_hessian(level, x, y, level.all_rows())[0])(level, x, y)
    eigenvalues = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    assert 0.1 * 0.999 < eigenvalues.min() < 0.11


@pytest.mark.parametrize(("settings", "names"), [({}, ["body"]), ({"learned_start": True}, ["body", "head"])])
def test_starts_of_heads(settings, names):
    task = fewshot(GLYPHS, **SMALL, **settings)
    assert sorted(task.x) == names
    x, _ = point(task)
    start = start_at(task.problem, x)
    for name, shape in (("weights", (3, task.x["body"].width)), ("bias", (3,))):
        assert task.y[name].shape == start[name].shape == (2, *shape)
        wanted = x["head"][name] if settings else np.zeros(shape)
        for i in range(2):
            np.testing.assert_array_equal(start[name][i], wanted)


def test_networks_start_as_copies_and_their_lower_level_ignores_x():
    task = fewshot(GLYPHS, **SMALL, adapt="network")
    x, y = point(task)
    for leaf, copies in zip(jax.tree.leaves(x), jax.tree.leaves(start_at(task.problem, x)), strict=True):
        np.testing.assert_array_equal(copies, np.stack([leaf, leaf]))
    level = task.problem.draw(KEY).lower
    G_x = eqx.filter_grad(lambda x: loss_at(level, x, y, level.all_rows()))(x)
    assert not any(leaf.any() for leaf in jax.tree.leaves(G_x))


# What is measured


def measured_by_hand(task, x, data, keys, steps, step, c):
    """The mean accuracy and cross-entropy on query images after gradient steps from zero, in NumPy."""
    accuracies, losses = [], []
    for key in keys:
        support, query = draw(data, key)
        features, labels = np.asarray(outputs(x["body"], support["images"]), np.float64), np.asarray(support["labels"])
        weights, bias = np.zeros((3, features.shape[1])), np.zeros(3)
        for _ in range(steps):
            z = features @ weights.T + bias
            slope = (np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(3)[labels]) / len(labels)
            weights, bias = (
                weights - step * (slope.T @ features + 2 * c * weights),
                bias - step * (slope.sum(0) + 2 * c * bias),
            )
        head, features = {"weights": weights, "bias": bias}, np.asarray(outputs(x["body"], query["images"]))
        losses.append(cross_entropies(head, features, query["labels"]).mean())
        accuracies.append((np.argmax(features @ weights.T + bias, 1) == query["labels"]).mean())
    return np.mean(accuracies), np.mean(losses)


def test_metrics_by_hand():
    task = fewshot(GLYPHS, **SMALL, test_step=0.3, regularization=0.05)
    x = task.x
    found = task.metrics(x, None)
    accuracy, loss = measured_by_hand(task, x, task.data.test, task.data.test_keys, 4, 0.3, 0.05)
    training, _ = measured_by_hand(task, x, task.data.training, task.data.training_keys, 4, 0.3, 0.05)
    np.testing.assert_allclose(found["test accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(found["test loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(found["training accuracy"], training, rtol=1e-6)
    assert 0.4 < accuracy < 1
    assert len(task.data.test_keys) == 40
    assert task.score == "test accuracy"


@pytest.mark.parametrize("settings", [{"learned_start": True}, {"adapt": "network"}])
def test_metrics_adapt_from_the_start(settings):
    at_start = fewshot(GLYPHS, **SMALL | {"test_steps": 0}, **settings)
    x, _ = point(at_start)
    accuracies = []
    for key in at_start.data.test_keys:
        _, query = draw(at_start.data.test, key)
        if settings.get("adapt"):
            logits = outputs(x, query["images"])
        else:
            features = np.asarray(outputs(x["body"], query["images"]))
            logits = features @ np.asarray(x["head"]["weights"]).T + np.asarray(x["head"]["bias"])
        accuracies.append(np.mean(np.argmax(logits, 1) == query["labels"]))
    np.testing.assert_allclose(at_start.metrics(x, None)["test accuracy"], np.mean(accuracies), rtol=1e-6)
    adapted = fewshot(GLYPHS, **SMALL | {"test_steps": 20}, **settings)
    assert adapted.metrics(x, None)["test accuracy"] > at_start.metrics(x, None)["test accuracy"] + 0.1


def test_splits_see_their_own_classes_alone():
    for split, classes in (("test", range(200, 209)), ("validation", range(100, 109))):
        data = fewshot(GLYPHS, **SMALL, split=split).data
        for episodes, keys, known in (
            (data.test, data.test_keys, classes),
            (data.training, data.training_keys, range(CLASSES)),
        ):
            drawn = [part for key in keys for part in draw(episodes, key)]
            for part in drawn:
                assert set(which(part["images"])[0].ravel()) <= set(known)


def test_seeds_share_their_programs(compiled):
    @eqx.filter_jit
    def gradient(problem, x, y, key):
        level = problem.draw(key).lower
        return oracles.gradient_y(level, x, y, level.all_rows())

    for seed, regularization, test_step in ((0, 0.01, 0.1), (1, 0.02, 0.2)):
        task = fewshot(GLYPHS, **SMALL | {"shots": 1}, seed=seed, regularization=regularization, test_step=test_step)
        before = len(compiled)
        gradient(task.problem, task.x, task.y, jax.random.key(0))
        task.metrics(task.x, task.y)
    assert before > 0
    assert compiled[before:] == []


@pytest.mark.parametrize("settings", [{}, {"learned_start": True}, {"adapt": "network"}])
def test_solvers_learn_a_body_a_start_and_a_network(settings):
    task = fewshot(GLYPHS, **SMALL, **settings)
    method = bl.MAML if settings else bl.ITDBiO
    solver = method(upper_step=bl.Rule(optax.adam, 0.005), lower_step=0.1, inner_steps=4)
    solution = bl.solve(
        task.problem, solver, task.x, task.y, steps=200, every=200, key=jax.random.key(0), metrics=task.metrics
    )
    loss = solution.history["test loss"]
    assert loss[-1] < loss[0] - 0.15


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "glyph"}, "dataset: 'glyph' is unknown; did you mean glyphs"),
        ({"adapt": "heads"}, "adapt: 'heads' is unknown; did you mean head"),
        ({"split": "valid"}, "split: 'valid' is unknown; did you mean validation"),
        ({"ways": 1}, "ways: got 1"),
        ({"ways": 10}, "ways: got 10, but there are 9 training classes"),
        ({"shots": 4}, "shots: got 7 with the queries, but a training class has 6 images"),
        ({"queries": 0}, "queries: got 0"),
        ({"tasks": 2.0}, "tasks: got 2.0"),
        ({"test_tasks": 0}, "test_tasks: got 0"),
        ({"test_steps": -1}, "test_steps: got -1"),
        ({"test_step": 0.0}, "test_step: got 0.0"),
        ({"filters": 0}, "filters: got 0"),
        ({"regularization": -0.1}, "regularization: got -0.1"),
        ({"learned_start": 1}, "learned_start: got 1"),
        ({"learned_start": True, "adapt": "network"}, "learned_start: a whole network's start is x already"),
        ({"seed": None}, "seed: got None"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fewshot(**{"dataset": GLYPHS} | SMALL | settings)


def test_bad_data():
    for part, message in (
        (GLYPHS.validation[:2], "ways: got 3, but there are 2 validation classes"),
        (GLYPHS.validation[:, :, :4], "dataset: its images have 4×8 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            fewshot(dataclasses.replace(GLYPHS, validation=part), **SMALL, split="validation")


def test_a_gpu_evaluates_many_tasks_at_once_to_the_same_metrics(monkeypatch):
    task = fewshot("glyphs", ways=3, shots=1, queries=2, tasks=2, filters=2, layers=1, test_tasks=23, test_steps=3)
    one_by_one = task.metrics(task.x, task.y)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    _fewshot._evaluate.clear_cache()
    at_once = task.metrics(task.x, task.y)
    _fewshot._evaluate.clear_cache()
    assert at_once == pytest.approx(one_by_one, rel=1e-5)
