"""Settings: there for every solver and task, and changed only as meant."""

import json

import jax
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.experiments import references, settings
from bilevel.tasks import TASKS

PAIRS = [(task, solver) for task in TASKS for solver in bl.SOLVERS]


@pytest.mark.parametrize(("task", "solver"), PAIRS)
def test_every_solver_has_settings_for_every_task(task, solver):
    built = settings.settings(task, solver)
    assert type(built) is bl.SOLVERS[solver]
    assert isinstance(settings.default_steps(task, solver), int)
    assert settings.default_steps(task, solver) > 0


@pytest.mark.parametrize(("task", "solver"), PAIRS)
def test_descriptions_are_json_and_hold_every_setting(task, solver):
    built = settings.settings(task, solver)
    described = json.loads(json.dumps(settings.describe(built), allow_nan=False))
    for name, value in settings.setting(task, solver).arguments.items():
        assert described[name] == value or isinstance(described[name], str)
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
    }


@pytest.mark.parametrize(
    ("task", "solver", "advice"), [("cleanin", "soba", "cleaning"), ("cleaning", "sobo", "soba"), ("x", "y", "known")]
)
def test_unknown_names_name_the_nearest(task, solver, advice):
    with pytest.raises(ValueError, match=advice):
        settings.settings(task, solver)


def test_a_missing_setting_says_so(monkeypatch):
    monkeypatch.delitem(settings.SETTINGS["quadratic"], "soba")
    with pytest.raises(ValueError, match=r"none for 'soba' on 'quadratic'.*SETTINGS"):
        settings.settings("quadratic", "soba")


def test_assignments():
    parsed = settings.parse(["a=1", "b = 1e-2", "c=None", "d=(1, 2)", "e=fashion-mnist", "f=x=y", "g=True"])
    assert parsed == {"a": 1, "b": 0.01, "c": None, "d": (1, 2), "e": "fashion-mnist", "f": "x=y", "g": True}
    for wrong in ("a", "=1", ""):
        with pytest.raises(ValueError, match="key=value"):
            settings.parse([wrong])


def test_changes_go_where_they_belong():
    solver = settings.settings("quadratic", "soba")
    assert settings.divide({"mu": 0.5, "upper_step": 2}, "quadratic", solver) == ({"upper_step": 2}, {"mu": 0.5})
    with pytest.raises(ValueError, match=r"uper_step.*upper_step"):
        settings.divide({"uper_step": 1}, "quadratic", solver)
    with pytest.raises(ValueError, match="seed"):  # the experiment's own
        settings.divide({"seed": 1}, "quadratic", solver)
    with pytest.raises(ValueError, match=r"nois.*noise"):
        settings.make_task("quadratic", 0, {"nois": 1.0})


def test_override_changes_what_it_is_told_and_compiles_nothing(compiled):
    task = settings.make_task("quadratic", 0, {"dim_x": 2})
    solver = settings.settings("quadratic", "soba")

    def run(solver):
        return bl.solve(task.problem, solver, task.x, task.y, steps=2, key=jax.random.key(0))

    before = run(solver)
    compiled.clear()
    changed = settings.override(solver, {"upper_step": 0.5})
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
        settings.override(settings.settings("cleaning", "itd"), changes)


def test_each_reference_row_has_its_strength():
    assert set(settings.REFERENCES["cleaning"]) == {*references.ATTAINABLE, references.CEILING}
