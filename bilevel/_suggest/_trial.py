"""A short trial of upper steps, by successive halving.

It calls `advance`, the program of every run, and not `solve`: each candidate runs for a number of samples, continues
from a state, and needs no history.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from bilevel import oracles, trees
from bilevel.diagnostics.constants import on_all_rows
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.problem import Level, Problem
from bilevel.run._advance import advance, initial_state
from bilevel.solvers.base import AbstractSolver
from bilevel.trees import Tree

TRIAL = 0.2  # at most this part of the budget
WARM_UP = 0.2  # this part of the trial has x held fixed, until y and v have settled
FACTOR = 4.0  # between neighboring candidates
KEPT = (20, 4, 2)  # candidates in each round of successive halving; the rounds cost the same
_HELD = 1e-30  # a step that leaves x where it is
_CG_STEPS = 20


@dataclass(frozen=True)
class Trial:
    """A candidate: its upper step, its number of steps, and then the upper loss by item 3 of `suggest`, which is
    infinite if the iterates were not finite."""

    upper_step: float
    steps: int
    loss: float


@dataclass
class _Candidate:
    upper_step: float
    state: Any
    steps: int = 0
    loss: float = math.inf


@dataclass
class _Found:
    """The trial's winner, all candidates, the samples spent, and the samples per step."""

    winner: Trial
    trials: list[Trial]
    samples: int
    per_step: float

    def reason(self, steps: int, power: float) -> str:
        least, most, n = self.trials[0].upper_step, self.trials[-1].upper_step, self.winner.steps
        text = f"trial of {len(self.trials)} steps, {least:.2g} to {most:.2g}: {self.winner.upper_step:.3g} did best"
        return text + (f" in {n} steps, times ({n}/{steps})^{power:.2g} for a run of {steps}" if power else "")


def try_steps(
    problem: Problem,
    x: Tree,
    y: Tree,
    build: Callable[[float], AbstractSolver],
    budget: float,
    normalized: bool,
    *,
    key: PRNGKeyArray,
) -> _Found:
    """The upper step that does best in a trial on a part of the budget: items 1 to 3 of `suggest`."""
    run_key, rows_key, h_key = jax.random.split(key, 3)
    whole = on_all_rows(problem, rows_key)
    state, t0, warm_up = _warm_up(problem, x, y, build(_HELD), WARM_UP * TRIAL * budget, key=run_key)
    per_step = warm_up / t0
    loss, norm, v = _survey(whole, x, state.y, h_key)
    spent = warm_up + (_CG_STEPS + 2) * whole.lower.length + 2 * whole.upper.length

    candidates = [_Candidate(step, state) for step in _bracket(float(loss), float(norm), budget / per_step, normalized)]
    share = max(0.0, TRIAL * budget - spent) / len(KEPT)
    alive = candidates
    for kept in KEPT:
        for candidate in sorted(alive, key=lambda candidate: candidate.loss)[:kept]:
            solver, t = build(candidate.upper_step), t0 + candidate.steps
            candidate.state, steps, cost = _run(
                solver, problem, candidate.state, run_key, t, share / len(alive), per_step
            )
            candidate.steps += steps
            at = candidate.state.x, candidate.state.y
            value = float(_settled_loss(whole, *at, v))
            candidate.loss = value if math.isfinite(value) and bool(trees.all_finite(at)) else math.inf
            spent += cost + whole.upper.length + whole.lower.length
        alive = [candidate for candidate in candidates if candidate.loss < math.inf]
        if not alive:
            raise ValueError("solver: no upper step of the trial stayed finite; start nearer, or rescale the losses")
    winner = min(alive, key=lambda candidate: (-candidate.steps, candidate.loss))  # the best of those that ran longest
    trials = [Trial(candidate.upper_step, candidate.steps, candidate.loss) for candidate in candidates]
    return _Found(trials[candidates.index(winner)], trials, int(spent), per_step)


def _warm_up(
    problem: Problem, x: Tree, y: Tree, held: AbstractSolver, allowance: float, *, key: PRNGKeyArray
) -> tuple[Any, int, float]:
    """The state once y and v have settled, and the steps and samples that this took."""
    state, cost = _start(held, problem, x, y, key)
    state, first = _advance(held, problem, state, key, 0, 1)
    per_step = float(first.samples())
    spent, steps = float(cost.samples()) + per_step, 1
    if spent < allowance:
        state, more, samples = _run(held, problem, state, key, 1, allowance - spent, per_step)
        steps, spent = steps + more, spent + samples
    if not bool(trees.all_finite((state.x, state.y))):
        raise ValueError("solver: diverged with the theorem's lower step even with x held fixed; start y nearer to y*")
    return state, steps, spent


def _bracket(loss: float, norm: float, steps: float, normalized: bool) -> list[float]:
    """Candidates from f/(K‖h‖²) to f/‖h‖², ascending (with ‖h‖ for ‖h‖² if the direction is normalized)."""
    if not (norm > 0 and math.isfinite(norm) and math.isfinite(loss)):
        raise ValueError(f"problem: the hypergradient's norm at the start is {norm}; start where it is not zero")
    leap = max(abs(loss), 1e-3) / (norm if normalized else norm**2)
    count = math.ceil(math.log(max(steps, FACTOR), FACTOR))
    return [leap * FACTOR ** (k - count) for k in range(count + 1)]


_start = eqx.filter_jit(initial_state)
_program = eqx.filter_jit(advance)


def _advance(solver: AbstractSolver, problem: Problem, state: Any, key: PRNGKeyArray, t: int, n: int) -> Any:
    """`n` steps from iteration `t`, by one program for all numbers."""
    return _program(solver, problem, state, key, jnp.asarray(t, jnp.int32), jnp.asarray(n, jnp.int32))


def _run(
    solver: AbstractSolver, problem: Problem, state: Any, key: PRNGKeyArray, t: int, allowance: float, per_step: float
) -> tuple[Any, int, float]:
    """As many steps as an allowance of samples pays for, but at least one: (state, steps, samples)."""
    steps, spent = 0, 0.0
    while steps == 0 or spent < allowance:
        n = max(1, math.ceil((allowance - spent) / per_step))
        state, cost = _advance(solver, problem, state, key, t + steps, n)
        steps, spent = steps + n, spent + float(cost.samples())
        per_step = max(per_step, spent / steps)  # some solvers' steps become more costly
    return state, steps, spent


@eqx.filter_jit
def _survey(whole: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> tuple[Array, Array, Tree]:
    """f, the norm of the hypergradient, and the adjoint, on all rows."""
    found = ConjugateGradient(steps=_CG_STEPS).hypergradient(whole, x, y, key=key)
    return _upper_loss(whole.upper, x, y), trees.norm(trees.dense(found.h, x)), found.adjoint.v


@eqx.filter_jit
def _settled_loss(whole: Problem, x: Tree, y: Tree, v: Tree) -> Array:
    """f(x, y) − ⟨v, G_y(x, y)⟩, to first order f(x, y*(x)): the lag of y behind x does not count."""
    G_y = oracles.gradient_y(whole.lower, x, y, whole.lower.all_rows())
    return _upper_loss(whole.upper, x, y) - trees.dot(v, G_y)


@eqx.filter_jit
def _upper_loss(level: Level, x: Tree, y: Tree) -> Array:
    return level.value(x, y, level.all_rows())
