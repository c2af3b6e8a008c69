"""Epoch-SGD: the initial stage of BO-REP."""

import math
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel.hypergradients.lower import ball, descend
from bilevel.problem import Level
from bilevel.steps import Constant, GradientStep
from bilevel.trees import Tree


class EpochSGD(eqx.Module):
    """The initial stage of BO-REP: epochs of projected SGD on g(x_0, ·).

    Epoch s makes `lengths[s]` steps of size `rates[s]`, projected onto the ball of radius `radii[s]` around its
    start y^{s,0}; the next epoch starts at the average of its iterates.

    Constructors: `EpochSGD.from_constants` computes all of these from the problem's constants, and
    `EpochSGD.plain(steps, rate)` is plain SGD, which the paper's experiments use: one epoch, no ball, and
    the last iterate instead of the average.

    Example:

        >>> import bilevel as bl
        >>> bl.EpochSGD.from_constants(
        ...     mu=1.0, L=2.0, sigma=0.1, initial_gap=1.0, accuracy=0.25, failure=0.1
        ... ).lengths
        (70, 140)

    Reference: Hao, Gong & Liu (ICLR 2024), Algorithm 3 (Epoch-SGD) with appendix D.2, (28)–(30).
    """

    lengths: tuple[int, ...] = eqx.field(static=True, converter=checks.integers)
    rates: Any = eqx.field(converter=np.asarray)
    radii: Any = eqx.field(default=None, converter=lambda radii: None if radii is None else np.asarray(radii))
    average: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        if not isinstance(self.lengths, tuple):
            raise TypeError(f"lengths: got {self.lengths!r}; pass a tuple of integers")
        for length in self.lengths:
            checks.count("lengths", length)
        checks.positive("rates", self.rates, scalar=False)
        checks.flag("average", self.average)
        for name, values in (("rates", self.rates), ("radii", self.radii)):
            if values is not None and values.shape != (len(self.lengths),):
                raise ValueError(f"{name}: got shape {values.shape} for {len(self.lengths)} epochs; pass one per epoch")
        if self.radii is not None:
            checks.positive("radii", self.radii, scalar=False)

    @classmethod
    def plain(cls, steps: int, rate: float) -> "EpochSGD":
        """`steps` steps of plain SGD of size `rate`."""
        checks.number("rate", rate, "a number above zero")
        return cls((steps,), [rate], average=False)

    @classmethod
    def from_constants(
        cls, *, mu: float, L: float, sigma: float, initial_gap: float, accuracy: float, failure: float
    ) -> "EpochSGD":
        """The epochs of appendix D.2 from the problem's constants.

            k† = ⌈log₂(V0/ε')⌉;   λ = max(√(3 ln(2k†/δ)), ln(2k†/δ))
            T_s = ⌈max(16 L/μ, 32 max(σ², 4λ²σ²)/(μ V0 2^{−(s+2)}))⌉
            α_s = min(1/(2L), (1/σ) √(V0 2^{−s}/(2 μ T_s)));   radius_s = √(2 V0/(μ 2^s))

        **Arguments**: strong convexity `mu` and smoothness `L` of g in y, lower gradient noise `sigma`,
        `initial_gap` V0 ≥ g(x_0, y'_0) − g*, `accuracy` ε', `failure` δ in (0, 1].
        """
        for name, value in (("mu", mu), ("L", L), ("initial_gap", initial_gap), ("accuracy", accuracy)):
            checks.positive(name, value)
        checks.nonnegative("sigma", sigma)
        if not 0 < failure <= 1:
            raise ValueError(f"failure: got {failure}; it is a probability above zero")
        epochs = math.ceil(math.log2(initial_gap / accuracy))
        if epochs < 1:
            raise ValueError(f"accuracy: got {accuracy}, already met by initial_gap={initial_gap}; leave the stage out")
        log = math.log(2 * epochs / failure)
        noise = 32 * max(1.0, 4 * max(math.sqrt(3 * log), log) ** 2) * sigma**2
        lengths, rates = [], []
        for s in range(epochs):
            length = math.ceil(max(16 * L / mu, noise / (mu * initial_gap * 2.0 ** -(s + 2))))
            rate = math.sqrt(initial_gap * 2.0**-s / (2 * mu * length)) / sigma if sigma > 0 else math.inf
            lengths.append(length)
            rates.append(min(1 / (2 * L), rate))
        radii = [math.sqrt(2 * initial_gap / (mu * 2**s)) for s in range(epochs)]
        return cls(tuple(lengths), rates, radii)

    def __call__(self, level: Level, x: Tree, y: Tree, *, key: PRNGKeyArray) -> Tree:
        for s, length in enumerate(self.lengths):
            project = None if self.radii is None else ball(y, self.radii[s])
            rate, epoch_key = GradientStep(Constant(self.rates[s])), jax.random.fold_in(key, s)
            y = descend(level, x, y, rate, length, 0, key=epoch_key, project=project, average=self.average)
        return y

    @property
    def steps(self) -> int:
        """The number of gradients of g that it takes."""
        return sum(self.lengths)
