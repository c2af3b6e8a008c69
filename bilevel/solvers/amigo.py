"""AmIGO: warm starts amortize both the lower loop and the adjoint solve."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, step
from bilevel.hypergradients.lower import descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class AmIGOState(eqx.Module):
    """x, y, the adjoint v (shaped like y), and the state of x's step rule."""

    x: Tree
    y: Tree
    v: Tree
    x_rule: Tree


class AmIGO(AbstractSolver):
    """Amortized implicit gradient optimization.

        y ← y_{k−1};   T times:  y ← y − α_k G_y(x_k, y; D_t);   y_k = y
        F_x, F_y = F_x(x_k, y_k; D_f), F_y(x_k, y_k; D_f)
        v ← v_{k−1};   N times:  v ← v − β_k (H(x_k, y_k; D_n)[v] − F_y);   v_k = v
        x_{k+1} = x_k − γ_k (F_x − J(x_k, y_k; D_J)[v_k])

    from v_{−1} = 0. Every D_t, D_f, D_n and D_J is a fresh sample; all N steps use the F_y of D_f.

    **Arguments**

    - `upper_step` (γ), `lower_step` (α), `adjoint_step` (β): a number, a schedule of k or a `Rule`; α, β ≤ 1/L. The
      rules of the two inner loops restart in each iteration.
    - `inner_steps` (T), `adjoint_steps` (N): of order κ, constant in k.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.AmIGO(
        ...     upper_step=0.05, lower_step=0.5, adjoint_step=0.5, inner_steps=5, adjoint_steps=5
        ... )
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Arbel & Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization", ICLR 2022
    (arXiv 2111.14580), Algorithms 1–3.

    Differences from the paper: v has the opposite sign; x may be projected; all batches of a level have its
    `batch_size`. The last iterate is returned; theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()
    inner_steps: int = count()
    adjoint_steps: int = count()

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[AmIGOState, Cost]:
        return AmIGOState(x, y, trees.zeros_like(y), self.upper_step.init(x)), Cost()

    def step(self, problem: Problem, state: AmIGOState, t: Any, *, key: PRNGKeyArray) -> tuple[AmIGOState, Cost]:
        x, upper, lower = state.x, problem.upper, problem.lower
        y_key, f_key, v_key, J_key = jax.random.split(key, 4)

        y = descend(lower, x, state.y, self.lower_step, self.inner_steps, t, key=y_key)
        D_f = upper.draw(f_key)
        F_x, F_y = oracles.upper_gradients(upper, x, y, D_f)

        def towards_adjoint(n: Any, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            v, v_rule = carry
            D_n = lower.draw(jax.random.fold_in(v_key, n))
            Hv = oracles.hessian_product(lower, x, y, v, D_n)
            return self.adjoint_step(v, trees.sub(Hv, F_y), v_rule, t)

        v, _ = jax.lax.fori_loop(0, self.adjoint_steps, towards_adjoint, (state.v, self.adjoint_step.init(state.v)))
        D_J = lower.draw(J_key)
        Jv = oracles.cross_product(lower, x, y, v, D_J)
        x, x_rule = self.upper_step(x, trees.sub(F_x, Jv), state.x_rule, t)

        b = D_J.size
        cost = Cost(F=D_f.size, G=self.inner_steps * b, H=self.adjoint_steps * b, J=b)
        return AmIGOState(problem.project(x), y, v, x_rule), cost

    of_x = ("x", "x_rule")
    about = About(
        name="amigo",
        lower="T SGD steps",
        adjoint="N SGD steps",
        direction="plain",
        source="Arbel & Mairal, ICLR 2022, Alg. 1–3",
    )
    tuned = {
        "cleaning": Tuned(1000, upper_step=30.0, lower_step=0.1, adjoint_step=0.1, inner_steps=10,
            adjoint_steps=10),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, adjoint_step=0.1, inner_steps=10,
            adjoint_steps=10),
    }  # fmt: skip

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Arbel & Mairal 2022, Alg. 1"
        step = theory.lower_step(facts, source)
        steps = theory.inner_steps(facts, source)
        return {"lower_step": step, "adjoint_step": step, "inner_steps": steps, "adjoint_steps": steps}
