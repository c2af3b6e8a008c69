"""The steps of a run as pure functions: its start, any number of iterations, and whether its state is sound."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import _random, trees
from bilevel.cost import Cost, Total
from bilevel.problem import Episodes, Problem, start_of
from bilevel.run._lag import advance_lagging, lag_of
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.registry import on_episodes
from bilevel.trees import Tree


def advance(
    solver: AbstractSolver, problem: Problem | Episodes, state: Any, key: PRNGKeyArray, t0: Any, n: Any
) -> tuple[Any, Total]:
    """The state after `n` steps from iteration `t0`, and their cost. A pure function.

    Step t has the light key (see `bilevel._random`) that is made of `key` and t. `t0` and `n` may be traced, so that
    one compiled program serves every chunk. The trajectory depends neither on how the steps are cut into chunks nor on
    an interruption. (With a momentum on a per-row x of 2¹⁵ or more entries, chunks change it by rounding: after each,
    all rows are up to date.) x and y hold only arrays. In a `jit` of your own, pass `problem` as an argument (of
    `eqx.filter_jit`), not in a closure.

    On `Episodes`, each step draws its own tasks, and the state at t0 = 0 must come from `bl.initial_state`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver, key = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5), jax.random.key(0)
        >>> state, _ = bl.initial_state(solver, problem, jax.numpy.ones(()), jax.numpy.zeros(()), key)
        >>> state, cost = bl.advance(solver, problem, state, key, 0, 500)
        >>> round(float(state.x), 3), cost.to_dict()
        (0.333, {'F': 500, 'G': 500, 'H': 500, 'J': 500})
    """
    check_episodes(solver, problem)
    light = _random.light(key)

    def one_step(state: Any, t: Any) -> tuple[Any, Cost]:
        assert isinstance(problem, Problem)
        return solver.step(problem, state, t, key=_random.at(light, t))

    def on_problem(t: Any, carry: tuple[Any, Total]) -> tuple[Any, Total]:
        state, spent = one_step(carry[0], t)
        return state, carry[1] + spent

    def on_tasks(t: Any, carry: tuple[Any, Total]) -> tuple[Any, Total]:
        assert isinstance(problem, Episodes)
        state, cost = carry
        tasks_key, restart_key, step_key = _keys_with_tasks(light, t)
        tasks = problem.draw(tasks_key)
        if tasks.start is not None:  # at t = 0, `initial_state` has already used the same tasks

            def fresh() -> tuple[Any, Total]:
                new, spent = solver.restart(tasks, state, start_of(tasks, state.x), key=restart_key)
                return new, cost + spent

            state, cost = jax.lax.cond(t > 0, fresh, lambda: (state, cost))
        state, spent = solver.step(tasks, state, t, key=step_key)
        return state, cost + spent

    if isinstance(problem, Problem):
        lag = lag_of(solver, problem, state, one_step)
        if lag is not None:
            return advance_lagging(lag, one_step, state, t0, n)
    body = on_tasks if isinstance(problem, Episodes) else on_problem
    return jax.lax.fori_loop(t0, t0 + n, body, (state, Total.zero()))


def initial_state(
    solver: AbstractSolver, problem: Problem | Episodes, x: Tree, y: Tree, key: PRNGKeyArray
) -> tuple[Any, Total]:
    """The state before the first step of a run with this key, and its cost. `solve` starts from the same state.

    An x outside X is projected onto it first, as it is after each step.

    Pass the state to `advance`. On `Episodes` it belongs to the tasks of step 0, and y is `start(x)` if there is a
    `start`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver, key = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5), jax.random.key(0)
        >>> state, _ = bl.initial_state(solver, problem, jax.numpy.ones(()), jax.numpy.zeros(()), key)
        >>> float(state.x)
        1.0
    """
    check_episodes(solver, problem)
    x = problem.project(x)
    x, y = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), (x, y))  # no weak types
    key = _random.light(key)
    init_key = jax.random.fold_in(key, 2**31)  # no solver folds in this number
    if isinstance(problem, Episodes):
        problem = problem.draw(_keys_with_tasks(key, 0)[0])
        if problem.start is not None:
            y = start_of(problem, x)
    state, cost = solver.init(problem, x, y, key=init_key)
    return state, Total.zero() + cost


def _keys_with_tasks(key: PRNGKeyArray, t: Any) -> Array:
    """The keys of step t for drawing the tasks, for restarting on them, and for the step."""
    return jax.random.split(_random.at(key, t), 3)


def key_of_tasks(key: PRNGKeyArray, t: Any) -> Array:
    """The key with which step t of a run draws its tasks."""
    return _keys_with_tasks(_random.light(key), t)[0]


def check_episodes(solver: AbstractSolver, problem: Problem | Episodes) -> None:
    """Raise if the solver does not work on these episodes."""
    if isinstance(problem, Episodes) and problem.start is not None and not solver.on_episodes:
        name = type(solver).__name__
        raise ValueError(
            f"solver: {name} moves x with a y or an adjoint from earlier steps, but these episodes have a start and "
            "restart both in each step, so that x would not move along a hypergradient; use "
            f"{', '.join(on_episodes())} or RecursiveMomentum of one of these. If the tasks are samples of one lower "
            "problem, or y holds exchangeable slots for them, pass bl.Episodes(redraw) without a start, and y to solve"
        )


def status(solver: AbstractSolver, state: Any) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether all numbers are finite, and whether the adjoint method has met only positive curvature."""
    return trees.all_finite(state), jnp.asarray(solver.is_convex(state))
