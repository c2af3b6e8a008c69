"""The solvers, one line for each. The registry, the command line and the tables read this list."""

# ruff: noqa: I001  (the order of the tables)

from bilevel.solvers.itd import ITDBiO as ITDBiO
from bilevel.solvers.aid import AIDBiO as AIDBiO
from bilevel.solvers.stocbio import StocBiO as StocBiO
from bilevel.solvers.sustain import SUSTAIN as SUSTAIN
from bilevel.solvers.fsla import FSLA as FSLA
from bilevel.solvers.borep import BOREP as BOREP
from bilevel.solvers.soba import SOBA as SOBA
from bilevel.solvers.saba import SABA as SABA
from bilevel.solvers.srba import SRBA as SRBA
from bilevel.solvers.masoba import MASOBA as MASOBA
from bilevel.solvers.ba import BA as BA
from bilevel.solvers.ba import BSA as BSA
from bilevel.solvers.ttsa import TTSA as TTSA
from bilevel.solvers.alset import ALSET as ALSET
from bilevel.solvers.amigo import AmIGO as AmIGO
from bilevel.solvers.stable import STABLE as STABLE
from bilevel.solvers.svrb import SVRB as SVRB
from bilevel.solvers.mrbo import MRBO as MRBO
from bilevel.solvers.vrbo import VRBO as VRBO
from bilevel.solvers.f2sa import F2SA as F2SA
from bilevel.solvers.bome import BOME as BOME
from bilevel.solvers.pzobo import PZOBO as PZOBO
from bilevel.solvers.hoag import HOAG as HOAG
from bilevel.solvers.maml import MAML as MAML
from bilevel.solvers.presets import reverse as reverse
from bilevel.solvers.presets import aid_fp as aid_fp
from bilevel.solvers.presets import aid_cg as aid_cg

__all__ = [name for name, value in list(vars().items()) if hasattr(value, "about")]  # pyright: ignore[reportUnsupportedDunderAll]
