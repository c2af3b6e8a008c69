"""What `diagnose` measured: as numbers, as a table, as a figure."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from bilevel import _checks as checks
from bilevel.diagnostics.constants import Constants
from bilevel.diagnostics.findings import Finding, find
from bilevel.hypergradients.adjoint import AbstractAdjoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """A hypergradient at a point with its error bars. Print it for a table; `plot()` draws it.

    With h the method's hypergradient on all rows at (x, y), h* = ∇Φ(x) the accurate one at y*(x), and relative
    errors divided by ‖h*‖ = `norm`:

    - `constants`: a `Constants`. `strongly_convex`: whether μ is above rounding; where it is not, the numbers that
      need H⁻¹ are NaN.
    - `distance` ≈ ‖y − y*‖, the length of one Newton step; `distance_bound` = ‖G_y‖/μ.
    - `adjoint_residual` = ‖H v − F_y‖/‖F_y‖; `adjoint_error` = ‖v − H⁻¹F_y‖/‖H⁻¹F_y‖.
    - `error_estimate` of ‖h − h*‖/‖h*‖ from these two residuals: h is compared with the hypergradient after one
      Newton step of y and an exact adjoint.
    - `error`: the actual one, by `reference` (the direct solve or conjugate gradient) at y* by Newton's method to
      rounding; NaN where that did not converge.
    - `difference_error`: the same against difference quotients of Φ along random directions, and
      `reference_difference_error`: h* against them, which is what the quotients can resolve.
    - `bias` and `spread`, relative: the distance from h* of the mean over `draws` estimates, less its sampling error,
      which is `bias_error`; and the standard deviation of one estimate. `distances`: ‖h_i − h*‖/‖h*‖ of each.
    - `findings`: what is wrong here; empty for a healthy problem. Near a minimizer of Φ, where h* vanishes and
      every relative error is large, they measure by `scale` = ‖F_x‖ + ‖J v‖: `part_from_y` and
      `part_from_adjoint` are the two parts of the error, divided by it.
    - `notes`: what to know of the measurement itself.
    """

    constants: Constants
    method: AbstractAdjoint
    dtype: str
    dim_y: int
    batches: tuple[tuple[str, int | None, int], ...]
    row_factor: float
    strongly_convex: bool
    depends_on_x: bool
    depends_on_y: bool
    distance: float
    adjoint_residual: float
    adjoint_error: float
    part_from_y: float
    part_from_adjoint: float
    scale: float
    norm: float
    error_estimate: float
    error: float
    reference: str
    difference_error: float
    reference_difference_error: float
    bias: float
    bias_error: float
    noise_spread: float
    method_spread: float
    distances: Float[np.ndarray, " draws"]
    notes: tuple[str, ...]

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        return find(self)

    @property
    def distance_bound(self) -> float:
        return self.constants.G_y_norm / self.constants.mu if self.strongly_convex else math.inf

    @property
    def spread(self) -> float:
        absolute = math.hypot(self.noise_spread, self.method_spread)
        return absolute / self.norm if self.norm > 0 else math.inf if absolute > 0 else 0.0

    @property
    def draws(self) -> int:
        return len(self.distances)

    def __str__(self) -> str:
        c, convex = self.constants, self.strongly_convex
        batches = ", ".join(f"{name} {size or 'all'} of {rows}" for name, size, rows in self.batches)
        rows = [
            ("method", type(self.method).__name__, f"{self.dtype}; batches: {batches}"),
            ("μ", _number(c.mu), f"± {_number(c.mu_residual)}, least Ritz value of H, an overestimate"),
            ("L", _number(c.L), f"± {_number(c.L_residual)}, after {len(c.ritz)} Lanczos steps"),
            ("κ", _number(c.kappa), "L/μ"),
            ("‖J‖", _number(c.J_norm), f"± {_number(c.J_residual)}"),
            *(
                (f"noise of {name}", _number(sigma), "÷ √(batch size)")
                for name, sigma in c.sigma.items()
                if c.noise_measured[name]
            ),
            (
                "‖G_y‖",
                _number(c.G_y_norm),
                f"y is {_number(self.distance)} from y*, at most {_number(self.distance_bound)}" if convex else "",
            ),
            (
                "‖Hv − F_y‖/‖F_y‖",
                _number(self.adjoint_residual),
                f"{_number(self.adjoint_error)} of the adjoint is missing" if convex else "",
            ),
            ("‖∇Φ‖" if convex else "‖h‖", _number(self.norm), f"‖F_x‖ + ‖Jv‖ = {_number(self.scale)}"),
            ("error, estimated", _number(self.error_estimate), "relative, from the two residuals"),
            ("error, actual", _number(self.error), f"by {self.reference} at y* by Newton's method"),
            (
                "error, differences",
                _number(self.difference_error),
                f"of Φ; the accurate one's is {_number(self.reference_difference_error)}",
            ),
            ("bias", _number(self.bias), f"± {_number(self.bias_error)}, relative, of the mean of {self.draws} draws"),
            ("spread", _number(self.spread), "relative, of one draw"),
        ]
        rows = [row for row in rows if row[1] != "nan"]
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"{label:<{first}}  {value:>{second}}  {remark}".rstrip() for label, value, remark in rows]
        found = [f"! {finding}" for finding in self.findings] or ["No findings."]
        return "\n".join([*lines, "", *found, *(f"Note: {note}" for note in self.notes)])

    def plot(self) -> "Figure":
        """Four panels: gradient noise, the spectrum of H, the errors, and the draws of the estimator."""
        checks.require("matplotlib", extra="display")
        from bilevel.diagnostics._figure import draw

        return draw(self)


def _number(value: Any) -> str:
    return f"{value:.3g}"
