"""Weight decay of a recurrent network: what is drawn, what is differentiated, and what is measured."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import numbered_texts, numbers, rows_known

import bilevel as bl
from bilevel import tasks

ROWS = 200
SMALL = {"vocabulary": ROWS, "length": 6, "embedding": 5, "hidden": 4, "layers": 1}


# groups of up to five rows
NUMBERED = numbered_texts(
    np.arange(ROWS) % 3 == 0, np.zeros(ROWS), ("tweets",), np.sort(np.random.default_rng(0).integers(0, 60, ROWS))
)


def make(**settings):
    sizes = {"train": 60, "validation": 40, "test": 50, "batch_size": 20}
    return tasks.weight_decay(**{"dataset": NUMBERED, **sizes, "model_settings": SMALL, **settings})


def point(task, seed=3):
    rng = np.random.default_rng(seed)
    y = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), task.y)
    return jnp.asarray(0.3), y


apply = eqx.filter_jit(lambda network, tokens: network(tokens))


def cross_entropies(y, rows):
    z = np.asarray(apply(y, rows["tokens"]), float)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), np.asarray(rows["labels"])]


# What is drawn


def test_the_levels_see_their_own_rows():
    task = make()
    data = task.data
    parts = {name: numbers(getattr(data, name)["tokens"], data.vocabulary) for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 60, "validation": 40, "test": 50}
    groups = [set(NUMBERED.groups[rows].tolist()) for rows in parts.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))
    for name, rows in parts.items():
        np.testing.assert_array_equal(getattr(data, name)["labels"], NUMBERED.labels[rows])
    assert sorted(rows_known(data.vocabulary)) == sorted(parts["train"])  # words of no other row
    for level, rows in ((task.problem.lower, data.train), (task.problem.upper, data.validation)):
        jax.tree.map(np.testing.assert_array_equal, level.data.arrays, rows)
    assert task.x.shape == () and task.x == 0


def test_a_validation_split_never_sees_the_test_rows():
    data = make(seed=4).data
    forbidden = set(numbers(data.test["tokens"], data.vocabulary).tolist())
    data = make(seed=4, split="validation", train=30, validation=20).data
    seen = np.concatenate(
        [numbers(part["tokens"], data.vocabulary) for part in (data.train, data.validation, data.test)]
    )
    assert len(seen) == 100
    assert not forbidden & set(seen.tolist())
    assert not set(NUMBERED.groups[sorted(forbidden)].tolist()) & set(NUMBERED.groups[seen].tolist())


# What is differentiated


def test_the_penalty_is_half_x_times_the_squared_norm():
    task = make(batch_size=None)
    (x, y), rows = point(task), task.data.train

    @jax.jit
    def both(x, y, rows):
        plain = jax.grad(task.problem.upper.loss, argnums=1)(x, y, rows)
        return *jax.value_and_grad(task.problem.lower.loss, argnums=(0, 1))(x, y, rows), plain

    value, (G_x, G_y), plain = both(x, y, rows)
    squares = sum(float((np.asarray(leaf, float) ** 2).sum()) for leaf in jax.tree.leaves(y))
    np.testing.assert_allclose(value, cross_entropies(y, rows).mean() + 0.15 * squares, rtol=1e-5)
    np.testing.assert_allclose(G_x, squares / 2, rtol=1e-5)
    jax.tree.map(lambda a, b, leaf: np.testing.assert_allclose(a - b, 0.3 * leaf, atol=1e-5), G_y, plain, y)


def test_a_penalty_can_be_kept_from_becoming_negative():
    for nonnegative, sign in ((False, -1), (True, 0)):
        task = make(nonnegative=nonnegative, seed=1)
        solver = bl.BOREP(upper_step=0.01, lower_step=0.1, adjoint_step=0.1, initial=None)  # its steps have one length
        solution = bl.solve(task.problem, solver, task.x, task.y, steps=3, key=jax.random.key(0), signs=False)
        assert np.sign(solution.x) == sign


# What is measured


def test_metrics_by_hand():
    task = make()
    x, y = point(task)
    found, data = task.metrics(x, y), task.data
    assert list(found) == ["test accuracy", "test loss", "upper loss", "lower loss"]
    guess = np.asarray(apply(y, data.test["tokens"])).argmax(1)
    assert found["test accuracy"] == pytest.approx((guess == np.asarray(data.test["labels"])).mean())
    assert found["test loss"] == pytest.approx(cross_entropies(y, data.test).mean(), rel=1e-5)
    assert found["upper loss"] == pytest.approx(cross_entropies(y, data.validation).mean(), rel=1e-5)
    lower = task.problem.lower
    assert found["lower loss"] == pytest.approx(float(eqx.filter_jit(lower.loss)(x, y, data.train)), rel=1e-5)


def test_seeds_share_their_programs_and_learn(compiled):
    jax.clear_caches()
    solver = bl.SOBA(upper_step=1e-9, lower_step=0.1, adjoint_step=0.01)
    network = {"vocabulary": 300, "length": 10, "hidden": 12, "layers": 1}
    for seed in (0, 1):
        task = tasks.weight_decay(seed=seed, train=300, model_settings=network)
        before = len(compiled)
        solution = bl.solve(
            task.problem, solver, task.x, task.y, steps=400, key=jax.random.key(0), metrics=task.metrics, every=400
        )
        assert solution.history["lower loss"][-1] < 0.8 * solution.history["lower loss"][0]
        assert {leaf.dtype for leaf in jax.tree.leaves((solution.x, solution.y))} == {jnp.dtype("float32")}
    assert before > 0
    assert compiled[before:] == []


@pytest.mark.slow
def test_diagnose_reports_that_the_lower_level_is_not_convex():
    task = make(batch_size=None)
    report = bl.diagnose(task.problem, task.x, task.y, key=jax.random.key(0), draws=2)
    assert "not strongly convex" in {finding.name for finding in report.findings}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "tweet"}, "dataset: 'tweet' is unknown; did you mean tweets"),
        ({"dataset": ["a text"]}, "dataset: got list; pass the name of a data set or a datasets.TextDataset"),
        ({"split": "valid"}, "split: 'valid' is unknown"),
        ({"source": "block"}, "source: 'block' is unknown"),
        ({"nonnegative": "yes"}, "nonnegative: got 'yes'"),
        ({"train": 0}, "train: got 0"),
        ({"train": 400}, "train: got 400, but 102 of 200 rows are left"),
        ({"model_settings": {"length": 0}}, r"model_settings\['length'\]: got 0"),
        ({"model_settings": {"units": 3}}, "model_settings: 'units' is unknown"),
        ({"batch_size": 41}, "batch_size: got 41, but the data have 40 rows"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**settings)


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the rated sentences in $BILEVEL_DATA")
def test_rated_sentences():
    task = tasks.weight_decay("sentences", train=4000, validation=1000, test=1000)
    solver = bl.SOBA(upper_step=1e-4, lower_step=0.05, adjoint_step=0.01)
    solution = bl.solve(task.problem, solver, task.x, task.y, steps=2000, key=jax.random.key(0), metrics=task.metrics)
    assert solution.history["upper loss"][-1] < solution.history["upper loss"][0] - 0.01  # a hard set for so few rows
    assert solution.x > 0


def test_frozen_word_vectors_are_outside_the_penalty():
    learned, frozen = (make(model_settings=SMALL | {"vectors": "corpus", "frozen": frozen}) for frozen in (False, True))
    x, rows = jnp.asarray(0.3), learned.data.train
    jax.tree.map(np.testing.assert_array_equal, learned.y.without_vectors(), frozen.y)
    penalized = float(learned.problem.lower.loss(x, learned.y, rows) - frozen.problem.lower.loss(x, frozen.y, rows))
    assert penalized == pytest.approx(0.15 * float(jnp.sum(learned.y.vectors**2)), rel=1e-4)
    solution = bl.solve(frozen.problem, bl.SOBA(0.1, 0.1, 0.1), x, frozen.y, steps=2, key=jax.random.key(0))
    assert solution.y.vectors is None
    found, expected = frozen.metrics(x, frozen.y), learned.metrics(x, learned.y)
    assert {**expected, "lower loss": found["lower loss"]} == pytest.approx(found)
