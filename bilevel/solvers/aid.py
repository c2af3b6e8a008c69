"""AID-BiO: hypergradients by solving the adjoint system at the end of the lower loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import trees
from bilevel.cost import Cost
from bilevel.fields import count, count_at, flag, part, step
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient
from bilevel.hypergradients.lower import descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractHypergradientSolver, Tuned
from bilevel.solvers.theorems import Bounds, Prescribed, check_amounts, steps_for, whole
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Rule, Step
from bilevel.trees import Tree


class AIDState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the start of each lower loop (shaped like y) if it is not the last y, the
    state of x's step rule, and whether every solve found H positive."""

    x: Tree
    y: Tree
    v: Tree
    y0: Tree | None
    x_rule: Tree
    convex: Bool[Array, ""]


class AIDBiO(AbstractHypergradientSolver):
    """Bilevel optimizer by approximate implicit differentiation.

        y⁰ = y_{k−1}^D;   y^t = y^{t−1} − α G_y(x_k, y^{t−1}),   t = 1..D
        v_k: N conjugate-gradient steps on H(x_k, y^D) v = F_y(x_k, y^D), started at v_{k−1}
        x_{k+1} = x_k − β (F_x(x_k, y^D) − J(x_k, y^D)[v_k])

    **Arguments**

    - `upper_step` (β), `lower_step` (α): a number, a schedule of k or a `Rule`.
    - `inner_steps` (D): an integer or a traced function of k (AID-BiO-increasing, whose schedule the paper does not
      print; `BA` uses `lambda k: jnp.ceil((k + 1) ** 0.25 / 2).astype(int)`).
    - `adjoint`: the adjoint method; default 10 conjugate-gradient steps. Its `steps` (N) may be a function of k, too.
    - `warm_start`: `False` starts each loop at the y that `solve` was given.
    - `adjoint_warm_start`: `False` starts each solve at zero.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.AIDBiO(upper_step=0.05, lower_step=0.5, inner_steps=5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
    Algorithm 1 (AID-BiO).

    Differences from the paper: x may be projected; `solve` stops if conjugate gradient meets a curvature that is not
    positive; conjugate gradient stops early once its residual is only rounding error; a lower level with a `batch_size`
    draws a fresh batch for each inner step, and one for the whole solve and J; the last iterate is returned, whereas
    Theorem 1 is about the mean over k, thus about one of them at random.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int | Callable[[Any], Any] = count(of_t=True)
    adjoint: AbstractAdjoint = part(
        AbstractAdjoint, "bl.ConjugateGradient(steps=10)", default=ConjugateGradient(steps=10)
    )
    warm_start: bool = flag(default=True)
    adjoint_warm_start: bool = flag(default=True)

    @classmethod
    def from_theorem(cls, bounds: Bounds, *, accuracy: float, gap: float, distance: float) -> Prescribed:
        """Theorem 1: α = 1/L, β = 1/(8 L_Φ), D = Θ(κ), N = Θ(√κ), and K such that

            (1/K) Σ_k ‖∇Φ(x_k)‖² ≤ (64 L_Φ (Φ(x_0) − inf Φ) + 5 Δ_0)/K ≤ `accuracy`

        for levels without a batch size. D and N are ⌈κ⌉ and ⌈√κ⌉: their constants are in the paper's Appendix E, which
        was not at hand, so that `bound` is proven for D and N that are some times as large.

        **Arguments**: `gap` ≥ Φ(x_0) − inf Φ; `distance` ≥ Δ_0 = ‖y_0 − y*(x_0)‖² + ‖v*_0‖², as v_0 = 0.
        """
        check_amounts(accuracy=accuracy, gap=gap, distance=distance)
        smoothness = bounds.smoothness
        solver = cls(
            upper_step=1 / (8 * smoothness),
            lower_step=1 / bounds.L,
            inner_steps=whole(bounds.kappa),
            adjoint=ConjugateGradient(steps=whole(bounds.kappa**0.5)),
        )
        steps = steps_for(64 * smoothness * gap + 5 * distance, accuracy)
        return Prescribed(solver=solver, steps=steps, bound=accuracy)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[AIDState, Cost]:
        v, y0 = trees.zeros_like(y), None if self.warm_start else y
        return AIDState(x, y, v, y0, self.upper_step.init(x), jnp.array(True)), Cost()

    def hypergradient(
        self, problem: Problem, state: AIDState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[Tree, AIDState, Cost]:
        loop_key, adjoint_key = jax.random.split(key)
        y = state.y if self.warm_start else state.y0
        v = state.v if self.adjoint_warm_start else None

        D = count_at(self.inner_steps, t)
        y = descend(problem.lower, state.x, y, self.lower_step, D, t, key=loop_key)
        found = self.adjoint.hypergradient(problem, state.x, y, v, t, key=adjoint_key)

        convex = state.convex & found.adjoint.convex
        state = AIDState(state.x, y, found.adjoint.v, state.y0, state.x_rule, convex)
        return found.h, state, Cost(G=(D, problem.lower.size)) + found.cost

    of_x = ("x", "x_rule", "convex")
    about = About(
        name="aid",
        lower="D gradient steps",
        adjoint="conjugate gradient (or any other)",
        direction="plain",
        source="Ji, Yang & Liang, ICML 2021, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(800, upper_step=10.0, lower_step=0.1, inner_steps=10),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, inner_steps=10),
        "cleaning mnist": Tuned(1000, upper_step=1000.0, lower_step=0.01, inner_steps=10),
        # by no grid: as in `bilevel reproduce stocbio-fig2`
        "fewshot": Tuned(200, upper_step=Rule(optax.adam, 0.002), lower_step=0.1, inner_steps=5,
            adjoint=ConjugateGradient(steps=5)),
    }  # fmt: skip

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ji et al. 2021, Thm 1"
        N = theory.cg_steps(facts, source, "√κ")
        return {
            "lower_step": theory.lower_step(facts, source),
            "inner_steps": theory.inner_steps(facts, source),
            "adjoint": Choice(ConjugateGradient(steps=N.value), N.reason),
        }
