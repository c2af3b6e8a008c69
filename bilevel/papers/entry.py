"""The types of entries: a figure or table of a paper, as data."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bilevel.papers.claims import Claim

SCALES = ("smoke", "laptop", "paper")


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of a figure or a row of a table.

    - `task`, with its `arguments`, and `solver`, with its settings (None if the entry's kind runs no solver).
    - `steps`: if they differ from the setup's. `value`: its place on the axis of an ablation.
    - `paper`: numbers that the paper prints for it, by metric.
    """

    label: str
    task: str
    arguments: dict[str, Any]
    solver: Any
    steps: int | None = None
    value: float | None = None
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Setup:
    """An entry at one scale: its curves, and their numbers of steps and seeds.

    `timed`: the runs go one by one, because time is an axis. Otherwise all seeds of a curve run together.
    """

    curves: tuple[Curve, ...]
    steps: int
    seeds: int = 5
    rows: int = 20
    timed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    - `x`: a column of the history, "calls", "gradients", or "value" for an ablation, which shows the end of each curve.
    - `curves`: the labels of the curves to draw; default: all.
    - `strip`: a text to remove from their labels. Curves of several panels with the same remaining label share a color
      and a line of the legend.
    """

    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    curves: tuple[str, ...] | None = None
    title: str = ""
    strip: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    """A figure or table of a paper.

    - `id`: its name in `bilevel reproduce`; `paper`, `where`: its source.
    - `kind`: how a run is made, one of `runs.KINDS`.
    - `settings`: the source of the settings, and what is scaled down at laptop scale.
    - `basis`: the basis of the claim's sentence.
    - `not_judged`: why the entry gets no verdict, if its claim, axis or settings contradict the paper.
    """

    id: str
    paper: str
    where: str
    title: str
    scales: dict[str, Setup]
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...]
    settings: str
    basis: str
    kind: str = "solve"
    not_judged: str = ""


def smaller(setup: Setup, changes: dict[str, dict[str, Any]], *, steps: int, seeds: int = 2, rows: int = 4) -> Setup:
    """The setup at smoke scale: the same curves for `steps` steps, with other arguments for each task."""
    curves = (
        dataclasses.replace(curve, steps=None, arguments=curve.arguments | changes.get(curve.task, {}))
        for curve in setup.curves
    )
    return dataclasses.replace(setup, curves=tuple(curves), steps=steps, seeds=seeds, rows=rows)
