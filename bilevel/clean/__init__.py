"""Finding the doubtful labels of tables in files."""

from bilevel import _extras as extras

extras.require("jinja2", "matplotlib", "pandas", "rich", "sklearn", extra="clean")

from bilevel.clean._clean import clean_table
from bilevel.clean.cleaned import Cleaned
from bilevel.clean.decisions import Applied, apply_decisions
from bilevel.columns.features import TableFeatures
from bilevel.columns.kinds import parse as parse_kinds

__all__ = ["Applied", "Cleaned", "TableFeatures", "apply_decisions", "clean_table", "parse_kinds"]
