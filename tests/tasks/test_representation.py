"""Representation: how tasks are drawn from domains, what is differentiated, and what is measured."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import numbered_texts, numbers, point, rows_known

import bilevel as bl
from bilevel import oracles, tasks

NAMES = ("birds", "cars", "dogs", "eggs", "figs")
ROWS = 400
SMALL = {"vocabulary": ROWS, "length": 3, "embedding": 3, "hidden": 4, "layers": 1}
SIZES = {"tasks": 3, "domains_per_task": 2, "held_out": 2, "support": 10, "query": 7, "test_tasks": 4, "batch_size": 5}


def numbered_set():
    """Groups of about four rows."""
    rng = np.random.default_rng(0)
    domains = np.sort(rng.integers(0, len(NAMES), ROWS))
    groups = 100 * domains + rng.integers(0, 20, ROWS)
    return numbered_texts(rng.integers(0, 2, ROWS), domains, NAMES, groups)


NUMBERED = numbered_set()


def make(**settings):
    return tasks.representation(NUMBERED, model_settings=SMALL, **{**SIZES, **settings})


def parts(data):
    return {name: getattr(data, name) for name in ("support", "query", "test_support", "test_query")}


def rows_of(data):
    """Which rows of the set each part has, (rows, tasks)."""
    return {name: numbers(rows["tokens"], data.vocabulary) for name, rows in parts(data).items()}


# What is drawn


def test_every_task_has_rows_of_its_own_domains():
    data = make().data
    assert {name: rows.shape for name, rows in rows_of(data).items()} == {
        "support": (10, 3),
        "query": (7, 3),
        "test_support": (10, 4),
        "test_query": (7, 4),
    }
    for name, found in rows_of(data).items():
        np.testing.assert_array_equal(parts(data)[name]["labels"], NUMBERED.labels[found])
        of_tasks = data.test_domains if "test" in name else data.task_domains
        for column, domains in zip(found.T, of_tasks, strict=True):
            assert len(np.unique(column)) == len(column)
            counts = [np.sum(NUMBERED.domains[column] == NAMES.index(domain)) for domain in domains]
            assert sum(counts) == len(column) and max(counts) - min(counts) <= 1
            assert len(set(domains)) == 2
    assert {domain for task in data.test_domains for domain in task} == {"eggs", "figs"}
    assert {domain for task in data.task_domains for domain in task} <= {"birds", "cars", "dogs"}


def test_no_group_is_on_two_sides():
    data = make(tasks=20, test_tasks=20).data
    groups = {name: set(NUMBERED.groups[rows.ravel()].tolist()) for name, rows in rows_of(data).items()}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))


def test_the_vocabulary_is_of_the_training_domains():
    assert set(NUMBERED.domains[rows_known(make().data.vocabulary)]) == {0, 1, 2}


def test_held_out_by_name():
    data = make(held_out=("cars",), domains_per_task=1).data
    assert set(data.test_domains) == {("cars",)}
    assert ("cars",) not in data.task_domains


def test_a_validation_split_never_sees_a_test_domain():
    data = make(split="validation", domains_per_task=1).data
    assert {domain for task in data.test_domains for domain in task} <= {"cars", "dogs"}
    assert set(data.task_domains) == {("birds",)}
    for rows in (*rows_of(data).values(), rows_known(data.vocabulary)):
        assert NUMBERED.domains[rows].max() <= 2


def test_a_batch_is_rows_of_every_task():
    level = make().problem.lower
    batch = level.draw(jax.random.key(0))
    assert batch.rows["tokens"].shape == (5, 3, 3) and batch.rows["labels"].shape == (5, 3)
    np.testing.assert_array_equal(batch.rows["tokens"], level.data.arrays["tokens"][batch.indices])


# What is differentiated


embed = eqx.filter_jit(lambda body, tokens: body(tokens))
loss = eqx.filter_jit(lambda loss, x, y, rows: loss(x, y, rows))


def by_hand(task, x, y, rows, i):
    """Task i's mean cross-entropy on its rows, and its accuracy, in NumPy."""
    features = np.asarray(embed(x["body"], rows["tokens"][:, i]), float)
    z = features @ np.asarray(y["weights"][i], float).T + np.asarray(y["bias"][i], float)
    labels = np.asarray(rows["labels"])[:, i]
    return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean(), (z.argmax(1) == labels).mean()


def test_lower_is_a_sum_and_upper_a_mean_over_tasks():
    task = make(regularization=0.05)
    x, y = point(task)
    data = task.data
    lower = sum(by_hand(task, x, y, data.support, i)[0] for i in range(3))
    lower += 0.05 * sum((np.asarray(leaf, float) ** 2).sum() for leaf in y.values())
    np.testing.assert_allclose(loss(task.problem.lower.loss, x, y, data.support), lower, rtol=1e-5)
    upper = np.mean([by_hand(task, x, y, data.query, i)[0] for i in range(3)])
    np.testing.assert_allclose(loss(task.problem.upper.loss, x, y, data.query), upper, rtol=1e-5)


def test_a_step_of_a_head_is_its_own():
    """The gradient of one head is that of a problem of this task alone."""
    task, alone = make(), make(tasks=1)
    x, y = point(task)
    slope = eqx.filter_jit(lambda loss, x, y, rows: jax.grad(loss, 1)(x, y, rows))
    G_y = slope(task.problem.lower.loss, x, y, task.data.support)
    only = jax.tree.map(lambda leaf: leaf[:, 1:2], task.data.support)
    own = slope(alone.problem.lower.loss, x, jax.tree.map(lambda leaf: leaf[1:2], y), only)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:2], b, rtol=1e-4, atol=1e-6), G_y, own)


def test_the_lower_level_is_strongly_convex():
    task = make(regularization=0.05, batch_size=None, tasks=2)
    x, y = point(task)
    level = task.problem.lower
    hessian = eqx.filter_jit(lambda: oracles.dense_hessian(level, x, y, level.all_rows())[0])()
    assert 0.0999 < np.linalg.eigvalsh(hessian).min() < 0.11  # 2c; the logits do not see what both classes share


# Starts


def test_where_the_heads_start():
    plain, learned = make(), make(learned_start=True)
    assert set(plain.x) == {"body"} and set(learned.x) == {"body", "head"}
    assert not any(leaf.any() for leaf in jax.tree.leaves(plain.y))
    for name, leaf in learned.y.items():
        np.testing.assert_array_equal(leaf, np.stack([learned.x["head"][name]] * 3))
    assert learned.x["head"]["weights"].any()
    jax.tree.map(np.testing.assert_array_equal, plain.x["body"], learned.x["body"])


@pytest.mark.parametrize("form", [{"learned_start": True}, {"adapt": "network"}])
def test_maml_learns_the_start(form):
    """Anil's and MAML's: the gradient of x is that of the loop, by central differences along itself."""
    task = make(**form, batch_size=None, regularization=0.01)
    problem, x = task.problem.draw(jax.random.key(0)), task.x

    @eqx.filter_jit
    def value(x):
        y = problem.start(x)
        for _ in range(2):
            slope = jax.grad(problem.lower.loss, 1)(x, y, task.data.support)
            y = jax.tree.map(lambda leaf, g: leaf - 0.2 * g, y, slope)
        return problem.upper.loss(x, y, task.data.query)

    solver = bl.MAML(upper_step=1.0, lower_step=0.2, inner_steps=2)
    state, _ = solver.init(problem, x, task.y, key=jax.random.key(0))
    moved = eqx.filter_jit(solver.step)(problem, state, 0, key=jax.random.key(0))[0].x
    h = jax.tree.map(lambda new, old: old - new, moved, x)
    size = 1e-2 / float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(h))))
    ahead, behind = (value(jax.tree.map(lambda old, g: old + s * g, x, h)) for s in (size, -size))  # noqa: B023
    assert float(ahead - behind) / (2e-2) == pytest.approx(1e-2 / size, rel=0.02)
    if "adapt" not in form:
        assert jnp.abs(h["head"]["bias"]).max() > 0


# Tasks of their own in each step


def test_each_step_has_some_of_the_tasks():
    task = make(tasks=6, tasks_per_step=4)
    assert isinstance(task.problem, bl.Episodes) and task.problem.start is None
    x, y = point(task)
    pool = task.data.support["tokens"]
    seen = set()
    for seed in range(5):
        rows = task.problem.draw(jax.random.key(seed)).lower.all_rows().rows["tokens"]
        drawn = [next(i for i in range(6) if (rows[:, j] == pool[:, i]).all()) for j in range(4)]
        assert len(set(drawn)) == 4
        seen.add(tuple(drawn))
    assert len(seen) > 1
    assert {leaf.shape[0] for leaf in jax.tree.leaves(y)} == {4}
    assert np.isfinite(list(task.metrics(x, y).values())).all()


def test_heads_that_start_anew_go_to_solvers_that_restart():
    task = make(restart=True)
    settings = {"steps": 2, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="BOREP"):
        bl.solve(task.problem, bl.BOREP(0.05, 0.05, 0.05), task.x, task.y, **settings)
    solution = bl.solve(task.problem, bl.ITDBiO(0.05, 0.05, inner_steps=2), task.x, task.y, **settings)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((solution.x, solution.y)))


def test_tasks_may_be_drawn_afresh():
    task = make(tasks_per_step=20, fresh=True)
    known, pool = task.data.vocabulary, rows_of(task.data)
    seen = {"support": set(), "query": set()}
    for seed in range(4):
        problem = task.problem.draw(jax.random.key(seed))
        for side, level, size in (("support", problem.lower, 10), ("query", problem.upper, 7)):
            rows = level.all_rows().rows
            found = numbers(rows["tokens"], known)
            assert found.shape == (size, 20)
            np.testing.assert_array_equal(rows["labels"], NUMBERED.labels[found])
            for column in found.T:
                assert len(np.unique(column)) == size
                counts = np.unique(NUMBERED.domains[column], return_counts=True)[1]
                assert len(counts) == 2 and counts.max() - counts.min() <= 1
            seen[side] |= set(found.ravel().tolist())
        assert {leaf.shape[0] for leaf in jax.tree.leaves(task.y)} == {20}
    trained = NUMBERED.domains <= 2
    assert seen["support"] | seen["query"] == set(np.flatnonzero(trained).tolist())  # none of a test domain
    assert not seen["support"] & seen["query"]
    assert set(pool["support"].ravel().tolist()) <= seen["support"]


def test_a_task_has_the_same_domains_at_both_levels():
    problem = make(tasks_per_step=20, fresh=True).problem.draw(jax.random.key(0))
    known = make().data.vocabulary
    domains = [
        [set(column.tolist()) for column in NUMBERED.domains[numbers(level.all_rows().rows["tokens"], known)].T]
        for level in (problem.lower, problem.upper)
    ]
    assert domains[0] == domains[1]
    assert len(set(map(tuple, domains[0]))) == 3  # all pairs of three domains


def test_solvers_run_on_fresh_tasks():
    task = make(tasks_per_step=3, fresh=True)  # as many as the pool has, but others
    x, y = point(task)
    solution = bl.solve(task.problem, bl.SOBA(0.1, 0.1, 0.1), x, y, steps=3, key=jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((solution.x, solution.y)))
    assert task.metrics(x, y) == task.metrics(x, task.y)  # y's slots are not those of the pool


def test_frozen_word_vectors_are_outside_of_x():
    settings = {"vectors": "corpus", "uniform": 0.5, "hidden": (5, 4), "layers": 2}
    learned, frozen = (
        tasks.representation(NUMBERED, model_settings=SMALL | settings | {"frozen": frozen}, **SIZES)
        for frozen in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, learned.x["body"].without_vectors(), frozen.x["body"])
    assert frozen.x["body"].vectors is None and frozen.y["weights"].shape == (3, 2, 4)
    assert learned.metrics(learned.x, learned.y) == pytest.approx(frozen.metrics(frozen.x, frozen.y))
    network = tasks.representation(
        NUMBERED, model_settings=SMALL | settings | {"frozen": True}, adapt="network", **SIZES
    )
    solution = bl.solve(network.problem, bl.MAML(0.1, 0.1, 2), network.x, None, steps=2, key=jax.random.key(0))
    assert solution.x.vectors is None and np.isfinite(list(network.metrics(solution.x, solution.y).values())).all()


# What is measured


def test_metrics_by_hand():
    task = make(test_steps=3, test_step=0.5, regularization=0.05)
    x, y = point(task)
    found, data = task.metrics(x, y), task.data
    assert list(found) == ["test accuracy", "test loss", "upper loss", "upper accuracy", "lower loss"]
    of_queries = np.mean([by_hand(task, x, y, data.query, i) for i in range(3)], axis=0)
    np.testing.assert_allclose([found["upper loss"], found["upper accuracy"]], of_queries, rtol=1e-5)
    np.testing.assert_allclose(found["lower loss"], loss(task.problem.lower.loss, x, y, data.support), rtol=1e-5)

    heads = {"weights": np.zeros((4, 2, 4)), "bias": np.zeros((4, 2))}
    for i in range(4):
        features = np.asarray(embed(x["body"], data.test_support["tokens"][:, i]), float)
        hot = np.eye(2)[np.asarray(data.test_support["labels"])[:, i]]
        for _ in range(3):
            z = np.exp(features @ heads["weights"][i].T + heads["bias"][i])
            error = (z / z.sum(1, keepdims=True) - hot) / len(hot)
            heads["weights"][i] -= 0.5 * (error.T @ features + 0.1 * heads["weights"][i])
            heads["bias"][i] -= 0.5 * (error.sum(0) + 0.1 * heads["bias"][i])
    of_tests = np.mean([by_hand(task, x, heads, data.test_query, i) for i in range(4)], axis=0)
    np.testing.assert_allclose([found["test loss"], found["test accuracy"]], of_tests, rtol=1e-4)
    assert task.score == "test accuracy"


def test_seeds_share_their_programs_and_the_embedding_carries_over(compiled):
    jax.clear_caches()
    solver = bl.SOBA(upper_step=0.5, lower_step=0.1, adjoint_step=0.1)
    for seed in (0, 1):
        task = tasks.representation(seed=seed, tasks=4, model_settings={"length": 12, "vocabulary": 300, "layers": 1})
        before = len(compiled)
        solution = bl.solve(
            task.problem, solver, task.x, task.y, steps=600, key=jax.random.key(0), metrics=task.metrics, every=600
        )
        assert solution.history["test accuracy"][-1] > 0.65  # in domains that it has not seen; half by chance
        assert {leaf.dtype for leaf in jax.tree.leaves((solution.x, solution.y))} == {jnp.dtype("float32")}
    assert before > 0
    assert compiled[before:] == []


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "valid"}, "split: 'valid' is unknown"),
        ({"source": "block"}, "source: 'block' is unknown"),
        ({"adapt": "heads"}, "adapt: 'heads' is unknown; did you mean head"),
        ({"adapt": "network", "learned_start": True}, "learned_start: a whole network's start is x already"),
        ({"learned_start": 1}, "learned_start: got 1"),
        ({"tasks": 0}, "tasks: got 0"),
        ({"domains_per_task": 4}, "domains_per_task: got 4, but 3 domains"),
        ({"fresh": True}, "fresh: got True without tasks_per_step"),
        ({"tasks_per_step": 4}, "tasks_per_step: got 4 of 3 tasks"),
        ({"held_out": 0}, "held_out: got 0"),
        ({"held_out": 5}, "held_out: got 5 with split='test'; at least one domain of birds, cars"),
        ({"held_out": 3, "split": "validation"}, "held_out: got 3 with split='validation'"),
        ({"held_out": ("car",)}, "held_out: 'car' is unknown; did you mean cars"),
        ({"support": 200, "query": 200}, "support: a task takes 100 rows of domain 'birds', which has 42"),
        ({"regularization": -1.0}, "regularization: got -1.0"),
        ({"test_steps": 0}, "test_steps: got 0"),
        ({"test_step": 0.0}, "test_step: got 0.0"),
        ({"batch_size": 8}, "batch_size: got 8, but the data have 7 rows"),
        ({"seed": 0.5}, "seed: got 0.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**settings)


def test_an_unknown_data_set():
    with pytest.raises(ValueError, match="dataset: 'made_up' is unknown; did you mean made-up"):
        tasks.representation("made_up")


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the rated sentences in $BILEVEL_DATA")
def test_rated_sentences():
    task = tasks.representation("sentences", domains_per_task=2, held_out=("amazon",), support=600, query=600)
    solver = bl.SOBA(upper_step=0.3, lower_step=0.1, adjoint_step=0.1)
    solution = bl.solve(task.problem, solver, task.x, task.y, steps=2000, key=jax.random.key(0), metrics=task.metrics)
    assert solution.history["upper accuracy"][-1] > 0.7
    assert solution.history["test loss"][-1] < solution.history["test loss"][0] - 0.01


# BO-REP's heads: another start, and a ball


def test_heads_may_start_at_random():
    first, again, other = make(head_start=1.0), make(head_start=1.0), make(head_start=1.0, seed=1)
    for leaf, same, different in zip(*(jax.tree.leaves(task.y) for task in (first, again, other)), strict=True):
        np.testing.assert_array_equal(leaf, same)
        assert np.abs(leaf).max() <= 1 and np.ptp(leaf) > 0.5 and not np.array_equal(leaf, different)
        assert len(np.unique(leaf, axis=0)) == SIZES["tasks"]
    np.testing.assert_array_equal(first.data.support["tokens"], make().data.support["tokens"])


@pytest.mark.parametrize("radius", [1e-9, 0.05, 1e9])
def test_heads_of_test_tasks_start_at_those_of_y_and_stay_in_a_ball(radius):
    """Four test tasks, and the heads of three: the ball is √(4/3) times as large."""
    task = make(head_start=1.0, test_radius=radius, test_steps=2, test_step=0.5, batch_size=None)
    loss, x = task.problem.lower.loss, task.x
    start = y = jax.tree.map(lambda leaf: leaf[jnp.array([0, 1, 2, 0])], task.y)
    for _ in range(2):
        step = jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, y, jax.grad(loss, 1)(x, y, task.data.test_support))
        moved = jax.tree.map(jnp.subtract, step, start)
        length = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(moved)))
        share = jnp.minimum(1.0, radius * np.sqrt(4 / 3) / length)
        y = jax.tree.map(lambda leaf, part, share=share: leaf + share * part, start, moved)
    found = task.metrics(x, task.y)["test loss"]
    assert found == pytest.approx(float(task.problem.upper.loss(x, y, task.data.test_query)), abs=1e-5)
    if radius == 0.05:
        assert share < 0.9


@pytest.mark.parametrize("name", ["head_start", "test_radius"])
@pytest.mark.parametrize("more", [{"restart": True}, {"learned_start": True}, {"adapt": "network"}])
def test_heads_with_another_start_have_neither(name, more):
    with pytest.raises(ValueError, match=f"{name}: got 1.0"):
        make(**{name: 1.0}, **more)


def test_programs_of_fresh_tasks_are_shared_by_all_seeds():
    first, other = (make(fresh=True, tasks_per_step=2, seed=seed).problem.redraw for seed in (0, 1))
    shapes = [jax.tree.map(jnp.shape, (drawn.numbers, drawn.sizes, drawn.tokens)) for drawn in (first, other)]
    assert shapes[0] == shapes[1]
