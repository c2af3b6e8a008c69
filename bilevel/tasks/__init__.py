"""Applications: each a problem with starts and metrics, made by a function of its settings."""

from collections.abc import Callable

from bilevel import checks
from bilevel.tasks.base import Task
from bilevel.tasks.cleaning import CleaningData, cleaning
from bilevel.tasks.quadratic import QuadraticTask, quadratic
from bilevel.tasks.regularisation import RegularisationData, regularisation

__all__ = [
    "TASKS",
    "CleaningData",
    "QuadraticTask",
    "RegularisationData",
    "Task",
    "cleaning",
    "get_task",
    "quadratic",
    "regularisation",
]

TASKS: dict[str, Callable[..., Task]] = {"quadratic": quadratic, "cleaning": cleaning}


def get_task(name: str) -> Callable[..., Task]:
    """The function that makes a task, from its name; an unknown one is an error with the nearest names.

    Example:
        >>> from bilevel import tasks
        >>> tasks.get_task("quadratic")(dim_x=3).x.shape
        (3,)
    """
    checks.one_of("task", name, TASKS)
    return TASKS[name]
