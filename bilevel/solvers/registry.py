"""The solvers by name."""

from collections.abc import Callable

from bilevel import _checks as checks
from bilevel.solvers._base import AbstractSolver
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.alset import ALSET
from bilevel.solvers.amigo import AmIGO
from bilevel.solvers.ba import BA, BSA
from bilevel.solvers.borep import BOREP
from bilevel.solvers.f2sa import F2SA
from bilevel.solvers.fsla import FSLA
from bilevel.solvers.hoag import HOAG
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.maml import MAML
from bilevel.solvers.masoba import MASOBA
from bilevel.solvers.mrbo import MRBO
from bilevel.solvers.presets import aid_cg, aid_fp, reverse
from bilevel.solvers.saba import SABA
from bilevel.solvers.soba import SOBA
from bilevel.solvers.stable import STABLE
from bilevel.solvers.stocbio import StocBiO
from bilevel.solvers.sustain import SUSTAIN
from bilevel.solvers.svrb import SVRB
from bilevel.solvers.ttsa import TTSA
from bilevel.solvers.vrbo import VRBO

# a class, or a function that gives one of these classes with some of its settings fixed
SOLVERS: dict[str, Callable[..., AbstractSolver]] = {
    "itd": ITDBiO,
    "aid": AIDBiO,
    "stocbio": StocBiO,
    "sustain": SUSTAIN,
    "fsla": FSLA,
    "borep": BOREP,
    "soba": SOBA,
    "saba": SABA,
    "masoba": MASOBA,
    "ba": BA,
    "bsa": BSA,
    "ttsa": TTSA,
    "alset": ALSET,
    "amigo": AmIGO,
    "stable": STABLE,
    "svrb": SVRB,
    "mrbo": MRBO,
    "vrbo": VRBO,
    "f2sa": F2SA,
    "hoag": HOAG,
    "maml": MAML,
    "reverse": reverse,
    "aid-fp": aid_fp,
    "aid-cg": aid_cg,
}


def get_solver(name: str) -> Callable[..., AbstractSolver]:
    """What makes a solver, from its name; an unknown one is an error with the nearest names."""
    checks.one_of("solver", name, SOLVERS)
    return SOLVERS[name]
