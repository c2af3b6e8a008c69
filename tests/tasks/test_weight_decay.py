"""Weight decay of a recurrent network: what is drawn, what is differentiated, and what is measured."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import datasets, tasks
from bilevel.datasets import words
from bilevel.tasks._base import by_group

ROWS = 200
SMALL = {"vocabulary": ROWS, "length": 6, "embedding": 5, "hidden": 4, "layers": 1}


@pytest.fixture
def numbered(monkeypatch):
    """A set whose texts are their numbers, which `encode` gives back as every token; groups of up to five rows."""
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 60, ROWS)).astype(np.int32)
    card = datasets.Card("tweets", ROWS, 2, {"all": ROWS}, "none", "made up")
    labels = (np.arange(ROWS) % 3 == 0).astype(np.int32)
    texts = tuple(map(str, range(ROWS)))
    dataset = datasets.TextDataset(texts, labels, np.zeros(ROWS, np.int32), ("tweets",), groups, 2, card)
    monkeypatch.setattr(datasets, "load_text", lambda name: dataset)
    monkeypatch.setattr(words, "vocabulary", lambda texts, size: {text: int(text) for text in texts})
    monkeypatch.setattr(
        words, "encode", lambda texts, known, n: np.array([[int(text)] * n for text in texts], np.int32)
    )
    return dataset


def make(**settings):
    sizes = {"train": 60, "validation": 40, "test": 50, "batch_size": 20}
    return tasks.weight_decay(**{"dataset": "tweets", **sizes, **SMALL, **settings})


def point(task, seed=3):
    rng = np.random.default_rng(seed)
    y = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), task.y)
    return jnp.asarray(0.3), y


def numbers(rows):
    return np.asarray(rows["tokens"])[:, 0]


apply = eqx.filter_jit(lambda network, tokens: network(tokens))


def cross_entropies(y, rows):
    z = np.asarray(apply(y, rows["tokens"]), float)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), np.asarray(rows["labels"])]


# What is drawn


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
    with pytest.raises(ValueError, match=r"b: got 7, but of 10 rows 6 are left beside the others \(a 4\)"):
        by_group(np.arange(10), {"a": 4, "b": 7}, np.random.default_rng(0))


def test_the_levels_see_their_own_rows(numbered):
    task = make()
    data = task.data
    parts = {name: numbers(getattr(data, name)) for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 60, "validation": 40, "test": 50}
    groups = [set(numbered.groups[rows].tolist()) for rows in parts.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))
    for name, rows in parts.items():
        np.testing.assert_array_equal(getattr(data, name)["labels"], numbered.labels[rows])
    assert sorted(data.vocabulary.values()) == sorted(parts["train"])  # words of no other row
    for level, rows in ((task.problem.lower, data.train), (task.problem.upper, data.validation)):
        jax.tree.map(np.testing.assert_array_equal, level.data.arrays, rows)
    assert task.x.shape == () and task.x == 0


def test_a_validation_split_never_sees_the_test_rows(numbered):
    forbidden = set(numbers(make(seed=4).data.test).tolist())
    data = make(seed=4, split="validation", train=30, validation=20).data
    seen = np.concatenate([numbers(part) for part in (data.train, data.validation, data.test)])
    assert len(seen) == 100
    assert not forbidden & set(seen.tolist())
    assert not {numbered.groups[row] for row in forbidden} & set(numbered.groups[seen].tolist())


# What is differentiated


def test_the_penalty_is_half_x_times_the_squared_norm(numbered):
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


# What is measured


def test_metrics_by_hand(numbered):
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
    for seed in (0, 1):
        task = tasks.weight_decay(seed=seed, train=300, vocabulary=300, length=10, hidden=12, layers=1)
        before = len(compiled)
        solution = bl.solve(
            task.problem, solver, task.x, task.y, steps=400, key=jax.random.key(0), metrics=task.metrics, every=400
        )
        assert solution.history["lower loss"][-1] < 0.8 * solution.history["lower loss"][0]
        assert {leaf.dtype for leaf in jax.tree.leaves((solution.x, solution.y))} == {jnp.dtype("float32")}
    assert before > 0
    assert compiled[before:] == []


@pytest.mark.slow
def test_diagnose_reports_that_the_lower_level_is_not_convex(numbered):
    task = make(batch_size=None)
    report = bl.diagnose(task.problem, task.x, task.y, key=jax.random.key(0), draws=2)
    assert "not strongly convex" in {finding.name for finding in report.findings}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "tweet"}, "dataset: 'tweet' is unknown; did you mean tweets"),
        ({"split": "valid"}, "split: 'valid' is unknown"),
        ({"source": "block"}, "source: 'block' is unknown"),
        ({"train": 0}, "train: got 0"),
        ({"train": 400}, "train: got 400, but of 200 rows"),
        ({"length": 0}, "length: got 0"),
        ({"hidden": 0}, "hidden: got 0"),
        ({"batch_size": 41}, "batch_size: got 41, but the data have 40 rows"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_settings(numbered, settings, message):
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
