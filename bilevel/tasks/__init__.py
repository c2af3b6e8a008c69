"""Applications: each a problem with starts and metrics, made by a function of its settings."""

from collections.abc import Callable

from bilevel import checks
from bilevel.tasks.base import Task
from bilevel.tasks.cleaning import CleaningData, cleaning
from bilevel.tasks.fewshot import FewshotData, fewshot
from bilevel.tasks.quadratic import QuadraticTask, quadratic
from bilevel.tasks.regularisation import RegularisationData, regularisation
from bilevel.tasks.representation import RepresentationData, representation
from bilevel.tasks.weight_decay import WeightDecayData, weight_decay

__all__ = [
    "TASKS",
    "CleaningData",
    "FewshotData",
    "QuadraticTask",
    "RegularisationData",
    "RepresentationData",
    "Task",
    "WeightDecayData",
    "cleaning",
    "fewshot",
    "get_task",
    "quadratic",
    "regularisation",
    "representation",
    "weight_decay",
]

TASKS: dict[str, Callable[..., Task]] = {
    "quadratic": quadratic,
    "cleaning": cleaning,
    "regularisation": regularisation,
    "weight-decay": weight_decay,
    "representation": representation,
    "fewshot": fewshot,
}


def get_task(name: str) -> Callable[..., Task]:
    """The function that makes a task, from its name; an unknown one is an error with the nearest names.

    Example:
        >>> from bilevel import tasks
        >>> tasks.get_task("quadratic")(dim_x=3).x.shape
        (3,)
    """
    checks.one_of("task", name, TASKS)
    return TASKS[name]
