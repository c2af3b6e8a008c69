"""What `diagnose` measured: as numbers, as a table, as a figure."""

import math
from functools import cached_property
from typing import TYPE_CHECKING

from bilevel import _extras as extras
from bilevel._output.tables import aligned, short
from bilevel.diagnostics import _figure
from bilevel.diagnostics._measurement import Measurement
from bilevel.diagnostics.findings import Finding, find

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report(Measurement):
    """A hypergradient at a point with its error bars. Print it for a table; `plot()` draws it.

    h is the method's hypergradient on all rows at (x, y), and h* = ∇Φ(x) the accurate one at y*(x). Relative errors
    are divided by ‖h*‖ = `norm`.

    - `constants`: a `Constants`. `strongly_convex`: whether μ is above rounding; if it is not, the numbers that need
      H⁻¹ are NaN.
    - `distance` ≈ ‖y − y*‖, the length of one Newton step; `distance_bound` = ‖G_y‖/μ.
    - `adjoint_residual` = ‖H v − F_y‖/‖F_y‖; `adjoint_error` = ‖v − H⁻¹F_y‖/‖H⁻¹F_y‖.
    - `error_estimate` of ‖h − h*‖/‖h*‖ from these two residuals: h is compared with the hypergradient after one
      Newton step of y and an exact adjoint.
    - `error`: the actual error. h* is found by `reference` (the direct solve or conjugate gradient) at y*, which
      Newton's method finds to rounding; NaN if Newton's method did not converge.
    - `difference_error`: the error of h against difference quotients of Φ along random directions.
      `reference_difference_error`: that of h*, which shows how much the quotients can resolve.
    - `bias`, relative: the distance from h* of the mean over `draws` estimates, less its sampling error `bias_error`.
      `spread`, relative: the standard deviation of one estimate. `distances`: ‖h_i − h*‖/‖h*‖ for each estimate.
    - `findings`: what is wrong here; empty for a healthy problem. Near a minimizer of Φ, where h* vanishes and
      every relative error is large, they are relative to `scale` = ‖F_x‖ + ‖J v‖: `part_from_y` and
      `part_from_adjoint` are the two parts of the error, divided by it.
    - `notes`: remarks on the measurement itself.
    """

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        return find(self)

    def __str__(self) -> str:
        c, convex = self.constants, self.strongly_convex
        batches = ", ".join(f"{name} {size or 'all'} of {rows}" for name, size, rows in self.batches)
        rows = [
            ("method", type(self.method).__name__, f"{self.dtype}; batches: {batches}"),
            ("μ", short(c.mu), f"± {short(c.mu_residual)}, least Ritz value of H, an overestimate"),
            ("L", short(c.L), f"± {short(c.L_residual)}, after {len(c.ritz)} Lanczos steps"),
            ("κ", short(c.kappa), "L/μ"),
            ("‖J‖", short(c.J_norm), f"± {short(c.J_residual)}"),
            *(
                (f"noise of {name}", short(sigma), "÷ √(batch size)")
                for name, sigma in c.sigma.items()
                if c.noise_measured[name]
            ),
            (
                "‖G_y‖",
                short(c.G_y_norm),
                f"y is {short(self.distance)} from y*, at most {short(self.distance_bound)}" if convex else "",
            ),
            (
                "‖Hv − F_y‖/‖F_y‖",
                short(self.adjoint_residual),
                f"{short(self.adjoint_error)} of the adjoint is missing" if convex else "",
            ),
            ("‖∇Φ‖" if convex else "‖h‖", short(self.norm), f"‖F_x‖ + ‖Jv‖ = {short(self.scale)}"),
            ("error, estimated", short(self.error_estimate), "relative, from the two residuals"),
            ("error, actual", short(self.error), f"by {self.reference} at y* by Newton's method"),
            (
                "error, differences",
                short(self.difference_error),
                f"of Φ; that of h* is {short(self.reference_difference_error)}",
            ),
            ("bias", short(self.bias), f"± {short(self.bias_error)}, relative, of the mean of {self.draws} draws"),
            ("spread", short(self.spread), "relative, of one draw"),
        ]
        lines = aligned([row for row in rows if row[1] != short(math.nan)], right=True)
        found = [f"! {finding}" for finding in self.findings] or ["No findings."]
        return "\n".join([*lines, "", *found, *(f"Note: {note}" for note in self.notes)])

    def plot(self) -> "Figure":
        """Four panels: gradient noise, the spectrum of H, the errors, and the draws of the estimator."""
        extras.require("matplotlib", extra="display")
        return _figure.draw(self, [finding.name for finding in self.findings])
