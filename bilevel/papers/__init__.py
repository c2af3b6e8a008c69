"""The papers' experiments: entries as data, and what runs, judges, draws and reports them."""

from bilevel import _checks as checks

checks.require("matplotlib", "rich", "sklearn", extra="compare")
