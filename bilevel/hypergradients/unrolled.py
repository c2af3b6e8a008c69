"""Iterative differentiation: the derivative of f(x, y^D(x)) through the steps that made y^D."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray, PyTree

from bilevel import oracles, trees
from bilevel.data import Batch
from bilevel.problem import Problem
from bilevel.steps import AbstractStep, GradientStep, Rule

Tree = PyTree[Any]


class Unrolled(eqx.Module):
    """The hypergradient h by unrolling, and the last lower iterate y^D."""

    h: Tree
    y: Tree


def unroll(
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
    """D lower steps from y, each on its own batch, and the reverse pass through the last K of them.

    y^t = y^{t−1} − α G_y(x, y^{t−1}),   t = 1..D
    p = F_y(x, y^D);   h = F_x(x, y^D);   for t = D−1, …, D−K:  h ← h − α J(x, y^t)[p],  p ← p − α H(x, y^t)[p]
    """
    kept = steps if truncation is None else truncation

    def forward(carry: tuple[Tree, Tree], i: Any) -> tuple[tuple[Tree, Tree], Any]:
        y, state = carry
        batch = problem.lower.draw(jax.random.fold_in(key, i))
        new = lower_step(y, oracles.lower_gradient(problem.lower, x, y, batch), state, t)
        return new, (y, state, batch.indices)

    carry = (y, lower_step.init(y))
    carry = jax.lax.fori_loop(0, steps - kept, lambda i, carry: forward(carry, i)[0], carry)
    (y, _), path = jax.lax.scan(forward, carry, jnp.arange(steps - kept, steps))
    F_x, p = oracles.upper_gradients(problem.upper, x, y, upper_batch)

    h = trees.dense(F_x, x)
    if isinstance(lower_step, GradientStep):
        back = _plain_back(problem, x, lower_step.rate(t))
    else:
        back = _rule_back(problem, x, lower_step, t)
        p = (p, trees.zeros_like(eqx.filter(lower_step.init(y), eqx.is_inexact_array)))
    (h, _), _ = jax.lax.scan(back, (h, p), path, reverse=True)
    return Unrolled(h, y)


def _plain_back(problem: Problem, x: Tree, alpha: Any) -> Callable[..., Any]:
    """h ← h − α J(x, y^t)[p],  p ← p − α H(x, y^t)[p]."""

    def back(carry: tuple[Tree, Tree], at: Any) -> tuple[tuple[Tree, Tree], None]:
        h, p = carry
        y_t, _, indices = at
        _, Hp, Jp = oracles.lower_products(problem.lower, x, y_t, p, problem.lower.take(indices))
        return (trees.sub(h, trees.scale(alpha, Jp)), trees.sub(p, trees.scale(alpha, Hp))), None

    return back


def _rule_back(problem: Problem, x: Tree, lower_step: AbstractStep, t: Any) -> Callable[..., Any]:
    """The same through a rule: p is the cotangent of (y, the rule's own state), whose counters carry none."""

    def back(carry: tuple[Tree, Tree], at: Any) -> tuple[tuple[Tree, Tree], None]:
        h, p = carry
        y_t, state_t, indices = at
        batch = problem.lower.take(indices)
        moving, counters = eqx.partition(state_t, eqx.is_inexact_array)

        def one_step(x: Tree, y: Tree, moving: Tree) -> tuple[Tree, Tree]:
            gradient = oracles.lower_gradient(problem.lower, x, y, batch)
            y, state = lower_step(y, gradient, eqx.combine(moving, counters), t)
            return y, eqx.filter(state, eqx.is_inexact_array)

        _, pull = jax.vjp(one_step, x, y_t, moving)
        h_x, *p = pull(p)
        return (trees.add(h, h_x), tuple(p)), None

    return back


def check_differentiable(rule: AbstractStep) -> None:
    """Raise where a rule has no derivative at a zero gradient, as Adam's square root has none."""
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
