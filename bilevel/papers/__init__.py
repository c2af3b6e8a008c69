"""The papers' experiments: entries as data, and the code that runs, judges, draws and reports them."""

from bilevel import _extras as extras

extras.require("matplotlib", "rich", "sklearn", extra="compare")

from bilevel.papers._reproduce import from_kept, projections, reproduce
from bilevel.papers.entries import ENTRIES
from bilevel.papers.outcome import Outcome

__all__ = ["ENTRIES", "Outcome", "from_kept", "projections", "reproduce"]
