"""The settings of a solver on a task, where they are known, and how a user changes them.

`benchmarks/tune.py` finds them on a validation set, never on the test set.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np

from bilevel import _checks as checks
from bilevel.solvers.base import AbstractSolver, Tuned
from bilevel.solvers.registry import SOLVERS, Asked, asked_one
from bilevel.steps import AbstractSchedule, Constant, From, GradientStep, InversePower, Rule
from bilevel.tasks import Task
from bilevel.tasks.registry import AskedTask, asked_task

_LIKE = {"fashion-mnist": "mnist"}  # data sets with shared settings: checked on one validation seed, without a grid

# scikit-learn's C of each reference row, on digits
REFERENCES: dict[str, dict[str, float]] = {
    "cleaning": {
        "noisy labels": 0.1,
        "noisy + trusted": 0.1,
        "trusted alone": 10.0**0.5,
        "true labels (ceiling)": 10.0**0.5,
    },
}


def tuned(solver: Asked, task: AskedTask, made: Task | None, changes: Mapping[str, Any]) -> Tuned | None:
    """A solver's settings for a task, on the data set that `changes` names; None if it has none.

    For the tasks of the package they stand with the solver, for others with the task (`made`).
    """
    if not task.of_the_package:
        return None if made is None else made.tuned.get(solver.name)
    kind = type(solver.made) if isinstance(solver.made, AbstractSolver) else solver.made
    return getattr(kind, "tuned", {}).get(_entry(task.label, changes))


def settings_of(task_name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Tuned]:
    """The settings of every solver of the package that has some for this task of the package."""
    name = _entry(task_name, changes or {})
    return {solver: made.tuned[name] for solver, made in SOLVERS.items() if name in made.tuned}


def _entry(task_name: str, changes: Mapping[str, Any]) -> str:
    """The name in `tuned` for a task: that of its data set, if any solver has settings for that."""
    dataset = changes.get("dataset")
    own = f"{task_name} {_LIKE.get(str(dataset), dataset)}"
    return own if any(own in made.tuned for made in SOLVERS.values()) else task_name


def built(solver: Asked, task: AskedTask, tuned: Tuned | None, changes: Mapping[str, Any] | None = None) -> Any:
    """The solver with its settings for the task, updated by `changes` of them.

    **Raises** `ValueError` if settings are missing, with the ways to give them.
    """
    known = {} if tuned is None or isinstance(solver.made, AbstractSolver) else tuned.settings
    name, holder = (solver.text or solver.name).partition("[")[0], "solver" if task.of_the_package else "task"
    advice = (
        f", and no settings on {task.label} are known; give them, as in {name}[SETTING=VALUE,...], let them be "
        f"suggested (--suggest), or declare them in `tuned` of the {holder}"
    )
    return solver.make({**known, **(changes or {})}, argument="settings", advice=advice)


def setting(task_name: str, solver_name: str, changes: Mapping[str, Any] | None = None) -> Tuned:
    """The `tuned` entry of a solver for a task of the package, or for the task on the data set that `changes` names."""
    solver, task = asked_one(solver_name), asked_task(task_name)
    found = tuned(solver, task, None, changes or {})
    if found is None:
        given = f" with {dict(changes)}" if changes else ""
        raise ValueError(
            f"settings: none for {solver_name!r} on {task_name!r}{given}; add them to `tuned` of {solver.made.__name__}"
        )
    return found


def settings(task_name: str, solver_name: str, changes: Mapping[str, Any] | None = None) -> AbstractSolver:
    """The solver with its settings for the task, updated by those of its arguments that are in `changes`.

    Example:

        >>> from bilevel.compare.settings import settings
        >>> settings("quadratic", "aid-fp", {"adjoint_steps": 3}).adjoint.steps
        3
    """
    solver, task = asked_one(solver_name), asked_task(task_name)
    own, _ = divide(changes or {}, task, solver)
    return built(solver, task, setting(task_name, solver_name, changes), own)


def asks(tuned: Tuned | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The task's arguments that a solver's settings ask for, unless the user changed them."""
    return {} if tuned is None else {name: changes.get(name, value) for name, value in tuned.task.items()}


def make_task(task: AskedTask | str, seed: int, changes: Mapping[str, Any]) -> Task:
    """The task for a seed, with some arguments changed."""
    return (asked_task(task) if isinstance(task, str) else task).make(seed, changes)


def divide(changes: Mapping[str, Any], task: AskedTask, solver: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """The changes for a run, divided into those of the solver and those of the task."""
    of_solver, of_task = solver.settings, task.arguments
    for name in changes:
        if of_solver is not None:
            checks.one_of("setting", name, [*of_solver, *of_task])
        if name in of_task and name in (of_solver or ()):
            raise ValueError(
                f"setting: {name!r} is one of {solver.label} and one of {task.label}; write the solver's in brackets, "
                f"as in {solver.name}[{name}=...]"
            )
    inside = {name: value for name, value in changes.items() if name not in of_task}
    return inside, {name: value for name, value in changes.items() if name in of_task}


def describe(value: Any) -> Any:
    """A solver, or a part of one, as numbers and text for JSON.

    Example:

        >>> import bilevel as bl
        >>> from bilevel.compare.settings import describe
        >>> describe(bl.SOBA(upper_step=0.1, lower_step=bl.inverse_power(1.0, 0.5), adjoint_step=0.2))
        {'upper_step': 0.1, 'lower_step': '1 (t + 1)^-0.5', 'adjoint_step': 0.2}
    """
    if isinstance(value, AbstractSolver):
        return {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, GradientStep):
        return describe(value.rate)
    if isinstance(value, From):
        return describe(value.then)
    if isinstance(value, Constant):
        return describe(value.value)
    if isinstance(value, InversePower):
        return f"{float(value.scale):g} (t + {float(value.offset):g})^-{float(value.power):g}"
    if isinstance(value, Rule):
        extra = "".join(f", {name}={describe(given)}" for name, given in value.settings.items())
        return f"{value.optimizer.__name__}({describe(value.learning_rate)}{extra})"
    if isinstance(value, eqx.Module) and not isinstance(value, AbstractSchedule):
        inside = ((field.name, describe(getattr(value, field.name))) for field in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(f'{name}={part}' for name, part in inside)})"
    if isinstance(value, tuple | list):
        return [describe(part) for part in value]
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if callable(value):
        return getattr(value, "__name__", repr(value))
    return value
