"""Iterative differentiation: the derivative of f(x, y^D(x)) through the steps that lead to y^D."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._prepare import prepare
from bilevel.disk import reading
from bilevel.hypergradients._not_finite import check_finite
from bilevel.problem import Episodes, Level, Problem, drawn_once, stores_of
from bilevel.sampling import Batch
from bilevel.steps import AbstractStep, GradientStep, Rule, as_step, check_setting
from bilevel.trees import Tree

_MAX_TANGENT_BYTES = 2 * 10**9
STORES = ("residuals", "iterates", "segments")


def unrolled_hypergradient(
    problem: Problem | Episodes,
    x: Tree,
    y: Tree,
    *,
    steps: int,
    lower_step: Any,
    truncation: int | None = None,
    mode: str = "reverse",
    store: str = "iterates",
    key: PRNGKeyArray | None = None,
) -> Tree:
    """The derivative of x ↦ f(x, y^D(x)), where y^D is reached by D = `steps` lower steps from a constant y.

        F_x − α Σ_{t=0}^{D−1} J(y^t) Π_{j=t+1}^{D−1} (I − α H(y^j)) F_y(x, y^D)

    For α ≤ 1/L its distance from ∇Φ(x) falls like (1 − αμ)^{D/2}. Only the last K = `truncation` steps are
    differentiated (default: all D). All modes give the same value, up to rounding, and use the same batches:

    | | iterates in memory | D G-gradients, and |
    |---|---|---|
    | `mode="reverse"`, `store="residuals"` | K, with all that their G-gradients computed | K reverse passes of a step |
    | `mode="reverse"`, `store="iterates"` | K | K H- and J-products |
    | `mode="reverse"`, `store="segments"` | about 2√K | the same, and at most K more G-gradients |
    | `mode="forward"` | dim x | K · dim x tangents of the step: for few hyperparameters |

    **Arguments**

    - `lower_step`: a number, a schedule (at t = 0) or a `Rule`, which must have a derivative at a zero gradient
      (Adam needs `eps_root`).
    - `store`: what the reverse pass finds in memory. From `"residuals"` over `"iterates"` to `"segments"` (every
      ⌈√K⌉-th iterate) it takes less memory and more time: what is missing is recomputed.
    - `key`: required if a level has a `batch_size`, so that each step draws a batch, or the problem is `Episodes`.

    **Returns** a pytree like x.

    **Raises** `ValueError` or `TypeError`, naming the argument, for a truncation above `steps`, a rule without a
    derivative at a zero gradient, a missing key, `store` in forward mode, and forward mode if its
    dim x · dim y tangents would take more than 2 GB. `ValueError`, except under `jit`, if the result is not finite.

    Example:

        >>> import bilevel as bl
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> float(bl.unrolled_hypergradient(problem, 1.0, 0.0, steps=1, lower_step=1.0))
        6.0

    Reference: Franceschi et al. (ICML 2017), Algorithms 1 (Reverse-HG) and 2 (Forward-HG); ITD-BiO, Ji, Yang & Liang
    (ICML 2021). Rematerialization: Chen, Xu, Zhang & Guestrin (arXiv 1604.06174).
    """
    checks.count("steps", steps)
    if truncation is not None:
        checks.count("truncation", truncation)
        if truncation > steps:
            raise ValueError(f"truncation: got {truncation} for {steps} steps; pass at most steps, or None for all")
    checks.one_of("mode", mode, ("reverse", "forward"))
    checks.one_of("store", store, STORES)
    if store != "iterates" and mode == "forward":
        raise ValueError("store: forward mode stores no iterates; leave it out, or pass mode='reverse'")
    rule = as_step(lower_step)
    check_setting("lower_step", rule, checks.positive)
    check_differentiable(rule)
    prepared = prepare(problem, x, y)
    x, y = prepared.x, prepared.y
    if mode == "forward":
        _check_tangents(x, y, rule)
    drawn, key = drawn_once(prepared.problem, key_if_random(prepared.problem, key))
    with reading(stores_of(drawn)):
        h, finite = _unrolled(drawn, x, y, rule, key, steps=steps, truncation=truncation, mode=mode, store=store)
        check_finite(finite, drawn, x, y, key, "lower_step: reduce it, as the steps diverge")
    return prepared.restore_x(h)


def key_if_random(problem: Problem | Episodes, key: PRNGKeyArray | None, needed: bool = False) -> PRNGKeyArray:
    """The checked key, or a default if nothing draws from it."""
    draws = isinstance(problem, Episodes) or (problem.upper.batch_size, problem.lower.batch_size) != (None, None)
    if key is None and not needed and not draws:
        return _any_key()
    return checks.key("key", key)


@functools.cache
def _any_key() -> PRNGKeyArray:
    with jax.ensure_compile_time_eval():
        return jax.random.key(0)


@eqx.filter_jit
def _unrolled(
    problem: Problem,
    x: Tree,
    y: Tree,
    rule: AbstractStep,
    key: PRNGKeyArray,
    *,
    steps: int,
    truncation: int | None,
    mode: str,
    store: str,
) -> tuple[Tree, Bool[Array, ""]]:
    upper_key, lower_key = jax.random.split(key)
    batch = problem.upper.draw(upper_key)
    way = unroll_forward if mode == "forward" else functools.partial(unroll, store=store)
    h = way(problem, x, y, batch, steps=steps, lower_step=rule, truncation=truncation, key=lower_key).h
    return h, trees.all_finite(h)


class Unrolled(eqx.Module):
    """The hypergradient h by unrolling, the last lower iterate y^D, and the derivative p of f(x, y^D) with respect to
    the iterate where the reverse pass ends: the initial y⁰ unless it is truncated (None in forward mode)."""

    h: Tree
    y: Tree
    p: Tree | None = None


def unroll(
    problem: Problem,
    x: Tree,
    y: Tree,
    upper_batch: Batch,
    *,
    steps: int,
    lower_step: AbstractStep,
    truncation: int | None = None,
    store: str = "iterates",
    t: Any = 0,
    key: PRNGKeyArray,
) -> Unrolled:
    """D lower steps from y, each on its own batch, and the reverse pass through the last K of them.

    y^t = y^{t−1} − α G_y(x, y^{t−1}),   t = 1..D
    p = F_y(x, y^D);   h = F_x(x, y^D);   for t = D−1, …, D−K:  h ← h − α J(x, y^t)[p],  p ← p − α H(x, y^t)[p]

    With `store="segments"` the K steps are cut into segments of ⌈√K⌉ steps, and only their first iterates are stored.
    With `"residuals"` JAX differentiates the K steps as they are.
    """
    kept = steps if truncation is None else truncation
    lower, z, pull = oracles.hoist_features(problem.lower, x)

    def forward(carry: tuple[Tree, Tree], i: Any) -> tuple[tuple[Tree, Tree], Any]:
        y, state = carry
        batch = lower.draw(jax.random.fold_in(key, i))
        new = lower_step(y, oracles.gradient_y(lower, z, y, batch), state, t)
        return new, (y, state, (batch.indices, batch.key))

    def skip(carry: tuple[Tree, Tree], segment: Any) -> tuple[tuple[Tree, Tree], Any]:
        return jax.lax.scan(forward, carry, segment)[0], carry

    def again(hp: tuple[Tree, Tree], at: Any) -> tuple[tuple[Tree, Tree], None]:
        _, path = jax.lax.scan(forward, *at)
        return jax.lax.scan(back, hp, path, reverse=True)[0], None

    carry = (y, lower_step.init(y))
    carry = jax.lax.fori_loop(0, steps - kept, lambda i, carry: forward(carry, i)[0], carry)
    if store == "residuals":
        return _with_residuals(
            problem, x, (lower, z, pull), carry, upper_batch, (steps - kept, steps), lower_step, t, key
        )
    segments, last = _segments(steps - kept, steps, store == "segments")
    carry, starts = jax.lax.scan(skip, carry, segments) if len(segments) else (carry, None)
    (y, _), path = jax.lax.scan(forward, carry, last)
    F_x, p = oracles.upper_gradients(problem.upper, x, y, upper_batch)

    h = trees.dense(F_x, x)
    direct, h = (None, h) if z is x else (h, trees.zeros_like(z))
    if isinstance(lower_step, GradientStep):
        back = _plain_back(lower, z, lower_step.rate(t))
    else:
        back = _rule_back(lower, z, lower_step, t)
        p = (p, trees.zeros_like(eqx.filter(lower_step.init(y), eqx.is_inexact_array)))
    hp, _ = jax.lax.scan(back, (h, p), path, reverse=True)
    if len(segments):
        hp, _ = jax.lax.scan(again, hp, (starts, segments), reverse=True)
    h, p = hp
    h = h if direct is None else trees.add(direct, pull(h))
    return Unrolled(h, y, p if isinstance(lower_step, GradientStep) else p[0])


def _with_residuals(
    problem: Problem,
    x: Tree,
    hoisted: tuple[Level, Tree, Callable[[Tree], Tree]],
    start: tuple[Tree, Tree],
    upper_batch: Batch,
    numbers: tuple[int, int],
    lower_step: AbstractStep,
    t: Any,
    key: PRNGKeyArray,
) -> Unrolled:
    """`unroll` by one reverse pass through the last steps, with all that they computed."""
    lower, z, pull = hoisted
    y, state = start
    moving, counters = eqx.partition(state, eqx.is_inexact_array)

    def last(z: Tree, y: Tree, moving: Tree) -> Tree:
        def one(carry: tuple[Tree, Tree, Tree], i: Any) -> tuple[tuple[Tree, Tree, Tree], None]:
            y, moving, counters = carry
            step = _step(lower, lower_step, counters, lower.draw(jax.random.fold_in(key, i)), t)
            (y, moving), counters = step(z, y, moving)
            return (y, moving, counters), None

        return jax.lax.scan(one, (y, moving, counters), jnp.arange(*numbers, dtype=jnp.int32))[0][0]

    y, back = jax.vjp(last, z, y, moving)
    F_x, F_y = oracles.upper_gradients(problem.upper, x, y, upper_batch)
    h, p, _ = back(F_y)
    return Unrolled(trees.add(trees.dense(F_x, x), pull(h)), y, p)


def _segments(first: int, end: int, cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """The steps first..end−1: segments of ⌈√K⌉ to recompute, one per row, and the last 1..⌈√K⌉ steps, to store."""
    count = end - first
    length = math.isqrt(count - 1) + 1 if cut else count
    rows = (count - 1) // length
    steps = np.arange(first, end, dtype=np.int32)
    return steps[: rows * length].reshape(rows, length), steps[rows * length :]


def _plain_back(lower: Level, x: Tree, alpha: Any) -> Callable[..., Any]:
    """h ← h − α J(x, y^t)[p],  p ← p − α H(x, y^t)[p]."""

    def back(carry: tuple[Tree, Tree], at: Any) -> tuple[tuple[Tree, Tree], None]:
        h, p = carry
        y_t, _, drawn = at
        _, Hp, Jp = oracles.lower_products(lower, x, y_t, p, lower.take(*drawn))
        return (trees.sub(h, trees.scale(alpha, Jp)), trees.sub(p, trees.scale(alpha, Hp))), None

    return back


def _rule_back(lower: Level, x: Tree, lower_step: AbstractStep, t: Any) -> Callable[..., Any]:
    """The same through a rule. p is the cotangent of (y, the rule's state); integer counters have no cotangent."""

    def back(carry: tuple[Tree, Tree], at: Any) -> tuple[tuple[Tree, Tree], None]:
        h, p = carry
        y_t, state_t, drawn = at
        moving, counters = eqx.partition(state_t, eqx.is_inexact_array)
        step = _step(lower, lower_step, counters, lower.take(*drawn), t)
        _, pull, _ = jax.vjp(step, x, y_t, moving, has_aux=True)
        h_x, *p = pull(p)
        return (trees.add(h, h_x), tuple(p)), None

    return back


def _step(lower: Level, lower_step: AbstractStep, counters: Tree, batch: Batch, t: Any) -> Callable[..., Any]:
    """One lower step as a function of all that is differentiated: (x, y, the rule's moments)."""

    def step(x: Tree, y: Tree, moving: Tree) -> tuple[tuple[Tree, Tree], Tree]:
        gradient = oracles.gradient_y(lower, x, y, batch)
        y, state = lower_step(y, gradient, eqx.combine(moving, counters), t)
        moving, new_counters = eqx.partition(state, eqx.is_inexact_array)
        return (y, moving), new_counters

    return step


def unroll_forward(
    problem: Problem,
    x: Tree,
    y: Tree,
    upper_batch: Batch,
    *,
    steps: int,
    lower_step: AbstractStep,
    truncation: int | None = None,
    t: Any = 0,
    key: PRNGKeyArray,
) -> Unrolled:
    """The same as `unroll`, by dim x tangents that are propagated with y. No iterate is stored.

    V = 0;   for t = D−K+1, …, D:  V ← V − α (H(x, y^{t−1}) V + J(x, y^{t−1})ᵀ);   h = F_x + Vᵀ F_y(x, y^D)
    """
    kept = steps if truncation is None else truncation
    flat_x, unravel = ravel_pytree(x)
    directions = jax.vmap(unravel)(jnp.eye(flat_x.size, dtype=flat_x.dtype))

    def step_at(i: Any, counters: Tree) -> Callable[..., Any]:
        return _step(problem.lower, lower_step, counters, problem.lower.draw(jax.random.fold_in(key, i)), t)

    def plain(i: Any, carry: tuple[Any, Tree]) -> tuple[Any, Tree]:
        point, counters = carry
        return step_at(i, counters)(x, *point)

    def with_tangents(i: Any, carry: tuple[Any, Any, Tree]) -> tuple[Any, Any, Tree]:
        point, tangents, counters = carry
        step = step_at(i, counters)

        def along(direction: Tree, tangent: Any) -> tuple[Any, Any, Tree]:
            return jax.jvp(step, (x, *point), (direction, *tangent), has_aux=True)

        return jax.vmap(along, out_axes=(None, 0, None))(directions, tangents)

    moving, counters = eqx.partition(lower_step.init(y), eqx.is_inexact_array)
    point, counters = jax.lax.fori_loop(0, steps - kept, plain, ((y, moving), counters))
    tangents = jax.tree.map(lambda leaf: jnp.zeros((flat_x.size, *leaf.shape), leaf.dtype), point)
    (y, _), (V, _), _ = jax.lax.fori_loop(steps - kept, steps, with_tangents, (point, tangents, counters))
    F_x, F_y = oracles.upper_gradients(problem.upper, x, y, upper_batch)
    through_y = jax.vmap(trees.dot, in_axes=(0, None))(V, F_y)
    return Unrolled(trees.add(trees.dense(F_x, x), unravel(through_y.astype(flat_x.dtype))), y)


def _check_tangents(x: Tree, y: Tree, rule: AbstractStep) -> None:
    """Raise if the tangents of forward mode would not fit."""
    state = eqx.filter(jax.eval_shape(rule.init, y), lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact))
    dim_x, dim_y = trees.size(x), trees.size(y)
    needed = dim_x * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((x, y, state)))
    if needed > _MAX_TANGENT_BYTES:
        raise ValueError(
            f"mode: x has {dim_x} entries and y {dim_y}, so the tangents of forward mode take {needed / 1e9:.1f} GB; "
            "it is meant for few hyperparameters: pass mode='reverse', with store='segments' for many steps"
        )


def check_differentiable(rule: AbstractStep) -> None:
    """Raise if a rule has no derivative at a zero gradient, like Adam's square root."""
    if not isinstance(rule, Rule):
        return
    z = jnp.ones(1)

    def moved(gradient: Array) -> Array:
        return rule(z, gradient, rule.init(z), 0)[0]

    _, slope = jax.jvp(moved, (jnp.zeros(1),), (jnp.ones(1),))
    if not isinstance(slope, Tracer) and not bool(jnp.isfinite(slope).all()):
        name = getattr(rule.optimizer, "__name__", rule.optimizer)
        raise ValueError(
            f"lower_step: optax.{name} has no derivative at a zero gradient (a square root of zero), so "
            f"differentiating through its steps would give NaN; pass a positive eps_root, as in "
            f"bl.Rule(optax.{name}, 0.1, eps_root=1e-8), or a plain step"
        )
