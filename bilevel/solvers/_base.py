"""What a solver is, and the lower loop that the double-loop ones share."""

import abc
import dataclasses
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import oracles
from bilevel.problem import Level, Problem
from bilevel.steps import AbstractStep, Settings

Tree = PyTree[Any]


# of a state's field that belongs to x, and so goes on where fresh tasks start all the rest anew
OF_X = {"belongs to": "x"}


class AbstractSolver(Settings):
    """An algorithm: its hyperparameters, a start and a step.

    Every state is an Equinox module with at least `x`, `y` and `tally`. Its fields that belong to x are declared
    `eqx.field(metadata=OF_X)`; a tuple `rules` of step-rule states begins with that of x.
    """

    @abc.abstractmethod
    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> Any:
        """The state before the first step. Oracles that it calls count."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: Any, t: Any, *, key: PRNGKeyArray) -> Any:
        """The state after iteration t = 0, 1, …: a pure function, its structure and dtypes fixed."""

    def restart(self, problem: Problem, state: Any, *, key: PRNGKeyArray) -> Any:
        """The state for fresh tasks: `init` at `problem.start(x)`, but for what belongs to x. What it costs counts.

        A previous lower point `y_old` is where the fresh tasks would have begun at `x_old`.
        """
        fresh = self.init(problem, state.x, start_of(problem, state.x), key=key)
        values = {}
        for field in dataclasses.fields(fresh):
            old, new = getattr(state, field.name), getattr(fresh, field.name)
            if field.metadata.keys() >= OF_X.keys():
                new = old
            elif field.name == "rules":
                new = (old[0], *new[1:])
            elif field.name == "y_old":
                new = start_of(problem, state.x_old)
            elif field.name == "tally":
                new = old + new
            values[field.name] = new
        return type(fresh)(**values)

    def on_fresh_tasks(self) -> Self:
        """The solver for a problem whose every step has fresh tasks: averages over past lower levels are off."""
        return self

    def is_convex(self, state: Any) -> Bool[Array, ""] | bool:
        """False once the solver has met a lower level that is visibly not convex."""
        return True


class AbstractEstimator(AbstractSolver):
    """A solver that moves x along an estimate of the hypergradient at x: x_{k+1} = x_k − β_k h(x_k).

    Its state has the state of x's step rule as `rule`.
    """

    upper_step: eqx.AbstractVar[AbstractStep]

    @abc.abstractmethod
    def estimate(self, problem: Problem, state: Any, t: Any, *, key: PRNGKeyArray) -> tuple[Tree, Any]:
        """h at the state's x, and the state with all but x and its rule gone on: what the listing says of a step."""

    def step(self, problem: Problem, state: Any, t: Any, *, key: PRNGKeyArray) -> Any:
        h, state = self.estimate(problem, state, t, key=key)
        return self.move(problem, state, h, t)

    def move(self, problem: Problem, state: Any, direction: Tree, t: Any) -> Any:
        """The state with x a step of its rule on, along the direction."""
        x, rule = self.upper_step(state.x, direction, state.rule, t)
        return eqx.tree_at(lambda state: (state.x, state.rule), state, (problem.project(x), rule))


def start_of(problem: Problem, x: Tree) -> Tree:
    """Where y begins with fresh tasks, in arrays whose dtype is settled."""
    if problem.start is None:
        raise ValueError("start: the problem has none; pass bl.Problem(..., start=lambda x: y)")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.result_type(leaf)), problem.start(x))


def descend(
    level: Level, x: Tree, y: Tree, lower_step: AbstractStep, steps: Any, t: Any = None, *, key: PRNGKeyArray
) -> Tree:
    """`steps` steps y ← y − α G_y(x, y), each on a fresh batch; the count may be traced.

    A rule with a state (Adam) starts anew with each call; a schedule sees the outer iteration t, or without one the
    inner iteration.
    """

    level, x, _ = oracles.at_fixed_x(level, x)

    def body(i: Any, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        y, rule = carry
        batch = level.draw(jax.random.fold_in(key, i))
        return lower_step(y, oracles.lower_gradient(level, x, y, batch), rule, i if t is None else t)

    return jax.lax.fori_loop(0, steps, body, (y, lower_step.init(y)))[0]
