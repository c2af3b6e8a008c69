"""The papers' experiments: entries as data, and the code that runs, judges, draws and reports them."""

from bilevel import _extras as extras

extras.require("matplotlib", "rich", "sklearn", extra="compare")

from bilevel.papers._reproduce import reproduce
from bilevel.papers.entries import ENTRIES
from bilevel.papers.page import Outcome

__all__ = ["ENTRIES", "Outcome", "reproduce"]
