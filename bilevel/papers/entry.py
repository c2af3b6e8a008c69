"""The types of entries: a figure or table of a paper, as data."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bilevel.papers.claims import Claim

SIZES = ("smoke", "laptop", "workstation", "paper")
TUNING_SEED = 1000  # the first seed of tuning; claims see those from zero on


@dataclass(frozen=True, eq=False)
class Grid:
    """A solver whose settings the paper tuned: `make(**point)` for a point of `values`, name ↦ the values to try.

    `of`: the curve that is tried in its place, for an ablation whose other settings are as in another figure.
    `arguments`: the task's arguments that a point gives as well, such as a test's step: name ↦ name in `values`.
    """

    make: Callable[..., Any]
    values: Mapping[str, tuple[Any, ...]]
    of: "Curve | None" = None
    arguments: Mapping[str, str] = field(default_factory=dict)

    def points(self) -> list[dict[str, Any]]:
        return [dict(zip(self.values, point, strict=True)) for point in itertools.product(*self.values.values())]

    def at(self, curve: "Curve", point: Mapping[str, Any]) -> "Curve":
        """The curve with the solver and the task's arguments of a point."""
        given = {argument: point[name] for argument, name in self.arguments.items()}
        return dataclasses.replace(curve, solver=self.make(**point), arguments=curve.arguments | given)

    def edges(self, point: Mapping[str, Any]) -> list[str]:
        """The names whose value is the least or the largest of those tried."""
        ends = {name: (min(values), max(values)) for name, values in self.values.items() if len(values) > 1}
        return [name for name, (low, high) in ends.items() if point[name] in (low, high)]


@dataclass(frozen=True)
class Tuning:
    """One rule for all methods of an entry, with validation rows and seeds that no claim sees.

    Each point of a curve's grid runs a `share` of the curve's budget on `seeds` seeds from 1000 on, with
    `split="validation"`. The point with the best mean of `metric` at the end is chosen: the `highest`, or the lowest.
    `whole`: its mean over the whole run decides instead, where claims are of all of it. A point at which a run broke
    off is out. `changes`: arguments of the task that differ, where the paper's rows leave none for validation.
    """

    metric: str
    highest: bool = True
    whole: bool = False
    seeds: int = 2
    share: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of a figure or a row of a table.

    - `task`, with its `arguments`, and `solver`, with its settings: a solver, a `Grid` of them, or None if the entry's
      kind runs no solver.
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

    @property
    def tried(self) -> "Curve":
        """The curve whose tuning gives this one its settings."""
        return self.solver.of or self if isinstance(self.solver, Grid) else self


@dataclass(frozen=True, eq=False)
class Setup:
    """An entry at one size: its curves, and their budgets.

    - `about`: what the size is, in words, and what of the paper's is smaller.
    - `steps` of each run, or `seconds` of stepping for each, where time is the axis and all need the same budget.
    - `seeds`, from `first_seed` on; `rows`: about how many rows a run's history has.
    - `together`: all seeds of a curve run in one program, which is quick where steps are small: on a CPU, and of any
      network of these figures on a GPU. Then time means nothing, and a curve is kept only once all its seeds are done.
    - `tuning`: the rule for curves with a `Grid`.
    """

    curves: tuple[Curve, ...]
    steps: int | None = None
    seconds: float | None = None
    about: str = ""
    seeds: int = 5
    first_seed: int = 0
    rows: int = 20
    together: bool = False
    tuning: Tuning | None = None

    def steps_of(self, curve: Curve) -> int:
        steps = curve.steps or self.steps
        assert steps is not None, curve.label
        return steps


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    - `x`: a column of the history, a sum of `histories.SUMS`, or "value" for an ablation, which shows the end of each
      curve.
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
    - `sizes`: its setups, by a name of `SIZES`; "smoke" and "laptop" are always there.
    - `settings`: the source of the settings, and what was chosen where the paper is silent.
    - `left_out`: what else the paper says of it, and why it is not checked.
    - `kind`: how a run is made, one of `runs.MAKERS`.
    """

    id: str
    paper: str
    where: str
    title: str
    sizes: dict[str, Setup]
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...]
    settings: str
    left_out: tuple[str, ...] = ()
    kind: str = "solve"


def smaller(
    setup: Setup,
    changes: dict[str, dict[str, Any]],
    *,
    steps: int,
    seeds: int = 2,
    rows: int = 4,
    only: tuple[str, ...] | int | None = None,
) -> Setup:
    """The setup at smoke size: the same curves for `steps` steps, with other arguments for each task; a grid has two
    points. `only`: where all curves would take too long to compile, the labels of those to keep, or how many of the
    first ones, at the first point of their grids."""

    if isinstance(only, int):
        only = tuple(curve.label for curve in setup.curves[:only])

    def few(curve: Curve) -> Curve:
        grid = curve.solver
        if not isinstance(grid, Grid):
            return curve
        if only is not None:
            return grid.at(curve, grid.points()[0])
        first, *rest = grid.values.items()
        values = {first[0]: first[1][:2]} | {name: values[:1] for name, values in rest}
        return dataclasses.replace(curve, solver=Grid(grid.make, values, arguments=grid.arguments))

    curves = tuple(
        dataclasses.replace(curve, steps=None, arguments=curve.arguments | changes.get(curve.task, {}))
        for curve in map(few, setup.curves)
        if only is None or curve.label in only
    )
    tuning = setup.tuning and dataclasses.replace(setup.tuning, seeds=1, share=1.0, changes={})
    about = "a few steps on tiny data: it shows that the code runs, and nothing else"
    return dataclasses.replace(
        setup, curves=curves, steps=steps, seconds=None, seeds=seeds, rows=rows, tuning=tuning, about=about
    )
