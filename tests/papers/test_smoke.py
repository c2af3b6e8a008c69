"""Every entry runs at smoke size."""

import pytest

from bilevel.papers import reproduce
from bilevel.papers.claims import UNTESTED
from bilevel.papers.entries import ENTRIES
from bilevel.papers.figure import draw


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One place for all, so that curves which entries share run once."""
    return tmp_path_factory.mktemp("smoke")


@pytest.mark.parametrize("name", list(ENTRIES))
def test_every_entry_runs_at_smoke_size(name, out):
    entry = ENTRIES[name]
    (outcome,) = reproduce([name], size="smoke", out=out, resume=True)
    assert outcome.trouble == {}
    for curve in outcome.setup.curves:
        runs = outcome.runs[curve.label]
        assert [run.seed for run in runs] == list(range(outcome.setup.seeds))
        for run in runs:
            assert run.rows
            if run.result == "successful" and curve.solver is not None and entry.kind == "solve":
                assert run.rows[-1]["step"] == (curve.steps or outcome.setup.steps)
    assert outcome.verdicts == {UNTESTED: len(outcome.entry.claims)}  # two seeds decide nothing
    shown = [panel for panel in entry.panels if panel.curves is None or not set(panel.curves).isdisjoint(outcome.runs)]
    figure = draw(outcome)
    assert len(figure.axes) == len(shown) > 0
    assert all(axes.has_data() for axes in figure.axes)
    assert (out / name / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert entry.claims[0].sentence in (out / "README.md").read_text()
