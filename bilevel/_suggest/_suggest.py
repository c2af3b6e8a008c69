"""Settings for a solver, from measured constants and a short trial."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._suggest._theory import LOOSENING, NORMALIZED, THEORY, Choice, Facts, horizon_power
from bilevel.diagnostics.constants import Constants, measure, on_all_rows
from bilevel.diagnostics.lanczos import Hessian, lanczos
from bilevel.hypergradients._implicit import implicit
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.oracles import Tally
from bilevel.problem import Level, Problem, prepare
from bilevel.solvers._base import AbstractSolver
from bilevel.solvers.registry import SOLVERS, get_solver
from bilevel.solvers.stocbio import StocBiO

Tree = PyTree[Any]

DEFAULT_BUDGET = 20_000  # in batches of the lower level
TRIAL = 0.2  # of the budget, at most
WARM_UP = 0.2  # of the trial: x held, until y and v have settled
FACTOR = 4.0  # between two candidates
KEPT = (20, 4, 2)  # candidates in each round of successive halving; the rounds cost the same
_HELD = 1e-30  # a step that leaves x where it is
_CG_STEPS = 20


@dataclass(frozen=True)
class Trial:
    """A candidate: its upper step, how many steps it was run for, and the upper loss after them, as step 3 of `suggest`
    has it; infinite where the iterates were not finite."""

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
    budget: int | None = None,
) -> Suggestion:
    """Settings of a solver for a problem: by its theorem from measured constants, the upper step by a short trial.

    `measure_constants` at (x, y) gives μ, L and κ. From them the solver's theorem sets the lower and the adjoint step,
    orders, inner steps, batch sizes and momentum weights; the lower and adjoint steps are loosened by the solver's
    factor of its own, and what an iteration may cost is capped. The
    theorems' upper steps, 1/L_Φ with L_Φ ∝ κ³, are far too cautious to be of use. Instead:

    1. the solver runs with x held until y (and v) have settled;
    2. with h the hypergradient there, by conjugate gradient on all rows, a step below f/(K‖h‖²) could not close the
       gap in K steps, and one above f/‖h‖² leaps past it: candidates between the two, by factors of 4;
    3. successive halving: the candidates run on from there, the better ones longer, on the same batches. They are
       judged on all rows, by f(x, y) − ⟨v, G_y(x, y)⟩ with the v of 2, which to first order is f(x, y*(x)); those
       whose iterates are not finite are out;
    4. what did best in a trial of n steps is too large for a run of K: it is multiplied by (n/K)^p, the theorem's
       K^(−p) (p = 0 where its step is constant, and where all batches are full).

    **Arguments**

    - `x`, `y`: the starts of the run to come. `key`: the same key gives the same suggestion.
    - `solver`: a solver's class, or a function or name of `bl.SOLVERS`.
    - `budget`: of the whole run in oracle samples, all kinds counted alike; default: 20,000 batches of the lower
      level. The measurements are part of it, and the trial, about a fifth of the rest; what is left makes the
      suggestion's `steps`.

    **Returns** a `Suggestion`; `print` shows the reasons.

    **Raises** `ValueError` or `TypeError` for an unknown solver, one without a theorem here, a lower level that is not
    strongly convex at (x, y), a budget too small to measure anything, or where no candidate stays finite.

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
    if budget is not None:
        checks.count("budget", budget)
    problem, x, y, _ = prepare(problem, x, y)
    budget = DEFAULT_BUDGET * problem.lower.size if budget is None else budget
    constants_key, trial_key = jax.random.split(key)
    facts, spent = _facts(problem, x, y, name, budget, key=constants_key)
    if spent > budget / 2:
        raise ValueError(f"budget: got {budget}, of which the measurements took {spent}; pass {4 * spent} or more")
    choices = THEORY[name](facts)

    def build(upper_step: float) -> AbstractSolver:
        settings = {setting: choice.value for setting, choice in choices.items()}
        return make(upper_step=upper_step, **settings)

    found = _try(problem, x, y, build, budget - spent, name in NORMALIZED, key=trial_key)
    steps = max(1, int((budget - spent - found.samples) / found.per_step))
    power = horizon_power(name, facts)
    scale = min(1.0, found.winner.steps / steps) ** power
    choices["upper_step"] = Choice(scale * found.winner.upper_step, found.reason(steps, power))
    return Suggestion(
        solver=make(**{setting: choice.value for setting, choice in choices.items()}),
        steps=steps,
        constants=facts.constants,
        reasons=tuple((setting, choice.value, choice.reason) for setting, choice in choices.items()),
        trials=tuple(found.trials),
        samples={"constants": spent, "trial": found.samples},
    )


def _solver(solver: Any) -> tuple[str, Callable[..., AbstractSolver]]:
    """The name and what makes it."""
    make: Any
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
            "it strongly convex; add a regularizer to the lower loss, e.g. 1e-3 times the squared norm of y"
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
        passes=budget / lower.size,
        loosening=LOOSENING[name],
    )
    return facts, spent


# --- the trial of the upper step ---


@dataclass
class _Candidate:
    upper_step: float
    state: Any
    steps: int = 0
    loss: float = math.inf


@dataclass
class _Found:
    """The trial's winner, all candidates, the samples spent, and those of a step."""

    winner: Trial
    trials: list[Trial]
    samples: int
    per_step: float

    def reason(self, steps: int, power: float) -> str:
        least, most, n = self.trials[0].upper_step, self.trials[-1].upper_step, self.winner.steps
        text = f"trial of {len(self.trials)} steps, {least:.2g} to {most:.2g}: {self.winner.upper_step:.3g} did best"
        return text + (f" in {n} steps, times ({n}/{steps})^{power:.2g} for a run of {steps}" if power else "")


def _try(
    problem: Problem,
    x: Tree,
    y: Tree,
    build: Callable[[float], AbstractSolver],
    budget: float,
    normalized: bool,
    *,
    key: PRNGKeyArray,
) -> _Found:
    run_key, rows_key, h_key = jax.random.split(key, 3)
    whole = on_all_rows(problem, rows_key)
    state, t0 = _warm_up(problem, x, y, build(_HELD), WARM_UP * TRIAL * budget, key=run_key)
    per_step = samples(state.tally) / t0
    loss, norm, v = _survey(whole, x, state.y, h_key)
    spent = samples(state.tally) + (_CG_STEPS + 2) * whole.lower.length + 2 * whole.upper.length

    candidates = [_Candidate(step, state) for step in _bracket(float(loss), float(norm), budget / per_step, normalized)]
    share = max(0.0, TRIAL * budget - spent) / len(KEPT)
    alive = candidates
    for kept in KEPT:
        for candidate in sorted(alive, key=lambda candidate: candidate.loss)[:kept]:
            before = samples(candidate.state.tally)
            solver, t = build(candidate.upper_step), t0 + candidate.steps
            candidate.state, t = _run(solver, problem, candidate.state, run_key, t, share / len(alive))
            candidate.steps = int(t) - t0
            at = candidate.state.x, candidate.state.y
            value = float(_settled_loss(whole, *at, v))
            candidate.loss = value if math.isfinite(value) and bool(trees.all_finite(at)) else math.inf
            spent += samples(candidate.state.tally) - before + whole.upper.length + whole.lower.length
        alive = [candidate for candidate in candidates if candidate.loss < math.inf]
        if not alive:
            raise ValueError("solver: no upper step of the trial stayed finite; start nearer, or rescale the losses")
    winner = min(alive, key=lambda candidate: (-candidate.steps, candidate.loss))  # of those that ran longest
    trials = [Trial(candidate.upper_step, candidate.steps, candidate.loss) for candidate in candidates]
    return _Found(trials[candidates.index(winner)], trials, int(spent), per_step)


def _warm_up(
    problem: Problem, x: Tree, y: Tree, held: AbstractSolver, allowance: float, *, key: PRNGKeyArray
) -> tuple[Any, int]:
    """The state once y and v have settled, and the steps that it took."""
    start = _start(held, problem, x, y, key)
    state, steps = _run(held, problem, start, key, 0, allowance)
    if not bool(trees.all_finite((state.x, state.y))):
        raise ValueError("solver: diverged with the theorem's lower step even though x was held; start y nearer")
    return state, int(steps)


def _bracket(loss: float, norm: float, steps: float, normalized: bool) -> list[float]:
    """Candidates from f/(K‖h‖²) to f/‖h‖² (‖h‖ where the direction is normalized), ascending."""
    if not (norm > 0 and math.isfinite(norm) and math.isfinite(loss)):
        raise ValueError(f"problem: the hypergradient's norm at the start is {norm}; start where it is not zero")
    leap = max(abs(loss), 1e-3) / (norm if normalized else norm**2)
    count = math.ceil(math.log(max(steps, FACTOR), FACTOR))
    return [leap * FACTOR ** (k - count) for k in range(count + 1)]


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
def _survey(whole: Problem, x: Tree, y: Tree, key: PRNGKeyArray) -> tuple[Array, Array, Tree]:
    """f, the norm of the hypergradient, and the adjoint, on all rows."""
    sample = implicit(whole, x, y, ConjugateGradient(steps=_CG_STEPS), key=key)
    return _upper_loss(whole.upper, x, y), trees.norm(trees.dense(sample.h, x)), sample.adjoint.v


@eqx.filter_jit
def _settled_loss(whole: Problem, x: Tree, y: Tree, v: Tree) -> Array:
    """f(x, y) − ⟨v, G_y(x, y)⟩, to first order f(x, y*(x)): what y still lags behind x does not count."""
    G_y = oracles.lower_gradient(whole.lower, x, y, whole.lower.everything())
    return _upper_loss(whole.upper, x, y) - trees.dot(v, G_y)


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
