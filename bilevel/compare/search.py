"""Reference rows of a search without gradients: random search and, where it is installed, Optuna's sampler.

A trial is a point of the box that the task declares (`Search`). Its lower level is solved on all rows by Newton's
method, from the best y so far, and it is judged by the upper loss on all rows. So the rows say what a few numbers,
chosen without derivatives, reach with as many oracle samples as the solvers use.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bilevel import oracles
from bilevel._prepare import prepare
from bilevel.cost import Cost, Total
from bilevel.diagnostics.constants import on_all_rows
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.hypergradients.lower import Newton
from bilevel.problem import Episodes
from bilevel.run._identity import computation
from bilevel.tasks import Search, Task
from bilevel.trees import size

RANDOM, OPTUNA = "random search", "Optuna"
SEARCHES = (RANDOM, OPTUNA)
MOST = 20  # numbers: with more of them, tens of trials say nothing
_LOWER = Newton(steps=20, linear=ConjugateGradient(steps=50, tolerance=1e-2), tolerance=1e-6)


@dataclass(frozen=True)
class Searched:
    """The score at the best trial, the number of trials, and the samples that they took."""

    score: float
    trials: int
    samples: int


def check(task: Task) -> Search:
    """The task's box.

    **Raises** `ValueError`, which says why, for a task on which such a search means nothing.
    """
    if isinstance(task.problem, Episodes):
        raise ValueError(f"search: {task.name} draws a new problem in each step, on which no trial can be judged")
    box = task.search
    if box is None:
        raise ValueError(
            f"search: {task.name} declares no box for a search without gradients: x has {size(task.x)} numbers; "
            "declare search=Search(low=..., high=..., x=...) with a few numbers that x is made of"
        )
    if len(box.low) > MOST:
        raise ValueError(
            f"search: {task.name} declares {len(box.low)} numbers, and a few trials cannot search more than {MOST}; "
            "declare fewer numbers that x is made of"
        )
    return box


def search(task: Task, budget: int, seed: int) -> dict[str, Searched]:
    """The rows of a seed, each with as many trials as `budget` samples pay for.

    **Raises** `ValueError` if they pay for none.
    """
    box = check(task)
    rng = np.random.default_rng([seed, 1])
    found = {RANDOM: _searched(task, box, budget, lambda: rng.uniform(box.low, box.high), lambda loss: None, seed)}
    if OPTUNA in available():
        found[OPTUNA] = _searched(task, box, budget, *_optuna(box, seed), seed)
    return found


def available() -> list[str]:
    """The rows that this installation makes."""
    return [RANDOM, OPTUNA] if importlib.util.find_spec("optuna") is not None else [RANDOM]


def computation_of(task: Task) -> str:
    """A hash of what a trial computes on the task."""
    key, prepared = jax.random.key(0), prepare(task.problem, task.x, task.y)
    problem: Any = prepared.problem
    return computation(_tried, on_all_rows(problem, key), prepared.x, prepared.y, key)


def _optuna(box: Search, seed: int) -> tuple[Callable[[], np.ndarray], Callable[[float], None]]:
    """Optuna's default sampler, which proposes a point and is told its loss."""
    import optuna  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, asked = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed)), []

    def propose() -> np.ndarray:
        asked.append(study.ask())
        names = [str(i) for i in range(len(box.low))]
        return np.array([asked[-1].suggest_float(*bounds) for bounds in zip(names, box.low, box.high, strict=True)])

    def tell(loss: float) -> None:
        study.tell(asked[-1], loss if math.isfinite(loss) else np.finfo(np.float32).max.item())

    return propose, tell


@eqx.filter_jit
def _tried(whole: Any, x: Any, y: Any, key: Any) -> tuple[Any, Any, Total]:
    """The upper loss at y*(x), y*(x), and the cost."""
    x = whole.project(x)
    lower = _LOWER.solve(whole.lower, x, y, key=key)
    loss = oracles.loss(whole.upper, x, lower.y, whole.upper.all_rows())
    return loss, (x, lower.y), Total.zero() + lower.cost + Cost(F=whole.upper.length)


def _searched(
    task: Task,
    box: Search,
    budget: int,
    propose: Callable[[], np.ndarray],
    tell: Callable[[float], None],
    seed: int,
) -> Searched:
    key = jax.random.fold_in(jax.random.key(seed), 3)
    prepared = prepare(task.problem, task.x, task.y)
    problem: Any = prepared.problem
    whole, best, y, spent, trials = on_all_rows(problem, key), math.inf, prepared.y, 0, 0
    point: Any = None
    while True:
        numbers = jnp.asarray(propose(), jnp.result_type(float))
        x = jax.tree.map(lambda made, like: jnp.asarray(made, like.dtype), box.x(numbers), prepared.x)
        loss, tried, cost = _tried(whole, x, y, key)
        spent += (took := sum(cost.to_dict().values()))
        if spent > budget:
            break
        trials += 1
        tell(float(loss))
        if loss < best:
            best, point, y = float(loss), tried, tried[1]
    if point is None:
        raise ValueError(f"search: {budget} samples pay for no trial on {task.name}; one takes {took}")
    at = prepared.restore_x(point[0]), prepared.restore_y(point[1])
    return Searched(float(task.metrics(*at)[task.score]), trials, spent - took)
