"""The tasks by name, and what a user asks for: names, files, functions and tasks."""

import inspect
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bilevel import _checks as checks
from bilevel import _loading as loading
from bilevel.tasks._base import Task
from bilevel.tasks._cleaning import cleaning
from bilevel.tasks._fewshot import fewshot
from bilevel.tasks._quadratic import quadratic
from bilevel.tasks._regularization import regularization
from bilevel.tasks._representation import representation
from bilevel.tasks._weight_decay import weight_decay

ENTRY_POINTS = "bilevel.tasks"  # the group in which other packages declare theirs
_WANTED = "a function that makes a task, a bilevel.tasks.Task, a name such as 'quadratic', or 'FILE.py:NAME'"

TASKS: dict[str, Callable[..., Task]] = {
    "quadratic": quadratic,
    "cleaning": cleaning,
    "regularization": regularization,
    "weight-decay": weight_decay,
    "representation": representation,
    "fewshot": fewshot,
}


def get_task(name: str) -> Any:
    """The function that makes the task of this name; what `FILE.py:NAME` names; or what an installed package declares.

    A package declares a task as an entry point of the group `bilevel.tasks`. A file is run once per process.

    **Raises** `ValueError` for an unknown name, with the nearest ones, and for a file or an entry point that cannot be
    imported; `TypeError` if it holds neither a function nor a `Task`.

    Example:

        >>> from bilevel import tasks
        >>> tasks.get_task("quadratic")(dim_x=3).x.shape
        (3,)
    """
    if loading.is_file(name):
        return _checked(name, loading.from_file("task", name))
    points = loading.entry_points(ENTRY_POINTS)
    if name in TASKS and name in points:
        raise ValueError(
            f"task: {name!r} is a task of bilevel and the entry point {points[name][0].value}; pass the function"
        )
    checks.one_of("task", name, [*TASKS, *points])
    return TASKS[name] if name in TASKS else _checked(name, loading.from_entry_point("task", name, points[name]))


def _checked(name: str, found: Any) -> Any:
    """What was loaded under a name, if it is a task or may make one."""
    if not isinstance(found, Task) and (not callable(found) or isinstance(found, type)):
        raise TypeError(f"task: {name} is {found!r}; it must be a function that makes a task, or a bilevel.tasks.Task")
    return found


@dataclass(frozen=True, eq=False)
class AskedTask:
    """A task that a user asked for.

    - `made`: a function, whose argument `seed` (if it has one) is the seed; or a `Task`, the same for all seeds.
    - `label`: how tables call it. `text`: what the user wrote, if that is text.
    """

    made: Any
    label: str
    text: str | None = None

    @property
    def of_the_package(self) -> bool:
        """Whether the solvers hold their settings for it. For other tasks, the task does."""
        return self.made in TASKS.values()

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that a user may change, with their defaults; the experiment sets the seed."""
        return {name: found.default for name, found in self._parameters.items() if name != "seed"}

    @property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        if isinstance(self.made, Task):
            return {}
        found = loading.parameters(self.made)
        if found is None:
            raise TypeError(f"task: {self.label} takes any argument; write down which, and `seed`, in its signature")
        return found

    def make(self, seed: int, changes: Mapping[str, Any]) -> Task:
        """The task for a seed, with some arguments changed.

        **Raises** `ValueError` for unknown or missing arguments, `TypeError` if the function makes no task.
        """
        known = self.arguments
        for name in changes:
            if not known:
                raise ValueError(f"setting: got {name!r}, but {self.label} has no arguments")
            checks.one_of("setting", name, known)
        if isinstance(self.made, Task):
            return self.made
        missing = [
            name for name, default in known.items() if default is inspect.Parameter.empty and name not in changes
        ]
        if missing:
            raise ValueError(f"task: {self.label} needs {', '.join(missing)}; give each by --set or task_settings")
        task = self.made(**({"seed": seed} if "seed" in self._parameters else {}), **changes)
        if not isinstance(task, Task):
            raise TypeError(f"task: {self.label} made {type(task).__name__}; return a bilevel.tasks.Task")
        return task


def asked_task(task: Any) -> AskedTask:
    """What a user asked for: a name, a file and a name in it (`mine.py:make`), a function, or a `Task`.

    Example:

        >>> from bilevel import tasks
        >>> asked = tasks.asked_task(lambda seed, rows=3: tasks.quadratic(rows=rows, seed=seed))
        >>> asked.arguments
        {'rows': 3}
    """
    if isinstance(task, str):
        return AskedTask(get_task(task), pathlib.PurePath(task).name if loading.is_file(task) else task, task)
    if isinstance(task, Task):
        return AskedTask(task, task.name)
    if not callable(task) or isinstance(task, type):
        raise TypeError(f"task: got {task!r}; pass {_WANTED}")
    name = next((name for name, made in TASKS.items() if made is task), None)
    return AskedTask(task, name or getattr(task, "__name__", repr(task)), name)
