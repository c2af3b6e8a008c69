"""The solvers by name."""

from bilevel import _checks as checks
from bilevel import solvers
from bilevel.solvers.base import About, AbstractSolver
from bilevel.solvers.presets import Preset

Maker = type[AbstractSolver] | Preset  # a class, or a function that fixes some settings of one


def _found() -> dict[str, Maker]:
    """The solvers that `bilevel.solvers` imports, in its order."""
    found = {}
    for value in vars(solvers).values():
        about = getattr(value, "about", None)
        if isinstance(about, About):
            found[about.name] = value
    return found


SOLVERS: dict[str, Maker] = _found()


def get_solver(name: str) -> Maker:
    """The class or preset of this name; an unknown name is an error that lists the nearest ones."""
    checks.one_of("solver", name, SOLVERS)
    return SOLVERS[name]


def on_episodes() -> list[str]:
    """The classes of the solvers that work when each step has fresh tasks and y restarts."""
    classes = (made.solver if isinstance(made, Preset) else made for made in SOLVERS.values())
    return list(dict.fromkeys(found.__name__ for found in classes if found.of_x is not None))
