"""ITD-BiO: hypergradients by back-propagation through the lower loop."""

from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import PRNGKeyArray

from bilevel.cost import Cost
from bilevel.fields import count, flag, step
from bilevel.hypergradients.unrolled import check_differentiable, unroll
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractHypergradientSolver, Tuned
from bilevel.solvers.theorems import Bounds, Prescribed, check_amounts, contraction_steps, steps_for
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Rule, Step
from bilevel.trees import Tree


class ITDState(eqx.Module):
    """x, y, the start of each lower loop (shaped like y) if it is not the last y, and the state of x's step rule."""

    x: Tree
    y: Tree
    y0: Tree | None
    x_rule: Tree


class ITDBiO(AbstractHypergradientSolver):
    """Bilevel optimizer by iterative differentiation.

        y⁰ = y_{k−1}^D;   y^t = y^{t−1} − α G_y(x_k, y^{t−1}),   t = 1..D
        h   = d/dx f(x_k, y^D(x_k)),   y⁰ held constant
            = F_x(x_k, y^D) − α Σ_{t=0}^{D−1} J(x_k, y^t) Π_{j=t+1}^{D−1} (I − α H(x_k, y^j)) F_y(x_k, y^D)
        x_{k+1} = x_k − β h

    **Arguments**

    - `upper_step` (β), `lower_step` (α ≤ 1/L): a number, a schedule of k or a `Rule`. A lower `Rule` restarts
      in each loop and must have a derivative at a zero gradient (Adam needs `eps_root`).
    - `inner_steps` (D): the iterates are kept in memory.
    - `truncation` (K ≤ D): back-propagate through the last K steps only, and keep only their iterates.
    - `warm_start`: `True` starts each loop at the last y; `False` starts it at the y that `solve` was given
      (deterBiO with its own starts).

    h sums the rows of all batches of the loop in an array like x: a step on a per-row variable costs O(rows).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.ITDBiO(upper_step=0.05, lower_step=0.5, inner_steps=5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
    Algorithm 1 (ITD-BiO); deterBiO is Algorithm 1 of its first draft.

    Differences from the paper: the reverse pass may be truncated (Franceschi et al., ICML 2017); x may be projected; a
    lower level with a `batch_size` draws a fresh batch for each inner step, and the reverse pass sees the same ones;
    the last iterate is returned, whereas Theorem 2 is about the mean over k, thus about one of them at random.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count()
    truncation: int | None = count(optional=True, default=None)
    warm_start: bool = flag(default=True)

    def check_together(self) -> None:
        if self.truncation is not None and self.truncation > self.inner_steps:
            raise ValueError(f"truncation: got {self.truncation} for {self.inner_steps} inner steps; pass at most that")
        check_differentiable(self.lower_step)

    @classmethod
    def from_theorem(cls, bounds: Bounds, *, accuracy: float, gap: float, distance: float) -> Prescribed:
        """Theorem 2: α = 1/L, β = 1/(4 L_Φ), D = Θ(κ log 1/ε), and K such that

            (1/K) Σ_k ‖∇Φ(x_k)‖² ≤ 16 L_Φ (Φ(x_0) − inf Φ)/K + 2ε/3 ≤ ε = `accuracy`

        for levels without a batch size. D is that of Theorem 1 of the paper's first draft:

            D = log( max(3LM/μ, 9ΔL²(1 + L/μ)², 36ΔM²(τμ + Lρ)²/((1 − αμ)μ⁴)) · 9/(2ε) ) / log(1/(1 − αμ)).

        **Arguments**: `gap` ≥ Φ(x_0) − inf Φ; `distance` Δ ≥ ‖y_k^0 − y*(x_k)‖² for every k.
        """
        check_amounts(accuracy=accuracy, gap=gap, distance=distance)
        mu, L, M, left = bounds.mu, bounds.L, bounds.M, 1 - bounds.mu / bounds.L
        curved = 6 * M * (bounds.tau * mu + L * bounds.rho) / mu**2
        if curved and not left:
            raise ValueError("bounds: L = mu with tau or rho above zero; pass a larger L, which is true as well")
        largest = max(3 * L * M / mu, 9 * distance * (L * (1 + L / mu)) ** 2, distance * curved**2 / (left or 1.0))
        solver = cls(
            upper_step=1 / (4 * bounds.smoothness),
            lower_step=1 / L,
            inner_steps=contraction_steps(2 * accuracy / (9 * largest), left),
        )
        return Prescribed(solver=solver, steps=steps_for(48 * bounds.smoothness * gap, accuracy), bound=accuracy)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[ITDState, Cost]:
        return ITDState(x, y, None if self.warm_start else y, self.upper_step.init(x)), Cost()

    def hypergradient(
        self, problem: Problem, state: ITDState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[Tree, ITDState, Cost]:
        lower_key, upper_key = jax.random.split(key)
        batch = problem.upper.draw(upper_key)
        y0 = state.y if self.warm_start else state.y0

        D, K = self.inner_steps, self.truncation or self.inner_steps
        path = unroll(
            problem, state.x, y0, batch, steps=D, truncation=K, lower_step=self.lower_step, t=t, key=lower_key
        )
        b = problem.lower.size
        state = ITDState(state.x, path.y, state.y0, state.x_rule)
        return path.h, state, Cost(F=batch.size, G=D * b, H=K * b, J=K * b)

    of_x = ("x", "x_rule")
    about = About(
        name="itd",
        lower="D gradient steps",
        adjoint="back-propagation through them",
        direction="plain",
        source="Ji, Yang & Liang, ICML 2021, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(300, upper_step=100.0, lower_step=1.0, inner_steps=100),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, inner_steps=100),
        "cleaning mnist": Tuned(300, upper_step=1000.0, lower_step=0.03, inner_steps=30),
        # by no grid: as in `bilevel reproduce stocbio-fig2`
        "fewshot": Tuned(200, upper_step=Rule(optax.adam, 0.002), lower_step=0.1, inner_steps=5),
    }  # fmt: skip
    scaling = 1.5

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ji et al. 2021, Thm 2"
        return {
            "lower_step": theory.lower_step(facts, source),
            "inner_steps": theory.capped(facts, "unrolled steps", "κ log κ", source, products=3),
        }
