"""The solvers by name, and what a user asks for: names with settings, files, classes and instances."""

import dataclasses
import inspect
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from bilevel import _checks as checks
from bilevel import _loading as loading
from bilevel import solvers
from bilevel.solvers import _text
from bilevel.solvers.base import About, AbstractSolver
from bilevel.solvers.presets import Preset

Maker = type[AbstractSolver] | Preset  # a class, or a function that fixes some settings of one
ENTRY_POINTS = "bilevel.solvers"  # the group in which other packages declare theirs
_WANTED = "a solver such as bl.SOBA(...), a class or function that makes one, a name such as 'soba', or 'FILE.py:NAME'"


def _found() -> dict[str, Maker]:
    """The solvers that `bilevel.solvers` imports, in its order."""
    found = {}
    for value in vars(solvers).values():
        about = getattr(value, "about", None)
        if isinstance(about, About):
            found[about.name] = value
    return found


SOLVERS: dict[str, Maker] = _found()


def get_solver(name: str, argument: str = "solver") -> Any:
    """The class or preset of this name; what `FILE.py:NAME` names; or what an installed package declares.

    A package declares a solver as an entry point of the group `bilevel.solvers`. A file is run once per process.

    **Raises** `ValueError` for an unknown name, with the nearest ones, and for a file or an entry point that cannot be
    imported; `TypeError` if it holds no solver.

    Example:

        >>> import bilevel as bl
        >>> bl.get_solver("soba") is bl.SOBA
        True
    """
    if loading.is_file(name):
        return _checked(argument, name, loading.from_file(argument, name))
    points = loading.entry_points(ENTRY_POINTS)
    if name in SOLVERS and name in points:
        raise ValueError(
            f"{argument}: {name!r} is a solver of bilevel and the entry point {points[name][0].value}; pass the class"
        )
    checks.one_of(argument, name, [*SOLVERS, *points])
    if name in SOLVERS:
        return SOLVERS[name]
    return _checked(argument, name, loading.from_entry_point(argument, name, points[name]))


def _checked(argument: str, name: str, found: Any) -> Any:
    """What was loaded under a name, if it is a solver or makes one."""
    if isinstance(found, type) and not issubclass(found, AbstractSolver):
        raise TypeError(f"{argument}: {name} is a class, but no solver; derive it from bl.AbstractSolver")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise TypeError(f"{argument}: {name} is an abstract class; a solver must define {missing}")
    if not (isinstance(found, AbstractSolver) or callable(found)):
        raise TypeError(f"{argument}: {name} is {found!r}; it must be a solver, or a class or function that makes one")
    return found


def on_episodes() -> list[str]:
    """The classes of the solvers that work when each step has fresh tasks and y restarts."""
    classes = (made.solver if isinstance(made, Preset) else made for made in SOLVERS.values())
    return list(dict.fromkeys(found.__name__ for found in classes if found.of_x is not None))


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A solver that a user asked for.

    - `made`: its class, a function that makes it, or the solver itself.
    - `given`: settings that stand in brackets after its name.
    - `label`: how tables call it. `text`: what the user wrote, if that is text.
    """

    made: Any
    given: dict[str, Any]
    label: str
    text: str | None = None

    @property
    def name(self) -> str:
        """Its name in tables of settings: that of its `about`, else that of the class or function."""
        return name_of(self.made)

    @property
    def is_whole(self) -> bool:
        """Whether it needs no further settings."""
        return isinstance(self.made, AbstractSolver) and not self.given

    @property
    def settings(self) -> dict[str, inspect.Parameter] | None:
        """The settings that it takes; None if the function takes any."""
        if isinstance(self.made, AbstractSolver):
            found = loading.parameters(type(self.made)) or {}
            return {name: parameter.replace(default=None) for name, parameter in found.items()}
        return loading.parameters(self.made)

    def make(self, settings: Mapping[str, Any], *, argument: str = "solver", advice: str = "") -> AbstractSolver:
        """The solver with these settings and those that are `given`.

        **Raises** `ValueError`, naming `argument`, for settings that are unknown or missing; `advice` says how to give
        what is missing.
        """
        settings, known = {**settings, **self.given}, self.settings
        for name in settings if known is not None else ():
            checks.one_of(f"{argument}: setting of {self.name}", name, known or ())
        missing = [
            name for name, found in (known or {}).items() if found.default is found.empty and name not in settings
        ]
        if missing:
            raise ValueError(f"{argument}: {self.label} needs {', '.join(missing)}{advice}")
        if isinstance(self.made, AbstractSolver):
            return dataclasses.replace(self.made, **settings)
        found = self.made(**settings)
        if not isinstance(found, AbstractSolver):
            raise TypeError(
                f"{argument}: {self.label} did not return a solver, but {found!r}; return e.g. bl.SOBA(...)"
            )
        return found


def name_of(made: Any) -> str:
    """The name of a solver, of its class, or of a function that makes it."""
    about = getattr(made, "about", None)
    if isinstance(about, About):
        return about.name
    kind = type(made) if isinstance(made, AbstractSolver) else made
    return getattr(kind, "__name__", repr(made))


def asked(solver: Any, argument: str = "solver") -> list[Asked]:
    """What a user asked for: one solver, or one per point of the grid that the brackets of a name span.

    `solver` is a name (`soba`), a file and a name in it (`mine.py:BOME`), the name of an entry point, each with or
    without settings in brackets (`soba[upper_step=0.1,1]`); or a class, a function that makes a solver, or a solver.

    Example:

        >>> from bilevel.solvers.registry import asked
        >>> [(found.label, found.given) for found in asked("soba[upper_step=0.1,1,lower_step=0.5]")]
        [('soba[upper_step=0.1,lower_step=0.5]', {'upper_step': 0.1, 'lower_step': 0.5}), \
('soba[upper_step=1,lower_step=0.5]', {'upper_step': 1, 'lower_step': 0.5})]
    """
    if isinstance(solver, Asked):
        return [solver]
    if not isinstance(solver, str):
        if not (isinstance(solver, AbstractSolver) or callable(solver)):
            raise TypeError(f"{argument}: got {solver!r}; pass {_WANTED}")
        made = _checked(argument, name_of(solver), solver)
        return [Asked(made, {}, name_of(made))]
    name, values = _text.divided(argument, solver)
    made = get_solver(name, argument)
    short = pathlib.PurePath(name).name if loading.is_file(name) else name
    found = []
    for texts in itertools.product(*values.values()):
        settings = ",".join(f"{setting}={text}" for setting, text in zip(values, texts, strict=True))
        given = {setting: _text.value(text) for setting, text in zip(values, texts, strict=True)}
        brackets = f"[{settings}]" if given else ""
        found.append(Asked(made, given, short + brackets, name + brackets))
    return found


def asked_one(solver: Any, argument: str = "solver") -> Asked:
    """The same for one solver: a grid is an error."""
    found = asked(solver, argument)
    if len(found) > 1:
        raise ValueError(f"{argument}: {solver!r} names {len(found)} solvers; give each setting one value")
    return found[0]
