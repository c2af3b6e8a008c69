"""From a theorem to a run: the constants that theorems assume, and what they then prescribe and prove."""

import math
from dataclasses import dataclass
from typing import Any

from bilevel import _checks as checks
from bilevel.solvers.base import AbstractSolver


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The constants of a problem that the theorems assume. Larger ones (for μ, a smaller one) are true as well.

    They must hold wherever the iterates go, in the norm of z = (x, y).

    - `mu` (μ): g is μ-strongly convex in y.
    - `L`: ∇f and ∇g are L-Lipschitz in z. So ‖H‖ and ‖J‖ are at most L.
    - `M`: ‖∇f‖ ≤ M. A quadratic f has no such bound; take that of the region of the iterates.
    - `tau` (τ), `rho` (ρ): J and H are τ- and ρ-Lipschitz in z. They are 0 where g is quadratic.
    - `sigma_f`, `sigma_g`, `sigma_h`: the root of the mean squared error of a batch's ∇f (or of a sample h of the
      hypergradient, for `SUSTAIN`), of its ∇g, and of its H and J, in the operator norm.

    The papers have more constants, for ∇_x f and ∇_y f, or for J and H, apart. Here they are all at most L, M, τ or ρ.

    Example:

        >>> import bilevel as bl
        >>> bounds = bl.Bounds(mu=1.0, L=2.0, M=1.0)
        >>> bounds.kappa, bounds.smoothness
        (2.0, 18.0)
    """

    mu: float
    L: float
    M: float
    tau: float = 0.0
    rho: float = 0.0
    sigma_f: float = 0.0
    sigma_g: float = 0.0
    sigma_h: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mu", "L", "M"):
            checks.positive(name, getattr(self, name))
        for name in ("tau", "rho", "sigma_f", "sigma_g", "sigma_h"):
            checks.nonnegative(name, getattr(self, name))
        if self.mu > self.L:
            raise ValueError(f"L: got {self.L} with mu={self.mu}; ∇g cannot vary by less than it does")

    @property
    def kappa(self) -> float:
        """κ = L/μ."""
        return self.L / self.mu

    @property
    def bias(self) -> float:
        """L + L²/μ + Mτ/μ + LMρ/μ²: by how much an error of y moves the hypergradient."""
        mu, L, M = self.mu, self.L, self.M
        return L + L**2 / mu + M * self.tau / mu + L * M * self.rho / mu**2

    @property
    def smoothness(self) -> float:
        """L_Φ = L + (2L² + τM²)/μ + (ρLM + L³ + τML)/μ² + ρL²M/μ³, of Φ (stocBiO's Theorem 1)."""
        mu, L, M, tau, rho = self.mu, self.L, self.M, self.tau, self.rho
        of_mu = (2 * L**2 + tau * M**2) / mu
        return L + of_mu + (rho * L * M + L**3 + tau * M * L) / mu**2 + rho * L**2 * M / mu**3


@dataclass(frozen=True, kw_only=True, eq=False)
class Prescribed:
    """What a theorem prescribes, and what it proves of it.

    - `solver`, to be run for `steps` steps. `upper_batch` and `lower_batch` are the batch sizes of the two levels; None
      leaves them to the user.
    - `bound`: of the quantity that the method `from_theorem` names. A bound of a mean over x_0, …, x_{K−1} holds for
      one of them drawn at random, not for the last. Draw k, and run for k steps to get x_k: the steps of a run do not
      depend on when it ends.

    Example:

        >>> import bilevel as bl
        >>> found = bl.AIDBiO.from_theorem(bl.Bounds(mu=1.0, L=2.0, M=1.0), accuracy=0.1, gap=1.0, distance=2.0)
        >>> found.solver.inner_steps, found.steps, found.bound
        (2, 11620, 0.1)
    """

    solver: AbstractSolver
    steps: int
    bound: float
    upper_batch: int | None = None
    lower_batch: int | None = None


def whole(amount: float) -> int:
    """The least integer n ≥ 1 that is at least this amount, up to its rounding."""
    return max(1, math.ceil(amount * (1 - 1e-12)))


def steps_for(total: float, accuracy: float) -> int:
    """The least K with total/K ≤ accuracy."""
    return whole(total / accuracy)


def contraction_steps(target: float, factor: float) -> int:
    """The least number n ≥ 1 with factorⁿ ≤ target."""
    return whole(math.log(target) / math.log(factor)) if 0 < factor < 1 and target < 1 else 1


def check_amounts(**amounts: Any) -> None:
    """What must be known of the start: numbers, zero or more; `accuracy` and `gap` above zero."""
    for name, value in amounts.items():
        (checks.positive if name in ("accuracy", "gap") else checks.nonnegative)(name, value)
