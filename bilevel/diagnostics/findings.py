"""What is wrong at a point, in plain language, with advice in numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bilevel._output.tables import percent, short
from bilevel.diagnostics._measurement import Measurement
from bilevel.fields import count_at
from bilevel.hypergradients.adjoint import ConjugateGradient, FixedPoint, Neumann, RandomNeumann

TOLERANCE = 0.1  # a part of the error above this, relative to ‖F_x‖ + ‖J v‖, is a finding
GOAL = TOLERANCE / 2  # what the advice aims at
ILL_CONDITIONED = 1e4  # above this, the conditioning is to blame for an unsolved adjoint
ROUNDING = 0.1  # κ times the machine epsilon: H⁻¹ amplifies rounding by κ
NOISE = 10.0  # spread of one estimate that is due to its batches, relative to ‖F_x‖ + ‖J v‖
SPREAD = 3.0  # the same for a random method


@dataclass(frozen=True)
class Finding:
    """A `name`, one of `NAMES`, and a `text` that says what was measured and what to do."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


NAMES = (
    "not finite",
    "no dependence on y",
    "no dependence on x",
    "not strongly convex",
    "rounding",
    "lower level not solved",
    "adjoint diverges",
    "ill-conditioned",
    "adjoint not solved",
    "gradient noise",
    "random method",
)


def find(at: Measurement) -> tuple[Finding, ...]:
    """All findings in a measurement, in the order of `NAMES`."""
    found = [
        *_not_finite(at),
        *_independent(at),
        *_curvature(at),
        *_lower(at),
        *_adjoint(at),
        *_spread(at),
    ]
    return tuple(sorted(found, key=lambda finding: NAMES.index(finding.name)))


def _not_finite(at: Measurement) -> Iterator[Finding]:
    c = at.constants
    numbers = {
        "‖F_x‖": c.F_x_norm,
        "‖F_y‖": c.F_y_norm,
        "‖G_y‖": c.G_y_norm,
        "the curvature": c.L,
        "‖F_x‖ + ‖Jv‖": at.scale,
    }
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        yield Finding(
            "not finite",
            f"{' and '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not finite here: a loss is not finite at this "
            f"point, or numbers leave the range of {at.dtype}. Look at both losses and their gradients here, rescale "
            "the losses, or use float64. Nothing else is judged from them.",
        )


def _independent(at: Measurement) -> Iterator[Finding]:
    if not at.depends_on_y:
        yield Finding(
            "no dependence on y",
            "F_y is zero, here and at a random y: the upper loss does not depend on y, and the hypergradient is F_x "
            "alone. Use y in the upper loss, or minimize over x without a lower level.",
        )
    if not at.depends_on_x:
        yield Finding(
            "no dependence on x",
            "J is zero, here and at a random y: G_y does not depend on x, nor does y*, and the hypergradient is F_x "
            "alone. Use x in the lower loss, where it acts on y.",
        )


def _curvature(at: Measurement) -> Iterator[Finding]:
    c = at.constants
    if not at.strongly_convex:
        single = c.epsilon > 1e-10
        yield Finding(
            "not strongly convex",
            f"the lower level is not strongly convex here (smallest curvature {short(c.mu)} ± "
            f"{short(max(c.mu_residual, c.rounding))}, largest {short(c.L)}): add a regularizer (c/2)‖y‖² of at "
            f"least c = {_regularizer(c, 1e3)}, which leaves κ ≤ 1000"
            + ("; or, if it should be, measure it in float64." if single and abs(c.mu) <= c.rounding else "."),
        )
    elif c.kappa * c.epsilon > ROUNDING:
        yield Finding(
            "rounding",
            f"κ = {short(c.kappa)} times the rounding of {at.dtype} is {short(c.kappa * c.epsilon)}: the "
            f"adjoint is lost in it. Use float64, or a regularizer (c/2)‖y‖² of at least c = "
            f"{_regularizer(c, GOAL / c.epsilon)}.",
        )


def _regularizer(c: Any, kappa: float) -> str:
    """The c > 0 for which (L + c)/(μ + c) is `kappa`, rounded up to three digits; 0.001 for a flat loss."""
    least = (c.L - kappa * c.mu) / (kappa - 1) or 1e-3
    digit = 10.0 ** (math.floor(math.log10(least)) - 2)
    return short(math.ceil(least / digit) * digit)


def _lower(at: Measurement) -> Iterator[Finding]:
    part = at.part_from_y
    if TOLERANCE < part < math.inf:
        c = at.constants
        more = math.ceil(math.log(part / GOAL) / -math.log1p(-min(1 / c.kappa, 0.999)))
        yield Finding(
            "lower level not solved",
            f"‖G_y‖ = {short(c.G_y_norm)} puts y at about {short(at.distance)} from y*, which moves the "
            f"hypergradient by {percent(part)} of its parts: take about {more} more lower steps of size 1/L = "
            f"{short(1 / c.L)} on all rows.",
        )


def _adjoint(at: Measurement) -> Iterator[Finding]:
    c, method = at.constants, at.method
    eta = step_size(method)
    if eta is not None and eta * c.L > 2:
        yield Finding(
            "adjoint diverges",
            f"the step {short(eta)} is above 2/L = {short(2 / c.L)}, so each term of {_name(method)} is larger "
            f"than the last: use a step of at most 1/L = {short(1 / c.L)}.",
        )
        return
    if not TOLERANCE < at.part_from_adjoint < math.inf:
        return
    name = "ill-conditioned" if c.kappa >= ILL_CONDITIONED else "adjoint not solved"
    cause = f"κ = {short(c.kappa)} is too much for it; " if name == "ill-conditioned" else ""
    yield Finding(
        name,
        f"{_name(method)} leaves {percent(at.adjoint_error)} of the adjoint, which moves the hypergradient by "
        f"{percent(at.part_from_adjoint)} of its parts: {cause}{_more_terms(at, eta)}"
        + (
            f", or a regularizer (c/2)‖y‖² of at least c = {_regularizer(c, 1e3)}, which leaves κ = 1000."
            if name == "ill-conditioned"
            else "."
        ),
    )


def _more_terms(at: Measurement, eta: float | None) -> str:
    c, method = at.constants, at.method
    cg = min(at.dim_y, math.ceil(math.sqrt(c.kappa) / 2 * math.log(2 * math.sqrt(c.kappa) / GOAL)))
    advice = f"use bl.ConjugateGradient(steps={cg})"
    setting = "order" if isinstance(method, Neumann | RandomNeumann) else "steps"
    if eta is not None:
        largest = 1 / c.L
        rate = max(abs(1 - c.mu * eta), abs(1 - c.L * eta), 1e-3)
        more = terms(method) + math.ceil(math.log(GOAL / at.part_from_adjoint) / math.log(rate))
        advice += f" or {setting} {more}" if rate < 1 else ""
        if not largest / 2 <= eta <= 1.5 * largest:
            faster = math.ceil(math.log(GOAL) / math.log1p(-min(1 / c.kappa, 0.999)))
            advice += f", or step 1/L = {short(largest)} with {setting} {faster}"
    elif not isinstance(method, ConjugateGradient):
        advice += " or bl.Direct()"
    return advice


def _spread(at: Measurement) -> Iterator[Finding]:
    own, method = (at.method_spread / at.scale if at.scale > 0 else 0.0), at.method
    if SPREAD < own < math.inf:
        fixed = "bl.ConjugateGradient"
        if isinstance(method, RandomNeumann):
            fixed = f"bl.Neumann(order={terms(method) - 1}, step={short(step_size(method) or 0)})"
        yield Finding(
            "random method",
            f"{_name(method)} is random, which alone spreads single hypergradients by {own:.1f} times the size of "
            f"their parts: average {math.ceil((2 * own / SPREAD) ** 2)} of them, or use {fixed}, which is not.",
        )
    noise = at.noise_spread / at.scale if at.scale > 0 else 0.0
    if NOISE * at.row_factor < noise < math.inf:
        factor = 2 * (noise / (NOISE * at.row_factor)) ** 2
        sizes = [f"{name} {_larger(size, factor, rows)}" for name, size, rows in at.batches if size is not None]
        yield Finding(
            "gradient noise",
            f"the batches spread single hypergradients by {noise:.1f} times the size of their parts: use larger "
            f"ones ({', '.join(sizes)}), or average over steps.",
        )


def _larger(size: int, factor: float, rows: int) -> str:
    larger = math.ceil(size * factor)
    return f"batch_size={larger}" if larger < rows else "batch_size=None"


def step_size(method: Any) -> float | None:
    """The step at t = 0 of a method that has one."""
    return float(method.step(0)) if isinstance(method, Neumann | RandomNeumann | FixedPoint) else None


def terms(method: Any) -> int:
    """The number of terms of a series, or of the mean of a random one."""
    if isinstance(method, RandomNeumann):
        return int(count_at(method.order, 0, least=1))
    return method.steps if isinstance(method, FixedPoint) else method.order + 1


def _name(method: Any) -> str:
    name = type(method).__name__
    if isinstance(method, Neumann | RandomNeumann):
        length = terms(method) - isinstance(method, Neumann)
        return f"{name} of order {length} with step {short(step_size(method) or 0)}"
    if isinstance(method, FixedPoint):
        return f"{name} of {method.steps} steps of {short(step_size(method) or 0)}"
    if not isinstance(method, ConjugateGradient):
        return name
    return f"{name} of {'a growing number of' if callable(method.steps) else method.steps} steps"
