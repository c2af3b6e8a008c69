"""F2SA: gradients of the two levels only, through a penalty whose weight grows."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, flag, schedule, step
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree

# the exponents a of α_k and c of γ_k, by the levels whose gradients are noisy
_EXPONENTS = {"both": (5 / 7, 4 / 7), "upper": (3 / 5, 2 / 5), "none": (1 / 3, 0.0)}


class F2SAState(eqx.Module):
    """x; y, which minimizes g (the paper's z); `penalized`, which minimizes f + λg (its y; both shaped like y); and the
    states of their step rules, of which the inner ones are None unless they are kept."""

    x: Tree
    y: Tree
    penalized: Tree
    x_rule: Tree
    y_rule: Tree
    penalized_rule: Tree


class F2SA(AbstractSolver):
    """Fully first-order stochastic approximation.

    In the paper's notation, y minimizes f + λ g and z minimizes g. From y_0 = z_0, at k = 0, 1, …, with a fresh sample
    for every oracle call:

        T times:  z ← z − γ_k G_y(x_k, z);   y ← y − α_k (F_y(x_k, y) + λ_k G_y(x_k, y))
        x_{k+1} = x_k − ξ α_k (F_x(x_k, y) + λ_k (G_x(x_k, y) − G_x(x_k, z)))

    As λ grows, the direction tends to the hypergradient; its bias is O(1/λ). No second derivative is taken.

    **Arguments**

    - `upper_step` (ξ α), `penalized_step` (α), `lower_step` (γ): a number, a schedule of k or a `Rule`. y's step on g
      is α λ, so choose α λ ≤ 1/L.
    - `multiplier` (λ_k): a number or a schedule of k; theory: it grows, λ_k = γ_k/(2 α_k), from λ_0 ≥ 2 L_f/μ.
    - `inner_steps` (T).
    - `common_samples`: draw one lower sample for z and y in each inner step, and one for both G_x. The direction
      subtracts two gradients that are large and, as y is near z, nearly equal. On independent samples their noise adds
      up and is multiplied by λ; on a common one most of it cancels.
    - `keep_rules`: keep the states of the inner rules from one iteration to the next, for rules that remember, such as
      Adam, and a small T. By default they restart, as the loops are those of the listing.

    `Solution.y` is the paper's z, the estimate of y*(x).

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

    Differences from the paper: λ_k is a schedule of its own instead of the sum of increments δ_k; x may be projected;
    `common_samples` and `keep_rules`, which are off by default, are not in the listing. The last iterate is returned;
    theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    penalized_step: Step = step()
    lower_step: Step = step()
    multiplier: Any = schedule()
    inner_steps: int = count(default=1)
    common_samples: bool = flag(default=False)
    keep_rules: bool = flag(default=False)

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
        only), and (1/3, 0) with `"none"`.
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

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[F2SAState, Cost]:
        rules = (self.lower_step.init(y), self.penalized_step.init(y)) if self.keep_rules else (None, None)
        return F2SAState(x, y, y, self.upper_step.init(x), *rules), Cost()

    def step(self, problem: Problem, state: F2SAState, t: Any, *, key: PRNGKeyArray) -> tuple[F2SAState, Cost]:
        x, upper, lower = state.x, problem.upper, problem.lower
        loop_key, x_key, y_key, z_key = jax.random.split(key, 4)
        lam = jnp.asarray(self.multiplier(t))

        def inner(i: Any, carry: Any) -> Any:
            z, z_rule, y, y_rule = carry
            keys = jax.random.split(jax.random.fold_in(loop_key, i), 3)
            batch = lower.draw(keys[0])
            G_z = oracles.gradient_y(lower, x, z, batch)
            z, z_rule = self.lower_step(z, G_z, z_rule, t)
            F_y = oracles.gradient_y(upper, x, y, upper.draw(keys[1]))
            G_y = oracles.gradient_y(lower, x, y, batch if self.common_samples else lower.draw(keys[2]))
            y, y_rule = self.penalized_step(y, trees.axpy(lam, G_y, F_y), y_rule, t)
            return z, z_rule, y, y_rule

        z, y, z_rule, y_rule = state.y, state.penalized, state.y_rule, state.penalized_rule
        if not self.keep_rules:
            z_rule, y_rule = self.lower_step.init(z), self.penalized_step.init(y)
        z, z_rule, y, y_rule = jax.lax.fori_loop(0, self.inner_steps, inner, (z, z_rule, y, y_rule))

        F_x = oracles.gradient_x(upper, x, y, upper.draw(x_key))
        batch = lower.draw(y_key)
        G_x_y = oracles.gradient_x(lower, x, y, batch)
        G_x_z = oracles.gradient_x(lower, x, z, batch if self.common_samples else lower.draw(z_key))
        direction = trees.axpy(lam, trees.sub(G_x_y, G_x_z), F_x)
        x, x_rule = self.upper_step(x, direction, state.x_rule, t)

        calls, kept = self.inner_steps + 1, (z_rule, y_rule) if self.keep_rules else (None, None)
        return F2SAState(problem.project(x), z, y, x_rule, *kept), Cost(F=calls * upper.size, G=2 * calls * lower.size)

    of_x = ("x", "x_rule")
    about = About(
        name="f2sa",
        lower="T SGD steps, twice",
        adjoint="none: a growing penalty",
        direction="first-order",
        source="Kwon et al., ICML 2023, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(1000, upper_step=30.0, penalized_step=0.1, lower_step=0.1, multiplier=0.3,
            inner_steps=10),
        "quadratic": Tuned(4000, upper_step=0.03, penalized_step=1e-4, lower_step=0.1, multiplier=1000.0,
            inner_steps=10),
    }  # fmt: skip
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Kwon et al. 2023, Alg. 1"
        multiplier = max(1.0, 2 * facts.upper_smoothness / facts.mu)
        y_step = facts.scaling / (facts.upper_smoothness + multiplier * facts.L)
        return {
            "lower_step": theory.lower_step(facts, source),
            "multiplier": Choice(multiplier, f"{source}: λ_0 ≥ 2 L_f/μ, L_f = {facts.upper_smoothness:.3g}"),
            "penalized_step": Choice(y_step, f"{source}: 1/(L_f + λ L), times {facts.scaling:g}"),
            "inner_steps": theory.inner_steps(facts, source),
        }
