"""SUSTAIN: recursive momentum at both levels, in a single loop."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, schedule, step, weight
from bilevel.hypergradients.adjoint import RandomNeumann
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.averages import storm
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theorems import Bounds, Prescribed, check_amounts, whole
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class SUSTAINState(eqx.Module):
    """The current and the previous point, the directions hf (shaped like x) and hg (like y), and the state of each step
    rule."""

    x: Tree
    y: Tree
    x_old: Tree
    y_old: Tree
    hf: Tree
    hg: Tree
    x_rule: Tree
    y_rule: Tree


class SUSTAIN(AbstractSolver):
    """Single-timescale double-momentum stochastic approximation.

    The hypergradient sample, with k uniform on {0, …, K − 1} and independent ζ_0, …, ζ_k, ξ:

        h(x, y; ξ̄) = F_x(ξ) − (K/L_g) J(ζ_0) Π_{i=1}^{k} (I − H(ζ_i)/L_g) F_y(ξ)                            (7)

    At t = 0, 1, …, with η_0 = 1, and both terms of a difference on the same sample (and the same k):

        hg_t = η^g_t G_y(x_t, y_t; ζ_t) + (1 − η^g_t)(hg_{t−1} + G_y(x_t, y_t; ζ_t) − G_y(x_{t−1}, y_{t−1}; ζ_t))   (13)
        hf_t = η^f_t h(x_t, y_t; ξ̄_t) + (1 − η^f_t)(hf_{t−1} + h(x_t, y_t; ξ̄_t) − h(x_{t−1}, y_{t−1}; ξ̄_t))         (14)
        y_{t+1} = y_t − β_t hg_t;   x_{t+1} = x_t − α_t hf_t,   both from (x_t, y_t)

    **Arguments**

    - `upper_step` (α), `lower_step` (β): a number, a schedule or a `Rule`. Adam-SUSTAIN (appendix,
      Algorithm 2) is `upper_step=Rule(optax.adam, …)`: the recursion of hf is separate from Adam's moments.
    - `neumann_order` (K), `neumann_step` (1/L_g).
    - `upper_storm_weight` (η^f), `lower_storm_weight` (η^g): a number or a schedule of t, the weight of the
      fresh sample. It is 1 at t = 0, and never more.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SUSTAIN(
        ...     upper_step=0.02, lower_step=0.5, neumann_order=1, neumann_step=1.0,
        ...     upper_storm_weight=0.5, lower_storm_weight=0.5,
        ... )
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Khanduri, Zeng, Hong, Wai, Wang & Yang, "A Near-Optimal Algorithm for Stochastic Bilevel
    Optimization via Double-Momentum", NeurIPS 2021, Algorithm 1 with (7), (13), (14); Adam-SUSTAIN is
    Algorithm 2 of its appendix with option I.

    Differences from the paper: the last iterate is returned, whereas Algorithm 1, line 7, returns x_{a(T)} with a(T)
    uniform on {1, …, T}; option II of (20), for Adam-SUSTAIN, is left out (it telescopes from η_0 = 1: hf_t is the
    plain sample h_t, whatever the weight); the point before the first is (x_0, y_0) and not zero, which makes no
    difference because η_0 = 1; weights are clipped to 1; Adam's moments are the standard ones (Algorithm 2 overwrites
    m_t and v_t with their bias-corrected values); x may be projected.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    neumann_order: int = count()
    neumann_step: Any = schedule()
    upper_storm_weight: Any = weight(first=1.0)
    lower_storm_weight: Any = weight(first=1.0)

    @classmethod
    def from_paper(
        cls, *, offset: float, c_beta: float, c_upper: float, c_lower: float, neumann_order: int, neumann_step: float
    ) -> "SUSTAIN":
        """The schedules of Theorem 3.2: α_t = (w + t)^{−1/3}, β_t = c_β α_t, η^{f,g}_{t+1} = c_{f,g} α_t².

        `offset` is w > 1, `c_upper` and `c_lower` are c_f and c_g. (The theorem prints η_t, which contradicts
        η_0 = 1; its proof uses t + 1.)
        """
        for name, value in (("c_beta", c_beta), ("c_upper", c_upper), ("c_lower", c_lower)):
            checks.positive(name, value)
        checks.above("offset", offset, 1)
        return cls(
            upper_step=inverse_power(1.0, 1 / 3, offset),
            lower_step=inverse_power(c_beta, 1 / 3, offset),
            neumann_order=neumann_order,
            neumann_step=neumann_step,
            upper_storm_weight=inverse_power(c_upper, 2 / 3, offset - 1),
            lower_storm_weight=inverse_power(c_lower, 2 / 3, offset - 1),
        )

    @classmethod
    def from_theorem(cls, bounds: Bounds, *, steps: int, gap: float, distance: float) -> Prescribed:
        """Theorem 3.2 with the constants of (29), for a run of T = `steps`: K = (L_g/μ_g) log(C_gxy C_fy T/μ_g),

            α_t = (w + t)^{−1/3},   β_t = c_β α_t,   η^{f,g}_{t+1} = c_{f,g} α_t².

        `bound` is that of appendix D.6, before its O(·), on (1/T) Σ_t E‖∇ℓ(x_t)‖², where ℓ is Φ. It grows
        with c_f² σ_f², where a sample h differs by its random k as well: where the levels depend on each other, it says
        nothing for as many steps as one can run.

        **Arguments**: `gap` ≥ Φ(x_0) − inf Φ; `distance` ≥ ‖y_0 − y*(x_0)‖². C_fy is `bounds.M`, σ_f and σ_g are
        `bounds.sigma_f` and `bounds.sigma_g`.
        """
        checks.count("steps", steps)
        check_amounts(gap=gap, distance=distance)
        mu, L_g, L, K = bounds.mu, bounds.L, bounds.bias, _products(bounds, steps)
        L_y, L_f, L_K = L_g / mu, L + L * L_g / mu, _lipschitz(bounds, K)
        L_mu = mu * L_g / (mu + L_g)
        c_beta = 6 * math.sqrt(2) * L_y * L / L_mu
        common = 4 * L_mu * (mu + L_g) * c_beta**2 / L**2
        upper, lower = max(36.0, common) * L_K**2, max(36.0, common) * L_g**2
        c_upper = 1 / (3 * L_f) + upper
        c_lower = 1 / (3 * L_f) + 8 * (L_g * c_beta) ** 2
        c_lower += (8 * (L / L_mu) ** 2 + 2 * L**2 / (L_mu * (mu + L_g))) * lower
        offset = max(2.0, 27 * L_f**3, (2 * L_mu * c_beta) ** 3, ((mu + L_g) * c_beta) ** 3, c_upper**1.5, c_lower**1.5)
        solver = cls.from_paper(
            offset=offset, c_beta=c_beta, c_upper=c_upper, c_lower=c_lower, neumann_order=K, neumann_step=1 / L_g
        )
        noises = ((c_upper, upper, bounds.sigma_f), (c_lower, lower, bounds.sigma_g))
        noise = sum((2 * offset ** (1 / 3) + 4 * c**2 * math.log(steps + 1)) * s**2 / own for c, own, s in noises)
        bias = 4 * sum((offset + t) ** (-1 / 3) for t in range(steps + 1)) / steps**2
        total = 2 * gap + 4 * L / (3 * math.sqrt(2) * L_y) * distance + noise + bias
        bound = total * (offset + steps) ** (1 / 3) / steps
        return Prescribed(solver=solver, steps=steps, bound=bound)

    @classmethod
    def from_convex_theorem(
        cls, bounds: Bounds, *, steps: int, gap: float, distance: float, convexity: float
    ) -> Prescribed:
        """Theorem 3.3, where Φ is μ_f-strongly convex: K = (L_g/(2μ_g)) log(C_gxy² C_fy² T/μ_g²), η^g = 1, and

            α = min( 1/(μ_f + 1), 1/(2μ_g ĉ), μ_g/(ĉ L_g²), 1/(8L_K² + L_f), (L² + 2L_y²)/(4 L_K² L_g² ĉ²) ),
            η^f = (μ_f + 1) α,   β = ĉ α,   ĉ = 8L_y² + 8L² + 2μ_f/μ_g.

        `bound` is that of (19) on E[Φ(x_T) − Φ*] after T = `steps`.

        **Arguments**: those of `from_theorem`; `convexity` μ_f.
        """
        checks.count("steps", steps)
        checks.positive("convexity", convexity)
        check_amounts(gap=gap, distance=distance)
        mu, L_g, L, K = bounds.mu, bounds.L, bounds.bias, _products(bounds, steps)
        L_y, L_f, L_K = L_g / mu, L + L * L_g / mu, _lipschitz(bounds, K)
        c = 8 * L_y**2 + 8 * L**2 + 2 * convexity / mu
        alpha = min(
            1 / (convexity + 1),
            1 / (2 * mu * c),
            mu / (c * L_g**2),
            1 / (8 * L_K**2 + L_f),
            (L**2 + 2 * L_y**2) / (2 * L_K * L_g * c) ** 2,
        )
        solver = cls(
            upper_step=alpha,
            lower_step=c * alpha,
            neumann_order=K,
            neumann_step=1 / L_g,
            upper_storm_weight=(convexity + 1) * alpha,
            lower_storm_weight=1.0,
        )
        noise = (2 + 8 * L_K**2) * (c * bounds.sigma_g) ** 2 + 2 * ((convexity + 1) * bounds.sigma_f) ** 2
        start = gap + bounds.sigma_f**2 + distance
        bound = (1 - convexity * alpha) ** steps * start + (2 / steps + noise * alpha) / convexity
        return Prescribed(solver=solver, steps=steps, bound=bound)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[SUSTAINState, Cost]:
        hf, hg = trees.zeros_like(x), trees.zeros_like(y)
        return SUSTAINState(x, y, x, y, hf, hg, self.upper_step.init(x), self.lower_step.init(y)), Cost()

    def step(self, problem: Problem, state: SUSTAINState, t: Any, *, key: PRNGKeyArray) -> tuple[SUSTAINState, Cost]:
        new, old = (state.x, state.y), (state.x_old, state.y_old)
        lower_key, sample_key = jax.random.split(key)
        zeta = problem.lower.draw(lower_key)

        def G(x: Tree, y: Tree) -> Tree:
            return oracles.gradient_y(problem.lower, x, y, zeta)

        def h(x: Tree, y: Tree) -> tuple[Tree, Cost]:  # (7)
            method = RandomNeumann(self.neumann_order, self.neumann_step)
            drawn = method.hypergradient(problem, x, y, t=t, key=sample_key)
            return drawn.h, drawn.cost

        hg = storm(state.hg, G, new, old, self.lower_storm_weight(t))  # (13)
        hf, costs = storm(state.hf, h, new, old, self.upper_storm_weight(t), has_aux=True)  # (14)
        x, x_rule = self.upper_step(state.x, hf, state.x_rule, t)
        y, y_rule = self.lower_step(state.y, hg, state.y_rule, t)

        state = SUSTAINState(problem.project(x), y, *new, hf, hg, x_rule, y_rule)
        return state, Cost(G=2 * zeta.size) + costs[0] + costs[1]

    like_x = ("x", "x_old", "hf")
    about = About(
        name="sustain",
        lower="recursive momentum",
        adjoint="one random Neumann term",
        direction="recursive momentum",
        source="Khanduri et al., NeurIPS 2021, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(3000, upper_step=3.0, lower_step=0.1, neumann_order=50, neumann_step=2.0,
            upper_storm_weight=0.3, lower_storm_weight=0.3),
        "quadratic": Tuned(4000, upper_step=inverse_power(0.05, 0.5), lower_step=0.1, neumann_order=50,
            neumann_step=0.1, upper_storm_weight=0.03, lower_storm_weight=0.1),
        "cleaning mnist": Tuned(3000, upper_step=300.0, lower_step=0.03, neumann_order=20, neumann_step=0.05,
            upper_storm_weight=0.3, lower_storm_weight=0.3),
    }  # fmt: skip
    scaling = 0.25
    power = 1 / 3

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Khanduri et al. 2021, Thm 3.2"
        weight = theory.power_weight(facts, source, "2/3")
        return {
            "lower_step": theory.lower_step(facts, source),
            "neumann_order": theory.neumann_order(facts, source + ", of order κ log T, the log taken as that of κ"),
            "neumann_step": theory.neumann_step(facts, source + ", (7)"),
            "upper_storm_weight": weight,
            "lower_storm_weight": weight,
        }


def _products(bounds: Bounds, steps: int) -> int:
    """K of Theorem 3.2, which is that of Theorem 3.3 as well."""
    return whole(bounds.kappa * math.log(max(1.0, bounds.L * bounds.M * steps / bounds.mu)))


def _lipschitz(bounds: Bounds, K: int) -> float:
    """L_K of (15)."""
    mu, L, M, tau, rho = bounds.mu, bounds.L, bounds.M, bounds.tau, bounds.rho
    curved = 0.0
    if rho:
        if mu == L:
            raise ValueError("bounds: L = mu with rho above zero; pass a larger L, which is true as well")
        curved = (L * M * rho * K) ** 2 / (L - mu) ** 2
    return math.sqrt(2 * L**2 + 6 * K * (L**4 + (M * tau) ** 2 + curved) / (2 * mu * L - mu**2))
