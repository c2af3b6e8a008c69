"""Run entries, judge their claims, and write the results; each result is on disk as soon as it is ready."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from bilevel import _checks as checks
from bilevel._output import files, terminal
from bilevel.compare.records import Run
from bilevel.datasets import DatasetError
from bilevel.papers import runs as runs_
from bilevel.papers.entries import ENTRIES
from bilevel.papers.entry import SIZES, Curve, Entry, Grid, Setup
from bilevel.papers.figure import draw
from bilevel.papers.outcome import Outcome, begun, keep, kept
from bilevel.papers.page import ends, ends_table, page, verdict_lines
from bilevel.papers.runs import Projection, Runner
from bilevel.papers.tuning import Tuned, tuned

LONG = ("workstation", "paper")  # the sizes whose duration is projected first


def reproduce(
    ids: Sequence[str],
    *,
    size: str = "laptop",
    out: Any,
    resume: bool = False,
    first_seed: int = 0,
    keep: Any = None,
    console: Any = None,
) -> list[Outcome]:
    """Run entries at one size, and compare the results with the paper's.

    **Arguments**

    - `ids`: entries, by name. Curves that several entries share run once.
    - `size`: "smoke" (seconds), "laptop" (minutes to hours), "workstation" (hours without a GPU) or "paper"
      (the paper's own). The last two project their duration first.
    - `out`: a directory. Each entry gets a folder with `figure.png`, `table.csv` and `result.json`; `README.md` has
      all of them. The runs themselves are kept in `runs`, each as soon as it has ended.
    - `resume`: use the runs there, and the curves in `keep`, that an earlier call with the same settings has finished,
      and continue the run that it had begun.
    - `first_seed`: other seeds than those from zero on.
    - `keep`: a directory for one small file per entry, from which `from_kept` makes the verdicts again. It is written
      after each curve, and without `resume` an earlier file of the entry is replaced.
    - `console`: a `rich` console for tables and progress; None is silent.

    An entry that is not judged shows its runs, and the reason instead of a verdict.

    An entry that fails, or whose data are missing, is reported as not tested, and the others continue. Ctrl-C ends the
    call: finished runs are kept.
    """
    entries = _chosen(ids, size)
    checks.count("first_seed", first_seed, least=0)
    out = files.make_directory(out)
    folder = None if keep is None else files.make_directory(keep, "keep")
    runner = Runner(out / "runs", resume)
    outcomes: list[Outcome] = []
    for entry in entries:
        setup = dataclasses.replace(entry.sizes[size], first_seed=first_seed)
        before = begun(entry, size, setup, folder) if resume and folder is not None else Outcome(entry, size, setup)
        outcome = _entry(before, runner, folder, console)
        outcomes.append(outcome)
        _write(outcome, out / entry.id)
        (out / "README.md").write_text(page(outcomes), encoding="utf-8")
        _show(outcome, console)
    return outcomes


def from_kept(ids: Sequence[str], *, size: str, folder: Any, console: Any = None) -> list[Outcome]:
    """The outcomes of entries whose runs are kept in a folder: judged anew, without running anything.

    **Raises** `ValueError` if a folder has no runs of an entry at this size, or if they are of other settings.
    """
    outcomes = []
    for entry in _chosen(ids, size):
        outcome = kept(entry, size, files.local_directory(folder, "folder"))
        if outcome is None:
            raise ValueError(f"folder: {folder} has no runs of {entry.id} at {size} size; run it with --keep {folder}")
        outcomes.append(outcome)
        _show(outcome, console)
    return outcomes


def projections(ids: Sequence[str], *, size: str, console: Any = None) -> dict[str, dict[str, Projection]]:
    """What each curve of each entry will take, from three executed steps."""
    found = {}
    for entry in _chosen(ids, size):
        found[entry.id] = _project(entry, entry.sizes[size], console)
    return found


def _chosen(ids: Sequence[str], size: str) -> list[Entry]:
    for name in ids:
        checks.one_of("entry", name, ENTRIES)
    checks.one_of("size", size, SIZES)
    for name in ids:
        if size not in ENTRIES[name].sizes:
            raise ValueError(f"size: {name} has no {size} size; its sizes are {', '.join(ENTRIES[name].sizes)}")
    return [ENTRIES[name] for name in dict.fromkeys(ids)]


def _show(outcome: Outcome, console: Any) -> None:
    if console is None:
        return
    console.print(ends_table(outcome))
    for line in verdict_lines(outcome):
        console.print(line, markup=False, soft_wrap=True)
    for label, text in outcome.trouble.items():
        console.print(f"{label}: {text}", markup=False, soft_wrap=True)


def _entry(before: Outcome, runner: Runner, folder: pathlib.Path | None, console: Any) -> Outcome:
    """Run the curves that an entry does not have yet; each is kept as soon as its runs have ended."""
    entry, setup = before.entry, before.setup
    found, chosen, trouble = dict(before.runs), dict(before.tuned), dict[str, str]()
    outcome = Outcome(entry, before.size, setup, found, chosen, trouble, files.environment())
    left = [curve for curve in setup.curves if curve.label not in found]
    with terminal.progress(console, len(setup.curves)) as show:
        if before.size in LONG and left:
            _project(entry, dataclasses.replace(setup, curves=tuple(left)), console)
        show(f"{entry.id}, kept", len(found))
        for curve in left:
            show(f"{entry.id}  {curve.label}")
            try:
                found[curve.label] = _curve(entry, setup, curve, runner, chosen)
            except DatasetError as error:
                trouble[curve.label] = str(error)
                break  # the other curves need the same data
            except Exception as error:
                trouble[curve.label] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            else:
                if folder is not None:
                    keep(outcome, folder)
            show(f"{entry.id}  {curve.label}", len(found) + len(trouble))
    if folder is not None and found and trouble:
        keep(outcome, folder)
    return outcome


def _curve(entry: Entry, setup: Setup, curve: Curve, runner: Runner, chosen: dict[str, Tuned]) -> list[Run]:
    if isinstance(curve.solver, Grid):
        curve, chosen[curve.label] = tuned(entry, setup, curve, runner)
    return runner.curve(entry, setup, curve)


def _project(entry: Entry, setup: Setup, console: Any) -> dict[str, Projection]:
    try:
        found = runs_.projection(entry, setup)
    except DatasetError:
        return {}  # the run itself reports the missing data
    if console is not None:
        hours = sum(curve.seconds for curve in found.values()) / 3600
        console.print(
            f"{entry.id}: projected duration {hours:.2f} h, from three executed steps of each of {len(found)} curves "
            f"({setup.seeds} seeds each)",
            soft_wrap=True,
        )
    return found


def _write(outcome: Outcome, folder: pathlib.Path) -> None:
    files.make_directory(folder)
    files.write_csv(folder / "table.csv", ends(outcome))
    claims = [
        {
            "quote": claim.quote,
            "claim": claim.sentence,
            "verdict": verdict,
            "checks": [
                {"check": str(f.check), "verdict": f.verdict, "values": f.values, "reason": f.reason}
                | {"mean": f.mean, "interval": [f.low, f.high]}
                for f in findings
            ],
        }
        for claim, verdict, findings in outcome.judged
    ]
    content = {
        "entry": outcome.entry.id,
        "size": outcome.size,
        "verdicts": outcome.verdicts,
        "claims": claims,
        "settings": [runs_.description(outcome.entry, outcome.setup, curve) for curve in outcome.setup.curves],
        "tuned": {label: dataclasses.asdict(found) for label, found in outcome.tuned.items()},
        "trouble": outcome.trouble,
        "seconds": outcome.seconds,
        "environment": outcome.environment,
    }
    files.write_json(folder / "result.json", content)
    if outcome.runs:
        draw(outcome).savefig(folder / "figure.png", dpi=110)
