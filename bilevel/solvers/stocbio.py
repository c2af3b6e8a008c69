"""stocBiO: SGD lower loop, Neumann-series adjoint with growing batches, plain upper step."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.hypergradients.adjoint import Neumann
from bilevel.oracles import Tally
from bilevel.problem import Problem
from bilevel.solvers._base import OF_X, AbstractEstimator, descend
from bilevel.steps import AbstractStep, as_schedule, as_step

Tree = PyTree[Any]


class StocBiOState(eqx.Module):
    """x, y, and the state of x's step rule."""

    x: Tree = eqx.field(metadata=OF_X)
    y: Tree
    rule: Tree = eqx.field(metadata=OF_X)
    tally: Tally


class StocBiO(AbstractEstimator):
    """Stochastic bilevel optimizer.

        y⁰ = y_{k−1}^D;   y^t = y^{t−1} − α G_y(x_k, y^{t−1}; S_{t−1}),   t = 1..D, a fresh batch each
        draw D_F, D_G and B_1..B_Q, all independent
        r_Q = F_y(x_k, y^D; D_F);   r_{i−1} = r_i − η H(x_k, y^D; B_i)[r_i],   i = Q..1
        v   = η Σ_{i=0}^{Q} r_i
        x_{k+1} = x_k − β (F_x(x_k, y^D; D_F) − J(x_k, y^D; D_G)[v])

    **Arguments**

    - `upper_step` (β), `lower_step` (α): a number, a schedule of k or a `Rule`.
    - `inner_steps` (D), `neumann_order` (Q factors, Q + 1 terms), `neumann_step` (η ≤ 1/L).
    - `hessian_batch_sizes`: sizes of B_Q, …, B_1 in this order, which is the order of use; an integer is
      the same for all, None the level's. `neumann_batch_sizes` gives those of Proposition 3.
    - `cross_batch_size`: size of D_G; None is the level's. (A level with `batch_size=None` always uses all its rows.)

    **Raises** `ValueError` or `TypeError`, which name the argument, for a setting that is out of range.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.StocBiO(upper_step=0.05, lower_step=0.5, inner_steps=5, neumann_order=10, neumann_step=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
    Algorithms 2 and 3, eq. (5).

    Differences from the paper: x may be projected.
    """

    upper_step: AbstractStep = eqx.field(converter=as_step)
    lower_step: AbstractStep = eqx.field(converter=as_step)
    inner_steps: int = eqx.field(static=True)
    neumann_order: int = eqx.field(static=True)
    neumann_step: Any = eqx.field(converter=as_schedule)
    hessian_batch_sizes: int | tuple[int, ...] | None = eqx.field(default=None, static=True, converter=checks.integers)
    cross_batch_size: int | None = eqx.field(default=None, static=True, converter=checks.integers)

    def __check_init__(self):
        checks.count("inner_steps", self.inner_steps)
        checks.count("neumann_order", self.neumann_order, least=0)
        if self.cross_batch_size is not None:
            checks.count("cross_batch_size", self.cross_batch_size)
        sizes = self.hessian_batch_sizes
        each = sizes if isinstance(sizes, tuple) else () if sizes is None else (sizes,)
        if not all(type(size) is int for size in each):
            raise TypeError(f"hessian_batch_sizes: got {sizes!r}; pass an integer or a tuple of them")
        if isinstance(sizes, tuple) and len(sizes) != self.neumann_order:
            raise ValueError(f"hessian_batch_sizes: got {len(sizes)} sizes for neumann_order={self.neumann_order}")
        for size in each:
            checks.count("hessian_batch_sizes", size)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> StocBiOState:
        lower, sizes = problem.lower, self.hessian_batch_sizes or ()
        if lower.data is not None and lower.batch_size is not None:
            for size in sizes if isinstance(sizes, tuple) else (sizes,):
                lower.data.check(size, "hessian_batch_sizes")
            lower.data.check(self.cross_batch_size or lower.batch_size, "cross_batch_size")
        return StocBiOState(x, y, self.upper_step.init(x), Tally.zero())

    def estimate(
        self, problem: Problem, state: StocBiOState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[Tree, StocBiOState]:
        x, upper, lower = state.x, problem.upper, problem.lower
        S_key, F_key, G_key, B_key = jax.random.split(key, 4)

        y = descend(lower, x, state.y, self.lower_step, self.inner_steps, t, key=S_key)

        D_F, D_G = upper.draw(F_key), lower.draw(G_key, self.cross_batch_size)
        F_x, F_y = oracles.upper_gradients(upper, x, y, D_F)
        neumann = Neumann(self.neumann_order, self.neumann_step, self.hessian_batch_sizes)
        adjoint = neumann(lower, x, y, F_y, None, batch=D_G, key=B_key, t=t)
        Jv = oracles.cross_product(lower, x, y, adjoint.v, D_G)

        inner = self.inner_steps * lower.size
        tally = state.tally.add(F=D_F.size, G=inner, H=adjoint.products, J=D_G.size)
        return trees.sub(F_x, Jv), StocBiOState(x, y, state.rule, tally)


def neumann_batch_sizes(batch_size: int, order: int, step: float, strong_convexity: float) -> tuple[int, ...]:
    """The sizes |B_{Q+1−j}| = ⌈B Q (1 − ημ)^{j−1}⌉, j = 1..Q, in the order of use: largest first.

    **Arguments**: B, Q, η ≤ 1/L and μ. B ≥ 1/(Q (1 − ημ)^{Q−1}) leaves each at least one sample.

    Example:

        >>> import bilevel as bl
        >>> bl.neumann_batch_sizes(batch_size=10, order=3, step=0.5, strong_convexity=0.2)
        (30, 27, 25)

    Reference: Ji, Yang & Liang (ICML 2021), Proposition 3.
    """
    checks.count("batch_size", batch_size)
    checks.count("order", order)
    checks.positive("step", step)
    checks.positive("strong_convexity", strong_convexity)
    if step * strong_convexity >= 1:
        raise ValueError(f"step: got {step} with strong_convexity {strong_convexity}; their product must be below 1")
    decay = 1 - step * strong_convexity
    # the slack keeps rounding from adding a sample to a size that is whole
    return tuple(math.ceil(batch_size * order * decay**j - 1e-9) for j in range(order))
