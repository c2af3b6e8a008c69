"""SABA: SOBA with SAGA tables, which reduce the variance of all five oracles."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import flag, step
from bilevel.problem import Level, Problem
from bilevel.sampling import Batch, Blocks
from bilevel.solvers import theory
from bilevel.solvers.averages import SAGATable, rows_of, saga_rows
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class SABAState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the tables of (G_y, H[v], J[v]) and of (F_x, F_y) over the blocks, and the
    state of each step rule. The entries of J[v] and F_x for a per-row leaf of x are rows of `J_rows` and `F_rows`."""

    x: Tree
    y: Tree
    v: Tree
    lower_table: SAGATable
    upper_table: SAGATable
    J_rows: Tree
    F_rows: Tree
    x_rule: Tree
    y_rule: Tree
    v_rule: Tree


class SABA(AbstractSolver):
    """Stochastic average bilevel algorithm.

    Tables hold the last G_y, H[v] and J[v] of each lower block and the last F_y and F_x of each upper block, at the
    (x, y, v) where they were computed. Draw independent lower and upper blocks i and j. With

        S[φ] = φ(x, y, v; i) − φ's entry of i + the mean of φ's entries,   then the entry of i becomes φ(x, y, v; i)

    update, all from the old (x, y, v):

        y ← y − ρ S[G_y];   v ← v − ρ (S[H[v]] − S[F_y]);   x ← x − γ (S[F_x] − S[J[v]])

    from v = 0.

    **Arguments**

    - `upper_step` (γ), `lower_step` (ρ), `adjoint_step`: a number, a schedule or a `Rule`. Theory: constant.
    - `full_pass`: `True` fills the tables at the start by a pass over all rows. `False` starts them at zero, which is
      also unbiased but has more variance in the first epoch.

    A level with a `batch_size` must draw from `bl.Blocks`. The lower table holds blocks · (2 dim y + dim x) numbers,
    the upper one blocks · (dim y + dim x), where a per-row leaf of x counts once and not once per block. A step writes
    one entry of each.

    **Raises** `ValueError` for data that are not drawn by blocks.

    Example:

        >>> import bilevel as bl, jax, numpy as np
        >>> noise = np.random.default_rng(0).normal(size=100)
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(
        ...         lambda x, y, b: 0.5 * jax.numpy.mean((y - 3.0 * x - b) ** 2),
        ...         data=bl.Blocks(noise - noise.mean()), batch_size=10,
        ...     ),
        ... )
        >>> solver = bl.SABA(upper_step=0.01, lower_step=0.2, adjoint_step=0.2)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=1000, key=jax.random.key(0))
        >>> round(float(solution.x), 3)  # in spite of the noise
        0.333

    Reference: Dagréou, Ablin, Vaiter & Moreau, "A framework for bilevel optimization that enables stochastic and
    global variance reduction algorithms", NeurIPS 2022 (arXiv 2201.13409), Algorithm 1 with (11a)–(11c).

    Differences from the paper: v has the opposite sign; the adjoint has its own step size (the paper's is ρ); x may be
    projected; each entry belongs to a block of rows, not to a single row. The last iterate is returned; theorems for a
    Φ that is not convex are about all k together.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    adjoint_step: Step = step()
    full_pass: bool = flag(default=True)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[SABAState, Cost]:
        lower, upper = problem.lower, problem.upper
        _check_blocks("lower", lower)
        _check_blocks("upper", upper)
        v = trees.zeros_like(y)

        def lower_sample(batch: Batch) -> Tree:
            products = jax.eval_shape(lambda: oracles.lower_products(lower, x, y, v, batch)[1:])
            return oracles.gradient_y(lower, x, y, batch), *trees.zeros_like(products)  # H[0] = J[0] = 0

        products = self._fill(lower, lower_sample)
        gradients = self._fill(upper, lambda batch: oracles.upper_gradients(upper, x, y, batch))
        tables = SAGATable.of(products), SAGATable.of(gradients), rows_of(products[2]), rows_of(gradients[0])
        rules = self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(v)
        cost = Cost(F=upper.length, G=lower.length) if self.full_pass else Cost()
        return SABAState(x, y, v, *tables, *rules), cost

    def _fill(self, level: Level, sample: Callable[[Batch], Tree]) -> Tree:
        """The samples of all blocks, stacked: by a pass over them, or zeros."""

        def fill() -> Tree:
            if level.batch_size is None:
                return jax.tree.map(lambda leaf: leaf[None], sample(level.all_rows()))
            return jax.lax.map(lambda start: sample(level.take(start)), jnp.arange(0, level.length, level.size))

        return fill() if self.full_pass else trees.zeros_like(jax.eval_shape(fill))

    def step(self, problem: Problem, state: SABAState, t: Any, *, key: PRNGKeyArray) -> tuple[SABAState, Cost]:
        x, y, v = state.x, state.y, state.v
        lower_key, upper_key = jax.random.split(key)
        i, j = problem.lower.draw(lower_key), problem.upper.draw(upper_key)

        products = oracles.lower_products(problem.lower, x, y, v, i)
        (G_y, Hv, Jv), lower_table = state.lower_table.replace(_block(i), products)
        gradients = oracles.upper_gradients(problem.upper, x, y, j)
        (F_x, F_y), upper_table = state.upper_table.replace(_block(j), gradients)
        Jv, J_rows = saga_rows(state.J_rows, Jv, problem.lower.length // i.size)
        F_x, F_rows = saga_rows(state.F_rows, F_x, problem.upper.length // j.size)

        x, x_rule = self.upper_step(x, trees.sub(F_x, Jv), state.x_rule, t)
        y, y_rule = self.lower_step(y, G_y, state.y_rule, t)
        v, v_rule = self.adjoint_step(v, trees.sub(Hv, F_y), state.v_rule, t)

        state = SABAState(problem.project(x), y, v, lower_table, upper_table, J_rows, F_rows, x_rule, y_rule, v_rule)
        return state, Cost(F=j.size, G=i.size, H=i.size, J=i.size)

    like_x = ("x", "J_rows", "F_rows")
    about = About(
        name="saba",
        lower="one SAGA step",
        adjoint="one SAGA step",
        direction="SAGA",
        source="Dagréou et al., NeurIPS 2022, Alg. 1",
    )
    tuned = {
        "cleaning": Tuned(8000, upper_step=3.0, lower_step=0.3, adjoint_step=0.1, task={"source": "blocks"}),
        "quadratic": Tuned(4000, upper_step=0.03, lower_step=0.1, adjoint_step=0.1, task={"source": "blocks"}),
    }  # fmt: skip

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Dagréou et al. 2022, Alg. 1"
        step = theory.lower_step(facts, source)
        return {"lower_step": step, "adjoint_step": Choice(step.value, f"{source}: the lower step")}


def _check_blocks(name: str, level: Level) -> None:
    if level.batch_size is not None and not isinstance(level.data, Blocks):
        raise ValueError(
            f"{name}.data: SABA keeps a table entry for each block of rows, but these are drawn by "
            f"{type(level.data).__name__}; pass bl.Level(loss, data=bl.Blocks(arrays), batch_size={level.batch_size})"
        )
    if level.batch_size is not None and level.data is not None and level.data.strata > 1:
        raise ValueError(f"{name}.data: SABA keeps a table entry for each block of rows; draw them without strata")


def _block(batch: Batch) -> Any:
    """The number of the block, which is 0 if the level has no batches."""
    return 0 if batch.indices is None else batch.indices // batch.size
