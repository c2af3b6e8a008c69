"""The settings of each solver on each task, which the solvers hold as `tuned`, and how a user changes them.

`benchmarks/tune.py` finds them on a validation set, never on the test set.
"""

import ast
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import numpy as np

from bilevel import _checks as checks
from bilevel.solvers.base import AbstractSolver, Tuned
from bilevel.solvers.registry import SOLVERS, get_solver
from bilevel.steps import AbstractSchedule, Constant, From, GradientStep, InversePower, Rule
from bilevel.tasks import TASKS, get_task

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


def setting(task_name: str, solver_name: str, changes: Mapping[str, Any] | None = None) -> Tuned:
    """The `tuned` entry of a solver for a task, or for the task on the data set that `changes` names.

    An unknown task or solver is an error that lists the nearest names.
    """
    get_solver(solver_name)
    of_task = settings_of(task_name, changes)
    if solver_name not in of_task:
        given = f" with {dict(changes)}" if changes else ""
        raise ValueError(
            f"settings: none for {solver_name!r} on {task_name!r}{given}; add them to `tuned` of "
            f"{getattr(get_solver(solver_name), '__name__', solver_name)}"
        )
    return of_task[solver_name]


def settings_of(task_name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Tuned]:
    """The same for every solver that has settings for it."""
    checks.one_of("task", task_name, TASKS)
    dataset = (changes or {}).get("dataset")
    for name in (f"{task_name} {_LIKE.get(str(dataset), dataset)}", task_name):
        found = {solver: made.tuned[name] for solver, made in SOLVERS.items() if name in made.tuned}
        if found:
            return found
    return {}


def settings(task_name: str, solver_name: str, changes: Mapping[str, Any] | None = None) -> AbstractSolver:
    """The solver with its settings for the task, updated by those of its arguments that are in `changes`.

    Example:

        >>> from bilevel.compare.settings import settings
        >>> settings("quadratic", "aid-fp", {"adjoint_steps": 3}).adjoint.steps
        3
    """
    arguments = setting(task_name, solver_name, changes).settings
    own, _ = divide(changes or {}, task_name, solver_name)
    return get_solver(solver_name)(**(arguments | own))


def task_arguments(task_name: str) -> dict[str, Any]:
    """The arguments that a user may give to a task, with their defaults; the experiment sets the seed."""
    checks.one_of("task", task_name, TASKS)
    parameters = inspect.signature(TASKS[task_name]).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "seed"}


def make_task(task_name: str, seed: int, changes: dict[str, Any]) -> Any:
    """The task for a seed, with some arguments changed."""
    known = task_arguments(task_name)
    for name in changes:
        checks.one_of("setting", name, known)
    return get_task(task_name)(seed=seed, **changes)


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """`key=value` strings as a dictionary; the values are Python literals or plain text.

    Example:

        >>> from bilevel.compare.settings import parse
        >>> parse(["inner_steps=5", "dataset=mnist"])
        {'inner_steps': 5, 'dataset': 'mnist'}
    """
    parsed = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name.strip():
            raise ValueError(f"set: got {assignment!r}; write it as key=value")
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            value = text.strip()
        parsed[name.strip()] = value
    return parsed


def divide(changes: Mapping[str, Any], task_name: str, solver_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The changes for a run, divided into those of the solver and those of the task."""
    of_solver = inspect.signature(get_solver(solver_name)).parameters
    for name in changes:
        checks.one_of("setting", name, [*of_solver, *task_arguments(task_name)])
    inside = {name: value for name, value in changes.items() if name in of_solver}
    return inside, {name: value for name, value in changes.items() if name not in of_solver}


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
