"""How figures look: one palette, one kind of curve, one frame."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette for the color-blind, without its yellow
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
GRAY = "#666666"  # for levels and remarks, which are not curves
COLORS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[str, ...] = ("solid", "dashed", "dashdot", "dotted")


class Look(NamedTuple):
    color: str
    dashes: str
    marker: str


def look(i: int) -> Look:
    """The look of the i-th curve. Markers also tell the colors apart; dashes tell apart the rounds of colors."""
    lap, place = divmod(i, len(COLORS))
    return Look(COLORS[place], DASHES[lap % len(DASHES)], MARKERS[(place + lap) % len(MARKERS)])


def line(
    axes: "Axes",
    i: int,
    label: str,
    where: Float[np.ndarray, " n"],
    mean: Float[np.ndarray, " n"],
    error: Float[np.ndarray, " n"],
    *,
    crowded: bool,
) -> None:
    """Draw the i-th curve of a panel, and a band of one standard error."""
    color, dashes, marker = look(i)
    spots = [*range(1 + i % 3, len(where) - 1, max(1, len(where) // 5)), len(where) - 1]
    marks = {"marker": marker, "markevery": spots, "markersize": 4 if crowded else 5}
    axes.plot(where, mean, label=label, color=color, linestyle=dashes, linewidth=1.1 if crowded else 1.6, **marks)
    if not crowded:  # many bands hide each other, and the table has the errors
        axes.fill_between(where, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)


def tidy(axes: "Axes") -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
