"""The solvers of a comparison: what the user asked for, under distinct names, with their settings on the task."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from bilevel._suggest._suggest import Suggestion, suggest, theorem_of
from bilevel.compare import settings
from bilevel.problem import Episodes
from bilevel.solvers import _text
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.registry import SOLVERS, Asked, asked, asked_one
from bilevel.tasks import Task
from bilevel.tasks.registry import AskedTask, asked_task


@dataclass(frozen=True, eq=False)
class Entrant:
    """A solver with its settings.

    - `steps`: of its settings; None if it has none for the task.
    - `task`: the task's arguments that its settings ask for, unless the user changed them.
    - `suggestion`: where its settings come from, if `suggest` found them.
    """

    asked: Asked
    solver: AbstractSolver
    steps: int | None
    task: dict[str, Any] = field(default_factory=dict)
    suggestion: Suggestion | None = None

    @property
    def description(self) -> dict[str, Any]:
        """Its settings, and the task's arguments of its own."""
        return settings.describe(self.solver) | self.task


def named(solvers: Any) -> dict[str, Asked]:
    """What the user asked for, by distinct names.

    Settings of one solver given as objects are told apart by what differs, as in `soba[upper_step=0.1]`; files of one
    name, by their folders.
    """
    if isinstance(solvers, str):
        solvers = [name for name in _text.pieces(solvers) if name]
    if not isinstance(solvers, Iterable):
        solvers = [solvers]
    given = solvers.items() if isinstance(solvers, Mapping) else ((None, solver) for solver in solvers)
    found: list[Asked] = []
    for name, solver in given:
        several = asked(solver, "solvers")
        for one in several:
            brackets = "".join(one.label.partition("[")[1:]) if len(several) > 1 else ""
            found.append(one if name is None else dataclasses.replace(one, label=f"{name}{brackets}", text=None))
    found = [one for i, one in enumerate(found) if one.text is None or one.text not in [two.text for two in found[:i]]]
    named = dict(zip(_distinct(found), found, strict=True))
    if len(named) < len(found):
        twice = next(one.label for i, one in enumerate(found) if one.label in [two.label for two in found[:i]])
        raise ValueError(f"solvers: two are called {twice!r}; pass a dictionary from names of your own to solvers")
    return named


def _distinct(found: list[Asked]) -> list[str]:
    """The labels, with what tells those apart that would be the same."""
    labels = [one.label for one in found]
    for label in {label for label in labels if labels.count(label) > 1}:
        places = [i for i, other in enumerate(labels) if other == label]
        same = [found[i] for i in places]
        if all(one.text for one in same):
            names = [str(one.text) for one in same]
        elif all(one.is_whole for one in same):
            parts = [{name: str(part) for name, part in settings.describe(one.made).items()} for one in same]
            differ = [name for name in parts[0] if len({part.get(name) for part in parts}) > 1]
            names = [f"{label}[{','.join(f'{name}={part.get(name)}' for name in differ)}]" for part in parts]
        else:
            names = [label] * len(same)
        for i, name in zip(places, names, strict=True):
            labels[i] = name
    return labels


def defaults(task: AskedTask, made: Task, changes: Mapping[str, Any], suggested: bool) -> dict[str, Asked]:
    """All solvers that have settings for the task; if none has any and they are `suggested`, all with a theorem."""
    known = settings.settings_of(task.label, changes) if task.of_the_package else made.tuned
    names = [name for name in SOLVERS if name in known]
    if not names and suggested:
        names = [name for name in SOLVERS if theorem_of(SOLVERS[name]) is not None]
    if not names:
        raise ValueError(
            f"solvers: none has settings for {task.label}; name solvers and their settings, as in "
            "soba[upper_step=0.1,lower_step=0.1,adjoint_step=0.1], or let them be suggested (--suggest)"
        )
    return named(names)


def enter(task: AskedTask, made: Task | None, one: Asked, changes: Mapping[str, Any]) -> Entrant:
    """A solver with its settings for the task. Those that the user gave come first."""
    tuned = settings.tuned(one, task, made, changes)
    return Entrant(one, settings.built(one, task, tuned), tuned and tuned.steps, settings.asks(tuned, changes))


def suggested(task: AskedTask, made: Task, one: Asked, asks: dict[str, Any], *, seed: int) -> Entrant:
    """A solver with settings from the task that it will run on; the test rows are not used."""
    if isinstance(made.problem, Episodes):
        raise ValueError(
            f"suggest: {task.label} draws a new problem in each step, and settings cannot be tried on that; give them, "
            f"as in {one.name}[SETTING=VALUE,...]"
        )
    key = jax.random.fold_in(jax.random.key(seed), 2)
    try:
        found = suggest(made.problem, made.x, made.y, solver=one, key=key)
    except ValueError as error:
        raise ValueError(f"{one.label}: no settings to suggest: {error}") from error
    return Entrant(one, found.solver, found.steps, asks, found)


def all_suggested(
    task: AskedTask,
    made: Task,
    solvers: Mapping[str, Asked],
    changes: Mapping[str, Any],
    *,
    seed: int,
    all_must: bool,
    console: Any = None,
) -> tuple[dict[str, Entrant], dict[str, str]]:
    """The same for several solvers; and those that are left out, with the reason, unless they `all_must` enter."""
    entered: dict[str, Entrant] = {}
    left_out: dict[str, str] = {}
    for label, one in solvers.items():
        asks = settings.asks(settings.tuned(one, task, made, changes), changes)
        own = settings.make_task(task, seed, {**changes, **asks}) if asks else made
        try:
            entered[label] = suggested(task, own, one, asks, seed=seed)
        except ValueError as error:
            if all_must or isinstance(own.problem, Episodes):
                raise
            left_out[label] = str(error)
        if console is not None and label in entered:
            console.print(f"{label}: {entered[label].suggestion}", markup=False, soft_wrap=True)
    if not entered:
        raise ValueError(next(iter(left_out.values())))
    return entered, left_out


def alone(
    task_name: str, solver_name: str, changes: Mapping[str, Any], seed: int, suggest: bool
) -> tuple[Entrant, Task, dict[str, Any]]:
    """One solver, the task for a seed, and the task's arguments. `changes` are of the solver and of the task."""
    task, one = asked_task(task_name), asked_one(solver_name)
    of_solver, of_task = settings.divide(changes, task, one)
    one = dataclasses.replace(one, given=one.given | of_solver)
    made = None if task.of_the_package else settings.make_task(task, seed, of_task)
    asks = settings.asks(settings.tuned(one, task, made, of_task), of_task)
    entrant = None if suggest else enter(task, made, one, of_task)  # wrong settings before the rows are read
    if made is None or asks:
        made = settings.make_task(task, seed, of_task | asks)
    entrant = entrant or suggested(task, made, one, asks, seed=seed)
    return entrant, made, task.arguments | of_task | asks
