"""MAML and ANIL: a lower loop from a learned start. The derivative goes through the loop and its start."""

from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import PRNGKeyArray

from bilevel import trees
from bilevel.cost import Cost
from bilevel.fields import count, step
from bilevel.hypergradients.unrolled import check_differentiable, unroll
from bilevel.problem import Episode, Problem, start_of
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractHypergradientSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Rule, Step
from bilevel.trees import Tree


class MAMLState(eqx.Module):
    """x, the end y of the last lower loop, and the state of x's step rule."""

    x: Tree
    y: Tree
    x_rule: Tree


class MAML(AbstractHypergradientSolver):
    """Model-agnostic meta-learning.

        y⁰ = start(x_k);   y^t = y^{t−1} − α G_y(x_k, y^{t−1}),   t = 1..D
        p = F_y(x_k, y^D);   h = F_x(x_k, y^D)
        h ← h − α J(x_k, y^t)[p];   p ← p − α H(x_k, y^t)[p],   t = D − 1, …, 0
        x_{k+1} = x_k − β (h + start'(x_k)ᵀ p)

    h + start'(x_k)ᵀ p is the derivative of x ↦ f(x, y^D(x)), start included. `start` comes from `bl.Episodes`, which
    have new tasks in each step. MAML and ANIL are two forms of the problem. There are m tasks, and task i has a support
    loss ℓ_i and a query loss q_i. The lower loss is the sum of the ℓ_i, so that each task takes steps of size α:

    - MAML: x is all weights, `start(x)` m copies of them, y the adapted weights of each task;
      g(x, y) = Σ_i ℓ_i(y_i) and f(x, y) = (1/m) Σ_i q_i(y_i), neither of which reads x.
    - ANIL: x = (body, head), `start(x)` m copies of the head, y the adapted heads;
      g(x, y) = Σ_i ℓ_i(body, y_i) and f(x, y) = (1/m) Σ_i q_i(body, y_i).

    **Arguments**

    - `upper_step` (β), `lower_step` (α): a number, a schedule of k or a `Rule`. A lower `Rule` restarts in each
      loop and must have a derivative at a zero gradient (Adam needs `eps_root`).
    - `inner_steps` (D): the iterates are kept in memory.

    h, which goes through the start, spans all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` for a problem without a `start`.

    Example:

        >>> import bilevel as bl, jax, jax.numpy as jnp
        >>> problem = bl.Problem(  # two tasks, whose minimizers are 1 and 3
        ...     upper=bl.Level(lambda x, y, centers: jnp.mean((y - centers) ** 2), data=jnp.array([1.0, 3.0])),
        ...     lower=bl.Level(lambda x, y, centers: 0.5 * jnp.sum((y - centers) ** 2), data=jnp.array([1.0, 3.0])),
        ... )
        >>> episodes = bl.Episodes(lambda key: problem, start=lambda x: jnp.stack([x, x]))  # always these two
        >>> solver = bl.MAML(upper_step=0.5, lower_step=0.5, inner_steps=2)
        >>> solution = bl.solve(episodes, solver, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3), [round(float(y), 2) for y in solution.y]
        (2.0, [1.25, 2.75])

    Reference: Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017
    (arXiv 1703.03400), Algorithm 2; ANIL: Raghu, Raghu, Bengio & Vinyals, "Rapid Learning or Feature Reuse?", ICLR 2020
    (arXiv 1909.09157).

    Differences from the paper: the upper loss is the problem's own, in the forms above a mean over tasks instead of the
    paper's sum; a lower level with a `batch_size` draws a fresh batch for each inner step; x may be projected.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count()

    def check_together(self) -> None:
        check_differentiable(self.lower_step)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[MAMLState, Cost]:
        if not isinstance(problem, Episode) or problem.start is None:
            raise ValueError("problem: MAML learns where y begins; pass bl.Episodes(redraw, start=lambda x: y)")
        return MAMLState(x, y, self.upper_step.init(x)), Cost()

    def hypergradient(
        self, problem: Problem, state: MAMLState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[Tree, MAMLState, Cost]:
        lower_key, upper_key = jax.random.split(key)
        batch = problem.upper.draw(upper_key)
        y0, pull = jax.vjp(lambda x: start_of(problem, x), state.x)

        D = self.inner_steps
        path = unroll(problem, state.x, y0, batch, steps=D, lower_step=self.lower_step, t=t, key=lower_key)
        (through_start,) = pull(path.p)

        b = D * problem.lower.size
        state = MAMLState(state.x, path.y, state.x_rule)
        return trees.add(path.h, through_start), state, Cost(F=batch.size, G=b, H=b, J=b)

    of_x = ("x", "x_rule")
    about = About(
        name="maml",
        lower="D gradient steps from a learned start",
        adjoint="back-propagation, through the start too",
        direction="plain",
        source="Finn et al., ICML 2017, Alg. 2; ANIL, Raghu et al., ICLR 2020",
    )
    tuned = {
        # by no grid: as in `bilevel reproduce stocbio-fig2`
        "fewshot": Tuned(200, upper_step=Rule(optax.adam, 0.002), lower_step=0.1, inner_steps=5,
            task={"learned_start": True}),
    }  # fmt: skip
    scaling = 1.5

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ji et al. 2021, Thm 2"
        return {
            "lower_step": theory.lower_step(facts, source),
            "inner_steps": theory.capped(facts, "unrolled steps", "κ log κ", source, products=3),
        }
