"""The rows of a search without gradients: what they find, what they cost, and where they are refused."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import tasks
from bilevel.compare import compare, files, page, records, tables
from bilevel.compare import search as searches
from bilevel.tasks import Search, Task

SOBA = "soba[upper_step=0.05,lower_step=0.5,adjoint_step=0.5]"


def made(project=None, **changes):
    """Φ(x) = ½(x₁ + x₂ − 1)² + ½(x₁ − x₂)², at its least at (½, ½); the lower level has 6 rows, the upper one 2."""
    problem = bl.Problem(
        bl.Level(lambda x, y, rows: 0.5 * jnp.sum((y - jnp.array([1.0, 0.0])) ** 2) * jnp.mean(rows), jnp.ones(2)),
        bl.Level(
            lambda x, y, rows: 0.5 * jnp.mean(rows) * ((y[0] - x[0] - x[1]) ** 2 + (y[1] - x[0] + x[1]) ** 2),
            jnp.ones(6),
        ),
        project=project,
    )

    def metrics(x, y):
        return {"score": -float(jnp.max(jnp.abs(x - 0.5))), "x": float(x[0]), "lag": float(y[0] - x[0] - x[1])}

    options = {"search": Search(low=(-1.0, 0.0), high=(2.0, 1.0))} | changes
    return Task(name="two", problem=problem, x=jnp.zeros(2), y=jnp.zeros(2), metrics=metrics, score="score", **options)


@pytest.fixture(scope="module")
def task():
    return made()


def test_the_best_trial_counts_and_the_budget_is_kept(task):
    few, many, again = (searches.search(task, budget, seed=0)[searches.RANDOM] for budget in (500, 20_000, 500))
    assert few == again and few.trials < many.trials and few.score < many.score
    assert many.score > -0.25  # a random point of the box is further away
    assert 0.5 * 500 < few.samples <= 500 and 0.9 * 20_000 < many.samples <= 20_000
    other = searches.search(task, 500, seed=1)[searches.RANDOM]
    assert other.score != few.score
    with pytest.raises(ValueError, match=r"search: 10 samples pay for no trial on two; one takes \d\d"):
        searches.search(task, 10, seed=0)


def test_a_trial_solves_the_lower_level_and_is_projected(task):
    seen = []
    watched = made(
        lambda x: jnp.minimum(x, 0.75), search=Search(low=(1.0,), high=(2.0,), x=lambda one: jnp.full(2, one[0]))
    )
    measured = watched.metrics
    object.__setattr__(watched, "metrics", lambda x, y: seen.append(measured(x, y)) or seen[-1])
    searches.search(watched, 500, seed=0)
    assert seen[0]["x"] == 0.75 and abs(seen[0]["lag"]) < 1e-5


def test_compare_has_the_rows_on_the_samples_of_the_solvers(task, tmp_path, monkeypatch):
    options = {"seeds": 2, "search": True, "checkpoint": tmp_path / "kept"}
    solvers = {"short": SOBA, "wrong": bl.SOBA(1e-9, 0.5, 0.5)}
    comparison = compare(task, solvers, steps=300, **options)
    budget = max(sum(run.stats[kind] for kind in "FGHJ") for run in comparison.runs)
    wanted = {seed: searches.search(task, budget, seed)[searches.RANDOM] for seed in (0, 1)}
    assert comparison.references[searches.RANDOM] == {seed: found.score for seed, found in wanted.items()}
    assert comparison.trials[searches.RANDOM] == {seed: found.trials for seed, found in wanted.items()}
    assert comparison.best_reference in searches.SEARCHES
    row = records.statistics(comparison, "short")
    assert row["margin"]["mean"] > 0 > records.statistics(comparison, "wrong")["margin"]["mean"]
    summary = files.summary(comparison)
    assert summary["references"][searches.RANDOM]["attainable"] and summary["trials"][searches.RANDOM] > 1
    assert any("trials per seed in the box" in note for note in tables.notes(comparison))
    assert "search=True" in page.command(comparison)
    monkeypatch.setattr(searches, "search", None)  # kept on disk
    assert compare(task, solvers, steps=300, **options).references == comparison.references


def test_seeds_at_once_have_the_same_rows(task):
    options = {"seeds": 2, "steps": 20, "search": True}
    one, both = (compare(task, {"short": SOBA}, untimed=untimed, **options) for untimed in (False, True))
    assert one.references == both.references and list(one.references[searches.RANDOM]) == [0, 1]


def test_a_budget_too_small_for_a_trial_is_said(task):
    comparison = compare(task, {"short": SOBA}, seeds=1, steps=1, search=True)
    assert comparison.references == {} and "pay for no trial" in comparison.left_out["search"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (lambda: made(search=None), "search: two declares no box for a search without gradients: x has 2 numbers"),
        (lambda: made(search=Search(low=[0] * 21, high=[1] * 21)), "search: two declares 21 numbers, and .* than 20"),
        (lambda: tasks.quadratic(dim_x=30), "search: quadratic declares 30 numbers"),
        (
            lambda: Task(
                name="t", problem=bl.Episodes(lambda key: 0), x=0.0, y=0.0, metrics=lambda x, y: {}, score="a"
            ),
            "search: t draws a new problem in each step",
        ),
    ],
)
def test_where_a_search_means_nothing_it_is_refused_before_any_run(task, message):
    with pytest.raises(ValueError, match=message):
        compare(task(), {"short": SOBA}, seeds=1, steps=1, search=True)


@pytest.mark.parametrize(
    ("low", "high"), [((1.0,), (1.0,)), ((1.0,), (2.0, 3.0)), (0.0, 1.0), ((np.nan,), (1.0,)), ((0.0,), (np.inf,))]
)
def test_a_box_has_finite_bounds(low, high):
    with pytest.raises(ValueError, match="low: got .*; pass finite bounds, low below high"):
        Search(low=low, high=high)


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed")
def test_optuna_has_its_row(task):
    found, again = (searches.search(task, 2_000, seed=0) for _ in range(2))
    assert list(found) == [searches.RANDOM, searches.OPTUNA] and found == again
    assert found[searches.OPTUNA].trials > 5 and found[searches.OPTUNA].score > -0.5
