"""Settings exist for every solver and task, and change only as intended."""

import functools
import inspect
import json

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.compare import entrants, references, settings
from bilevel.compare._compare import run
from bilevel.solvers.registry import asked_one
from bilevel.tasks import TASKS, asked_task

# the tasks that `compare` is for; MAML needs a start that is learned
PAIRS = [(task, solver) for task in ("quadratic", "cleaning") for solver in bl.SOLVERS if solver != "maml"]
NOISY = {"noise": 0.1, "rows": 1000, "batch_size": 64}


@functools.cache
def made_task(name, **changes):
    return settings.make_task(name, 0, (NOISY if name == "quadratic" else {}) | changes)


@pytest.mark.parametrize("task", ["quadratic", "cleaning"])
def test_every_solver_has_settings_for_every_task(task):
    held = settings.settings_of(task)
    assert set(held) == set(bl.SOLVERS) - {"maml"}
    assert all(type(setting.steps) is int and setting.steps > 0 for setting in held.values())


@pytest.mark.parametrize(("task", "solver"), PAIRS)
def test_descriptions_are_json_and_hold_every_setting(task, solver):
    built = settings.settings(task, solver)
    described = json.loads(json.dumps(settings.describe(built), allow_nan=False))
    for name, value in settings.setting(task, solver).settings.items():
        if name not in described:  # a preset's: the steps of its adjoint
            assert f"(steps={value}, " in described["adjoint"]
        elif isinstance(value, int | float):
            assert described[name] == value
        else:  # a schedule or a method, in words
            assert all(f"{float(number):g}" in described[name] for number in vars(value).values() if number is not None)
    assert "0x" not in str(described)  # no object's address


def test_descriptions_of_rules_schedules_and_methods():
    solver = bl.AIDBiO(
        upper_step=bl.Rule(optax.adam, 0.05, b1=0.8),
        lower_step=bl.inverse_power(0.5, 0.25, offset=2.0),
        inner_steps=3,
        adjoint=bl.Neumann(order=4, step=0.5),
    )
    assert settings.describe(solver) == {
        "upper_step": "adam(0.05, b1=0.8)",
        "lower_step": "0.5 (t + 2)^-0.25",
        "inner_steps": 3,
        "adjoint": "Neumann(order=4, step=0.5, batch_sizes=None)",
        "warm_start": True,
        "adjoint_warm_start": True,
    }


@pytest.mark.parametrize(("task", "solver"), PAIRS)
def test_a_step_with_the_settings_fits_the_task(task, solver):
    """Traced alone: SABA finds its blocks, a preset its steps, and dense matrices their room."""
    held = settings.setting(task, solver)
    built, made = settings.settings(task, solver), made_task(task, **held.task)

    def first_step(key):
        state, _ = built.init(made.problem, made.x, made.y, key=key)
        return built.step(made.problem, state, 0, key=key)[0]

    assert jax.eval_shape(first_step, jax.random.key(0)).x.shape == made.x.shape


TINY = {
    "regularization": {"train": 60, "validation": 60},
    "weight-decay": {"train": 64, "validation": 64, "test": 32, "model_settings": {"embedding": 4, "hidden": 4}},
    "representation": {"model_settings": {"embedding": 4, "hidden": 4}},
    "fewshot": {"layers": 1, "filters": 2, "test_tasks": 2},
}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_that_is_listed_has_settings_for_a_solver(task):
    """Traced alone."""
    assert settings.settings_of(task)
    for name in settings.settings_of(task) if task in TINY else ():
        entrant, made, _ = entrants.alone(task, name, TINY[task], 0, False)
        assert entrant.steps > 0

        def run(key, solver=entrant.solver, made=made):
            state, _ = bl.initial_state(solver, made.problem, made.x, made.y, key)
            return bl.advance(solver, made.problem, state, key, 0, 2)[0]

        arrays = jax.tree.leaves(eqx.filter(made.x, eqx.is_array))
        traced = eqx.filter_eval_shape(run, jax.random.key(0)).x
        assert [leaf.shape for leaf in jax.tree.leaves(traced) if hasattr(leaf, "shape")] == [a.shape for a in arrays]


@pytest.mark.slow
@pytest.mark.parametrize("solver", [name for name in bl.SOLVERS if name != "maml"])  # it learns a start
def test_every_solver_finds_the_answer_of_the_quadratic(solver):
    """To 2.5 digits; to one where a random Neumann series, or random directions, leave noise in every step."""
    held, noisy = settings.setting("quadratic", solver), ("sustain", "bsa", "ttsa", "alset", "pzobo")
    for seed in (0, 1):
        task = settings.make_task("quadratic", seed, held.task)
        solution = run(task, settings.settings("quadratic", solver), seed=seed, steps=held.steps)
        assert solution.history["correct digits"][-1] >= (1 if solver in noisy else 2.5)


@pytest.mark.parametrize(
    ("task", "solver", "advice"), [("cleanin", "soba", "cleaning"), ("cleaning", "sobo", "soba"), ("x", "y", "known")]
)
def test_unknown_names_name_the_nearest(task, solver, advice):
    with pytest.raises(ValueError, match=advice):
        settings.settings(task, solver)


def test_a_missing_setting_says_so(monkeypatch):
    monkeypatch.delitem(bl.SOBA.tuned, "quadratic")
    with pytest.raises(ValueError, match=r"none for 'soba' on 'quadratic'; add them to `tuned` of SOBA"):
        settings.settings("quadratic", "soba")


def test_a_data_set_may_have_settings_of_its_own():
    mnist = {"dataset": "mnist"}
    assert settings.setting("cleaning", "soba", mnist) != settings.setting("cleaning", "soba")
    assert "saba" not in settings.settings_of("cleaning", mnist)
    with pytest.raises(ValueError, match=r"none for 'saba' on 'cleaning' with .*'dataset': 'mnist'"):
        settings.settings("cleaning", "saba", mnist)


def test_changes_go_where_they_belong():
    def divide(changes, solver):
        return settings.divide(changes, asked_task("quadratic"), asked_one(solver))

    assert divide({"mu": 0.5, "upper_step": 2}, "soba") == ({"upper_step": 2}, {"mu": 0.5})
    assert divide({"mu": 0.5, "adjoint_steps": 2}, "aid-fp")[0] == {"adjoint_steps": 2}
    with pytest.raises(ValueError, match=r"uper_step.*upper_step"):
        divide({"uper_step": 1}, "soba")
    with pytest.raises(ValueError, match="'adjoint' is unknown; did you mean"):  # the preset has no such argument
        divide({"adjoint": 1}, "aid-fp")
    with pytest.raises(ValueError, match="seed"):  # the experiment's own
        divide({"seed": 1}, "soba")
    with pytest.raises(ValueError, match=r"nois.*noise"):
        settings.make_task("quadratic", 0, {"nois": 1.0})


@pytest.mark.parametrize("solver", bl.SOLVERS)
def test_no_solver_has_an_argument_that_a_task_has(solver):
    """Else `--set` could not tell them apart."""
    for task in TASKS:
        assert not set(inspect.signature(bl.SOLVERS[solver]).parameters) & set(asked_task(task).arguments)


def test_changes_of_a_preset_reach_what_it_builds():
    built = settings.settings("quadratic", "aid-fp", {"adjoint_steps": 3, "lower_step": 0.25})
    assert (built.adjoint.steps, float(built.adjoint.step(0)), float(built.lower_step.rate(0))) == (3, 0.25, 0.25)
    assert settings.settings("quadratic", "reverse", {"truncation": 7}).truncation == 7


def test_changes_are_made_and_compile_nothing(compiled):
    task = settings.make_task("quadratic", 0, {"dim_x": 2})
    solver = settings.settings("quadratic", "soba")

    def run(solver):
        return bl.solve(task.problem, solver, task.x, task.y, steps=2, key=jax.random.key(0))

    before = run(solver)
    compiled.clear()
    changed = settings.settings("quadratic", "soba", {"upper_step": 0.5})
    assert settings.describe(changed) == settings.describe(solver) | {"upper_step": 0.5}
    after = run(changed)
    assert compiled == []
    assert not np.array_equal(after.x, before.x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warm_start": "no"}, "warm_start: got 'no'; pass True or False"),
        ({"inner_steps": 2.5}, "inner_steps: got 2.5"),
        ({"upper_step": "fast"}, "upper_step: got .*fast"),
        ({"lower_step": -1}, "lower_step: got -1"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        settings.settings("cleaning", "itd", changes)


def test_each_reference_row_has_its_strength():
    assert set(settings.REFERENCES["cleaning"]) == {*references.ATTAINABLE, references.CEILING}
