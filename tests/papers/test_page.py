"""The page of the papers' experiments is what its builder makes of the kept runs and the entries of today."""

import dataclasses
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from bilevel.compare.records import Run
from bilevel.papers.checks import Exceeds
from bilevel.papers.claims import Finding
from bilevel.papers.entries import ENTRIES
from bilevel.papers.outcome import Outcome, keep, kept
from bilevel.papers.page import _deciding, entries_table, section, summary, tuned_table, verdict_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_reproduction", ROOT / "docs/build_reproduction.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_is_what_the_kept_runs_say(builder):
    """If this fails: python docs/build_reproduction.py"""
    assert builder.text(ROOT / "docs")[0] == PAGE


def test_every_kept_file_is_of_an_entry_and_every_figure_has_runs(builder):
    shown = builder.text(ROOT / "docs")[1]
    sizes = {f"{outcome.entry.id}-{size}" for outcome in shown for size in outcome.entry.sizes}
    kept = {path.name.removesuffix(".json.gz") for path in (ROOT / "docs/reproduction").glob("*.json.gz")}
    assert kept <= sizes
    figures = {path.stem for path in (ROOT / "docs/reproduction").glob("*.png")}
    assert figures == {outcome.entry.id for outcome in shown if outcome.runs}
    written = tomllib.loads((ROOT / "docs/reproduction.toml").read_text(encoding="utf-8")).get("readings", {})
    assert set(written) == figures


def test_every_entry_has_a_section_and_a_line_of_the_summary():
    heads = [line.split(":")[0] for line in re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)]
    assert [name for name in heads if name in ENTRIES] == list(ENTRIES)
    for name, entry in ENTRIES.items():
        lines = re.findall(rf"^\| \[{name}\].*$", PAGE, flags=re.MULTILINE)
        assert len(lines) in (1, len(entry.claims))


def test_a_reading_of_another_size_is_refused(builder):
    entry = ENTRIES["stocbio-fig4"]
    outcome = Outcome(entry, "laptop", entry.sizes["laptop"], {"stocBiO, batch 100": []})
    assert builder.reading(outcome, {entry.id: {"size": "laptop", "text": "It holds."}}) == "It holds."
    with pytest.raises(ValueError, match="stocbio-fig4 is of paper size, but the page shows laptop size"):
        builder.reading(outcome, {entry.id: {"size": "paper", "text": "It holds."}})


def test_an_entry_is_shown_at_the_largest_size_of_which_all_curves_are_kept(builder, tmp_path):
    entry = ENTRIES["fsla-fig5"]
    made = {
        size: Outcome(entry, size, setup, {c.label: [Run(c.label, 0, "successful", rows=[{}])] for c in setup.curves})
        for size, setup in entry.sizes.items()
    }
    some = dict([*made["workstation"].runs.items()][1:])
    keep(dataclasses.replace(made["workstation"], runs=some), tmp_path)
    assert builder.shown(entry, tmp_path).size == "workstation"
    keep(made["laptop"], tmp_path)
    assert builder.shown(entry, tmp_path).size == "laptop"
    keep(made["workstation"], tmp_path)
    assert builder.shown(entry, tmp_path).size == "workstation"


def test_an_entry_without_runs_shows_its_quotes_and_no_verdict():
    entry = ENTRIES["stocbio-fig2"]
    outcome = Outcome(entry, "laptop", entry.sizes["laptop"])
    text = section(outcome)
    assert "**No runs are kept yet.**" in text
    assert all(claim.quote in text and claim.sentence in text for claim in entry.claims)
    assert "not tested" not in text
    assert ".png" not in text
    assert "no runs are kept yet" in summary([outcome])


def test_a_failure_counts_where_the_size_is_not_harder_than_the_paper_s():
    """As that FSLA ends with more digits than the Neumann series, which the kept runs contradict."""
    entry = ENTRIES["fsla-fig1"]
    made = kept(entry, "paper", ROOT / "docs/reproduction")
    wrong = dataclasses.replace(entry.claims[0], checks=(Exceeds("digits", "FSLA", "NS"),), fails_at=("paper",))
    at_paper = dataclasses.replace(made, entry=dataclasses.replace(entry, claims=(wrong,)))
    assert at_paper.judged[0][1] == "does not hold"
    _, verdict, (finding,) = dataclasses.replace(at_paper, size="laptop").judged[0]
    assert verdict == finding.verdict == "not tested"
    assert finding.high < 0 and finding.reason == "harder than at paper size"


def test_the_summary_shows_the_number_that_decides_and_a_common_reason_once():
    entry = ENTRIES["fsla-fig1"]
    made = kept(entry, "paper", ROOT / "docs/reproduction")
    checks = (Exceeds("digits", "NS", by=10), Exceeds("digits", "NS", by=30), Exceeds("digits", "FSLA", "NS"))
    claim = dataclasses.replace(entry.claims[0], checks=checks)
    assert [finding.verdict for finding in made.findings(claim)] == ["holds", "does not hold", "does not hold"]

    def line(claim):
        return summary([dataclasses.replace(made, entry=dataclasses.replace(entry, claims=(claim,)))]).splitlines()[-1]

    number = r"digits at the end: NS minus 30: -11\.\d \[-1[\d.]+, -1[\d.]+\]"
    assert re.search(rf"\*\*does not hold\*\* \| paper \| {number} \|$", line(claim))
    at_laptop = dataclasses.replace(claim, sizes=("laptop",))
    assert line(at_laptop).endswith("**not tested** | paper | it is judged at laptop size alone |")
    untested = dataclasses.replace(made, entry=dataclasses.replace(entry, claims=(at_laptop,)))
    assert section(untested).count("it is judged at laptop size alone") == 1
    assert [text.strip() for text in verdict_lines(untested)[1:]] == ["it is judged at laptop size alone"]


def test_a_number_of_another_unit_decides_by_its_interval():
    """0.3 ± 0.03 is further from zero than 10 ± 8, though the bound of the second is larger."""
    intervals = {"narrow": (0.3, 0.27, 0.33), "wide": (10.0, 2.0, 18.0)}
    findings = [Finding(Exceeds("m", name), "holds", (), *number) for name, number in intervals.items()]
    assert _deciding("holds", findings).startswith("m at the end: wide")


def test_runs_that_curves_share_count_once_in_an_entry_s_time():
    """fsla-fig6 has the paper's values in three curves; the variants of borep-fig7 share one tuning."""
    shared = kept(ENTRIES["fsla-fig6"], "workstation", ROOT / "docs/reproduction")
    times = {label: sum(run.stats["wall_seconds"] for run in found) for label, found in shared.runs.items()}
    assert times["c_τ = 0.001"] == times["c_η = 0.0009"] == times["c_β = 0.0001"]
    assert shared.seconds == pytest.approx(sum(times.values()) - 2 * times["c_τ = 0.001"])
    variants = kept(ENTRIES["borep-fig7"], "workstation", ROOT / "docs/reproduction")
    times = [sum(run.stats["wall_seconds"] for run in found) for found in variants.runs.values()]
    assert len(times) == 9
    tuning = {found.wall_seconds for found in variants.tuned.values()}.pop()
    assert variants.seconds < sum(times) + 1.01 * tuning
    assert [row.cells[0].text for row in tuned_table(variants).rows] == ["(a) BO-REP"]


def test_the_summary_counts_claims_without_runs():
    entry = ENTRIES["stocbio-fig2"]
    assert "5 more claims, of stocbio-fig2, have no runs yet." in summary(
        [Outcome(entry, "laptop", entry.sizes["laptop"])]
    )


def test_the_list_says_which_sizes_an_entry_has():
    rows = [[cell.text for cell in row.cells] for row in entries_table(ENTRIES.values()).rows]
    assert rows[0][-1] == "smoke, laptop, workstation, paper"
