"""The base classes of solvers."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel.cost import Cost
from bilevel.fields import Settings
from bilevel.problem import Problem
from bilevel.solvers.theory import Choice, Facts
from bilevel.trees import Tree

State = Any  # each solver has its own Equinox module, with x and y


@dataclasses.dataclass(frozen=True)
class About:
    """A solver's name on the command line, its row in the tables, and the details that no available source settles."""

    name: str
    lower: str
    adjoint: str
    direction: str
    source: str
    unverified: str = ""


class Tuned:
    """A solver's settings on a task, and the number of steps: all solvers compute about the same amount.

    `task` holds the task settings that the solver needs, unless the user sets them.
    """

    def __init__(self, steps: int, *, task: dict[str, Any] | None = None, **settings: Any):
        self.steps, self.settings, self.task = steps, settings, task or {}


class AbstractSolver(Settings):
    """An algorithm: its hyperparameters, `init` and `step`.

    A state is an Equinox module with at least `x` and `y`. The states of step rules are `x_rule`, `y_rule` and
    `v_rule`; the adjoint, if it is kept, is `v`, shaped like y.

    A setting that is out of range raises a `ValueError` or `TypeError` that names it.

    Class variables:

    - `of_x`: the fields of the state that belong to x. They are kept when new tasks are drawn (`bl.Episodes` with a
      `start`); all others are initialized again. None, the default, is for a solver whose direction depends on a y or
      an adjoint of earlier steps: it does not work on such episodes, and `solve` refuses it.
    - `like_x`: the fields of the state that are shaped like x. Rows of a per-row x that are not in the batch need no
      work in a step if the step is linear in them (`bilevel._lagged`).
    - `about`, `tuned`: its row in the tables, and its settings on tasks.
    - `scaling`, `power`, `normalized`: see `suggested`.
    """

    of_x: ClassVar[tuple[str, ...] | None] = None
    like_x: ClassVar[tuple[str, ...]] = ("x",)
    about: ClassVar[About | None] = None
    tuned: ClassVar[dict[str, Tuned]] = {}
    scaling: ClassVar[float] = 1.0
    power: ClassVar[float] = 0.0
    normalized: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[State, Cost]:
        """The state before the first step, and its cost."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: State, t: Any, *, key: PRNGKeyArray) -> tuple[State, Cost]:
        """The state after iteration t = 0, 1, …, and the cost of the step.

        It is a pure function that keeps the state's structure and dtypes. The driver's `t` is never batched.
        """

    @property
    def on_episodes(self) -> bool:
        """Whether the solver works when each step has fresh tasks and y restarts."""
        return self.of_x is not None

    def restart(self, problem: Problem, state: State, y: Tree, *, key: PRNGKeyArray) -> tuple[State, Cost]:
        """The state for fresh tasks: `init` at (x, `y`), except for the fields of x."""
        assert self.of_x is not None
        fresh, cost = self.init(problem, state.x, y, key=key)
        kept = {name: getattr(state, name) for name in self.of_x}
        return dataclasses.replace(fresh, **kept), cost

    def is_convex(self, state: State) -> Bool[Array, ""] | bool:
        """False once the solver has met a lower level that is visibly not convex."""
        return getattr(state, "convex", True)

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        """The theory's settings from measured constants, except for the upper step.

        - `scaling` multiplies the theory's lower step and adjoint step. `benchmarks/suggest.py` measures it.
        - `power`: over a run of K steps the theory's upper step is proportional to K^−power.
        - `normalized`: the upper direction has length one.
        """
        raise NotImplementedError(f"no theory is known here for {cls.__name__}")


class AbstractHypergradientSolver(AbstractSolver):
    """A solver that moves x along an estimate of the hypergradient at x: x_{k+1} = x_k − β_k h(x_k)."""

    upper_step: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def hypergradient(self, problem: Problem, state: State, t: Any, *, key: PRNGKeyArray) -> tuple[Tree, State, Cost]:
        """h at the state's x, the state after the step except for x and its rule, and the cost of both."""

    def step(self, problem: Problem, state: State, t: Any, *, key: PRNGKeyArray) -> tuple[State, Cost]:
        h, state, cost = self.hypergradient(problem, state, t, key=key)
        return self.step_x(problem, state, h, t), cost

    def step_x(self, problem: Problem, state: State, direction: Tree, t: Any) -> State:
        """Moves x one step along `direction`."""
        x, x_rule = self.upper_step(state.x, direction, state.x_rule, t)
        return dataclasses.replace(state, x=problem.project(x), x_rule=x_rule)
