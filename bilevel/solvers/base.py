"""What a solver is, and the lower loop that the double-loop ones share."""

import abc
from typing import Any

import jax
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import oracles
from bilevel.problem import Level, Problem
from bilevel.steps import AbstractStep, Settings

Tree = PyTree[Any]


class AbstractSolver(Settings):
    """An algorithm: its hyperparameters, a start and a step.

    Every state is an Equinox module with at least `x`, `y` and `tally`.
    """

    @abc.abstractmethod
    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> Any:
        """The state before the first step. Oracles that it calls count."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: Any, t: Any, *, key: PRNGKeyArray) -> Any:
        """The state after iteration t = 0, 1, …: a pure function, its structure and dtypes fixed."""

    def is_convex(self, state: Any) -> Bool[Array, ""] | bool:
        """False once the solver has met a lower level that is visibly not convex."""
        return True


def descend(
    level: Level, x: Tree, y: Tree, lower_step: AbstractStep, steps: Any, t: Any = None, *, key: PRNGKeyArray
) -> Tree:
    """`steps` steps y ← y − α G_y(x, y), each on a fresh batch; the count may be traced.

    A rule with a state (Adam) starts anew with each call; a schedule sees the outer iteration t, or without one the
    inner iteration.
    """

    def body(i: Any, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        y, rule = carry
        batch = level.draw(jax.random.fold_in(key, i))
        return lower_step(y, oracles.lower_gradient(level, x, y, batch), rule, i if t is None else t)

    return jax.lax.fori_loop(0, steps, body, (y, lower_step.init(y)))[0]
