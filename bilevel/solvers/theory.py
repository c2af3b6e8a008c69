"""The quantities that a solver's theory starts from, and the rules that several theories share.

μ, L and κ = L/μ come from `bl.measure_constants`. If a theory gives an order ("Θ(κ log κ)"), the constant is taken as
1; if it bounds a step, the bound is taken. The theories of single-loop methods tie the lower step to the upper one by
products of worst-case constants. Only the bound 1/L that they share and the powers of the number of steps K are taken
from them. `MOST` caps the cost of an iteration, and the reason then says so. A reason cites the theorem if it was read
(in the papers of stocBiO, SUSTAIN, FSLA and BO-REP), else the paper's algorithm, whose theory is then unverified.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST = {"inner steps": 10, "unrolled steps": 50, "Neumann order": 50, "CG steps": 20, "dense y": 50}
LEAST_STEPS = 300  # the budget must suffice for these: Neumann orders are cut so that it does


class Choice(NamedTuple):
    """A setting's value and where it comes from."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Facts:
    """The inputs of the theories: μ, L and κ of the lower level, L_f of the upper level in y, the size of y, the batch
    size, the rows and the strata of the lower level, the lower batches that the budget pays for, and the solver's
    scaling."""

    mu: float
    L: float
    kappa: float
    upper_smoothness: float
    dim_y: int
    batch: int
    rows: int
    strata: int
    passes: float
    scaling: float

    @property
    def horizon(self) -> int:
        """The steps K of a single-loop method that calls each of its four oracles once per step."""
        return max(1, int(self.passes / 4))


def lower_step(facts: Facts, source: str, bound: str = "1/L") -> Choice:
    """The theorem's bound times the scaling."""
    value = {"1/L": 1 / facts.L, "2/(L+μ)": 2 / (facts.L + facts.mu)}[bound]
    return Choice(facts.scaling * value, f"{source}: {bound} = {value:.3g}, times {facts.scaling:g}")


def neumann_step(facts: Facts, source: str) -> Choice:
    """1/L."""
    return Choice(1 / facts.L, f"{source}: 1/L")


def capped(facts: Facts, kind: str, order: str, source: str, products: float = 0) -> Choice:
    """A loop's length by its order in κ, capped so that the budget allows 300 steps of `products` passes each."""
    value, most = max(1, math.ceil(_order(facts, order))), MOST[kind]
    if products:
        most = max(3, min(most, int(facts.passes / LEAST_STEPS / products)))
    if value > most:
        return Choice(most, f"{source}: {order} = {value}, capped at {most}")
    return Choice(value, f"{source}: {order}")


def inner_steps(facts: Facts, source: str, order: str = "κ") -> Choice:
    """The steps of a lower loop, at most 10."""
    return capped(facts, "inner steps", order, source)


def neumann_order(facts: Facts, source: str, products: float = 1) -> Choice:
    """`products`: Hessian products per iteration for each unit of the order."""
    return capped(facts, "Neumann order", "κ log κ", source, products)


def _order(facts: Facts, order: str) -> float:
    log = 1 + math.log(facts.kappa)
    return {"κ": facts.kappa, "κ log κ": facts.kappa * log, "√κ": facts.kappa**0.5, "√κ log κ": facts.kappa**0.5 * log}[
        order
    ]


def power_weight(facts: Facts, source: str, power: str) -> Choice:
    """A momentum weight. In theory it is ∝ K^(−p) over a run of K steps; the looser K^(−1/3) is used for all."""
    value = facts.horizon ** (-1 / 3)
    return Choice(value, f"{source}: ∝ K^−{power}, loosened to K^−1/3, K = {facts.horizon}")


def cg_steps(facts: Facts, source: str, order: str) -> Choice:
    """The steps of conjugate gradient, at most 20."""
    return capped(facts, "CG steps", order, source)
