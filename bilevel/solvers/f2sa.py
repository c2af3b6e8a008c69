"""F2SA: gradients of the two levels alone, through a penalty whose weight grows."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_schedule, as_step, inverse_power

Tree = PyTree[Any]

# the exponents a of α_k and c of γ_k, by where the gradients are noisy
_EXPONENTS = {"both": (5 / 7, 4 / 7), "upper": (3 / 5, 2 / 5), "none": (1 / 3, 0.0)}


class F2SAState(eqx.Module):
    """x; y, which minimizes g (the paper's z); `penalized`, which minimizes f + λg (its y; both shaped like y); and the
    state of x's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    penalized: Tree
    rule: Tree = eqx.field(metadata=OF_X)
    tally: Tally


class F2SA(AbstractSolver):
    """Fully first-order stochastic approximation.

    In the paper's letters, y minimizes f + λ g and z minimizes g. From y_0 = z_0, at k = 0, 1, …, every oracle on its
    own fresh sample:

        T times:  z ← z − γ_k G_y(x_k, z);   y ← y − α_k (F_y(x_k, y) + λ_k G_y(x_k, y))
        x_{k+1} = x_k − ξ α_k (F_x(x_k, y) + λ_k (G_x(x_k, y) − G_x(x_k, z)))

    As λ grows the direction tends to the hypergradient; its bias is O(1/λ). No second derivative is taken.

    **Arguments**

    - `upper_step` (ξ α), `penalized_step` (α), `lower_step` (γ): a number, a schedule of k or a `Rule`; the rules of
      the inner loop start anew in each. y's step on g is α λ, so α λ ≤ 1/L is wanted.
    - `multiplier` (λ_k): a number or a schedule of k; theory: it grows, λ_k = γ_k/(2 α_k), from λ_0 ≥ 2 L_f/μ.
    - `inner_steps` (T).

    `Solution.y` is the paper's z, the estimate of y*(x).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.F2SA(upper_step=0.02, penalized_step=0.01, lower_step=0.5, multiplier=50.0, inner_steps=5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=500, key=jax.random.key(0))
        >>> round(float(solution.x), 2)
        0.33

    Reference: Kwon, Kwon, Wright & Nowak, "A Fully First-Order Method for Stochastic Bilevel Optimization", ICML 2023
    (arXiv 2301.10945), Algorithm 1.

    Differences from the paper: λ_k is a schedule of its own instead of the sum of increments δ_k; x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    penalized_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    multiplier: Any = eqx.field(converter=as_schedule)
    inner_steps: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        checks.count("inner_steps", self.inner_steps)

    @classmethod
    def from_paper(
        cls,
        *,
        c_alpha: float,
        c_gamma: float,
        ratio: float,
        offset: float = 1.0,
        noise: str = "both",
        inner_steps: int = 1,
    ) -> "F2SA":
        """The paper's schedules: α_k = c_α (k+k_0)^{−a}, γ_k = c_γ (k+k_0)^{−c}, λ_k = γ_k/(2 α_k).

        `ratio` is ξ, `offset` is k_0. (a, c) is (5/7, 4/7) with `noise="both"`, (3/5, 2/5) with `"upper"` (noise in f
        alone), (1/3, 0) with `"none"`.
        """
        for name, value in (("c_alpha", c_alpha), ("c_gamma", c_gamma), ("ratio", ratio), ("offset", offset)):
            checks.positive(name, value)
        checks.one_of("noise", noise, _EXPONENTS)
        a, c = _EXPONENTS[noise]
        return cls(
            upper_step=inverse_power(ratio * c_alpha, a, offset),
            penalized_step=inverse_power(c_alpha, a, offset),
            lower_step=inverse_power(c_gamma, c, offset),
            multiplier=inverse_power(c_gamma / (2 * c_alpha), c - a, offset),
            inner_steps=inner_steps,
        )

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> F2SAState:
        return F2SAState(x, y, y, self.upper_step.init(x), Tally.zero())

    def step(self, problem: Problem, state: F2SAState, t: Any, *, key: PRNGKeyArray) -> F2SAState:
        x, upper, lower = state.x, problem.upper, problem.lower
        loop_key, x_key, y_key, z_key = jax.random.split(key, 4)
        lam = jnp.asarray(self.multiplier(t))

        def inner(i: Any, carry: Any) -> Any:
            z, z_rule, y, y_rule = carry
            keys = jax.random.split(jax.random.fold_in(loop_key, i), 3)
            G_z = oracles.lower_gradient(lower, x, z, lower.draw(keys[0]))
            z, z_rule = self.lower_step(z, G_z, z_rule, t)
            F_y = oracles.gradient_y(upper, x, y, upper.draw(keys[1]))
            G_y = oracles.lower_gradient(lower, x, y, lower.draw(keys[2]))
            y, y_rule = self.penalized_step(y, trees.axpy(lam, G_y, F_y), y_rule, t)
            return z, z_rule, y, y_rule

        start = (state.y, self.lower_step.init(state.y), state.penalized, self.penalized_step.init(state.y))
        z, _, y, _ = jax.lax.fori_loop(0, self.inner_steps, inner, start)

        F_x = oracles.gradient_x(upper, x, y, upper.draw(x_key))
        G_x_y = oracles.gradient_x(lower, x, y, lower.draw(y_key))
        G_x_z = oracles.gradient_x(lower, x, z, lower.draw(z_key))
        direction = trees.axpy(lam, trees.sub(G_x_y, G_x_z), F_x)
        x, rule = self.upper_step(x, direction, state.rule, t)

        calls = self.inner_steps
        tally = state.tally.add(F=(calls + 1) * upper.size, G=2 * (calls + 1) * lower.size)
        return F2SAState(problem.project(x), z, y, rule, tally)
