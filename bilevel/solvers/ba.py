"""BA and BSA: the first methods with a rate. A lower loop from a fixed start, and an adjoint at its end."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel.cost import Cost
from bilevel.fields import count, count_at, flag, part, schedule, step
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient, Direct, RandomNeumann
from bilevel.hypergradients.lower import descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, as_float, inverse_power
from bilevel.trees import Tree


class ColdState(eqx.Module):
    """x, y, the start of each lower loop (shaped like y) if it is not the last y, the state of x's step rule, and
    whether every solve found H positive."""

    x: Tree
    y: Tree
    y0: Tree | None
    x_rule: Tree
    convex: Bool[Array, ""]


class _Cold(AbstractSolver):
    """Lower steps from a fixed start, then a step of x along the hypergradient from an adjoint method."""

    upper_step: eqx.AbstractVar[Any]
    lower_step: eqx.AbstractVar[Any]
    inner_steps: eqx.AbstractVar[Any]
    warm_start: eqx.AbstractVar[bool]

    of_x = ("x", "x_rule", "convex")

    @abc.abstractmethod
    def _method(self) -> AbstractAdjoint: ...

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[ColdState, Cost]:
        y0 = None if self.warm_start else y
        return ColdState(x, y, y0, self.upper_step.init(x), jnp.array(True)), Cost()

    def step(self, problem: Problem, state: ColdState, t: Any, *, key: PRNGKeyArray) -> tuple[ColdState, Cost]:
        loop_key, sample_key = jax.random.split(key)
        y0 = state.y if self.warm_start else state.y0

        t_k = count_at(self.inner_steps, t)
        y = descend(problem.lower, state.x, y0, self.lower_step, t_k, key=loop_key)
        found = self._method().hypergradient(problem, state.x, y, t=t, key=sample_key)
        x, x_rule = self.upper_step(state.x, found.h, state.x_rule, t)

        state = ColdState(problem.project(x), y, state.y0, x_rule, state.convex & found.adjoint.convex)
        return state, Cost(G=(t_k, problem.lower.size)) + found.cost


def _quarter_power(k: Any) -> Any:
    """t_k = ⌈(k + 1)^{1/4}/2⌉."""
    return jnp.ceil((as_float(k) + 1) ** 0.25 / 2).astype(int)


class BA(_Cold):
    """Bilevel approximation method.

        y⁰ = y_0;   y^{t+1} = y^t − β_t G_y(x_k, y^t),   t = 0..t_k − 1;   ȳ = y^{t_k}
        v = H(x_k, ȳ)⁻¹ F_y(x_k, ȳ)
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, ȳ) − J(x_k, ȳ)[v]))

    **Arguments**

    - `upper_step` (α): a number, a schedule of k or a `Rule`. `lower_step` (β_t): the same, a schedule of the
      inner iteration t. Theory: α ≤ 1/L_Φ, β = 2/(L + μ).
    - `inner_steps` (t_k): an integer or a traced function of k; default ⌈(k+1)^{1/4}/2⌉, which has the theory's
      order for a nonconvex Φ (its constant is unverified).
    - `adjoint`: the adjoint method; default `Direct()`, exact.
    - `warm_start`: `True` starts each loop at the last ȳ, as in the experiments of later papers; `False`, as in the
      listing, at the y_0 that `solve` was given.

    **Raises** `ValueError` from `Direct` if y is too large for a dense matrix.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.BA(upper_step=0.05, lower_step=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ghadimi & Wang, "Approximation Methods for Bilevel Programming", arXiv 1802.02246, Algorithm 1.

    Differences from the paper: a level with a `batch_size` draws a fresh batch for each inner step, and one for H and
    J; `warm_start` and other `adjoint` methods are options. Unverified: y_0 is read as fixed, and t_k has the paper's
    order (k + 1)^{1/4} with a constant ½ that was not checked against it. The last iterate is returned; theorems for a
    Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step(inner=True)
    inner_steps: int | Callable[[Any], Any] = count(of_t=True, default=_quarter_power)
    adjoint: AbstractAdjoint = part(AbstractAdjoint, "bl.Direct()", default=Direct())
    warm_start: bool = flag(default=False)

    def _method(self) -> AbstractAdjoint:
        return self.adjoint

    about = About(
        name="ba",
        lower="t_k gradient steps, cold",
        adjoint="exact solve",
        direction="plain",
        source="Ghadimi & Wang, 2018, Alg. 1",
        unverified="the constant in t_k, and that y_0 is fixed",
    )
    tuned = {
        # BA and BSA start at the last y, and BA solves its system by a few steps, as in the experiments of later
        # papers: a dense system takes 650 products per step
        "cleaning": Tuned(1000, upper_step=3.0, lower_step=0.1, adjoint=ConjugateGradient(steps=10),
            warm_start=True),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=2 / 11, inner_steps=50),
    }  # fmt: skip
    scaling = 0.5

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ghadimi & Wang 2018, Alg. 1"
        if facts.dim_y <= theory.MOST["dense y"]:
            adjoint = Choice(Direct(), f"{source}: the exact inverse")
        else:
            N = theory.cg_steps(facts, source, "√κ log κ")
            reason = f"an exact solve for {facts.dim_y} unknowns costs too much: CG, {N.reason}"
            adjoint = Choice(ConjugateGradient(steps=N.value), reason)
        return {
            "lower_step": theory.lower_step(facts, source, "2/(L+μ)"),
            "adjoint": adjoint,
            "warm_start": Choice(True, "as later papers run it"),
        }


def _square_root(k: Any) -> Any:
    """t_k = ⌈(k + 1)^{1/2}⌉."""
    return jnp.ceil((as_float(k) + 1) ** 0.5).astype(int)


class BSA(_Cold):
    """Bilevel stochastic approximation method.

        y⁰ = y_0;   y^{t+1} = y^t − β_t G_y(x_k, y^t; ζ_t),   t = 0..t_k − 1;   ȳ = y^{t_k}
        p ~ U{0, …, b_k − 1};   v = (b_k/L) Π_{i=1}^{p} (I − H(x_k, ȳ; ζ'_i)/L) F_y(x_k, ȳ; ξ)
        x_{k+1} = Proj_X(x_k − α_k (F_x(x_k, ȳ; ξ) − J(x_k, ȳ; ζ'_0)[v]))

    on independent samples ζ_t, ξ, ζ'_0, ζ'_1, …; F_x and F_y share ξ.

    **Arguments**

    - `upper_step` (α): a number, a schedule of k or a `Rule`; theory: constant, proportional to K^{−1/2} over a run of
      K steps. `lower_step` (β_t): the same, but its schedule is of the inner iteration t, which restarts in each loop;
      theory: `bl.inverse_power(1/μ, 1, offset=2)`.
    - `neumann_order` (b_k): an integer or a traced function of k; theory: of order κ log(k + 1).
      `neumann_step` (1/L).
    - `inner_steps` (t_k): an integer or a traced function of k; default ⌈√(k+1)⌉.
    - `warm_start`: `True` starts each loop at the last ȳ; `False`, as in the listing, at the y_0 that `solve` was
      given.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.BSA(upper_step=0.05, lower_step=0.9, neumann_order=1, neumann_step=1.0)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ghadimi & Wang, "Approximation Methods for Bilevel Programming", arXiv 1802.02246; Algorithm 3 is HIA.

    Differences from the paper: `warm_start` is an option; the constants of t_k and b_k are choices (the paper's orders
    are √(k+1) and κ log(k+1)); y_0 is read as fixed (unverified). The last iterate is returned; theorems for a Φ that
    is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step(inner=True)
    neumann_order: int | Callable[[Any], Any] = count(of_t=True)
    neumann_step: Any = schedule()
    inner_steps: int | Callable[[Any], Any] = count(of_t=True, default=_square_root)
    warm_start: bool = flag(default=False)

    def _method(self) -> AbstractAdjoint:
        return RandomNeumann(self.neumann_order, self.neumann_step)

    about = About(
        name="bsa",
        lower="t_k SGD steps, cold",
        adjoint="one random Neumann term",
        direction="plain",
        source="Ghadimi & Wang, 2018",
        unverified="the constants of t_k and b_k, and that y_0 is fixed",
    )
    tuned = {
        "cleaning": Tuned(1000, upper_step=10.0, lower_step=0.1, neumann_order=50, neumann_step=2.0,
            warm_start=True),
        # 1/k steps, because a random truncation leaves noise in every step
        "quadratic": Tuned(4000, upper_step=inverse_power(4.0, 1.0, 400.0), lower_step=0.1, neumann_order=50,
            neumann_step=0.1),
    }  # fmt: skip
    scaling = 0.25
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ghadimi & Wang 2018, BSA"
        first = facts.scaling / facts.L
        step = inverse_power(1 / facts.mu, 1.0, offset=max(2.0, facts.kappa / facts.scaling))
        return {
            "lower_step": Choice(step, f"{source}: 1/(μ(t + 2)), but at most {first:.3g} = 1/L, scaled"),
            "neumann_order": theory.neumann_order(facts, source),
            "neumann_step": theory.neumann_step(facts, source),
            "warm_start": Choice(True, "as later papers run it"),
        }
