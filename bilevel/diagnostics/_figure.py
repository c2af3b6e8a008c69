"""The figure of a report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bilevel._output.figures import BLUE, GRAY, GREEN, ORANGE, PINK
from bilevel._output.tables import short
from bilevel.diagnostics._measurement import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(at: Measurement, found: Sequence[str]) -> "Figure":
    """Four panels: gradient noise, the spectrum of H, the errors, and the draws; `found` goes into the title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _noise(axes[0, 0], at)
    _spectrum(axes[0, 1], at)
    _errors(axes[1, 0], at)
    _draws(axes[1, 1], at)
    figure.suptitle(f"{type(at.method).__name__}: {', '.join(found) or 'no findings'}")
    return figure


def _empty(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GRAY)
    axes.set(xticks=[], yticks=[])


def _noise(axes: "Axes", at: Measurement) -> None:
    axes.set_title("Gradient noise")
    c = at.constants
    drawn = [name for name in c.sigma if c.sigma[name] > 1e-4 * max(c.sigma.values())]  # what is smaller is rounding
    if not drawn:
        return _empty(axes, "no noise: the levels have no rows to draw")
    for name, color, marker in zip(("F_x", "F_y", "G_y"), (GREEN, BLUE, ORANGE), "s^o", strict=True):
        if name in drawn:
            sizes, noise = np.array(c.noise_measured[name]).T
            axes.plot(sizes, noise, marker, color=color, label=f"{name}, measured")
            line = np.array([1, max(at.constants.upper_rows, at.constants.lower_rows)])
            axes.plot(line, c.sigma[name] / np.sqrt(line), color=color, lw=1, label=f"{short(c.sigma[name])} / √b")
            norm = {"F_x": c.F_x_norm, "F_y": c.F_y_norm, "G_y": c.G_y_norm}[name]
            axes.axhline(norm, color=color, ls=":", lw=1, label=f"‖{name}‖ on all rows")
    axes.set(xscale="log", yscale="log", xlabel="batch size b, in rows", ylabel="standard deviation of the gradient")
    axes.legend(frameon=False, fontsize=8, ncols=len(drawn), loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _spectrum(axes: "Axes", at: Measurement) -> None:
    c = at.constants
    axes.set_title(f"Curvature of the lower level: κ = {short(c.kappa)}")
    order = np.arange(1, len(c.ritz) + 1)
    for sign, color, marker, label in ((1, BLUE, "o", "Ritz values of H"), (-1, ORANGE, "v", "negative, as |θ|")):
        where = sign * c.ritz > 0
        if where.any():
            axes.plot(order[where], np.abs(c.ritz[where]), marker, ms=4, color=color, label=label)
    for name, value, residual in (("μ", c.mu, c.mu_residual), ("L", c.L, c.L_residual)):
        axes.axhline(abs(value), color=GRAY, lw=1)
        axes.annotate(
            f"{name} = {short(value)} ± {short(residual, 1)}",
            (0.5, abs(value)),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    if np.abs(c.ritz).min() < 100 * c.rounding:
        axes.axhline(c.rounding, color=PINK, ls="--", lw=1, label="rounding: zero below it")
    axes.set(yscale="log", xlabel="number, ascending", ylabel="eigenvalue")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8)


def _errors(axes: "Axes", at: Measurement) -> None:
    axes.set_title("Relative error of the hypergradient")
    part = at.scale / at.norm if at.norm > 0 else np.nan
    bars = [
        ("from y", part * at.part_from_y, GRAY),
        ("from the adjoint", part * at.part_from_adjoint, GRAY),
        ("estimated", at.error_estimate, BLUE),
        ("actual", at.error, ORANGE),
        ("against differences of Φ", at.difference_error, GREEN),
        ("(of the accurate one)", at.reference_difference_error, GREEN),
        ("bias of the mean draw", at.bias, PINK),
        ("spread of one draw", at.spread, PINK),
    ]
    shown = [(label, value, color) for label, value, color in bars if np.isfinite(value) and value > 0]
    if not shown:
        return _empty(axes, "not measured: the lower level is not strongly convex here")
    labels, values, colors = zip(*shown, strict=True)
    axes.barh(labels, values, color=colors, height=0.6)
    for i, value in enumerate(values):
        axes.annotate(
            f"{short(value, 2)}", (value, i), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="‖error‖ / ‖∇Φ‖", xlim=(min(values) / 5, max(values) * 8))
    return None


def _draws(axes: "Axes", at: Measurement) -> None:
    axes.set_title(f"{at.draws} draws of the estimator" if at.draws > 1 else "The estimator")
    values = np.asarray(at.distances)
    if at.draws == 1 or not np.isfinite(values).all():
        return _empty(axes, "it is not random here" if at.draws == 1 else "not finite")
    axes.hist(values, bins=min(20, max(5, at.draws // 4)), color=BLUE, alpha=0.75)
    if np.isfinite(at.bias):
        axes.axvline(at.bias, color=PINK, label=f"bias {short(at.bias, 2)} ± {short(at.bias_error, 1)}")
    axes.axvline(at.spread, color=ORANGE, ls="--", label=f"spread {short(at.spread, 2)}")
    axes.set(xlabel="‖h_i − ∇Φ‖ / ‖∇Φ‖", ylabel="number of draws")
    axes.legend(frameon=False, fontsize=9)
    return None
