"""Settings for a solver, from measured constants and a short trial."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from bilevel import checks, trees
from bilevel.constants import Constants, measure, on_all_rows
from bilevel.curvature import Hessian, lanczos
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.hypergradients.implicit import implicit
from bilevel.oracles import Tally
from bilevel.problem import Level, Problem, prepare
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.registry import SOLVERS, get_solver
from bilevel.solvers.stocbio import StocBiO
from bilevel.theory import LOOSENING, NORMALISED, THEORY, Choice, Facts, upper_schedule

Tree = PyTree[Any]

DEFAULT_BUDGET = 1_000_000
TRIAL = 0.2  # of the budget, at most
WARM_UP = 0.2  # of the trial: x held, until y and v have settled
FACTOR = 4.0  # between two candidates
KEPT = (20, 4, 2)  # candidates in each round of successive halving; the rounds cost the same
NEAR = 0.05  # of the best decrease of the upper loss: the largest step that comes so near wins
_HELD = 1e-30  # a step that leaves x where it is
_CG_STEPS = 20


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate: its upper step, the outer steps that it was run for, and the upper loss (on all rows) after them."""

    upper_step: float
    steps: int
    loss: float


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What `suggest` found.

    - `solver`: ready for `solve`, for about `steps` steps, which is what is left of the budget.
    - `constants`: the measured ones. `reasons`: (setting, value, reason) for each setting that was chosen.
    - `trials`: the candidates of the upper step, as far as each got, ascending.
    - `samples`: what the measurements ("constants") and the trial ("trial") took, in oracle samples (F, G, H and J
      counted alike). The trial is part of the budget; so are the constants.
    """

    solver: AbstractSolver
    steps: int
    constants: Constants
    reasons: tuple[tuple[str, Any, str], ...]
    trials: tuple[Trial, ...]
    samples: dict[str, int]

    def __str__(self) -> str:
        shown = [(name, _short(value), reason) for name, value, reason in self.reasons]
        widths = [max(len(row[i]) for row in shown) for i in range(2)]
        head = f"{type(self.solver).__name__}: about {self.steps} steps; " + ", ".join(
            f"{kind} {samples} samples" for kind, samples in self.samples.items()
        )
        c = self.constants
        measured = f"measured: μ = {c.mu:.3g}, L = {c.L:.3g}, κ = {c.kappa:.3g}"
        return "\n".join([head, measured, *(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {why}" for a, b, why in shown)])


def suggest(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    *,
    solver: Callable[..., AbstractSolver] | str = StocBiO,
    key: PRNGKeyArray,
    budget: int = DEFAULT_BUDGET,
) -> Suggestion:
    """Settings of a solver for a problem: by its theorem from measured constants, the upper step by a short trial.

    `measure_constants` at (x, y) gives μ, L and κ. From them the solver's theorem sets the lower and the adjoint step,
    orders, inner steps, batch sizes and momentum weights; the lower and adjoint steps are loosened by the solver's
    factor in `bilevel.theory.LOOSENING`, and what an iteration may cost is capped (`bilevel.theory.MOST`). The
    theorems' upper steps, 1/L_Φ with L_Φ ∝ κ³, are far too cautious to be of use. Instead:

    1. the solver runs with x held until y (and v) have settled;
    2. with h the hypergradient there, by conjugate gradient on all rows, a step below f/(K‖h‖²) could not close the
       gap in K steps, and one above f/‖h‖² leaps past it: candidates between the two, by factors of 4;
    3. successive halving: the candidates run on from there, the better ones longer, on the same batches; they are judged
       by the upper loss on all rows, and those whose iterates are not finite are out. The largest step that comes
       within 5 % of the best decrease wins.

    **Arguments**

    - `x`, `y`: the starts of the run to come. `key`: the same key gives the same suggestion.
    - `solver`: a solver's class, or a function or name of `bl.SOLVERS`.
    - `budget`: of the whole run in oracle samples, all kinds counted alike. The measurements and the trial, at most a
      fifth, are part of it; what is left makes the suggestion's `steps`.

    **Returns** a `Suggestion`; `print` shows the reasons.

    **Raises** `ValueError` or `TypeError` for an unknown solver, one without a theorem here, a lower level that is not
    strongly convex at (x, y), a budget too small for a trial, or where no candidate stays finite.

    Example:
        >>> import bilevel as bl, jax
        >>> from bilevel import tasks
        >>> task = tasks.quadratic()
        >>> found = bl.suggest(task.problem, task.x, task.y, solver=bl.AIDBiO, key=jax.random.key(0), budget=20_000)
        >>> [name for name, value, reason in found.reasons]
        ['lower_step', 'inner_steps', 'adjoint', 'upper_step']
        >>> solution = bl.solve(
        ...     task.problem, found.solver, task.x, task.y, steps=100, key=jax.random.key(0), metrics=task.metrics
        ... )
        >>> bool(solution.history[task.score][-1] > 2)
        True

    Reference: the theorems are named in the reasons; for successive halving, Jamieson & Talwalkar, "Non-stochastic Best
    Arm Identification and Hyperparameter Optimization", AISTATS 2016.
    """
    name, make = _solver(solver)
    checks.key("key", key)
    checks.count("budget", budget)
    problem, x, y, _ = prepare(problem, x, y)
    constants_key, trial_key = jax.random.split(key)
    facts, spent = _facts(problem, x, y, name, budget, key=constants_key)
    choices = THEORY[name](facts)

    def build(upper_step: float) -> AbstractSolver:
        settings = {setting: choice.value for setting, choice in choices.items()}
        return make(upper_step=upper_schedule(name, upper_step, facts), **settings)

    chosen, trials, trial_samples, per_step = _try(problem, x, y, name, build, budget, key=trial_key)
    spans = f"{trials[0].upper_step:.2g} to {trials[-1].upper_step:.2g}"
    reason = f"a trial of {len(trials)} steps, {spans}: the largest near the best upper loss, {chosen.loss:.4g}"
    best = build(chosen.upper_step)
    choices["upper_step"] = Choice(chosen.upper_step, reason)
    samples = {"constants": spent, "trial": trial_samples}
    return Suggestion(
        solver=best,
        steps=max(1, int((budget - sum(samples.values())) / per_step)),
        constants=facts.constants,
        reasons=tuple((setting, choice.value, choice.reason) for setting, choice in choices.items()),
        trials=tuple(trials),
        samples=samples,
    )


def _solver(solver: Any) -> tuple[str, Callable[..., AbstractSolver]]:
    """The name and what makes it."""
    if isinstance(solver, str):
        make = get_solver(solver)
    elif callable(solver) and not isinstance(solver, AbstractSolver):
        make = solver
    else:
        raise TypeError(f"solver: got {solver!r}; pass a class such as bl.StocBiO, or a name such as 'stocbio'")
    name = next((name for name, known in SOLVERS.items() if known is make), None)
    if name not in THEORY:
        called = getattr(make, "__name__", make)
        raise ValueError(f"solver: no theorem is known here for {called}; known are {', '.join(THEORY)}")
    return name, make


def _facts(problem: Problem, x: Tree, y: Tree, name: str, budget: int, *, key: PRNGKeyArray) -> tuple[Facts, int]:
    """The constants, and how many samples they took."""
    constants_key, rows_key, upper_key = jax.random.split(key, 3)
    constants = measure(problem, x, y, key=constants_key)
    if not constants.mu > constants.rounding:
        raise ValueError(
            f"problem: the least curvature of the lower level at (x, y) is {constants.mu:.3g}, but the theorems need "
            "it strongly convex; add a regulariser to the lower loss, e.g. 1e-3 times the squared norm of y"
        )
    upper = on_all_rows(problem, rows_key).upper
    smoothness = lanczos(Hessian(upper, x, y, upper.everything()), key=upper_key, largest_only=True)
    noise = sum(size for pairs in constants.noise_measured.values() for size, _ in pairs) * 64
    spent = constants.hessian_products * constants.lower_rows + smoothness.products * upper.length + noise
    lower = problem.lower
    facts = Facts(
        constants=constants,
        upper_smoothness=abs(smoothness.largest),
        dim_y=sum(leaf.size for leaf in jax.tree.leaves(y)),
        batch=lower.size,
        rows=lower.length,
        horizon=max(1, budget // (4 * lower.size)),
        loosening=LOOSENING[name],
    )
    return facts, spent


# --- the trial of the upper step ---


@dataclass
class _Candidate:
    upper_step: float
    state: Any
    steps: int
    loss: float = math.inf


def _try(
    problem: Problem,
    x: Tree,
    y: Tree,
    name: str,
    build: Callable[[float], AbstractSolver],
    budget: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Trial, list[Trial], int, float]:
    """The winner, all candidates, the samples spent, and the samples of a step."""
    run_key, rows_key, h_key = jax.random.split(key, 3)
    whole = on_all_rows(problem, rows_key)
    state, steps = _warm_up(problem, x, y, build(_HELD), WARM_UP * TRIAL * budget, key=run_key)
    per_step = samples(state.tally) / steps
    loss, norm = (float(value) for value in _loss_and_norm(whole, x, state.y, h_key))
    looks = (_CG_STEPS + 1) * whole.lower.length + 2 * whole.upper.length

    tried = _bracket(loss, norm, budget / per_step, name in NORMALISED)
    candidates = [_Candidate(upper_step, state, steps) for upper_step in tried]
    spent = samples(state.tally) + looks
    share = max(0.0, TRIAL * budget - spent) / len(KEPT)
    alive = candidates
    for kept in KEPT:
        alive = sorted(alive, key=lambda candidate: candidate.loss)[:kept]
        for candidate in alive:
            spent += _go_on(candidate, build, problem, whole, share / len(alive), key=run_key)
        alive = [candidate for candidate in alive if candidate.loss < math.inf]
        if not alive:
            raise ValueError("solver: no upper step of the trial stayed finite; start nearer, or rescale the losses")
    best = min(candidate.loss for candidate in alive)
    allowed = best + NEAR * max(0.0, loss - best)
    winner = max((c for c in alive if c.loss <= allowed), key=lambda candidate: candidate.upper_step)
    trials = [Trial(candidate.upper_step, candidate.steps, candidate.loss) for candidate in candidates]
    return trials[candidates.index(winner)], trials, int(spent), per_step


def _warm_up(
    problem: Problem, x: Tree, y: Tree, held: AbstractSolver, allowance: float, *, key: PRNGKeyArray
) -> tuple[Any, int]:
    """The state once y and v have settled, and the steps that it took."""
    start = _start(held, problem, x, y, key)
    state, steps = _run(held, problem, start, key, 0, allowance)
    if not bool(trees.all_finite((state.x, state.y))):
        raise ValueError("solver: diverged with the theorem's lower step even though x was held; start y nearer")
    return state, int(steps)


def _bracket(loss: float, norm: float, steps: float, normalised: bool) -> list[float]:
    """Candidates from f/(K‖h‖²) to f/‖h‖² (‖h‖ where the direction is normalised), ascending."""
    if not (norm > 0 and math.isfinite(norm) and math.isfinite(loss)):
        raise ValueError(f"problem: the hypergradient's norm at the start is {norm}; start where it is not zero")
    leap = max(abs(loss), 1e-3) / (norm if normalised else norm**2)
    count = math.ceil(math.log(max(steps, FACTOR), FACTOR))
    if normalised:
        return [leap * FACTOR ** (k - count) for k in range(min(count, 4) + 1)]
    return [leap * FACTOR ** (k - count) for k in range(count + 2)]


def _go_on(
    candidate: _Candidate, build: Any, problem: Problem, whole: Problem, allowance: float, *, key: PRNGKeyArray
) -> float:
    """Run the candidate on, judge it, and say what that took."""
    before = samples(candidate.state.tally)
    solver = build(candidate.upper_step)
    candidate.state, steps = _run(solver, problem, candidate.state, key, candidate.steps, allowance)
    candidate.steps = int(steps)
    at = candidate.state.x, candidate.state.y
    loss = float(_upper_loss(whole.upper, *at))
    candidate.loss = loss if math.isfinite(loss) and bool(trees.all_finite(at)) else math.inf
    return samples(candidate.state.tally) - before + whole.upper.length


def samples(tally: Tally) -> float:
    """All that a tally counts."""
    return float(_samples(tally))


def _samples(tally: Tally) -> Float[Array, "..."]:
    return jnp.sum(tally.digits * jnp.array([1.0, 2.0**15, 2.0**30])[None, :])


@eqx.filter_jit
def _start(solver: AbstractSolver, problem: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> Any:
    return solver.init(problem, x, y, key=key)


@eqx.filter_jit
def _run(solver: Any, problem: Problem, state: Any, key: PRNGKeyArray, t: Any, allowance: Any) -> tuple[Any, Any]:
    """At least one step, and on until so many samples more are spent; and the iteration that it came to."""
    stop = _samples(state.tally) + allowance

    def body(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, t = carry
        return solver.step(problem, state, t, key=jax.random.fold_in(key, t)), t + 1

    return jax.lax.while_loop(
        lambda carry: _samples(carry[0].tally) < stop, body, body((state, jnp.asarray(t, jnp.int32)))
    )


@eqx.filter_jit
def _loss_and_norm(whole: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> tuple[Array, Array]:
    """f, and the norm of the hypergradient, on all rows."""
    h = implicit(whole, x, y, ConjugateGradient(steps=_CG_STEPS), key=key).h
    return whole.upper.loss(x, y, whole.upper.everything().rows), trees.norm(trees.dense(h, x))


@eqx.filter_jit
def _upper_loss(level: Level, x: Tree, y: Tree) -> Array:
    return level.loss(x, y, level.everything().rows)


def _short(value: Any) -> str:
    """A setting, for the table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple) and len(value) > 4:
        return f"{value[0]}, …, {value[-1]}"
    return str(value)
