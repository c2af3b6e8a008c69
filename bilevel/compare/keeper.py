"""What determines the rows of a comparison, by which kept ones are found again."""

import hashlib
import pathlib
import sys
import warnings
import weakref
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

from bilevel._prepare import prepare
from bilevel.compare import search, settings
from bilevel.compare.code import hash_of
from bilevel.compare.entrants import Entrant
from bilevel.compare.records import Comparison
from bilevel.compare.store import Store
from bilevel.problem import stores_of
from bilevel.run._advance import check_episodes
from bilevel.run._identity import described, fingerprint
from bilevel.run._programs import Programs
from bilevel.solvers.base import AbstractSolver
from bilevel.tasks import Task
from bilevel.tasks.registry import AskedTask

_TEXTS = (type(None), bool, int, float, str)  # what has the same text in every process


class Keeper(Store):
    """The store of one comparison, with the descriptions of its rows.

    A run is described by what the solver computes on the task (as JAX traces it), by all arrays, and by the code of the
    metrics; what `code.hash_of` cannot know of that code, it does not know.
    """

    def __init__(self, folder: Any, comparison: Comparison, asked: AskedTask):
        super().__init__(folder, "checkpoint")
        self._comparison, self._asked = comparison, asked
        self._tasks: dict[int, dict[str, str]] = {}  # of those that are alive: solvers share the task of a seed

    def of_runs(
        self, tasks: Sequence[Task], computed: list[str], label: str, entrant: Entrant, seeds: Sequence[int]
    ) -> dict[str, Any]:
        """The description of a solver's runs, one for each task and seed; `computed`: by `computation_of`."""
        budget = self._comparison.budget
        about = self._task_in_words() | {"solver": label, "seeds": list(seeds)}
        about |= {kind: part[label] if kind == "steps" else part for kind, part in budget.items()}
        about |= {"settings": described(self._comparison.solvers[label]), "exactly": fingerprint(entrant.solver)}
        return about | {"computations": computed, "tasks": [self._of_task(task) for task in tasks]}

    def of_references(self, task: Task, seed: int) -> dict[str, Any]:
        """The description of the reference rows of a seed."""
        about = self._task_in_words() | {"references of seed": seed, "data": hash_of(task.data)}
        about |= {"strengths": settings.REFERENCES.get(self._comparison.task)}
        return about | {"scikit-learn": metadata.version("scikit-learn")}

    def of_search(self, task: Task, seed: int, samples: int) -> dict[str, Any]:
        """The description of the rows of a search on a seed."""
        rows = search.available()
        about = self._task_in_words() | {"search of seed": seed, "samples": samples, "rows": rows}
        about |= {"optuna": metadata.version("optuna") if search.OPTUNA in rows else None}
        about |= {"box": hash_of(task.search), "score": task.score, "trial": search.computation_of(task)}
        return about | {"tasks": [self._of_task(task)]}

    def _task_in_words(self) -> dict[str, Any]:
        """Of an argument without a text, such as a data set, what it does to the task counts."""
        about: dict[str, Any] = {"task": self._comparison.task}
        about |= {
            "arguments": {
                name: value if isinstance(value, _TEXTS) else type(value).__name__
                for name, value in self._comparison.arguments.items()
            }
        }
        made = self._asked.made
        file = None if self._asked.of_the_package else _file_of(made.metrics if isinstance(made, Task) else made)
        return about if file is None else about | {"task's file": file}

    def _of_task(self, task: Task) -> dict[str, str]:
        if id(task) not in self._tasks:
            on_disk = [store.some() for store in stores_of(task.problem)]
            arrays = fingerprint(task.problem, task.x, task.y, on_disk)
            self._tasks[id(task)] = {"arrays": arrays, "metrics": hash_of(task.metrics)}
            weakref.finalize(task, self._tasks.pop, id(task), None)
        return self._tasks[id(task)]


def computation_of(solver: AbstractSolver, task: Task) -> str:
    """A hash of what a solver computes on a task: its start, its steps, and whether its state is sound.

    It is of the trace that `solve` runs, which JAX keeps: a run needs no second one, and neither do other seeds whose
    tasks differ only in their arrays.

    **Raises** what `solve` raises for a solver that does not work on the task.
    """
    key = jax.random.key(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `solve` gives the same warnings
        prepared = prepare(task.problem, task.x, task.y)
    check_episodes(solver, prepared.problem)
    programs = Programs(solver, prepared.problem, key, prepared.x, prepared.y)
    try:
        return programs.computation()
    finally:
        programs.close()


def _file_of(thing: Any) -> str | None:
    """A hash of the file that defines it; None for the package's own, and if there is no file."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    path = pathlib.Path(getattr(module, "__file__", None) or "")
    if module is None or module.__name__.startswith("bilevel.") or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
