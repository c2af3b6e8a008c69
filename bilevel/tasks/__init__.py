"""Applications: functions that make a problem with starts and metrics from its settings."""

from bilevel.solvers.base import Tuned
from bilevel.tasks._base import Search, Task
from bilevel.tasks._cleaning import CleaningData, cleaning
from bilevel.tasks._fewshot import FewshotData, fewshot
from bilevel.tasks._quadratic import QuadraticTask, quadratic
from bilevel.tasks._regularization import RegularizationData, regularization
from bilevel.tasks._representation import RepresentationData, representation
from bilevel.tasks._weight_decay import WeightDecayData, weight_decay
from bilevel.tasks.registry import TASKS, asked_task, get_task

__all__ = [
    "TASKS",
    "CleaningData",
    "FewshotData",
    "QuadraticTask",
    "RegularizationData",
    "RepresentationData",
    "Search",
    "Task",
    "Tuned",
    "WeightDecayData",
    "asked_task",
    "cleaning",
    "fewshot",
    "get_task",
    "quadratic",
    "regularization",
    "representation",
    "weight_decay",
]
