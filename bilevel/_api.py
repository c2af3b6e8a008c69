"""The public names, by room."""

# ruff: noqa: I001  (by room, from the ground floor up)

from bilevel import solvers as _solvers

# the problem
from bilevel._accumulated import accumulated
from bilevel.problem import Episodes, Factored, Level, Problem
from bilevel.disk import OnDisk
from bilevel._readers import ReadError
from bilevel.sampling import Batch, Blocks, Rows, Shuffled, ShuffledBlocks

# steps and costs
from bilevel.cost import Cost
from bilevel.steps import Rule, inverse_power

# hypergradients
from bilevel.hypergradients import (
    ConjugateGradient,
    Direct,
    FiniteDifference,
    FixedPoint,
    GradientDescent,
    Neumann,
    Newton,
    Nystrom,
    RandomNeumann,
    fixed_point,
    general_hypergradient,
    hypergradient,
    root,
    solution_map,
    unrolled_hypergradient,
)

# solvers, which all have a line in bilevel/solvers/__init__.py
from bilevel.solvers import *  # noqa: F403
from bilevel.solvers.base import AbstractHypergradientSolver, AbstractSolver
from bilevel.solvers.epoch_sgd import EpochSGD
from bilevel.solvers.recursive import RecursiveMomentum
from bilevel.solvers.registry import SOLVERS, get_solver
from bilevel.solvers.stocbio import neumann_batch_sizes
from bilevel.solvers.theorems import Bounds, Prescribed

# running
from bilevel.run._advance import advance, initial_state
from bilevel.run._checkpoint import CheckpointError
from bilevel.run._together import OtherProcessError
from bilevel.run._signs import DiagnosisWarning
from bilevel.run._solution import RESULTS, History, Solution, SolveError
from bilevel.run._solve import Target, solve
from bilevel.run._sweep import Sweep, sweep

# judging and choosing
from bilevel.diagnostics import Finding, Report, diagnose
from bilevel.diagnostics.constants import Constants, measure_constants
from bilevel.diagnostics.recorders import Watch
from bilevel.diagnostics.smoothness import SmoothnessRecorder
from bilevel._suggest._suggest import Suggestion, suggest

__all__ = [
    "RESULTS",
    "SOLVERS",
    "AbstractHypergradientSolver",
    "AbstractSolver",
    "Batch",
    "Blocks",
    "Bounds",
    "CheckpointError",
    "ConjugateGradient",
    "Constants",
    "Cost",
    "DiagnosisWarning",
    "Direct",
    "Episodes",
    "EpochSGD",
    "Factored",
    "Finding",
    "FiniteDifference",
    "FixedPoint",
    "GradientDescent",
    "History",
    "Level",
    "Neumann",
    "Newton",
    "Nystrom",
    "OnDisk",
    "Prescribed",
    "OtherProcessError",
    "Problem",
    "RandomNeumann",
    "ReadError",
    "RecursiveMomentum",
    "Report",
    "Rows",
    "Rule",
    "Shuffled",
    "ShuffledBlocks",
    "SmoothnessRecorder",
    "Solution",
    "SolveError",
    "Suggestion",
    "Sweep",
    "Target",
    "Watch",
    "accumulated",
    "advance",
    "diagnose",
    "fixed_point",
    "general_hypergradient",
    "get_solver",
    "hypergradient",
    "initial_state",
    "inverse_power",
    "measure_constants",
    "neumann_batch_sizes",
    "root",
    "solution_map",
    "solve",
    "suggest",
    "sweep",
    "unrolled_hypergradient",
    *_solvers.__all__,  # pyright: ignore[reportUnsupportedDunderAll]
]
