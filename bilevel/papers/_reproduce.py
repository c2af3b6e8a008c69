"""Run entries, judge their claims, and write the results; each result is on disk as soon as it is ready."""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

from bilevel import _checks as checks
from bilevel._output import files, terminal
from bilevel.compare.records import Run
from bilevel.compare.store import Store
from bilevel.datasets import DatasetError
from bilevel.papers import runs as runs_
from bilevel.papers.claims import UNTESTED, Finding, judge
from bilevel.papers.entries import ENTRIES
from bilevel.papers.entry import SCALES, Curve, Entry, Setup
from bilevel.papers.figure import draw
from bilevel.papers.page import Outcome, describe_check, ends, ends_table, page, verdict_lines
from bilevel.run._checkpoint import can_checkpoint


def reproduce(
    ids: Sequence[str], *, scale: str = "laptop", out: Any, resume: bool = False, console: Any = None
) -> list[Outcome]:
    """Run entries at one scale, and compare the results with the paper's.

    **Arguments**

    - `ids`: entries, by name. Curves that several entries share run once.
    - `scale`: "smoke" (seconds), "laptop" (minutes) or "paper" (the paper's own size, with a projected duration first).
    - `out`: a directory. Each entry gets a folder with `figure.png`, `table.csv` and `result.json`; `README.md` has
      all of them. The runs themselves are kept in `runs`.
    - `resume`: use the runs there that an earlier call with the same settings has finished, and continue those that
      had started (if time is an axis; seeds that run together start over).
    - `console`: a `rich` console for tables and progress; None is silent.

    An entry that is not judged shows its runs, and the reason instead of a verdict.

    An entry that fails, or whose data are missing, is reported as not tested, and the others continue. Ctrl-C ends the
    call: finished runs are kept.
    """
    for name in ids:
        checks.one_of("entry", name, ENTRIES)
    checks.one_of("scale", scale, SCALES)
    out = files.make_directory(out)
    store = Store(out / "runs")
    known: set[str] = set()  # the runs of this call, which are not repeated
    outcomes: list[Outcome] = []
    for name in dict.fromkeys(ids):
        entry = ENTRIES[name]
        outcome = _entry(entry, scale, store, known, resume, console)
        outcomes.append(outcome)
        _write(outcome, out / name)
        (out / "README.md").write_text(page(outcomes, scale), encoding="utf-8")
        if console is not None:
            console.print(ends_table(outcome))
            for line in verdict_lines(outcome):
                console.print(line, markup=False, soft_wrap=True)
            for label, text in outcome.trouble.items():
                console.print(f"{label}: {text}", markup=False, soft_wrap=True)
    return outcomes


def _entry(entry: Entry, scale: str, store: Store, known: set[str], resume: bool, console: Any) -> Outcome:
    """Run all curves of an entry, and judge its claims."""
    setup, start = entry.scales[scale], time.perf_counter()
    found: dict[str, list[Run]] = {}
    trouble: dict[str, str] = {}
    with terminal.progress(console, len(setup.curves)) as show:
        if scale == "paper":
            _project(entry, setup, console)
        for i, curve in enumerate(setup.curves):
            show(f"{entry.id}  {curve.label}")
            try:
                found[curve.label] = _curve(entry, setup, curve, store, known, resume)
            except DatasetError as error:
                trouble[curve.label] = str(error)
                break  # the other curves need the same data
            except Exception as error:
                trouble[curve.label] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            show(f"{entry.id}  {curve.label}", i + 1)
    seeds = runs_.by_seed(found)
    findings = [[_judged(check, seeds, trouble) for check in claim.checks] for claim in entry.claims]
    return Outcome(entry, scale, setup, found, findings, time.perf_counter() - start, trouble)


def _judged(check: Any, seeds: Sequence[dict[str, Run]], trouble: dict[str, str]) -> Finding:
    missing = next((text for label, text in trouble.items() if label in check.curves()), None)
    return judge(check, seeds) if missing is None else Finding(check, UNTESTED, reason=missing)


def _curve(entry: Entry, setup: Setup, curve: Curve, store: Store, known: set[str], resume: bool) -> list[Run]:
    about = runs_.description(entry, setup, curve)
    usable = resume or str(about) in known
    runs = store.find(about) if usable else None
    if runs is None:
        underway = store.underway(about)
        if not resume:
            shutil.rmtree(underway, ignore_errors=True)
        # orbax, which saves unfinished runs, is an extra; finished runs are always kept
        runs = runs_.make(entry, setup, curve, underway if can_checkpoint() else None)
        store.keep(about, runs)
    known.add(str(about))
    return [dataclasses.replace(run, solver=curve.label) for run in runs]


def _project(entry: Entry, setup: Setup, console: Any) -> None:
    try:
        seconds = runs_.projection(setup)
    except DatasetError:
        return  # the run itself reports the missing data
    if console is not None:
        console.print(
            f"{entry.id}: projected duration {sum(seconds.values()) / 3600:.2f} h, from three executed steps of "
            f"each of {len(seconds)} curves ({setup.seeds} seeds each)",
            soft_wrap=True,
        )


def _write(outcome: Outcome, folder: pathlib.Path) -> None:
    files.make_directory(folder)
    files.write_csv(folder / "table.csv", ends(outcome))
    claims = [
        {
            "claim": claim.sentence,
            "verdict": verdict,
            "checks": [
                {"check": describe_check(f.check), "verdict": f.verdict, "values": f.values, "reason": f.reason}
                | {"mean": f.mean, "interval": [f.low, f.high]}
                for f in findings
            ],
        }
        for claim, verdict, findings in outcome.judged
    ]
    content = {
        "entry": outcome.entry.id,
        "scale": outcome.scale,
        "verdict": outcome.verdict,
        "not_judged": outcome.entry.not_judged,
        "claims": claims,
        "settings": [runs_.description(outcome.entry, outcome.setup, curve) for curve in outcome.setup.curves],
        "trouble": outcome.trouble,
        "seconds": outcome.seconds,
        "environment": files.environment(),
    }
    files.write_json(folder / "result.json", content)
    if outcome.runs:
        figure = draw(outcome.entry, outcome.setup.curves, outcome.runs, outcome.scale)
        figure.savefig(folder / "figure.png", dpi=110)
