"""An entry's results for a reader: tables, its section in Markdown, and the summary of all."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from bilevel._output.tables import Cell, Table, count, number, short, with_error
from bilevel.compare.records import spread
from bilevel.cost import KINDS
from bilevel.papers.claims import RULE, VERDICTS, Finding
from bilevel.papers.entry import SIZES, Entry
from bilevel.papers.histories import ENDED_WELL, at_end
from bilevel.papers.outcome import Outcome
from bilevel.run._solution import RESERVED


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
        row["broken"] = sum(run.result not in ENDED_WELL for run in runs)
        table.append(row)
    return table


def _columns(outcome: Outcome) -> list[str]:
    printed = {f"{metric} (paper)" for curve in outcome.setup.curves for metric in curve.paper}
    return [*metrics_of(outcome), *sorted(printed)]


def ends_table(outcome: Outcome) -> Table:
    columns = _columns(outcome)
    title = f"{outcome.entry.id}, {outcome.size}: at the end, mean ± standard error over {outcome.setup.seeds} seeds"
    table = Table(title, "curve", *columns, "steps", "run s", "broken off", first_width=28)
    for row in ends(outcome):
        cells = [with_error(row.get(name, math.nan), row.get(f"{name} s.e.", math.nan)) for name in columns]
        broken = Cell(str(row["broken"] or ""), row["broken"])
        table.add_row(row["curve"], *cells, count(row["steps"]), number(row["run_seconds"], 1), broken)
    return table


def tuned_table(outcome: Outcome) -> Table:
    """What the tuning chose for each curve that was tuned; others may share its settings."""
    rule = outcome.setup.tuning
    metric = "" if rule is None else rule.metric
    table = Table("tuning", "curve", "chosen", "at an edge of the grid", "points", "broken off", metric, left=(0, 1, 2))
    tried = {curve.tried.label: curve.label for curve in outcome.setup.curves if curve.label in outcome.tuned}
    for label, curve in tried.items():
        found = outcome.tuned[curve]
        chosen = ", ".join(f"{name} = {value}" for name, value in found.chosen.items())
        cells = (Cell(str(number), number) for number in (found.points, found.broken))
        table.add_row(label, chosen, ", ".join(found.edges) or "no", *cells, number(found.score))
    return table


def entries_table(entries: Iterable[Entry]) -> Table:
    """The entries that can be reproduced."""
    table = Table("The papers' experiments", "id", "title", "where", "sizes", left=(0, 1, 2, 3))
    for entry in entries:
        table.add_row(entry.id, entry.title, f"{entry.paper}, {entry.where}", ", ".join(entry.sizes))
    return table


def interval(finding: Finding) -> str:
    if not math.isfinite(finding.mean):
        return finding.reason
    numbers = f"{finding.mean:+.3g} [{finding.low:+.3g}, {finding.high:+.3g}]"
    return f"{numbers} ({finding.reason})" if finding.reason else numbers


def verdict_lines(outcome: Outcome) -> list[str]:
    """Each claim, its verdict, and the numbers behind it, or why there is no verdict."""
    lines = []
    for claim, verdict, findings in outcome.judged:
        lines.append(f"{claim.sentence} → {verdict}")
        reason = _shared_reason(findings)
        lines += [f"    {reason}"] if reason else [f"    {f.check}: {interval(f)} → {f.verdict}" for f in findings]
    lines += [f"{label}: tuned to {found.chosen}" for label, found in outcome.tuned.items()]
    return lines


def section(outcome: Outcome, figure: str | None = None, reading: str = "") -> str:
    """The entry's part of the page, in Markdown. `figure`: its path from the page; default: next to the table."""
    entry = outcome.entry
    parts = [f"## {entry.id}: {entry.title}", f"{entry.paper}, {entry.where}. {_counts(outcome)}", *_claims(outcome)]
    if reading:
        parts.append(f"**Reading.** {reading.strip()}")
    if outcome.runs:
        parts += [
            f"![{entry.title}]({figure or f'{entry.id}/figure.png'})",
            ends_table(outcome).markdown(),
            _machine(outcome),
        ]
    if outcome.tuned:
        parts += [_tuning(outcome), tuned_table(outcome).markdown()]
    parts += [f"{label}: {text}" for label, text in outcome.trouble.items()]
    sizes = "\n".join(f"- *{size}*: {setup.about}." for size, setup in entry.sizes.items() if size != "smoke")
    parts += [f"*Settings.* {entry.settings}", f"*Sizes.*\n\n{sizes}"]
    if entry.left_out:
        parts.append("*Not checked.*\n\n" + "\n".join(f"- {text}" for text in entry.left_out))
    return "\n\n".join(parts) + "\n"


def _counts(outcome: Outcome) -> str:
    """Its claims by verdict."""
    if not outcome.runs:
        return "**No runs are kept yet.**"
    counts = ", ".join(f"{verdict}: {number}" for verdict, number in outcome.verdicts.items())
    return f"Claims at {outcome.size} size: **{counts}**."


def _claims(outcome: Outcome) -> list[str]:
    """One item per claim: what the paper says, what is checked, the verdict and its numbers."""
    lines = []
    for claim, verdict, findings in outcome.judged:
        lines.append(
            f"- {claim.quote}\n\n    *Checked:* {claim.sentence}" + (f" **{verdict}**" if outcome.runs else "")
        )
        if outcome.runs:
            lines.append("\n".join(f"    - {text}" for text in _numbers(findings)))
    return lines


def _numbers(findings: Sequence[Finding]) -> list[str]:
    """The number of each check; or, where none has one for the same reason, this reason once."""
    reason = _shared_reason(findings)
    return [reason] if reason else [f"{finding.check}: {interval(finding)}" for finding in findings]


def _shared_reason(findings: Sequence[Finding]) -> str:
    """Why no check has a number, if it is the same for all."""
    reasons = {"" if math.isfinite(finding.mean) else finding.reason for finding in findings}
    return reasons.pop() if len(reasons) == 1 else ""


def _deciding(verdict: str, findings: Sequence[Finding]) -> str:
    """The number that the claim's verdict is due to: of those with this verdict, the one furthest from holding."""
    numbers = _numbers(findings)
    if len(numbers) == 1:
        return numbers[0]
    those = [(finding, text) for finding, text in zip(findings, numbers, strict=True) if finding.verdict == verdict]
    return min(those, key=lambda pair: _support(pair[0]))[1]


def _support(finding: Finding) -> float:
    """Its mean in units of half its interval, which numbers of different units can be compared by."""
    half = finding.mean - finding.low
    return finding.mean / half if half > 0 else math.copysign(math.inf, finding.mean)


def _machine(outcome: Outcome) -> str:
    machine, minutes = outcome.environment, outcome.seconds / 60
    took = f"{short(minutes / 60, 2)} hours" if minutes >= 10 else f"{short(minutes, 2)} minutes"
    cores = machine.get("cores")
    where = f"{cores} core{'s' * (cores != 1)}" if machine.get("backend") == "cpu" else machine.get("device")
    names = dict.fromkeys(curve.arguments["dataset"] for curve in outcome.setup.curves if "dataset" in curve.arguments)
    data = f" on {' and '.join(f'`{name}`' for name in names)}," if names else ""
    return f"*Run*{data} on {where}, in {took} in all."


def _tuning(outcome: Outcome) -> str:
    rule = outcome.setup.tuning
    assert rule is not None
    best, seeds = "highest" if rule.highest else "lowest", "one seed" if rule.seeds == 1 else f"{rule.seeds} seeds"
    changes = ", ".join(f"{name} = {value:,}" for name, value in rule.changes.items())
    rows = f" ({changes})" if changes else ""
    return (
        f"*Tuned* by one rule: each point of the grid ran {rule.share:.0%} of a run on {seeds} that no claim "
        f"sees, with validation rows in place of the test rows{rows}; the point with the {best} mean of {rule.metric} "
        f"{'over the whole run' if rule.whole else 'at the end'} was chosen."
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """Claims by verdict and size, then one line per claim, in Markdown. An entry without runs has one line."""
    shown = [outcome for outcome in outcomes if outcome.runs]
    sizes = [size for size in SIZES if any(outcome.size == size for outcome in shown)]
    parts = []
    if shown:
        verdicts = [(outcome.size, verdict) for outcome in shown for _, verdict, _ in outcome.judged]
        rows = [[verdict, *(str(verdicts.count((size, verdict))) for size in sizes)] for verdict in VERDICTS]
        columns = ["claims", *(f"at {size} size" for size in sizes)]
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)))
    head = "| entry | checked | verdict | size | the number that decides, its mean and 95 % interval |"
    lines = [head, "|---|---|---|---|---|"]
    for outcome in outcomes:
        link = f"[{outcome.entry.id}](#{_anchor(outcome.entry)})"
        if outcome not in shown:
            lines.append(f"| {link} | {outcome.entry.title} | **no runs are kept yet** | – | – |")
            continue
        for claim, verdict, findings in outcome.judged:
            decides = _deciding(verdict, findings)
            lines.append(f"| {link} | {claim.sentence} | **{verdict}** | {outcome.size} | {decides} |")
    if without := [outcome for outcome in outcomes if outcome not in shown]:
        number = sum(len(outcome.entry.claims) for outcome in without)
        parts.append(f"{number} more claims, of {', '.join(one.entry.id for one in without)}, have no runs yet.")
    return "\n\n".join([*parts, "\n".join(lines)])


def page(outcomes: Sequence[Outcome]) -> str:
    """All entries on one page, after a summary."""
    return "\n\n".join(["# The papers' experiments", RULE, summary(outcomes), *(section(one) for one in outcomes)])


def _anchor(entry: Entry) -> str:
    text = f"{entry.id}: {entry.title}".lower()
    return "".join(c for c in text if c.isalnum() or c in " -_").replace(" ", "-")
