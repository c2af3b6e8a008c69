"""An entry's result at one size, and the small files that keep it."""

import dataclasses
import gzip
import json
import math
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilevel._output.files import environment, make_directory, strict
from bilevel.compare.records import Run
from bilevel.papers import runs as runs_
from bilevel.papers.claims import FAILS, UNTESTED, VERDICTS, Claim, Finding, judged, overall
from bilevel.papers.entry import Entry, Setup
from bilevel.papers.tuning import Tuned


@dataclass(frozen=True, eq=False)
class Outcome:
    """The runs by curve, what was tuned, the curves that could not run and why, and the machine."""

    entry: Entry
    size: str
    setup: Setup
    runs: Mapping[str, list[Run]] = field(default_factory=dict)
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    trouble: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def findings(self, claim: Claim) -> list[Finding]:
        """The claim's checks on these runs."""
        if claim.sizes and self.size not in claim.sizes:
            reason = f"it is judged at {' and '.join(claim.sizes)} size alone"
            return [Finding(check, UNTESTED, reason=reason) for check in claim.checks]
        for label in claim.curves():
            if label in self.trouble:
                return [Finding(check, UNTESTED, reason=f"{label}: {self.trouble[label]}") for check in claim.checks]
        found = judged(claim, runs_.by_seed(dict(self.runs)))
        if claim.fails_at and self.size not in claim.fails_at:
            reason = f"harder than at {' and '.join(claim.fails_at)} size"
            found = [
                dataclasses.replace(f, verdict=UNTESTED, reason="; ".join(filter(None, (reason, f.reason))))
                if f.verdict == FAILS
                else f
                for f in found
            ]
        return found

    @property
    def judged(self) -> list[tuple[Claim, str, Sequence[Finding]]]:
        """Each claim with its verdict and its findings."""
        found = [self.findings(claim) for claim in self.entry.claims]
        verdicts = [overall([finding.verdict for finding in findings]) for findings in found]
        return list(zip(self.entry.claims, verdicts, found, strict=True))

    @property
    def verdicts(self) -> dict[str, int]:
        """How many of its claims have each verdict."""
        found = Counter(verdict for _, verdict, _ in self.judged)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    @property
    def complete(self) -> bool:
        """Whether each curve has its runs."""
        return self.runs.keys() == {curve.label for curve in self.setup.curves}

    @property
    def seconds(self) -> float:
        """What all its runs took, those of the tuning included. Runs that curves share count once."""
        took: dict[str, float] = {}
        for curve in self.setup.curves:
            if found := self.runs.get(curve.label):
                about = runs_.description(self.entry, self.setup, curve)
                took[str(about)] = sum(run.stats.get("wall_seconds", math.nan) for run in found)
            if curve.label in self.tuned:
                took[f"tuning of {curve.tried.label}"] = self.tuned[curve.label].wall_seconds
        return sum(took.values())


def _path(folder: Any, entry: Entry, size: str, first_seed: int = 0) -> pathlib.Path:
    seeds = f"-from-seed-{first_seed}" if first_seed else ""
    return pathlib.Path(folder) / f"{entry.id}-{size}{seeds}.json.gz"


def keep(outcome: Outcome, folder: Any) -> pathlib.Path:
    """Write the outcome's runs as one small compressed file, the same bytes for the same runs."""
    abouts = {curve.label: _about(outcome.entry, outcome.setup, curve) for curve in outcome.setup.curves}
    content = {
        "entry": outcome.entry.id,
        "size": outcome.size,
        "environment": dict(outcome.environment),
        "trouble": dict(outcome.trouble),
        "tuned": {label: dataclasses.asdict(found) for label, found in outcome.tuned.items()},
        "curves": [
            {"label": label, "about": about, "runs": [_columns(run) for run in outcome.runs[label]]}
            for label, about in abouts.items()
            if label in outcome.runs
        ],
    }
    path = _path(make_directory(folder, "keep"), outcome.entry, outcome.size, outcome.setup.first_seed)
    text = json.dumps(strict(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path


def kept(entry: Entry, size: str, folder: Any) -> Outcome | None:
    """The outcome whose runs are kept in a folder, judged by today's claims; None if there are none.

    **Raises** `ValueError` if they are of other settings than the entry's of today.
    """
    path, setup = _path(folder, entry, size), entry.sizes[size]
    if not path.is_file():
        return None
    content = _read(path)
    for label in content["curves"]:
        if not _same(content, entry, setup, label):
            raise ValueError(
                f"{path}: its curve {label!r} has other settings than the entry's of today; "
                f"run `bilevel reproduce {entry.id} --size {size} --keep {folder} --resume` again"
            )
    return _outcome(content, entry, size, setup)


def begun(entry: Entry, size: str, setup: Setup, folder: Any) -> Outcome:
    """What a folder keeps of the entry on the seeds of `setup`, but for curves whose settings have changed.

    **Raises** `ValueError` if it was made with other versions or, where each run has so many seconds, elsewhere.
    """
    path = _path(folder, entry, size, setup.first_seed)
    if not path.is_file():
        return Outcome(entry, size, setup)
    content, here = _read(path), environment()
    for name in here if setup.seconds is not None else ("bilevel", "jax", "jaxlib", "device"):
        there = content["environment"].get(name)
        if there != here[name]:
            raise ValueError(
                f"keep: the runs in {path} were made with {name} {there}, which is {here[name]} here; "
                "choose another folder, or leave out `resume` to make all of them again"
            )
    same = {label: curve for label, curve in content["curves"].items() if _same(content, entry, setup, label)}
    tuned = {label: found for label, found in content["tuned"].items() if label in same}
    return _outcome(content | {"curves": same, "tuned": tuned, "trouble": {}}, entry, size, setup)


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The content of a kept file, with its curves by label."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    return content | {"curves": {curve["label"]: curve for curve in content["curves"]}}


def _same(content: dict[str, Any], entry: Entry, setup: Setup, label: str) -> bool:
    """Whether a curve is one of today's."""
    found = [curve for curve in setup.curves if curve.label == label]
    return bool(found) and content["curves"][label]["about"] == _about(entry, setup, found[0])


def _outcome(content: dict[str, Any], entry: Entry, size: str, setup: Setup) -> Outcome:
    runs = {label: [_run(label, one) for one in curve["runs"]] for label, curve in content["curves"].items()}
    tuned = {label: Tuned(**found) for label, found in content["tuned"].items()}
    return Outcome(entry, size, setup, runs, tuned, content["trouble"], content["environment"])


def _about(entry: Entry, setup: Setup, curve: Any) -> dict[str, Any]:
    """The description of a curve, as JSON gives it back."""
    about = runs_.description(entry, setup, curve) | {"seeds": setup.seeds}
    return json.loads(json.dumps(strict(about), default=str))


def _columns(run: Run) -> dict[str, Any]:
    names = dict.fromkeys(name for row in run.rows for name in row)
    columns = {name: [row.get(name) for row in run.rows] for name in names}
    return {
        "seed": run.seed, "result": run.result, "message": run.message, "stats": run.stats, "columns": columns
    }  # fmt: skip


def _run(label: str, kept: dict[str, Any]) -> Run:
    names, columns = kept["columns"], zip(*kept["columns"].values(), strict=True)
    rows = [
        {name: math.nan if value is None else value for name, value in zip(names, values, strict=True)}
        for values in columns
    ]
    stats = {name: math.nan if value is None else value for name, value in kept["stats"].items()}
    return Run(label, kept["seed"], kept["result"], kept["message"], rows, stats)
