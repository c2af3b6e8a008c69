"""The solvers of a comparison: their names, and where their settings come from."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest

import bilevel as bl
from bilevel import tasks
from bilevel.compare import compare, entrants, page
from bilevel.tasks import Tuned, asked_task

OWN = """
import jax.numpy as jnp
import numpy as np
import bilevel as bl
from bilevel import tasks

class Own(bl.SOBA):
    about = None
    tuned = {"quadratic": tasks.Tuned(30, upper_step=0.1, lower_step=0.1, adjoint_step=0.1)}

def make(dim_x=2, *, seed):
    made = tasks.quadratic(dim_x=dim_x, dim_y=2, seed=seed)
    return tasks.Task(
        name="quadratic", problem=made.problem, x=made.x, y=made.y, metrics=made.measure, score="distance",
        tuned={"Own": tasks.Tuned(20, upper_step=0.05, lower_step=0.1, adjoint_step=0.1, task={"dim_x": 3})},
    )
"""
SOBA = bl.SOBA(0.1, 0.1, 0.1)


@pytest.fixture
def own(write_module):
    return write_module("own.py", OWN)


def small(dim_x=2, *, seed):
    return tasks.quadratic(dim_x=dim_x, dim_y=2, seed=seed)


def labels(solvers):
    return list(entrants.named(solvers))


def test_names_are_distinct(own, write_module):
    assert labels("soba, aid,soba") == ["soba", "aid"]  # the same twice is one
    assert labels(bl.SOBA) == labels([SOBA]) == labels(["soba"]) == ["soba"]
    assert labels(["soba[upper_step=0.1,1]", "soba"]) == ["soba[upper_step=0.1]", "soba[upper_step=1]", "soba"]
    slow = eqx.tree_at(lambda solver: solver.upper_step.rate.value, SOBA, np.asarray(0.01))
    rule = bl.SOBA(bl.inverse_power(1.0, 0.5), 0.2, 0.1)
    assert labels([SOBA, bl.AIDBiO, slow]) == ["soba[upper_step=0.1]", "aid", "soba[upper_step=0.01]"]
    assert labels([SOBA, rule]) == [
        "soba[upper_step=0.1,lower_step=0.1]", "soba[upper_step=1 (t + 1)^-0.5,lower_step=0.2]"
    ]  # fmt: skip
    assert labels({"a": SOBA, "b": "soba[upper_step=1]", "c": "soba[upper_step=0.1,1]"}) == [
        "a", "b", "c[upper_step=0.1]", "c[upper_step=1]"
    ]  # fmt: skip
    other = write_module("sub/own.py", OWN)
    assert labels([f"{own}:Own", "soba"]) == ["own.py:Own", "soba"]
    assert labels([f"{own}:Own", f"{other}:Own"]) == [f"{own}:Own", f"{other}:Own"]
    for twice in ([SOBA, SOBA], ["soba", SOBA], [bl.SOBA, bl.SOBA]):
        with pytest.raises(ValueError, match="solvers: two are called 'soba.*pass a dictionary"):
            labels(twice)
    with pytest.raises(ValueError, match="solvers: 'sobo' is unknown"):
        labels(["soba", "sobo"])
    with pytest.raises(TypeError, match="solvers: got 3; pass a solver"):
        labels(3)


def entered(solver, task, **changes):
    task = asked_task(task)
    made = task.make(0, changes)
    (one,) = entrants.named([solver]).values()
    return entrants.enter(task, made, one, changes)


def test_settings_stand_with_the_solver_for_a_task_of_the_package_and_else_with_the_task(own):
    of_package, of_own = entered(f"{own}:Own", "quadratic"), entered(f"{own}:Own", f"{own}:make")
    assert (of_package.steps, of_package.description) == (
        30, {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1}
    )  # fmt: skip
    assert (of_own.steps, of_own.description["upper_step"], of_own.task) == (20, 0.05, {"dim_x": 3})
    assert entered(f"{own}:Own[upper_step=7]", f"{own}:make").description["upper_step"] == 7
    assert entered(f"{own}:Own", f"{own}:make", dim_x=4).task == {"dim_x": 4}
    assert entered(SOBA, "quadratic").description["upper_step"] == 0.1  # a solver has its own
    assert entered(SOBA, "quadratic").steps == bl.SOBA.tuned["quadratic"].steps
    blocks = bl.SABA(0.1, 0.1, 0.1)
    assert entered(blocks, "quadratic", noise=0.1).task == {"source": "blocks"}
    with pytest.raises(  # a task that only has the name of one of the package
        ValueError, match=r"settings: soba needs upper_step, .*no settings on own\.py:make .*soba\[SETTING=VALUE"
    ):
        entered("soba", f"{own}:make")
    with pytest.raises(ValueError, match=r"soba\[lower_step=1\] needs upper_step, adjoint_step.*`tuned` of the task"):
        entered("soba[lower_step=1]", small)
    with pytest.raises(ValueError, match=r"maml needs upper_step, .*`tuned` of the solver"):
        entered("maml", "quadratic")


def test_objects_are_compared_like_names(tmp_path):
    """A function, a class and instances; the command in the page is Python."""
    solvers = [SOBA, bl.SOBA(0.2, 0.1, 0.1), "aid[upper_step=0.3,lower_step=0.1,inner_steps=5]"]
    comparison = compare(small, solvers, seeds=2, steps=20, task_settings={"dim_x": 3}, out=tmp_path)
    names = ["soba[upper_step=0.1]", "soba[upper_step=0.2]", "aid[upper_step=0.3,lower_step=0.1,inner_steps=5]"]
    assert list(comparison.solvers) == names
    assert [run.result for run in comparison.runs] == ["successful"] * 6
    ends = [run.rows[-1]["distance"] for run in comparison.runs]
    assert len(set(ends)) == 6
    task = small(3, seed=1)
    alone = bl.solve(task.problem, solvers[1], task.x, task.y, steps=20, key=jax.random.fold_in(jax.random.key(1), 1))
    assert ends[4] == pytest.approx(task.measure(alone.x, alone.y)["distance"], rel=1e-5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["task"] == "small" and summary["arguments"] == {"dim_x": 3}
    assert summary["settings"][names[1]]["upper_step"] == 0.2
    assert page.command(comparison) == (
        "from bilevel.compare import compare\n"
        f"compare(..., {{{names[0]!r}: ..., {names[1]!r}: ..., {names[2]!r}: {names[2]!r}}}, "
        "seeds=[0, 1], steps=20, task_settings={'dim_x': 3})"
    )
    assert all(name in (tmp_path / "report.html").read_text() for name in names)


def test_a_task_itself_is_the_same_for_all_seeds():
    task = tasks.quadratic(dim_x=2, noise=0.1, rows=20, batch_size=2)
    comparison = compare(task, {"mine": SOBA}, seeds=[3, 4], steps=20)
    first, second = comparison.of("mine")
    assert first.rows[0]["distance"] == second.rows[0]["distance"]
    assert first.rows[-1]["distance"] != second.rows[-1]["distance"]  # the runs draw other batches
    with pytest.raises(ValueError, match="steps: none are known for mine on quadratic; pass steps or seconds"):
        compare(task, {"mine": SOBA}, seeds=1)
    with pytest.raises(ValueError, match="solvers: none has settings for quadratic; name solvers"):
        compare(task, seeds=1)


def test_runs_of_code_that_has_changed_are_not_taken_from_a_checkpoint(tmp_path):
    def distance(make):
        options = {"seeds": 1, "steps": 10, "checkpoint": tmp_path / "kept"}
        return compare(make, {"mine": SOBA}, **options).runs[0].rows[-1]["distance"]

    def other(dim_x=2, *, seed):
        return tasks.quadratic(dim_x=dim_x, dim_y=2, mu=2.0, seed=seed)

    first = distance(small)
    other.__name__ = "small"
    assert distance(small) == first != distance(other)


def test_all_with_a_theorem_are_suggested_where_none_has_settings(monkeypatch):
    known = {name: bl.SOLVERS[name] for name in ("soba", "saba", "maml")}
    monkeypatch.setattr(entrants, "SOLVERS", known)

    def noisy(*, seed):
        return tasks.quadratic(dim_x=2, dim_y=2, noise=0.1, rows=20, batch_size=5, seed=seed)

    comparison = compare(noisy, suggested=True, seeds=1, steps=10)
    assert list(comparison.solvers) == ["soba"] and list(comparison.left_out) == ["saba", "maml"]
    assert "saba: no settings to suggest: " in comparison.left_out["saba"]
    with pytest.raises(ValueError, match="saba: no settings to suggest: "):
        compare(noisy, ["saba"], suggested=True, seeds=1, steps=10)


def test_episodes_have_no_suggestion():
    episodes = bl.Episodes(lambda key: small(seed=0).problem)
    made = small(seed=0)
    task = tasks.Task(name="t", problem=episodes, x=made.x, y=made.y, metrics=made.measure, score="distance")
    with pytest.raises(ValueError, match=r"suggest: t draws a new problem in each step.*itd\[SETTING=VALUE"):
        compare(task, suggested=True, seeds=1, steps=1)
    comparison = compare(task, "soba[upper_step=0.1,lower_step=0.1,adjoint_step=0.1]", seeds=1, steps=2)
    assert comparison.runs[0].result == "successful"


def test_a_task_may_have_the_settings_of_the_packages_solvers():
    made = small(seed=0)
    tuned = {"soba": Tuned(7, upper_step=0.1, lower_step=0.1, adjoint_step=0.1)}
    task = tasks.Task(
        name="t", problem=made.problem, x=made.x, y=made.y, metrics=made.measure, score="distance", tuned=tuned
    )
    comparison = compare(task, seeds=1)
    assert comparison.budget == {"steps": {"soba": 7}}
