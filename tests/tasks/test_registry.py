"""What a user may ask for when a task is wanted, and what is said if it is none."""

import importlib.metadata
import inspect

import pytest

from bilevel import tasks
from bilevel.tasks import asked_task

OWN = """
from bilevel import tasks

def make(rows, noise=0.1, *, seed):
    return tasks.quadratic(rows=rows, noise=noise, seed=seed)

ready = tasks.quadratic(dim_x=2)
"""


@pytest.fixture
def own(write_module):
    return write_module("own_tasks.py", OWN)


def test_names_files_functions_and_tasks(own):
    named = asked_task("quadratic")
    assert named.of_the_package and named.make(3, {"dim_x": 2}).x.shape == (2,)
    assert asked_task(tasks.quadratic).of_the_package  # its settings stand with the solvers
    made = asked_task(f"{own}:make")
    assert (made.label, made.text, made.of_the_package) == ("own_tasks.py:make", f"{own}:make", False)
    assert made.arguments == {"rows": inspect.Parameter.empty, "noise": 0.1}
    first, second = (made.make(seed, {"rows": 7}) for seed in (0, 1))
    assert first.problem.lower.length == 7 and not (first.x_star == second.x_star).all()
    ready = asked_task(f"{own}:ready")
    assert ready.arguments == {} and ready.make(0, {}) is ready.make(1, {}) is ready.made
    assert asked_task(ready.made).label == "quadratic" and not asked_task(ready.made).of_the_package
    fixed = tasks.quadratic()
    assert asked_task(lambda: fixed).make(5, {}) is fixed  # it needs no seed


@pytest.mark.parametrize(
    ("task", "changes", "error", "message"),
    [
        ("make", {}, ValueError, r"task: own_tasks\.py:make needs rows; give each by --set or task_settings"),
        ("make", {"row": 3}, ValueError, "setting: 'row' is unknown; did you mean rows"),
        ("make", {"seed": 3}, ValueError, "setting: 'seed' is unknown"),
        ("ready", {"rows": 3}, ValueError, r"setting: got 'rows', but own_tasks\.py:ready has no arguments"),
        ("tasks", {}, TypeError, "task: .*:tasks is <module.*it must be a function that makes a task"),
        (lambda: 3, {}, TypeError, r"task: <lambda> made int; return a bilevel\.tasks\.Task"),
        (lambda **rest: 3, {}, TypeError, "task: <lambda> takes any argument; write down which"),
        (3, {}, TypeError, "task: got 3; pass a function that makes a task"),
        (tasks.Task, {}, TypeError, "task: got <class .*Task'>; pass a function"),
    ],
)
def test_what_makes_no_task_is_refused(own, task, changes, error, message):
    with pytest.raises(error, match=message):
        asked_task(f"{own}:{task}" if isinstance(task, str) else task).make(0, changes)


def test_entry_points_have_names(own, monkeypatch):
    asked_task(f"{own}:make")  # the module is loaded
    points = [importlib.metadata.EntryPoint(name, "own_tasks:make", "bilevel.tasks") for name in ("own", "quadratic")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "bilevel.tasks" else [])
    assert asked_task("own").label == "own" and not asked_task("own").of_the_package
    with pytest.raises(ValueError, match="'ow' is unknown; did you mean own"):
        asked_task("ow")
    with pytest.raises(ValueError, match="'quadratic' is a task of bilevel and the entry point own_tasks:make"):
        asked_task("quadratic")
