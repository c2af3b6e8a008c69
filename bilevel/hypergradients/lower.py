"""How y moves to y*(x): a number of gradient steps, gradient descent to a tolerance, and Newton's method."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import Settings, count, number, part
from bilevel.fields import step as step_size
from bilevel.hypergradients.adjoint import AbstractAdjoint, ConjugateGradient
from bilevel.oracles import HessianOperator
from bilevel.problem import Level, identity
from bilevel.steps import AbstractStep, Step
from bilevel.trees import Tree


def descend(
    level: Level,
    x: Tree,
    y: Tree,
    lower_step: AbstractStep,
    steps: Any,
    t: Any = None,
    *,
    key: PRNGKeyArray,
    project: Callable[[Tree], Tree] | None = None,
    average: bool = False,
) -> Tree:
    """`steps` steps y ← y − α G_y(x, y), each on a fresh batch; the count may be traced.

    A rule with a state (Adam) restarts in each call. A schedule receives the outer iteration t, or the inner iteration
    if t is None. `project` is applied after each step. With `average`, the mean of the iterates is returned.
    """

    level, x, _ = oracles.hoist_features(level, x)

    def body(i: Any, carry: tuple[Tree, Tree, Tree]) -> tuple[Tree, Tree, Tree]:
        y, rule, total = carry
        batch = level.draw(jax.random.fold_in(key, i))
        y, rule = lower_step(y, oracles.gradient_y(level, x, y, batch), rule, i if t is None else t)
        y = y if project is None else project(y)
        return y, rule, trees.add(total, y) if average else total

    carry = (y, lower_step.init(y), trees.zeros_like(y) if average else None)
    y, _, total = jax.lax.fori_loop(0, steps, body, carry)
    return trees.scale(1 / steps, total) if average else y


def ball(center: Tree, radius: Any) -> Callable[[Tree], Tree]:
    """The projection onto the ball of `radius` around `center`."""

    def project(y: Tree) -> Tree:
        offset = trees.sub(y, center)
        distance = trees.norm(offset)
        return trees.axpy(jnp.minimum(1.0, radius / jnp.where(distance > 0, distance, radius)), offset, center)

    return project


class LowerSolution(eqx.Module):
    """y ≈ y*(x), its cost, whether the method reached its tolerance, and the number of its iterations."""

    y: Tree
    cost: Cost
    converged: Bool[Array, ""] | bool
    steps: Int[Array, ""]


class AbstractLower(Settings):
    """A method for y*(x) = argmin over y of g(x, y)."""

    @abc.abstractmethod
    def solve(self, level: Level, x: Tree, y: Tree, *, key: PRNGKeyArray, t: Any = None) -> LowerSolution:
        """Solve from y. A schedule receives the outer iteration t, or the inner iteration if t is None."""


class GradientDescent(AbstractLower):
    """At most `steps` steps y ← y − α G_y(x, y).

    Stops at the first y with ‖G_y‖ ≤ `tolerance` or, on all rows, once a step is within rounding. By default it takes
    all steps. With a projection P, each step is y ← P(y − α G_y), and ‖y − P(y − G_y)‖ takes the place of ‖G_y‖.

    **Arguments**: `step` (α), a number, a schedule or a `Rule`. A level with a `batch_size` draws a fresh batch for
    each step.

    Example:

        >>> import bilevel as bl, optax
        >>> inner = bl.GradientDescent(steps=500, step=bl.Rule(optax.adam, 0.01), tolerance=1e-4)
    """

    steps: int = count()
    step: Step = step_size()
    tolerance: Any = number(checks.nonnegative, default=0.0)

    def solve(
        self,
        level: Level,
        x: Tree,
        y: Tree,
        *,
        key: PRNGKeyArray,
        t: Any = None,
        project: Callable[[Tree], Tree] | None = None,
    ) -> LowerSolution:
        size, project = level.size, identity if project is None else project
        level, x, _ = oracles.hoist_features(level, x)
        dtype = jnp.result_type(*jax.tree.leaves(y))
        tolerance, epsilon = jnp.asarray(self.tolerance).astype(dtype), jnp.finfo(dtype).eps

        def going_on(carry: Any) -> Bool[Array, ""]:
            i, _, _, _, done = carry
            return (i < self.steps) & ~done

        def body(carry: Any) -> Any:
            i, y, rule, _, _ = carry
            G_y = oracles.gradient_y(level, x, y, level.draw(jax.random.fold_in(key, i)))
            left = G_y if project is identity else trees.sub(y, project(trees.sub(y, G_y)))
            met = trees.norm(left) <= tolerance  # NaN continues, to be noticed as non-finite
            new, rule = self.step(y, G_y, rule, i if t is None else t)
            new = project(new)
            rests = trees.norm(trees.sub(new, y)) <= epsilon * trees.norm(new) if level.batch_size is None else False
            return i + 1, trees.where(met, y, new), rule, met, met | rests

        no = jnp.array(False)
        calls, y, _, met, _ = jax.lax.while_loop(going_on, body, (0, y, self.step.init(y), no, no))
        return LowerSolution(y, Cost(G=(calls, size)), met, calls)


class Newton(AbstractLower):
    """At most `steps` steps of Newton's method on all rows, halved until g falls.

        δ = H⁻¹ G_y by `linear`;   y ← y − s δ, s the first of 1, ½, ¼, … with g(y − s δ) ≤ g(y) − 10⁻⁴ s ⟨G_y, δ⟩

    Stops at ⟨G_y, δ⟩ ≤ `tolerance`. If ⟨G_y, δ⟩ is within the rounding of g, s is the first with which ‖G_y‖ falls by
    at least s/4 of itself and g does not rise: g alone would end the steps too early, and ‖G_y‖ alone is misleading
    where g is nearly linear. With a tolerance of 0 the method stops when rounding keeps ‖G_y‖ from falling further.

    **Arguments**: `steps` may be traced. `linear`: an adjoint method, for the systems in H.

    Example:

        >>> import bilevel as bl
        >>> inner = bl.Newton(steps=20, linear=bl.ConjugateGradient(steps=50))

    Reference: Nocedal & Wright, Numerical Optimization (2nd ed.), Algorithm 7.1 (line search Newton-CG).
    """

    steps: Any = number(default=50)
    linear: AbstractAdjoint = part(AbstractAdjoint, "bl.ConjugateGradient(steps=20)", default=ConjugateGradient(20))
    tolerance: Any = number(checks.nonnegative, default=0.0)
    halvings: int = count(default=20)

    def solve(self, level: Level, x: Tree, y: Tree, *, key: PRNGKeyArray, t: Any = None) -> LowerSolution:
        rows, size = level.all_rows(), level.length

        def at(y: Tree) -> tuple[Array, Tree]:
            return oracles.loss_and_gradient_y(level, x, y, rows)

        def going_on(carry: Any) -> Bool[Array, ""]:
            i, _, _, _, goes = carry
            return (i < self.steps) & goes

        def step(carry: Any) -> Any:
            i, (gradients, products), y, (g, G_y), _ = carry
            found = self.linear.solve(HessianOperator(level, x, y, rows), G_y, None, key=key, t=0)
            decrement, size_G = trees.dot(G_y, found.v), trees.norm(G_y)
            slack = 10 * jnp.finfo(g.dtype).eps * jnp.abs(g)

            def falls(length: Array, g_new: Array, G_new: Tree) -> Bool[Array, ""]:
                clearly = g_new <= g + slack - 1e-4 * length * decrement
                finely = (g_new <= g + slack) & (trees.norm(G_new) <= (1 - length / 4) * size_G)
                return jnp.where(decrement > slack, clearly, finely)

            def too_long(trial: Any) -> Bool[Array, ""]:
                k, length, g_new, G_new = trial
                return (k < self.halvings) & ~falls(length, g_new, G_new)

            def halve(trial: Any) -> Any:
                k, length = trial[0] + 1, trial[1] / 2
                return k, length, *at(trees.axpy(-length, found.v, y))

            start = (0, jnp.ones_like(g), *at(trees.axpy(-1.0, found.v, y)))
            k, length, g_new, G_new = jax.lax.while_loop(too_long, halve, start)
            fell = falls(length, g_new, G_new)
            new = (trees.axpy(-length, found.v, y), (g_new, G_new))
            kept = trees.where(fell, new, (y, (g, G_y)))
            calls = found.products[0] if isinstance(found.products, tuple) else found.products // size
            return i + 1, (gradients + k + 1, products + calls), *kept, fell & ~(decrement <= self.tolerance)

        g, G_y = at(y)
        start = (0, (1, 0), y, (g, G_y), trees.norm(G_y) > 0)
        steps, (gradients, products), y, _, goes = jax.lax.while_loop(going_on, step, start)
        return LowerSolution(y, Cost(G=(gradients, size), H=(products, size)), ~goes, steps)
