"""SABA: SOBA with SAGA tables, which take the noise out of all five oracles."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.oracles import Tally
from bilevel.problem import Level, Problem
from bilevel.sampling import Batch, Blocks
from bilevel.solvers._averages import SAGATable
from bilevel.solvers._base import OF_X, AbstractSolver
from bilevel.steps import AbstractStep, as_step

Tree = PyTree[Any]


class SABAState(eqx.Module):
    """x, y, the adjoint v (shaped like y), the tables of (G_y, H[v], J[v]) and of (F_x, F_y) over the blocks, and the
    state of each step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    v: Tree
    lower_table: SAGATable
    upper_table: SAGATable
    rules: tuple[Tree, Tree, Tree]
    tally: Tally


class SABA(AbstractSolver):
    """Stochastic average bilevel algorithm.

    Tables hold the last G_y, H[v], J[v] of each lower block and F_y, F_x of each upper one, as they were at the
    (x, y, v) of their time. Draw a lower block i and an upper block j, independent; with

        S[φ] = φ(x, y, v; i) − φ's entry of i + the mean of φ's entries,   then the entry of i becomes φ(x, y, v; i)

    all from the old (x, y, v):

        y ← y − ρ S[G_y];   v ← v − ρ (S[H[v]] − S[F_y]);   x ← x − γ (S[F_x] − S[J[v]])

    from v = 0.

    **Arguments**

    - `upper_step` (γ), `lower_step` (ρ), `adjoint_step`: a number, a schedule or a `Rule`. Theory: constant.
    - `full_pass`: `True` fills the tables at the start by a pass over all rows; `False` starts them at zero, which is
      unbiased too, with more variance in the first epoch.

    A level with a `batch_size` must draw from `bl.Blocks`. The tables take blocks · (2 dim y + dim x) numbers below and
    blocks · (dim y + dim x) above, where a per-row leaf of x counts once and not once a block; a step writes one entry
    of each. The means span all of x: a step on a per-row variable costs O(rows).

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range, and for data
    that are not drawn by blocks.

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

    Differences from the paper: v has the opposite sign; the adjoint may take a step of its own (the paper's is ρ);
    x may be projected; the entries are of blocks of rows, not of single rows.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    adjoint_step: AbstractStep = eqx.field(converter=as_step)
    full_pass: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        checks.flag("full_pass", self.full_pass)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> SABAState:
        lower, upper = problem.lower, problem.upper
        _check_blocks("lower", lower)
        _check_blocks("upper", upper)
        v = trees.zeros_like(y)

        def lower_sample(batch: Batch) -> Tree:
            products = jax.eval_shape(lambda: oracles.lower_products(lower, x, y, v, batch)[1:])
            return oracles.lower_gradient(lower, x, y, batch), *trees.zeros_like(products)  # H[0] = J[0] = 0

        tables = (
            self._fill(lower, lower_sample),
            self._fill(upper, lambda batch: oracles.upper_gradients(upper, x, y, batch)),
        )
        n, m = (lower.length, upper.length) if self.full_pass else (0, 0)
        rules = (self.upper_step.init(x), self.lower_step.init(y), self.adjoint_step.init(y))
        return SABAState(x, y, v, *tables, rules, Tally.zero().add(F=m, G=n))

    def _fill(self, level: Level, sample: Callable[[Batch], Tree]) -> SAGATable:
        """The table of all blocks, by a pass over them, or of zeros."""

        def fill() -> Tree:
            if level.batch_size is None:
                return jax.tree.map(lambda leaf: leaf[None], sample(level.everything()))
            return jax.lax.map(lambda start: sample(level.take(start)), jnp.arange(0, level.length, level.size))

        return SAGATable.of(fill() if self.full_pass else trees.zeros_like(jax.eval_shape(fill)))

    def step(self, problem: Problem, state: SABAState, t: Any, *, key: PRNGKeyArray) -> SABAState:
        x, y, v = state.x, state.y, state.v
        x_rule, y_rule, v_rule = state.rules
        lower_key, upper_key = jax.random.split(key)
        i, j = problem.lower.draw(lower_key), problem.upper.draw(upper_key)

        products = oracles.lower_products(problem.lower, x, y, v, i)
        (G_y, Hv, Jv), lower_table = state.lower_table.replace(_block(i), products)
        gradients = oracles.upper_gradients(problem.upper, x, y, j)
        (F_x, F_y), upper_table = state.upper_table.replace(_block(j), gradients)

        x, x_rule = self.upper_step(x, trees.sub(F_x, Jv), x_rule, t)
        y, y_rule = self.lower_step(y, G_y, y_rule, t)
        v, v_rule = self.adjoint_step(v, trees.sub(Hv, F_y), v_rule, t)

        tally = state.tally.add(F=j.size, G=i.size, H=i.size, J=i.size)
        return SABAState(problem.project(x), y, v, lower_table, upper_table, (x_rule, y_rule, v_rule), tally)


def _check_blocks(name: str, level: Level) -> None:
    if level.batch_size is not None and not isinstance(level.data, Blocks):
        raise ValueError(
            f"{name}.data: SABA keeps a table entry for each block of rows, but these are drawn by "
            f"{type(level.data).__name__}; pass bl.Level(loss, data=bl.Blocks(arrays), batch_size={level.batch_size})"
        )


def _block(batch: Batch) -> Any:
    """The number of the block; the one there is where a level has no batches."""
    return 0 if batch.indices is None else batch.indices // batch.size
