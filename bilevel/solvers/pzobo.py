"""PZOBO: ITD's loop, whose response to x is measured by running it from x moved at random."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, flag, number, step
from bilevel.hypergradients.lower import descend
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractHypergradientSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step, inverse_power
from bilevel.trees import Tree


class PZOBOState(eqx.Module):
    """x, y, the start of each lower loop (shaped like y) if it is not the last y, and the state of x's step rule."""

    x: Tree
    y: Tree
    y0: Tree | None
    x_rule: Tree


class PZOBO(AbstractHypergradientSolver):
    """Partial zeroth-order-like bilevel optimizer.

    y^N(x) is the end of N steps y^t = y^{t−1} − α G_y(x, y^{t−1}) from y⁰. At k = 0, 1, …, with independent standard
    normal vectors u_1, …, u_Q like x:

        δ_j = (y^N(x_k + μ u_j) − y^N(x_k)) / μ,   j = 1..Q
        h   = F_x(x_k, y^N) + (1/Q) Σ_j ⟨δ_j, F_y(x_k, y^N)⟩ u_j,   y^N = y^N(x_k)
        x_{k+1} = x_k − β h

    The expectation of ⟨δ_j, F_y⟩ u_j is the gradient r through the loop, up to O(μ), and no second derivative is taken.
    If x has p entries, the variance of the mean is about (p + 1) ‖r‖²/Q. It does not vanish at the solution, where
    F_x + r = 0, so a constant step does not converge. All Q + 1 loops run in one batched pass and see the same batches.

    **Arguments**

    - `upper_step` (β), `lower_step` (α): a number, a schedule of k or a `Rule`. A lower `Rule` restarts in each loop.
    - `inner_steps` (N).
    - `directions` (Q).
    - `smoothing` (μ): the move of x. In single precision a small one is lost to rounding.
    - `warm_start`: `True` starts each loop at the last y; `False` starts it at the y that `solve` was given.

    Each loop moves all of x: a step on a per-row variable costs O(Q · rows).

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.PZOBO(upper_step=0.02, lower_step=0.5, inner_steps=5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=200, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Sow, Ji & Liang, "On the Convergence Theory for Hessian-Free Bilevel Algorithms", NeurIPS 2022
    (arXiv 2110.07004), Algorithm 1 (PZOBO); with batches, Algorithm 2 (PZOBO-S).

    Differences from the paper: x may be projected. The listing is taken from two implementations (the authors' and
    `pzobo.py` of benchmark_bilevel), not from the paper's text: that the loops share their batches is the authors'
    code; that y is kept is both codes'; normal u_j are benchmark_bilevel's, where the authors' code has Q = 1 and
    scales each array of u to length one. These three are unverified in the listing. The last iterate is returned;
    theorems for a Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count()
    directions: int = count(default=10)
    smoothing: Any = number(default=0.1)
    warm_start: bool = flag(default=True)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[PZOBOState, Cost]:
        return PZOBOState(x, y, None if self.warm_start else y, self.upper_step.init(x)), Cost()

    def hypergradient(
        self, problem: Problem, state: PZOBOState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[Tree, PZOBOState, Cost]:
        lower, x = problem.lower, state.x
        loop_key, upper_key, u_key = jax.random.split(key, 3)
        y0 = state.y if self.warm_start else state.y0
        u = normals(u_key, self.directions, x)

        def loop(u: Tree) -> Tree:  # y^N(x + μ u)
            moved = trees.axpy(self.smoothing, u, x)
            return descend(lower, moved, y0, self.lower_step, self.inner_steps, t, key=loop_key)

        ends = jax.vmap(loop)(jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf]), u))
        y, moved = (jax.tree.map(lambda leaf, part=part: leaf[part], ends) for part in (0, slice(1, None)))

        batch = problem.upper.draw(upper_key)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, batch)
        slopes = jax.vmap(lambda end: trees.dot(trees.sub(end, y), F_y))(moved) / self.smoothing  # ⟨δ_j, F_y⟩
        mean = jax.tree.map(lambda leaf: jnp.tensordot(slopes.astype(leaf.dtype), leaf, 1) / self.directions, u)

        loops = self.directions + 1
        state = PZOBOState(x, y, state.y0, state.x_rule)
        return trees.add(F_x, mean), state, Cost(F=batch.size, G=loops * self.inner_steps * lower.size)

    of_x = ("x", "x_rule")
    about = About(
        name="pzobo",
        lower="N gradient steps, from x and from Q points beside it",
        adjoint="none: differences of the ends",
        direction="zeroth-order",
        source="Sow, Ji & Liang, NeurIPS 2022, Alg. 1 and 2",
        unverified="where each loop begins, and how the moves of x are drawn",
    )

    tuned = {
        "cleaning": Tuned(300, upper_step=3.0, lower_step=0.1, inner_steps=10),
        "quadratic": Tuned(1000, upper_step=inverse_power(4.0, 1.0, 40.0), lower_step=0.1, inner_steps=50),
    }

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Sow et al. 2022, Alg. 1"
        return {"lower_step": theory.lower_step(facts, source), "inner_steps": theory.inner_steps(facts, source)}


def normals(key: PRNGKeyArray, n: int, like: Tree) -> Tree:
    """`n` independent standard normal vectors like `like`, stacked."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, (n, *leaf.shape), leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
