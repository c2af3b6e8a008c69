"""The numbers of `diagnose`, independent of findings and of how they are shown."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bilevel.diagnostics.constants import Constants
from bilevel.hypergradients.adjoint import AbstractAdjoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """The numbers of a `Report`, whose docstring says what each is."""

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
