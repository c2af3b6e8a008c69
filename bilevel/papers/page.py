"""An entry's results for a reader: tables, and the page with all of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilevel._output.tables import Cell, Table, count, number, with_error
from bilevel.compare.records import Run, spread
from bilevel.cost import KINDS
from bilevel.papers.claims import NOT_JUDGED, RULE, Check, Claim, Finding, at_end, overall
from bilevel.papers.entry import Entry, Setup
from bilevel.run._solution import RESERVED


@dataclass(frozen=True, eq=False)
class Outcome:
    """An entry's result at one scale: the runs by curve, and the findings on each claim."""

    entry: Entry
    scale: str
    setup: Setup
    runs: Mapping[str, Sequence[Run]]
    findings: Sequence[Sequence[Finding]]
    seconds: float
    trouble: dict[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> list[tuple[Claim, str, Sequence[Finding]]]:
        """Each claim with its verdict and its findings; none if the entry is not judged."""
        if self.entry.not_judged:
            return []
        verdicts = [overall([finding.verdict for finding in findings]) for findings in self.findings]
        return list(zip(self.entry.claims, verdicts, self.findings, strict=True))

    @property
    def verdict(self) -> str:
        return NOT_JUDGED if self.entry.not_judged else overall([verdict for _, verdict, _ in self.judged])


def not_run(entry: Entry, scale: str) -> Outcome:
    """The outcome of an entry that is not judged, for a page that needs no runs of it."""
    return Outcome(entry, scale, entry.scales[scale], {}, [], 0.0)


def metrics_of(outcome: Outcome) -> list[str]:
    """The columns of the runs' last rows that come from the tasks, not from the driver."""
    rows = [run.rows[-1] for runs in outcome.runs.values() for run in runs if run.rows]
    return list(dict.fromkeys(name for row in rows for name in row if name not in RESERVED))


def ends(outcome: Outcome) -> list[dict[str, Any]]:
    """One row per curve: its metrics at the end (mean and standard error), its cost, and the paper's numbers."""
    table = []
    for curve in outcome.setup.curves:
        runs = [run for run in outcome.runs.get(curve.label, ()) if run.rows]
        row: dict[str, Any] = {"curve": curve.label, "runs": len(runs)}
        for metric in metrics_of(outcome):
            end = spread(at_end(run, metric) for run in runs if metric in run.rows[-1])
            row |= {metric: end["mean"], f"{metric} s.e.": end["standard_error"]}
        for name in ("steps", "run_seconds", *KINDS):
            row[name] = spread(run.stats.get(name, math.nan) for run in runs)["mean"]
        row |= {f"{metric} (paper)": value for metric, value in curve.paper.items()}
        row["broken"] = sum(run.result not in ("successful", "target_reached") for run in runs)
        table.append(row)
    return table


def _columns(outcome: Outcome) -> list[str]:
    printed = {f"{metric} (paper)" for curve in outcome.setup.curves for metric in curve.paper}
    return [*metrics_of(outcome), *sorted(printed)]


def ends_table(outcome: Outcome) -> Table:
    columns = _columns(outcome)
    title = f"{outcome.entry.id}, {outcome.scale}: at the end, mean ± standard error over {outcome.setup.seeds} seeds"
    table = Table(title, "curve", *columns, "steps", "run s", "broken off", first_width=28)
    for row in ends(outcome):
        cells = [with_error(row.get(name, math.nan), row.get(f"{name} s.e.", math.nan)) for name in columns]
        broken = Cell(str(row["broken"] or ""), row["broken"])
        table.add_row(row["curve"], *cells, count(row["steps"]), number(row["run_seconds"], 1), broken)
    return table


def entries_table(entries: Iterable[Entry]) -> Table:
    """The entries that can be reproduced."""
    table = Table("The papers' experiments", "id", "title", "where", left=(0, 1, 2))
    for entry in entries:
        title = f"{entry.title} ({NOT_JUDGED})" if entry.not_judged else entry.title
        table.add_row(entry.id, title, f"{entry.paper}, {entry.where}")
    return table


def describe_check(check: Check) -> str:
    """The check's settings in one line."""
    values = {name: value for name, value in vars(check).items() if value is not None}
    return f"{type(check).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def interval(finding: Finding) -> str:
    if not math.isfinite(finding.mean):
        return finding.reason
    return f"{finding.mean:+.3g} [{finding.low:+.3g}, {finding.high:+.3g}]"


def verdict_lines(outcome: Outcome) -> list[str]:
    """Each claim, its verdict, and the numbers behind it, or why there is no verdict."""
    if outcome.entry.not_judged:
        return [f"{NOT_JUDGED} — {outcome.entry.not_judged}"]
    lines = []
    for claim, verdict, findings in outcome.judged:
        lines.append(f"{claim.sentence} → {verdict}")
        lines += [f"    {describe_check(f.check)}: {interval(f)} → {f.verdict}" for f in findings]
    return lines


def section(outcome: Outcome, figure: str | None = None) -> str:
    """The entry's part of the page, in Markdown. `figure`: its path from the page; default: next to the table."""
    entry = outcome.entry
    said = f"— {entry.not_judged}" if entry.not_judged else f"at {outcome.scale} scale."
    lines = [f"## {entry.id}: {entry.title}", "", f"{entry.paper}, {entry.where}. **{outcome.verdict}** {said}", ""]
    for claim, verdict, findings in outcome.judged:
        lines.append(f"- “{claim.sentence}” **{verdict}**")
        lines += [f"    - `{describe_check(finding.check)}`: {interval(finding)}" for finding in findings]
    if not entry.not_judged:
        lines += ["", f"*Basis of the claim.* {entry.basis}", ""]
    if outcome.runs or outcome.trouble:
        lines += [f"*Settings.* {entry.settings}", "", *_results(outcome, figure)]
    return "\n".join(lines)


def _results(outcome: Outcome, figure: str | None) -> list[str]:
    """The figure, and a table of the curves' ends."""
    entry = outcome.entry
    picture = f"![{entry.title}]({figure or f'{entry.id}/figure.png'})"
    trouble = [f"{label}: {text}" for label, text in outcome.trouble.items()]
    return [picture, "", ends_table(outcome).markdown(), "", *trouble, ""]


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line per claim, in Markdown, and one line for an entry that is not judged."""
    lines = ["| entry | claim | verdict | mean [95 % interval] |", "|---|---|---|---|"]
    missing, total = sum(bool(outcome.entry.not_judged) for outcome in outcomes), len(outcomes)
    if missing:
        head = f"{total - missing} of {total} entries are judged. The other {missing} contradict their paper"
        lines = [f"{head} in a claim, an axis or a setting, and are to be redone: their sections say why.", "", *lines]
    for outcome in outcomes:
        link = f"[{outcome.entry.id}](#{_anchor(outcome.entry)})"
        if outcome.entry.not_judged:
            lines.append(f"| {link} | {outcome.entry.title} | **{NOT_JUDGED}** | – |")
        for claim, verdict, findings in outcome.judged:
            numbers = "; ".join(interval(finding) for finding in findings)
            lines.append(f"| {link} | {claim.sentence} | **{verdict}** | {numbers} |")
    return "\n".join(lines)


def page(outcomes: Sequence[Outcome], scale: str) -> str:
    """All entries on one page, after a summary."""
    head = f"# The papers' experiments, {scale} scale"
    return "\n\n".join([head, RULE, summary(outcomes), *(section(outcome) for outcome in outcomes)])


def _anchor(entry: Entry) -> str:
    text = f"{entry.id}: {entry.title}".lower()
    return "".join(c for c in text if c.isalnum() or c in " -_").replace(" ", "-")
