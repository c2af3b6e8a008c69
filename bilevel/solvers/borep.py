"""BO-REP: normalized momentum on x, and a lower variable that moves only now and then."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, part, schedule, step, weight
from bilevel.hypergradients.lower import ball, descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.averages import moving_average
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.epoch_sgd import EpochSGD
from bilevel.solvers.theorems import Bounds, Prescribed, check_amounts, steps_for, whole
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class BOREPState(eqx.Module):
    """x, y, the adjoint v (the paper's z, shaped like y), the momentum m (like x), and the state of the rules of x and
    v."""

    x: Tree
    y: Tree
    v: Tree
    m: Tree
    x_rule: Tree
    v_rule: Tree


class BOREP(AbstractSolver):
    """Bilevel optimization with initialization refinement and periodic updates.

    From y_0 = EpochSGD(x_0, y'_0) and m_0 = z_0 = 0, with ξ_k, ζ_k shared by z and m, at k = 0, 1, …:

        y_{k+1} = UpdateLower(x_k, y_k)
        z_{k+1} = z_k − ν (H(x_k, y_k; ξ_k)[z_k] − F_y(x_k, y_k; ζ_k))
        m_{k+1} = β m_k + (1 − β)(F_x(x_k, y_k; ζ_k) − J(x_k, y_k; ξ_k)[z_k])
        x_{k+1} = x_k − η m_{k+1}/‖m_{k+1}‖

    UpdateLower moves y only when k > 0 and I divides k: it makes N projected SGD steps of size γ in the ball of radius
    R around y_k, and returns the average of their iterates. z and m use the old (x_k, y_k, z_k). The norm is
    over the whole of x; a zero m leaves x as it is.

    **Arguments**

    - `upper_step` (η), `lower_step` (γ), `adjoint_step` (ν): a number, a schedule of k or a `Rule`.
    - `momentum` (β), `update_period` (I), `inner_steps` (N), `radius` (R).
    - `initial`: the `EpochSGD` that refines y_0; None for none.

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

    Differences from the paper: x may be projected; z_0, a free input of the listing, is 0; without `initial`, Algorithm
    3 (Epoch-SGD) is left out and y_0 = y'_0; z is called v in the state; the last iterate is returned, whereas Theorem
    3.1 is about the mean over k, thus about one of them at random.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()
    momentum: Any = weight(default=0.9)
    update_period: int = count(default=2)
    inner_steps: int = count(default=3)
    radius: Any = schedule(default=0.5)
    initial: EpochSGD | None = part(EpochSGD, "bl.EpochSGD.plain(steps, rate), or None", optional=True, default=None)

    @classmethod
    def from_theorem(
        cls,
        bounds: Bounds,
        *,
        accuracy: float,
        failure: float,
        gap: float,
        slope: float,
        lower_gap: float,
        adjoint_distance: float,
        relaxed: float = 0.0,
    ) -> Prescribed:
        """Theorem 3.1: with ε = `accuracy`, with probability 1 − δ over the lower level's draws,
        (1/K) Σ_k E‖∇Φ(x_k)‖ ≤ 30ε, which is `bound`. With C = C_gxy, K_0 and K_1 of (16), σ_f, σ_g, σ_h of `bounds`:

            1 − β = min( ε²/(σ_f² + 2M²σ_h²/μ²) · min(1, μ²/(32C²)), C²/(8σ_h²), μ²/(16σ_h²), 1/4 ),   ν = (1 − β)/μ,
            I = ⌈σ_g² K_0²/(μ²ε²)⌉,   R = ε/(4K_0),   γ, N and λ of (44)–(46),   K = 4Δ/(ηε),
            η = min( ⅛ min(1/K_1, ε/K_0, Δ/‖∇Φ(x_0)‖, εΔ/(C² Δ_z)) (1 − β),
                     1/√(2(1 + C²/μ²)(L_x1² + L_y1²)),   με/(8 K_0 I C) ),

        and y_0 from the `EpochSGD` of (28)–(30), to the accuracy με²/(128 K_0²) of (43).

        **Arguments**: `failure` δ; `gap` Δ ≥ Φ(x_0) − inf Φ; `slope` ≥ ‖∇Φ(x_0)‖; `lower_gap` ≥ g(x_0, y'_0) − g*;
        `adjoint_distance` Δ_z ≥ ‖z*(x_0)‖², as z_0 = 0; `relaxed`, L_x1 and L_y1 of Assumption 1: ∇f may vary by
        L + `relaxed` · ‖∇f‖ per length.

        **Raises** `ValueError` if ε is larger than the theorem takes, and for σ_g = 0 (a larger one is true as well).
        """
        check_amounts(accuracy=accuracy, gap=gap, slope=slope, lower_gap=lower_gap, adjoint_distance=adjoint_distance)
        checks.nonnegative("relaxed", relaxed)
        checks.fraction("failure", failure)
        checks.positive("bounds.sigma_g", bounds.sigma_g)
        mu, C, M, sigma_g, sigma_h = bounds.mu, bounds.L, bounds.M, bounds.sigma_g, bounds.sigma_h
        K_0, K_1 = _relaxed_smoothness(bounds, relaxed)
        noise, cap = bounds.sigma_f**2 + 2 * (M * sigma_h / mu) ** 2, min(1.0, mu**2 / (32 * C**2))
        most = min(math.sqrt(noise * cap), K_0 / K_1 if K_1 else math.inf)
        if accuracy > most:
            raise ValueError(f"accuracy: got {accuracy}, but the theorem takes at most {most:.3g}; pass that or less")
        of_h = min(C**2 / (8 * sigma_h**2), mu**2 / (16 * sigma_h**2)) if sigma_h else 1.0
        fresh = min(accuracy**2 / noise * cap, of_h, 0.25)
        period = whole((sigma_g * K_0 / (mu * accuracy)) ** 2)
        upper = [accuracy / K_0]
        upper += [bound / amount for bound, amount in ((1.0, K_1), (gap, slope)) if amount]
        upper += [accuracy * gap / (C**2 * adjoint_distance)] if adjoint_distance else []
        eta = min(min(upper) * fresh / 8, mu * accuracy / (8 * K_0 * period * C))
        if relaxed:
            eta = min(eta, 1 / math.sqrt(4 * (1 + (C / mu) ** 2) * relaxed**2))
        steps = steps_for(4 * gap / eta, accuracy)
        log = max(0.0, math.log(2 * steps / (failure * period)))
        spread = max(math.sqrt(3 * log), log)
        spread = math.sqrt(spread + 1) * (spread + math.sqrt(spread + 1)), (spread + math.sqrt(spread + 1)) ** 2
        noisy = (sigma_g * K_0 / accuracy) ** 2
        refined = mu * accuracy**2 / (128 * K_0**2)
        solver = cls(
            upper_step=eta,
            lower_step=mu / (512 * noisy * spread[0]),
            adjoint_step=fresh / mu,
            momentum=1 - fresh,
            update_period=period,
            inner_steps=whole(64**2 * noisy * spread[1] / mu**2),
            radius=accuracy / (4 * K_0),
            initial=None
            if lower_gap <= refined
            else EpochSGD.from_constants(
                mu=mu, L=bounds.L, sigma=sigma_g, initial_gap=lower_gap, accuracy=refined, failure=failure
            ),
        )
        return Prescribed(solver=solver, steps=steps, bound=30 * accuracy)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[BOREPState, Cost]:
        cost = Cost()
        if self.initial is not None:
            y = self.initial(problem.lower, x, y, key=key)
            cost = Cost(G=self.initial.steps * problem.lower.size)
        z, m = trees.zeros_like(y), trees.zeros_like(x)
        return BOREPState(x, y, z, m, self.upper_step.init(x), self.adjoint_step.init(z)), cost

    def step(self, problem: Problem, state: BOREPState, t: Any, *, key: PRNGKeyArray) -> tuple[BOREPState, Cost]:
        x, y, z = state.x, state.y, state.v
        inner_key, lower_key, upper_key = jax.random.split(key, 3)
        updates = (t > 0) & (t % self.update_period == 0)

        def update_lower() -> Tree:
            options = dict(key=inner_key, project=ball(y, self.radius(t)), average=True)
            return descend(problem.lower, x, y, self.lower_step, self.inner_steps, t, **options)

        new_y = jax.lax.cond(updates, update_lower, lambda: y)
        xi, zeta = problem.lower.draw(lower_key), problem.upper.draw(upper_key)
        _, Hz, Jz = oracles.lower_products(problem.lower, x, y, z, xi)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, zeta)
        z, v_rule = self.adjoint_step(z, trees.sub(Hz, F_y), state.v_rule, t)
        m = moving_average(state.m, trees.sub(F_x, Jz), 1 - self.momentum(t))
        x, x_rule = self.upper_step(x, trees.unit(m), state.x_rule, t)

        inner = (jnp.where(updates, self.inner_steps, 0), xi.size)
        state = BOREPState(problem.project(x), new_y, z, m, x_rule, v_rule)
        return state, Cost(F=zeta.size, G=inner, H=xi.size, J=xi.size)

    like_x = ("x", "m")
    about = About(
        name="borep",
        lower="periodic projected SGD",
        adjoint="one SGD step",
        direction="normalized momentum",
        source="Hao, Gong & Liu, ICLR 2024, Alg. 1–3",
    )
    tuned = {
        "cleaning": Tuned(4000, upper_step=0.03, lower_step=0.1, adjoint_step=0.3),
        "quadratic": Tuned(4000, upper_step=inverse_power(1.0, 1.0, offset=50.0), lower_step=0.1,
            adjoint_step=0.1),
        "cleaning mnist": Tuned(5000, upper_step=0.3, lower_step=0.03, adjoint_step=0.03),
    }  # fmt: skip
    power = 3 / 4
    normalized = True

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source, momentum = "Hao et al. 2024, Thm 3.1", 0.9
        step = theory.lower_step(facts, source)
        nu = (1 - momentum) / facts.mu
        tight = "bound" if step.value < nu else "kept"
        reason = f"{source}: (1 − β)/μ = {nu:.3g}, but at most the lower step {step.value:.3g} ({tight})"
        return {
            "lower_step": step,
            "adjoint_step": Choice(min(nu, step.value), reason),
            "momentum": Choice(momentum, "robust in the paper's experiments"),
        }


def _relaxed_smoothness(bounds: Bounds, relaxed: float) -> tuple[float, float]:
    """K_0 and K_1 of (16)."""
    mu, L, M = bounds.mu, bounds.L, bounds.M
    slope = math.sqrt(1 + (L / mu) ** 2)
    K_0 = L + relaxed * L * M / mu + L / mu * (L + relaxed * M) + M * (L * bounds.rho + bounds.tau * mu) / mu**2
    return slope * K_0, slope * relaxed
