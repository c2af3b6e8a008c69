"""Bilevel optimization for machine learning: min over x of f(x, y*(x)), y*(x) = argmin over y of g(x, y)."""

from importlib import metadata

from bilevel._suggest._suggest import Suggestion, suggest
from bilevel.diagnostics import Finding, Report, diagnose
from bilevel.diagnostics.constants import Constants, measure_constants
from bilevel.diagnostics.recorders import DiagnosisWarning
from bilevel.diagnostics.smoothness import SmoothnessRecorder
from bilevel.hypergradients import (
    ConjugateGradient,
    Direct,
    FiniteDifference,
    FixedPoint,
    GradientDescent,
    Neumann,
    Nystrom,
    RandomNeumann,
    general_hypergradient,
    hypergradient,
    solution_map,
    unrolled_hypergradient,
)
from bilevel.problem import Level, Problem
from bilevel.run._advance import advance, begin
from bilevel.run._checkpoint import CheckpointError
from bilevel.run._solution import RESULTS, History, Solution, SolveError
from bilevel.run._solve import Target, solve
from bilevel.run._sweep import Sweep, sweep
from bilevel.sampling import Batch, Blocks, Rows
from bilevel.solvers._base import AbstractSolver
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.alset import ALSET
from bilevel.solvers.amigo import AmIGO
from bilevel.solvers.ba import BA, BSA
from bilevel.solvers.borep import BOREP, EpochSGD
from bilevel.solvers.f2sa import F2SA
from bilevel.solvers.fsla import FSLA
from bilevel.solvers.hoag import HOAG
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.maml import MAML
from bilevel.solvers.masoba import MASOBA
from bilevel.solvers.mrbo import MRBO
from bilevel.solvers.presets import aid_cg, aid_fp, reverse
from bilevel.solvers.recursive import RecursiveMomentum
from bilevel.solvers.registry import SOLVERS, get_solver
from bilevel.solvers.saba import SABA
from bilevel.solvers.soba import SOBA
from bilevel.solvers.stable import STABLE
from bilevel.solvers.stocbio import StocBiO, neumann_batch_sizes
from bilevel.solvers.sustain import SUSTAIN
from bilevel.solvers.svrb import SVRB
from bilevel.solvers.ttsa import TTSA
from bilevel.solvers.vrbo import VRBO
from bilevel.steps import Rule, inverse_power

__version__ = metadata.version("bilevel")

__all__ = [
    "ALSET",
    "BA",
    "BOREP",
    "BSA",
    "F2SA",
    "FSLA",
    "HOAG",
    "MAML",
    "MASOBA",
    "MRBO",
    "RESULTS",
    "SABA",
    "SOBA",
    "SOLVERS",
    "STABLE",
    "SUSTAIN",
    "SVRB",
    "TTSA",
    "VRBO",
    "AIDBiO",
    "AbstractSolver",
    "AmIGO",
    "Batch",
    "Blocks",
    "CheckpointError",
    "ConjugateGradient",
    "Constants",
    "DiagnosisWarning",
    "Direct",
    "EpochSGD",
    "Finding",
    "FiniteDifference",
    "FixedPoint",
    "GradientDescent",
    "History",
    "ITDBiO",
    "Level",
    "Neumann",
    "Nystrom",
    "Problem",
    "RandomNeumann",
    "RecursiveMomentum",
    "Report",
    "Rows",
    "Rule",
    "SmoothnessRecorder",
    "Solution",
    "SolveError",
    "StocBiO",
    "Suggestion",
    "Sweep",
    "Target",
    "advance",
    "aid_cg",
    "aid_fp",
    "begin",
    "diagnose",
    "general_hypergradient",
    "get_solver",
    "hypergradient",
    "inverse_power",
    "measure_constants",
    "neumann_batch_sizes",
    "reverse",
    "solution_map",
    "solve",
    "suggest",
    "sweep",
    "unrolled_hypergradient",
]
