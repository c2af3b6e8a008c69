"""FSLA: a fully single loop, with SGD on the adjoint and recursive momentum on x."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import step, weight
from bilevel.problem import Problem
from bilevel.sampling import Batch
from bilevel.solvers import theory
from bilevel.solvers.averages import storm
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theorems import Bounds, Prescribed, check_amounts
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class FSLAState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the direction d (like x), and the state of each step rule."""

    x: Tree
    y: Tree
    v: Tree
    d: Tree
    x_rule: Tree
    y_rule: Tree
    v_rule: Tree


class FSLA(AbstractSolver):
    """Fully single-loop algorithm.

    With ∇f(x, y, v; ξ) = F_x(x, y; ξ4) − J(x, y; ξ5)[v], and independent ξ1, …, ξ5, at k = 0, 1, …:

        x_{k+1} = x_k − α_k d_k
        y_{k+1} = y_k − τ_{k+1} G_y(x_{k+1}, y_k; ξ1)
        v_{k+1} = β_{k+1} F_y(x_{k+1}, y_k; ξ2) + v_k − β_{k+1} H(x_{k+1}, y_k; ξ3)[v_k]
        d_{k+1} = ∇f(x_{k+1}, y_{k+1}, v_{k+1}; ξ) + (1 − η_{k+1})(d_k − ∇f(x_k, y_k, v_k; ξ))

    from v_0 = 0 and d_0 = ∇f(x_0, y_0, v_0; ξ). Both gradients in the last line use the same ξ4 and ξ5.

    **Arguments**

    - `upper_step` (α_k), `lower_step` (τ_{k+1}), `adjoint_step` (β_{k+1}): a number, a schedule of k or a
      `Rule`.
    - `storm_weight` (η_{k+1}): a number in [0, 1] or a schedule of k, the weight of the fresh sample.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.FSLA(upper_step=0.05, lower_step=0.5, adjoint_step=0.5, storm_weight=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian
    Inverse", AAAI 2022, Algorithm 1.

    Differences from the paper: v_0 and d_0, which the listing does not give, are as above; line 7 uses the old y_k, as
    in the listing (eq. (10) of the text has the new one); weights are clipped to 1; x may be projected; the last
    iterate is returned, whereas Theorem 5 is about the mean over k, thus about one of them at random.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()
    storm_weight: Any = weight()

    @classmethod
    def from_paper(cls, delta: float, c_tau: float, c_beta: float, c_eta: float) -> "FSLA":
        """The schedules of the listing: α_k = δ/√(k+1); τ_{k+1}, β_{k+1}, η_{k+1} = c_τ α_k, c_β α_k, c_η α_k.

        (The listing's √k divides by zero at k = 0.) δ c_η must be at most 1, so that every η is a weight.
        """
        for name, value in (("delta", delta), ("c_tau", c_tau), ("c_beta", c_beta), ("c_eta", c_eta)):
            checks.positive(name, value)
        if delta * c_eta > 1:
            raise ValueError(f"c_eta: delta · c_eta is {delta * c_eta:g}; it must be at most 1, the first weight")
        return cls(*(inverse_power(delta * c, 0.5) for c in (1.0, c_tau, c_beta, c_eta)))

    @classmethod
    def from_theorem(
        cls, bounds: Bounds, *, steps: int, gap: float, distance: float, adjoint_distance: float
    ) -> Prescribed:
        """Theorem 17 (Theorem 5 of the main text): the schedules of `from_paper`, with

            γ_v = 32 Γ_1² C_v²,   γ_ω = 8 Γ_2² C_ω²,   c_η = 4 Γ_2²/L_f,   c_β = 2(3γ_v + 1)/μ_G,
            c_τ = (2 γ_v Γ_2² γ_ω + 2 γ_v Γ_2² + 4 Γ_1² c_β² (L_Fω² + M² L_Gωω²))/(γ_v Γ_2² μ_G),

        and δ at 0.99 of the bound (33). `bound` is 2Φ_0/(δ√K) + 2δ C̄ σ² ln(K + 1)/√K, of
        (1/K) Σ_k E‖∇f(λ_k)‖² over K = `steps`; f is our Φ, and Φ_0 = Φ(x_0) − inf Φ + Γ_2² A_0 + 4 Γ_1² B_0 + C_0/c_η.
        The theorem, whose f is bounded below by zero, has no infimum. (iv) before (23) names Γ_3 = L_Gω and
        Γ_4² = 2(L_Fω² + 2M² L_Gω²).

        **Arguments**: `gap` ≥ Φ(x_0) − inf Φ; `distance` A_0 ≥ ‖y_0 − y*(x_0)‖²; `adjoint_distance`
        B_0 ≥ ‖v*(x_0)‖², as v_0 = 0. The paper's M is ours over μ. σ is the largest of the three in `bounds`, and
        C_0 is at most (1 + M²)σ², as d_0 is a sample.

        The constants are far from tight: where all of them and the amounts are 1, the bound is 1740 after 2·10⁹
        steps.
        """
        checks.count("steps", steps)
        check_amounts(gap=gap, distance=distance, adjoint_distance=adjoint_distance)
        mu, L, M = bounds.mu, bounds.L, bounds.M / bounds.mu
        sigma, smoothness = max(bounds.sigma_f, bounds.sigma_g, bounds.sigma_h), bounds.smoothness
        C_w = L / mu
        C_v = (bounds.M * bounds.rho / mu**2 + L / mu) * (1 + C_w)
        one, two = L**2, 2 * L**2 + 4 * (bounds.tau * M) ** 2  # Γ_1², Γ_2²
        three, four = L**2, 2 * (L**2 + 2 * (M * L) ** 2)  # Γ_3², Γ_4²
        of_v, of_w = 32 * one * C_v**2, 8 * two * C_w**2
        c_eta, c_beta = 4 * two / smoothness, 2 * (3 * of_v + 1) / mu
        moved = 4 * one * c_beta**2 * (L**2 + (M * bounds.rho) ** 2)
        c_tau = (2 * of_v * two * of_w + 2 * of_v * two + moved) / (of_v * two * mu)
        crossed = 2 * (c_tau**2 * two * three + 4 * c_beta**2 * one * four)
        delta = 0.99 * min(
            1 / (4 * smoothness),
            2 * two * mu * c_beta / (12 * two * of_v**2 + 8 * three * smoothness * c_beta**2),
            c_eta * two * (1 + of_w) / (crossed + two * c_eta),
            1 / c_eta,
            1 / (2 * (3 * of_v + 1)),
            1 / (c_tau * mu),
            mu / (c_tau * L**2),
        )
        noisy = 2 * (c_tau**2 * two + 4 * c_beta**2 * (1 + M**2) * one + c_eta**2 * (1 + M**2))
        noisy = noisy / c_eta + 4 * one * c_beta**2 * (1 + M**2) + two * c_tau**2
        potential = gap + two * distance + 4 * one * adjoint_distance + (1 + M**2) * sigma**2 / c_eta
        bound = (2 * potential / delta + 2 * delta * noisy * sigma**2 * math.log(steps + 1)) / math.sqrt(steps)
        return Prescribed(solver=cls.from_paper(delta, c_tau, c_beta, c_eta), steps=steps, bound=bound)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[FSLAState, Cost]:
        upper_key, lower_key = jax.random.split(key)
        xi4, xi5 = problem.upper.draw(upper_key), problem.lower.draw(lower_key)
        v = trees.zeros_like(y)
        d = trees.dense(_gradient(problem, x, y, v, xi4, xi5), x)
        rules = self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(v)
        return FSLAState(x, y, v, d, *rules), Cost(F=xi4.size, J=xi5.size)

    def step(self, problem: Problem, state: FSLAState, t: Any, *, key: PRNGKeyArray) -> tuple[FSLAState, Cost]:
        old = x, y, v = state.x, state.y, state.v
        upper, lower = problem.upper, problem.lower
        keys = jax.random.split(key, 5)
        xi1, xi3, xi5 = (lower.draw(k) for k in keys[:3])
        xi2, xi4 = (upper.draw(k) for k in keys[3:])

        x, x_rule = self.upper_step(x, state.d, state.x_rule, t)
        x = problem.project(x)
        G_y = oracles.gradient_y(lower, x, y, xi1)
        F_y = oracles.gradient_y(upper, x, y, xi2)
        Hv = oracles.hessian_product(lower, x, y, v, xi3)
        y, y_rule = self.lower_step(y, G_y, state.y_rule, t)
        v, v_rule = self.adjoint_step(v, trees.sub(Hv, F_y), state.v_rule, t)

        def gradient(x: Tree, y: Tree, v: Tree) -> Tree:
            return _gradient(problem, x, y, v, xi4, xi5)

        d = storm(state.d, gradient, (x, y, v), old, self.storm_weight(t))

        f, g = xi2.size, xi1.size
        return FSLAState(x, y, v, d, x_rule, y_rule, v_rule), Cost(F=3 * f, G=g, H=g, J=2 * g)

    like_x = ("x", "d")
    about = About(
        name="fsla",
        lower="one SGD step",
        adjoint="one SGD step",
        direction="recursive momentum",
        source="Li, Gu & Huang, AAAI 2022, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(4000, upper_step=1.0, lower_step=0.1, adjoint_step=0.3, storm_weight=0.3),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, adjoint_step=0.1, storm_weight=0.1),
        "cleaning mnist": Tuned(5000, upper_step=100.0, lower_step=0.03, adjoint_step=0.03, storm_weight=0.3),
    }  # fmt: skip
    power = 1 / 2

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Li et al. 2022, Thm 5"
        step = theory.lower_step(facts, source)
        return {"lower_step": step, "adjoint_step": step, "storm_weight": theory.power_weight(facts, source, "1/2")}


def _gradient(problem: Problem, x: Tree, y: Tree, v: Tree, xi4: Batch, xi5: Batch) -> Tree:
    """∇f(x, y, v; ξ) = F_x(x, y; ξ4) − J(x, y; ξ5)[v]."""
    F_x = oracles.gradient_x(problem.upper, x, y, xi4)
    return trees.sub(F_x, oracles.cross_product(problem.lower, x, y, v, xi5))
