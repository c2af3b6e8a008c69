"""The steps of a run as pure functions: its start, any number of its iterations, and whether it is still sound."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import trees
from bilevel.problem import Problem
from bilevel.solvers._base import AbstractSolver, start_of

Tree = PyTree[Any]


def advance(solver: AbstractSolver, problem: Problem, state: Any, key: PRNGKeyArray, t0: Any, n: Any) -> Any:
    """`n` steps from iteration `t0`, the key of step t being `fold_in(key, t)`: pure.

    `t0` and `n` may be traced, so that one compiled program serves every chunk. The trajectory depends
    neither on how the steps are cut into chunks nor on an interruption. x and y hold arrays alone. Under a
    `jit` of your own, pass `problem` as an argument (of `eqx.filter_jit`): closed over, its data are compiled in.

    Where the problem redraws its tasks, each step has tasks of its own, and the state at t0 = 0 is that of `bl.begin`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver, key = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5), jax.random.key(0)
        >>> state = solver.init(problem, jax.numpy.ones(()), jax.numpy.zeros(()), key=key)
        >>> round(float(bl.advance(solver, problem, state, key, 0, 500).x), 3)
        0.333
    """

    if problem.restarts:
        solver = solver.on_fresh_tasks()

    def body(t: Any, state: Any) -> Any:
        if problem.redraw is None:
            return solver.step(problem, state, t, key=jax.random.fold_in(key, t))
        tasks_key, restart_key, step_key = _keys_with_tasks(key, t)
        tasks, old = problem.resample(tasks_key), state
        if problem.restarts:  # but at t = 0, where `begin` has been with the same tasks
            state = jax.lax.cond(t > 0, lambda: solver.restart(tasks, old, key=restart_key), lambda: old)
        return solver.step(tasks, state, t, key=step_key)

    return jax.lax.fori_loop(t0, t0 + n, body, state)


def begin(solver: AbstractSolver, problem: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> Any:
    """The state before the first step of a run with this key, as `solve` has it: for use with `advance`.

    Where the problem redraws its tasks it is of those of step 0, and y is `problem.start(x)` if there is a `start`.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver, key = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5), jax.random.key(0)
        >>> float(bl.begin(solver, problem, jax.numpy.ones(()), jax.numpy.zeros(()), key).x)
        1.0
    """
    init_key = jax.random.fold_in(key, 2**31)  # no step has this number
    if problem.restarts:
        y = start_of(problem, x)
    if problem.redraw is not None:
        problem = problem.resample(_keys_with_tasks(key, 0)[0])
    return solver.init(problem, x, y, key=init_key)


def _keys_with_tasks(key: PRNGKeyArray, t: Any) -> PRNGKeyArray:
    """The keys of step t for drawing the tasks, for starting anew on them, and for the step."""
    return jax.random.split(jax.random.fold_in(key, t), 3)


def status(solver: AbstractSolver, state: Any) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether all numbers are finite, and whether the adjoint's solver has met positive curvature alone."""
    return trees.all_finite(state), jnp.asarray(solver.is_convex(state))
