"""Diagnosis at a point or along a run: constants, hypergradients with error bars, findings, recorders."""

from bilevel.diagnostics._diagnose import diagnose
from bilevel.diagnostics.constants import Constants, measure_constants
from bilevel.diagnostics.findings import Finding
from bilevel.diagnostics.recorders import Watch
from bilevel.diagnostics.report import Report
from bilevel.diagnostics.smoothness import SmoothnessRecorder

__all__ = [
    "Constants",
    "Finding",
    "Report",
    "SmoothnessRecorder",
    "Watch",
    "diagnose",
    "measure_constants",
]
