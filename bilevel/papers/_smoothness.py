"""The relaxed smoothness of f, Assumption 1 of BO-REP's paper, along a run."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from bilevel import oracles, trees
from bilevel.problem import Episodes, Level, Problem
from bilevel.run._solution import Solution

PLACES = (1 / 3, 2 / 3, 1.0)


class UpperSmoothness:
    """A recorder of `solve`. With u = (x, y), Δ the run's last step and γ = 1/3, 2/3, 1, it records

        smoothness in x = max over γ of ‖F_x(u + γΔ) − F_x(u)‖ / ‖γΔ‖,   x-gradient norm = ‖F_x(u)‖,

    the same for y, and `upper loss` f(u): all on all rows, at the run's own y. Tasks that a run draws afresh give way
    to the first of the pool. Rows where nothing moved are NaN.

    Reference: Hao, Gong & Liu (ICLR 2024), Assumption 1 and appendix G, which takes the estimate of Zhang, He, Sra &
    Jadbabaie (ICLR 2020), appendix H.3.
    """

    def __init__(self, problem: Problem | Episodes):
        self._level = (problem.redraw.pool if isinstance(problem, Episodes) else problem).upper
        self._last: Any = None

    def __call__(self, solution: Solution) -> dict[str, float]:
        u, last = (solution.x, solution.y), self._last
        self._last = u
        names = "smoothness in x", "smoothness in y", "x-gradient norm", "y-gradient norm", "upper loss"
        if last is None:
            return dict.fromkeys(names, math.nan)
        return dict(zip(names, map(float, _measure(self._level, last, u)), strict=True))


@eqx.filter_jit
def _measure(level: Level, u: tuple[Any, Any], later: tuple[Any, Any]) -> tuple[Array, ...]:
    (x, y), rows, step = u, level.all_rows(), trees.sub(later, u)
    here, moved = oracles.upper_gradients(level, x, y, rows), trees.norm(step)
    ratios = []
    for place in PLACES:
        there = oracles.upper_gradients(level, *trees.axpy(place, step, u), batch=rows)
        ratios.append([trees.norm(trees.sub(*pair)) / (place * moved) for pair in zip(there, here, strict=True)])
    of_x, of_y = jnp.max(jnp.array(ratios), axis=0)
    return of_x, of_y, *map(trees.norm, here), level.value(x, y, rows)
