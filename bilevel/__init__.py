"""Bilevel optimization for machine learning: min over x of f(x, y*(x)), y*(x) = argmin over y of g(x, y)."""

from bilevel.data import Batch, Blocks, Rows
from bilevel.hypergradients import (
    ConjugateGradient,
    Direct,
    FixedPoint,
    Neumann,
    RandomNeumann,
    hypergradient,
    unrolled_hypergradient,
)
from bilevel.problem import Level, Problem
from bilevel.solution import RESULTS, History, Solution, SolveError
from bilevel.solve import Target, advance, solve
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.borep import BOREP, EpochSGD
from bilevel.solvers.fsla import FSLA
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.registry import SOLVERS, get_solver
from bilevel.solvers.soba import SOBA
from bilevel.solvers.stocbio import StocBiO, neumann_batch_sizes
from bilevel.solvers.sustain import SUSTAIN
from bilevel.steps import Rule, inverse_power

__all__ = [
    "BOREP",
    "FSLA",
    "RESULTS",
    "SOBA",
    "SOLVERS",
    "SUSTAIN",
    "AIDBiO",
    "AbstractSolver",
    "Batch",
    "Blocks",
    "ConjugateGradient",
    "Direct",
    "EpochSGD",
    "FixedPoint",
    "History",
    "ITDBiO",
    "Level",
    "Neumann",
    "Problem",
    "RandomNeumann",
    "Rows",
    "Rule",
    "Solution",
    "SolveError",
    "StocBiO",
    "Target",
    "advance",
    "get_solver",
    "hypergradient",
    "inverse_power",
    "neumann_batch_sizes",
    "solve",
    "unrolled_hypergradient",
]
