"""The page of the papers' experiments matches the code, and no other page cites an entry that is not judged."""

import dataclasses
import importlib.util
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from bilevel.papers.claims import FAILS, HOLDS, NOT_JUDGED, UNDECIDED, Finding
from bilevel.papers.entries import ENTRIES
from bilevel.papers.page import describe_check, entries_table, not_run, section, summary, verdict_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
WORDS = tomllib.loads((ROOT / "docs/reproduction.toml").read_text(encoding="utf-8"))
SECTIONS = {text.split(":")[0]: f"## {text}".strip() for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
ROWS = {name: re.findall(rf"^\| \[{name}\].*$", PAGE, flags=re.MULTILINE) for name in ENTRIES}
MISSING = [name for name, entry in ENTRIES.items() if entry.not_judged]
JUDGED = [name for name in ENTRIES if name not in MISSING]
VERDICTS = [f"**{verdict}**" for verdict in (HOLDS, FAILS, UNDECIDED)]


def not_judged_row(name):
    (line,) = (line for line in summary([not_run(ENTRIES[name], "laptop")]).splitlines() if line.startswith("| ["))
    return line


@pytest.mark.parametrize("name", MISSING)
def test_an_entry_that_is_not_judged_says_why_and_nothing_else(name):
    entry = ENTRIES[name]
    assert SECTIONS[name] == section(not_run(entry, "laptop")).strip()
    assert f"**{NOT_JUDGED}** — {entry.not_judged}" in SECTIONS[name]
    assert ROWS[name] == [not_judged_row(name)]
    assert not (ROOT / f"docs/reproduction/{name}.png").exists()


@pytest.mark.parametrize("name", JUDGED)
def test_an_entry_that_is_judged_shows_the_claims_and_words_of_today(name):
    entry, text = ENTRIES[name], SECTIONS[name]
    assert NOT_JUDGED not in text + "".join(ROWS[name]) and len(ROWS[name]) == len(entry.claims)
    assert f"{entry.paper}, {entry.where}. **" in text and f"## {name}: {entry.title}\n" in text
    for claim, row in zip(entry.claims, ROWS[name], strict=True):
        assert any(f"- “{claim.sentence}” {verdict}\n" in text for verdict in VERDICTS)
        assert any(f"| {claim.sentence} | {verdict} |" in row for verdict in VERDICTS)
    checks = [describe_check(check) for claim in entry.claims for check in claim.checks]
    assert re.findall(r"^    - `(.*)`: ", text, flags=re.MULTILINE) == checks
    for words in (WORDS["readings"][name].strip(), f"claim.* {entry.basis}\n", f"*Settings.* {entry.settings}\n"):
        assert words in text
    assert (ROOT / f"docs/reproduction/{name}.png").exists()


def test_the_page_has_the_words_of_its_source_and_no_others():
    assert set(WORDS["readings"]) == set(JUDGED)
    for part in ("before", "between", "after"):
        assert WORDS[part].strip() in PAGE
    assert [name for name in SECTIONS if name in ENTRIES] == list(ENTRIES)
    assert f"{len(JUDGED)} of {len(ENTRIES)} entries are judged. The other {len(MISSING)} contradict" in PAGE


def test_the_builder_writes_the_same_page_but_for_the_numbers(monkeypatch, tmp_path):
    """From outcomes without runs: what is not judged asks for none."""
    spec = importlib.util.spec_from_file_location("build_reproduction", ROOT / "docs/build_reproduction.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)

    def outcomes(ids, **_):
        assert ids == JUDGED
        for name in ids:
            (tmp_path / name).mkdir()
            (tmp_path / name / "figure.png").touch()
            findings = [
                [Finding(check, UNDECIDED, (), 0.0, -1.0, 1.0) for check in claim.checks]
                for claim in ENTRIES[name].claims
            ]
            runs = {curve.label: [] for curve in ENTRIES[name].scales["laptop"].curves}
            yield dataclasses.replace(not_run(ENTRIES[name], "laptop"), findings=findings, runs=runs)

    (tmp_path / "reproduction").mkdir()
    shutil.copy(ROOT / "docs/reproduction.toml", tmp_path)
    monkeypatch.setattr(builder, "DOCS", tmp_path)
    monkeypatch.setattr(builder, "reproduce", outcomes)
    builder.main(str(tmp_path))

    def words(text):
        text = re.sub(r"^\|(?! \[).*\n?", "", text, flags=re.MULTILINE)  # tables of the curves' ends
        text = re.sub(r"[+-]\S+ \[\S+, \S+\](; )?", "", text)
        return re.sub(r"\*\*(holds|does not hold|undecided)\*\*", "", text)

    assert words((tmp_path / "reproduction.md").read_text()).split() == words(PAGE).split()


def test_no_other_page_cites_what_is_not_judged():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.toml")]
    for path in pages:
        if path.name != "reproduction.md":
            assert not [name for name in MISSING if name in path.read_text(encoding="utf-8")], path


def test_a_terminal_shows_the_reason_in_place_of_a_verdict():
    entry = ENTRIES[MISSING[0]]
    assert verdict_lines(not_run(entry, "laptop")) == [f"{NOT_JUDGED} — {entry.not_judged}"]
    rows = [[cell.text for cell in row.cells] for row in entries_table(ENTRIES.values()).rows]
    assert [name for name, title, _ in rows if NOT_JUDGED in title] == MISSING
