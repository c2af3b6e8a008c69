"""The settings of each solver on each task, as data, and how a user changes them.

`benchmarks/tune.py` finds them, on a validation set and never on the test set.
"""

import ast
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import numpy as np

from bilevel import _checks as checks
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.solvers._base import AbstractSolver
from bilevel.solvers.registry import get_solver
from bilevel.steps import AbstractSchedule, Constant, GradientStep, InversePower, Rule, inverse_power
from bilevel.tasks import TASKS, get_task


@dataclasses.dataclass(frozen=True)
class Setting:
    """A solver's number of steps on a task and its arguments: about the same computing for each solver.

    `task` holds what the solver needs of the task, unless the user has it otherwise.
    """

    steps: int
    arguments: dict[str, Any]
    task: dict[str, Any] = dataclasses.field(default_factory=dict)


SETTINGS: dict[str, dict[str, Setting]] = {
    "cleaning": {
        "itd": Setting(300, {"upper_step": 100.0, "lower_step": 1.0, "inner_steps": 100}),
        "aid": Setting(800, {"upper_step": 10.0, "lower_step": 0.1, "inner_steps": 10}),
        "stocbio": Setting(
            800, {"upper_step": 10.0, "lower_step": 0.1, "inner_steps": 10, "neumann_order": 50, "neumann_step": 2.0}
        ),
        "sustain": Setting(
            3000,
            {
                "upper_step": 3.0,
                "lower_step": 0.1,
                "neumann_order": 50,
                "neumann_step": 2.0,
                "upper_storm_weight": 0.3,
                "lower_storm_weight": 0.3,
            },
        ),
        "fsla": Setting(4000, {"upper_step": 1.0, "lower_step": 0.1, "adjoint_step": 0.3, "storm_weight": 0.3}),
        "borep": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "adjoint_step": 0.3}),
        "soba": Setting(8000, {"upper_step": 1.0, "lower_step": 0.1, "adjoint_step": 0.03}),
        "saba": Setting(8000, {"upper_step": 3.0, "lower_step": 0.3, "adjoint_step": 0.1}, task={"source": "blocks"}),
        "masoba": Setting(8000, {"upper_step": 1.0, "lower_step": 0.1, "adjoint_step": 0.03, "average_weight": 0.1}),
        # BA and BSA from the last y, and BA's system by a few steps, as the experiments of later papers have it:
        # a dense system takes 650 products a step
        "ba": Setting(
            1000,
            {"upper_step": 3.0, "lower_step": 0.1, "adjoint": ConjugateGradient(steps=10), "warm_start": True},
        ),
        "bsa": Setting(
            1000,
            {"upper_step": 10.0, "lower_step": 0.1, "neumann_order": 50, "neumann_step": 2.0, "warm_start": True},
        ),
        "ttsa": Setting(2000, {"upper_step": 3.0, "lower_step": 0.1, "neumann_order": 50, "neumann_step": 2.0}),
        "alset": Setting(
            1500, {"upper_step": 3.0, "lower_step": 0.3, "inner_steps": 3, "neumann_order": 50, "neumann_step": 2.0}
        ),
        "amigo": Setting(
            1000,
            {"upper_step": 30.0, "lower_step": 0.1, "adjoint_step": 0.1, "inner_steps": 10, "adjoint_steps": 10},
        ),
        # an eigendecomposition of 650 x 650 entries a step: few steps, and still the longest runs of all
        "stable": Setting(100, {"upper_step": 30.0, "lower_step": 0.5, "storm_weight": 0.3, "strong_convexity": 0.03}),
        "svrb": Setting(100, {"upper_step": 100.0, "lower_step": 2.0, "storm_weight": 0.1, "strong_convexity": 0.01}),
        "mrbo": Setting(
            1000,
            {
                "upper_step": 30.0,
                "lower_step": 0.3,
                "neumann_order": 50,
                "neumann_step": 2.0,
                "upper_storm_weight": 0.3,
                "lower_storm_weight": 0.3,
            },
        ),
        "vrbo": Setting(
            200,
            {
                "upper_step": 30.0,
                "lower_step": 1.0,
                "inner_steps": 5,
                "neumann_order": 30,
                "neumann_step": 2.0,
                "period": 5,
            },
        ),
        "f2sa": Setting(
            1000,
            {
                "upper_step": 30.0,
                "penalized_step": 0.1,
                "lower_step": 0.1,
                "multiplier": 0.3,
                "inner_steps": 10,
            },
        ),
        "hoag": Setting(
            100,
            {
                "upper_step": 100.0,
                "lower_step": 2.0,
                "strong_convexity": 2e-3,
                "inner_steps": 100,
                "adjoint_steps": 20,
            },
        ),
        # whole, it is ITD by another name: other steps than there
        "reverse": Setting(300, {"upper_step": 300.0, "lower_step": 0.3, "inner_steps": 100}),
        "aid-fp": Setting(1000, {"upper_step": 10.0, "lower_step": 1.0, "inner_steps": 10, "adjoint_steps": 50}),
        "aid-cg": Setting(800, {"upper_step": 3.0, "lower_step": 0.1, "inner_steps": 10, "adjoint_steps": 10}),
    },
    "quadratic": {
        "itd": Setting(400, {"upper_step": 0.3, "lower_step": 0.1, "inner_steps": 100}),
        "aid": Setting(400, {"upper_step": 0.3, "lower_step": 0.1, "inner_steps": 10}),
        "stocbio": Setting(
            400, {"upper_step": 0.3, "lower_step": 0.1, "inner_steps": 10, "neumann_order": 100, "neumann_step": 0.1}
        ),
        "sustain": Setting(
            4000,
            {
                "upper_step": inverse_power(0.05, 0.5),
                "lower_step": 0.1,
                "neumann_order": 50,
                "neumann_step": 0.1,
                "upper_storm_weight": 0.03,
                "lower_storm_weight": 0.1,
            },
        ),
        "fsla": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "adjoint_step": 0.1, "storm_weight": 0.1}),
        "borep": Setting(
            4000, {"upper_step": inverse_power(1.0, 1.0, offset=50.0), "lower_step": 0.1, "adjoint_step": 0.1}
        ),
        "soba": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "adjoint_step": 0.1}),
        "saba": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "adjoint_step": 0.1}, task={"source": "blocks"}),
        "masoba": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "adjoint_step": 0.1, "average_weight": 0.1}),
        "ba": Setting(400, {"upper_step": 0.3, "lower_step": 2 / 11, "inner_steps": 50}),
        # a random truncation leaves noise in every step: 1/k steps
        "bsa": Setting(
            4000,
            {"upper_step": inverse_power(4.0, 1.0, 400.0), "lower_step": 0.1, "neumann_order": 50, "neumann_step": 0.1},
        ),
        "ttsa": Setting(
            8000,
            {"upper_step": inverse_power(4.0, 1.0, 400.0), "lower_step": 0.1, "neumann_order": 50, "neumann_step": 0.1},
        ),
        "alset": Setting(
            8000,
            {
                "upper_step": inverse_power(4.0, 1.0, 400.0),
                "lower_step": 0.1,
                "inner_steps": 1,
                "neumann_order": 50,
                "neumann_step": 0.1,
            },
        ),
        "amigo": Setting(
            400,
            {"upper_step": 0.3, "lower_step": 0.1, "adjoint_step": 0.1, "inner_steps": 10, "adjoint_steps": 10},
        ),
        "stable": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "storm_weight": 0.1, "strong_convexity": 1.0}),
        "svrb": Setting(4000, {"upper_step": 0.03, "lower_step": 0.1, "storm_weight": 0.1, "strong_convexity": 1.0}),
        "mrbo": Setting(
            4000,
            {
                "upper_step": 0.03,
                "lower_step": 0.1,
                "neumann_order": 100,
                "neumann_step": 0.1,
                "upper_storm_weight": 0.1,
                "lower_storm_weight": 0.1,
            },
        ),
        "vrbo": Setting(
            400,
            {
                "upper_step": 0.1,
                "lower_step": 0.1,
                "inner_steps": 10,
                "neumann_order": 100,
                "neumann_step": 0.1,
                "period": 10,
            },
        ),
        "f2sa": Setting(
            4000,
            {
                "upper_step": 0.03,
                "penalized_step": 1e-4,
                "lower_step": 0.1,
                "multiplier": 1000.0,
                "inner_steps": 10,
            },
        ),
        "hoag": Setting(400, {"upper_step": 0.3, "lower_step": 0.1, "strong_convexity": 1.0}),
        "reverse": Setting(400, {"upper_step": 0.3, "lower_step": 0.1, "inner_steps": 100}),
        "aid-fp": Setting(400, {"upper_step": 0.3, "lower_step": 0.1, "inner_steps": 10, "adjoint_steps": 100}),
        "aid-cg": Setting(400, {"upper_step": 0.3, "lower_step": 0.1, "inner_steps": 10, "adjoint_steps": 10}),
    },
}

# 784 features have another curvature: a first look on one validation seed of fashion-mnist, not a grid
SETTINGS["cleaning fashion-mnist"] = SETTINGS["cleaning mnist"] = {
    "itd": Setting(300, {"upper_step": 1000.0, "lower_step": 0.03, "inner_steps": 30}),
    "aid": Setting(1000, {"upper_step": 1000.0, "lower_step": 0.01, "inner_steps": 10}),
    "stocbio": Setting(
        800, {"upper_step": 1000.0, "lower_step": 0.03, "inner_steps": 10, "neumann_order": 20, "neumann_step": 0.05}
    ),
    "sustain": Setting(
        3000,
        {
            "upper_step": 300.0,
            "lower_step": 0.03,
            "neumann_order": 20,
            "neumann_step": 0.05,
            "upper_storm_weight": 0.3,
            "lower_storm_weight": 0.3,
        },
    ),
    "fsla": Setting(5000, {"upper_step": 100.0, "lower_step": 0.03, "adjoint_step": 0.03, "storm_weight": 0.3}),
    "borep": Setting(5000, {"upper_step": 0.3, "lower_step": 0.03, "adjoint_step": 0.03}),
    "soba": Setting(10_000, {"upper_step": 100.0, "lower_step": 0.03, "adjoint_step": 0.03}),
}

# scikit-learn's C of each reference row, on digits
REFERENCES: dict[str, dict[str, float]] = {
    "cleaning": {
        "noisy labels": 0.1,
        "noisy + trusted": 0.1,
        "trusted alone": 10.0**0.5,
        "true labels (ceiling)": 10.0**0.5,
    },
}


def setting(task_name: str, solver_name: str, changes: Mapping[str, Any] | None = None) -> Setting:
    """What `SETTINGS` holds for a task, or for it on the data set that `changes` of its arguments name.

    An unknown task or solver is an error with the nearest names.
    """
    get_solver(solver_name)
    of_task = settings_of(task_name, changes)
    if solver_name not in of_task:
        given = f" with {dict(changes)}" if changes else ""
        raise ValueError(f"settings: none for {solver_name!r} on {task_name!r}{given}; add them to {__name__}.SETTINGS")
    return of_task[solver_name]


def settings_of(task_name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Setting]:
    """The same for every solver that has settings there."""
    checks.one_of("task", task_name, TASKS)
    return SETTINGS.get(f"{task_name} {(changes or {}).get('dataset')}", SETTINGS.get(task_name, {}))


def settings(task_name: str, solver_name: str, changes: Mapping[str, Any] | None = None) -> AbstractSolver:
    """The solver with its settings for the task, but with those of its arguments that `changes` holds.

    Example:

        >>> from bilevel.compare.settings import settings
        >>> settings("quadratic", "aid-fp", {"adjoint_steps": 3}).adjoint.steps
        3
    """
    arguments = setting(task_name, solver_name, changes).arguments
    own, _ = divide(changes or {}, task_name, solver_name)
    return get_solver(solver_name)(**(arguments | own))


def task_arguments(task_name: str) -> dict[str, Any]:
    """The arguments that a user may give a task, with their defaults; the seed is the experiment's."""
    checks.one_of("task", task_name, TASKS)
    parameters = inspect.signature(TASKS[task_name]).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "seed"}


def make_task(task_name: str, seed: int, changes: dict[str, Any]) -> Any:
    """The task of a seed, with some arguments changed."""
    known = task_arguments(task_name)
    for name in changes:
        checks.one_of("setting", name, known)
    return get_task(task_name)(seed=seed, **changes)


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """`key=value` strings, the values Python literals or plain text.

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
    """Changes of a run, as those of the solver and those of the task."""
    of_solver = inspect.signature(get_solver(solver_name)).parameters
    for name in changes:
        checks.one_of("setting", name, [*of_solver, *task_arguments(task_name)])
    inside = {name: value for name, value in changes.items() if name in of_solver}
    return inside, {name: value for name, value in changes.items() if name not in of_solver}


def describe(value: Any) -> Any:
    """A solver, or a part of one, in numbers and text that JSON can hold.

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
