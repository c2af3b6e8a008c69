"""The comparison of solvers on a task: settings, runs on the same seeds, statistics, tables, figures and the page."""

from bilevel.compare._compare import compare
from bilevel.compare.files import write, write_run
from bilevel.compare.records import Comparison, Run

__all__ = ["Comparison", "Run", "compare", "write", "write_run"]
