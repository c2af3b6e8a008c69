"""The entries by name."""

from bilevel.papers.entries import borep, fsla, stocbio, sustain
from bilevel.papers.entry import Entry

ENTRIES: dict[str, Entry] = {entry.id: entry for module in (stocbio, sustain, fsla, borep) for entry in module.ENTRIES}
