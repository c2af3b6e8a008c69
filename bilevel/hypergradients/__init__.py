"""Hypergradients on their own: ∇Φ(x) = F_x − J[v], H v = F_y, at a given (x, y)."""

from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer
from jaxtyping import PRNGKeyArray, PyTree

from bilevel import checks, trees
from bilevel.hypergradients.adjoint import (
    AbstractAdjoint,
    Adjoint,
    ConjugateGradient,
    Direct,
    FixedPoint,
    Neumann,
    RandomNeumann,
)
from bilevel.hypergradients.implicit import implicit
from bilevel.hypergradients.unrolled import check_differentiable, unroll
from bilevel.problem import Problem, prepare
from bilevel.steps import as_step, check_setting

__all__ = [
    "AbstractAdjoint",
    "Adjoint",
    "ConjugateGradient",
    "Direct",
    "FixedPoint",
    "Neumann",
    "RandomNeumann",
    "hypergradient",
    "unrolled_hypergradient",
]


def hypergradient(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    *,
    method: AbstractAdjoint | None = None,
    key: PRNGKeyArray | None = None,
) -> PyTree:
    """The hypergradient F_x(x, y) − J(x, y)[v] with v ≈ H(x, y)⁻¹ F_y(x, y), by implicit differentiation.

    It equals ∇Φ(x), Φ(x) = f(x, y*(x)), when y = y*(x) and v is exact; the error grows with ‖y − y*(x)‖
    and with the adjoint's.

    **Arguments**

    - `x`, `y`: where it is taken. y is best a minimiser of g(x, ·).
    - `method`: how H v = F_y is solved; default `ConjugateGradient(steps=20)`.
    - `key`: needed when a level has a `batch_size` or the method is random. f and g are then those of
      independent batches; a level with `batch_size=None` uses all of its rows.

    **Returns** a pytree like x.

    **Raises** `ValueError` where conjugate gradient meets a curvature that is not positive (not under `jit`, where
    nothing can be raised). In a loop of your own, `eqx.filter_jit` the loop: each call checks its arguments anew.

    Example:
        >>> import bilevel as bl, jax.numpy as jnp
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> float(bl.hypergradient(problem, 1.0, 3.0))  # (3x − 1) · 3
        6.0

    Reference: Ghadimi & Wang (arXiv 1802.02246), eq. (2.7); Grazzi et al. (ICML 2020).
    """
    method = ConjugateGradient(steps=20) if method is None else method
    if not isinstance(method, AbstractAdjoint):
        raise TypeError(f"method: got {method!r}; pass e.g. bl.ConjugateGradient(steps=20)")
    problem, x, y, restore = prepare(problem, x, y)
    key = _key_if_random(problem, key, needed=isinstance(method, RandomNeumann))
    h, convex = _hypergradient(problem, x, y, method, key)
    if not isinstance(convex, Tracer) and not convex:
        raise ValueError(
            "method: conjugate gradient met a direction in which the lower level's curvature is not positive; "
            "add a regulariser to the lower loss, or check that y is near its minimiser"
        )
    return restore(h, y)[0]


@eqx.filter_jit
def _hypergradient(problem: Problem, x: PyTree, y: PyTree, method: AbstractAdjoint, key: PRNGKeyArray) -> Any:
    sample = implicit(problem, x, y, method, key=key)
    return trees.dense(sample.h, x), sample.adjoint.convex


def unrolled_hypergradient(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    *,
    steps: int,
    lower_step: Any,
    truncation: int | None = None,
    key: PRNGKeyArray | None = None,
) -> PyTree:
    """The derivative of x ↦ f(x, y^D(x)), y^D being D = `steps` lower steps from y, with y held constant.

        F_x − α Σ_{t=0}^{D−1} J(y^t) Π_{j=t+1}^{D−1} (I − α H(y^j)) F_y(x, y^D)

    By reverse accumulation, storing the K = `truncation` last iterates (default all D): D G-gradients, then
    K H- and J-products. For α ≤ 1/L its error about ∇Φ(x) falls like (1 − αμ)^{D/2}.

    **Arguments**: `lower_step`, a number, a schedule (at t = 0) or a `Rule`, which must have a derivative at a zero
    gradient (Adam needs `eps_root`). `key`: needed when a level has a `batch_size`; each step then draws.

    **Returns** a pytree like x.

    **Raises** `ValueError` or `TypeError`, naming the argument: a truncation above `steps`, a rule without a
    derivative at a zero gradient, a missing key.

    Example:
        >>> import bilevel as bl
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> float(bl.unrolled_hypergradient(problem, 1.0, 0.0, steps=1, lower_step=1.0))
        6.0

    Reference: Franceschi et al. (ICML 2017), Algorithm 1 (Reverse-HG); ITD-BiO, Ji, Yang & Liang (ICML 2021).
    """
    checks.count("steps", steps)
    if truncation is not None:
        checks.count("truncation", truncation)
        if truncation > steps:
            raise ValueError(f"truncation: got {truncation} for {steps} steps; pass at most steps, or None for all")
    rule = as_step(lower_step)
    check_setting("lower_step", rule, checks.positive)
    check_differentiable(rule)
    problem, x, y, restore = prepare(problem, x, y)
    key = _key_if_random(problem, key)
    return restore(_unrolled(problem, x, y, rule, key, steps, truncation), y)[0]


@eqx.filter_jit
def _unrolled(
    problem: Problem, x: PyTree, y: PyTree, rule: Any, key: PRNGKeyArray, steps: int, truncation: int | None
) -> PyTree:
    upper_key, lower_key = jax.random.split(key)
    batch = problem.upper.draw(upper_key)
    return unroll(problem, x, y, batch, steps=steps, lower_step=rule, truncation=truncation, key=lower_key).h


def _key_if_random(problem: Problem, key: PRNGKeyArray | None, needed: bool = False) -> PRNGKeyArray:
    if key is None and not needed and problem.upper.batch_size is None and problem.lower.batch_size is None:
        return jax.random.key(0)  # nothing draws from it
    return checks.key("key", key)
