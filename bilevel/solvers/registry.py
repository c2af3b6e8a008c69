"""The solvers by name."""

from bilevel import checks
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.borep import BOREP
from bilevel.solvers.fsla import FSLA
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.soba import SOBA
from bilevel.solvers.stocbio import StocBiO
from bilevel.solvers.sustain import SUSTAIN

SOLVERS: dict[str, type[AbstractSolver]] = {
    "itd": ITDBiO,
    "aid": AIDBiO,
    "stocbio": StocBiO,
    "sustain": SUSTAIN,
    "fsla": FSLA,
    "borep": BOREP,
    "soba": SOBA,
}


def get_solver(name: str) -> type[AbstractSolver]:
    """The class of a solver from its name; an unknown one is an error with the nearest names."""
    checks.one_of("solver", name, SOLVERS)
    return SOLVERS[name]
