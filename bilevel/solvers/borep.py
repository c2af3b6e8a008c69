"""BO-REP: normalized momentum on x, and a lower variable that moves only now and then."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.oracles import Tally
from bilevel.problem import Level, Problem
from bilevel.solvers._averages import moving_average
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, Constant, GradientStep, as_schedule, as_step, as_weight

Tree = PyTree[Any]


class EpochSGD(eqx.Module):
    """The initial stage of BO-REP: epochs of projected SGD on g(x_0, ·), each from the last one's average.

    Epoch s makes `lengths[s]` steps of size `rates[s]`, projected on the ball of `radii[s]` around its
    start y^{s,0}; the next epoch starts at the average of its iterates.

    Constructors: `EpochSGD.from_constants` computes all of it from the problem's constants, and
    `EpochSGD.plain(steps, rate)` is plain SGD, which the paper's experiments use: one epoch, no ball, and
    the last iterate instead of the average.

    Example:

        >>> import bilevel as bl
        >>> bl.EpochSGD.from_constants(
        ...     mu=1.0, L=2.0, sigma=0.1, initial_gap=1.0, accuracy=0.25, failure=0.1
        ... ).lengths
        (70, 140)

    Reference: Hao, Gong & Liu (ICLR 2024), Algorithm 2 with appendix D.2, (28)–(30).
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
        checks.positive("rates", self.rates)
        for name, values in (("rates", self.rates), ("radii", self.radii)):
            if values is not None and values.shape != (len(self.lengths),):
                raise ValueError(f"{name}: got shape {values.shape} for {len(self.lengths)} epochs; pass one an epoch")
        if self.radii is not None:
            checks.positive("radii", self.radii)

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
            radius = None if self.radii is None else self.radii[s]
            epoch_key = jax.random.fold_in(key, s)
            rate = GradientStep(Constant(self.rates[s]))
            last, mean = projected_sgd(level, x, y, rate, length, radius, 0, key=epoch_key)
            y = mean if self.average else last
        return y

    @property
    def steps(self) -> int:
        """Gradients of g that it takes."""
        return sum(self.lengths)


def projected_sgd(
    level: Level, x: Tree, y: Tree, step: AbstractStep, steps: int, radius: Any, t: Any, *, key: PRNGKeyArray
) -> tuple[Tree, Tree]:
    """SGD on g(x, ·) in the ball of `radius` around y (None: no ball): its last iterate, and their average."""
    center = y

    def body(i: Any, carry: tuple[Tree, Tree, Tree]) -> tuple[Tree, Tree, Tree]:
        y, total, rule = carry
        batch = level.draw(jax.random.fold_in(key, i))
        y, rule = step(y, oracles.lower_gradient(level, x, y, batch), rule, t)
        if radius is not None:
            offset = trees.sub(y, center)
            distance = trees.norm(offset)
            y = trees.axpy(jnp.minimum(1.0, radius / jnp.where(distance > 0, distance, radius)), offset, center)
        return y, trees.add(total, y), rule

    last, total, _ = jax.lax.fori_loop(0, steps, body, (y, trees.zeros_like(y), step.init(y)))
    return last, trees.scale(1 / steps, total)


class BOREPState(eqx.Module):
    """x, y, the adjoint z (shaped like y), the momentum m (like x), and the state of the rules of x and z."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    z: Tree
    m: Tree = eqx.field(metadata=OF_X)
    rules: tuple[Tree, Tree]
    tally: Tally


class BOREP(AbstractSolver):
    """Bilevel optimization with initialization refinement and periodic updates.

    From y_0 = EpochSGD(x_0, y'_0) and m_0 = z_0 = 0, with ξ_k, ζ_k shared by z and m, at k = 0, 1, …:

        y_{k+1} = UpdateLower(x_k, y_k)
        z_{k+1} = z_k − ν (H(x_k, y_k; ξ_k)[z_k] − F_y(x_k, y_k; ζ_k))
        m_{k+1} = β m_k + (1 − β)(F_x(x_k, y_k; ζ_k) − J(x_k, y_k; ξ_k)[z_k])
        x_{k+1} = x_k − η m_{k+1}/‖m_{k+1}‖

    UpdateLower moves only when k > 0 and I divides k: N projected SGD steps of size γ in the ball of radius
    R around y_k, and then the average of their iterates. z and m use the old (x_k, y_k, z_k). The norm is
    over the whole of x; a zero m leaves x as it is.

    **Arguments**

    - `upper_step` (η), `lower_step` (γ), `adjoint_step` (ν): a number, a schedule of k or a `Rule`.
    - `momentum` (β), `update_period` (I), `inner_steps` (N), `radius` (R).
    - `initial`: the `EpochSGD` that refines y_0; None for none.

    m and its norm span all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.BOREP(
        ...     upper_step=bl.inverse_power(0.05, power=0.75), lower_step=0.5, adjoint_step=0.5,
        ...     initial=bl.EpochSGD.plain(steps=20, rate=0.5),
        ... )
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=1000, key=jax.random.key(0))
        >>> round(float(solution.x), 1)
        0.3

    Reference: Hao, Gong & Liu, "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
    Convergence Analysis", ICLR 2024, Algorithms 1–3.

    Differences from the paper: x may be projected; z_0, a free input of the listing, is 0; without `initial`,
    Algorithm 2 is left out and y_0 = y'_0. Where each step has fresh tasks, `initial` refines y on each of them, and
    UpdateLower acts as it is said above.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    adjoint_step: AbstractStep = eqx.field(converter=as_step)
    momentum: Any = eqx.field(default=0.9, converter=as_weight)
    update_period: int = eqx.field(default=2, static=True)
    inner_steps: int = eqx.field(default=3, static=True)
    radius: Any = eqx.field(default=0.5, converter=as_schedule)
    initial: EpochSGD | None = None

    def __check_init__(self):
        checks.count("update_period", self.update_period)
        checks.count("inner_steps", self.inner_steps)
        if self.initial is not None and not isinstance(self.initial, EpochSGD):
            raise TypeError(f"initial: got {self.initial!r}; pass bl.EpochSGD.plain(steps, rate), or None")

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> BOREPState:
        tally = Tally.zero()
        if self.initial is not None:
            y = self.initial(problem.lower, x, y, key=key)
            tally = tally.add(G=self.initial.steps * problem.lower.size)
        rules = (self.upper_step.init(x), self.adjoint_step.init(y))
        return BOREPState(x, y, trees.zeros_like(y), trees.zeros_like(x), rules, tally)

    def step(self, problem: Problem, state: BOREPState, t: Any, *, key: PRNGKeyArray) -> BOREPState:
        x, y, z = state.x, state.y, state.z
        x_rule, z_rule = state.rules
        inner_key, lower_key, upper_key = jax.random.split(key, 3)
        updates = (t > 0) & (t % self.update_period == 0)

        def update_lower() -> Tree:
            radius = self.radius(t)
            return projected_sgd(problem.lower, x, y, self.lower_step, self.inner_steps, radius, t, key=inner_key)[1]

        new_y = jax.lax.cond(updates, update_lower, lambda: y)
        xi, zeta = problem.lower.draw(lower_key), problem.upper.draw(upper_key)
        _, Hz, Jz = oracles.lower_products(problem.lower, x, y, z, xi)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, zeta)
        z, z_rule = self.adjoint_step(z, trees.sub(Hz, F_y), z_rule, t)
        m = moving_average(state.m, trees.sub(F_x, Jz), 1 - self.momentum(t))
        norm = trees.norm(m)
        direction = trees.scale(1 / jnp.where(norm > 0, norm, 1.0), m)
        x, x_rule = self.upper_step(x, direction, x_rule, t)

        inner = (jnp.where(updates, self.inner_steps, 0), xi.size)
        tally = state.tally.add(F=zeta.size, G=inner, H=xi.size, J=xi.size)
        return BOREPState(problem.project(x), new_y, z, m, (x_rule, z_rule), tally)
