"""Applications: functions that make a problem with starts and metrics from its settings."""

from collections.abc import Callable

from bilevel import _checks as checks
from bilevel.tasks._base import Task
from bilevel.tasks._cleaning import CleaningData, cleaning
from bilevel.tasks._fewshot import FewshotData, fewshot
from bilevel.tasks._quadratic import QuadraticTask, quadratic
from bilevel.tasks._regularization import RegularizationData, regularization
from bilevel.tasks._representation import RepresentationData, representation
from bilevel.tasks._weight_decay import WeightDecayData, weight_decay

__all__ = [
    "TASKS",
    "CleaningData",
    "FewshotData",
    "QuadraticTask",
    "RegularizationData",
    "RepresentationData",
    "Task",
    "WeightDecayData",
    "cleaning",
    "fewshot",
    "get_task",
    "quadratic",
    "regularization",
    "representation",
    "weight_decay",
]

TASKS: dict[str, Callable[..., Task]] = {
    "quadratic": quadratic,
    "cleaning": cleaning,
    "regularization": regularization,
    "weight-decay": weight_decay,
    "representation": representation,
    "fewshot": fewshot,
}


def get_task(name: str) -> Callable[..., Task]:
    """The function that makes the task of this name; an unknown name is an error that lists the nearest ones.

    Example:

        >>> from bilevel import tasks
        >>> tasks.get_task("quadratic")(dim_x=3).x.shape
        (3,)
    """
    checks.one_of("task", name, TASKS)
    return TASKS[name]
