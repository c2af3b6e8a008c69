"""Settings for a solver, from measured constants and a short trial."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import trees
from bilevel._lanczos import Hessian, lanczos
from bilevel._output.tables import aligned, short
from bilevel._prepare import prepare
from bilevel._suggest._trial import Trial, try_steps
from bilevel.diagnostics.constants import DRAWS, Constants, measure, on_all_rows
from bilevel.problem import Episodes, Problem
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.registry import SOLVERS, Asked, asked_one
from bilevel.solvers.stocbio import StocBiO
from bilevel.solvers.theory import Choice, Facts
from bilevel.trees import Tree

DEFAULT_BUDGET = 20_000  # in batches of the lower level


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What `suggest` found.

    - `solver`: ready for `solve`, with about `steps` steps, which the rest of the budget pays for.
    - `constants`: the measured constants. `reasons`: (setting, value, reason) for each setting that was chosen.
    - `trials`: the candidates for the upper step, ascending, as far as each was run.
    - `samples`: the cost of the measurements ("constants") and of the trial ("trial") in oracle samples (F, G, H and
      J counted alike). Both are part of the budget.
    """

    solver: AbstractSolver
    steps: int
    constants: Constants
    reasons: tuple[tuple[str, Any, str], ...]
    trials: tuple[Trial, ...]
    samples: dict[str, int]

    def __str__(self) -> str:
        shown = aligned([(name, _short(value), reason) for name, value, reason in self.reasons])
        head = f"{type(self.solver).__name__}: about {self.steps} steps; " + ", ".join(
            f"{kind} {samples} samples" for kind, samples in self.samples.items()
        )
        c = self.constants
        measured = f"measured: μ = {short(c.mu)}, L = {short(c.L)}, κ = {short(c.kappa)}"
        return "\n".join([head, measured, *shown])


def suggest(
    problem: Problem,
    x: Tree,
    y: Tree,
    *,
    solver: Callable[..., AbstractSolver] | AbstractSolver | Asked | str = StocBiO,
    key: PRNGKeyArray,
    budget: int | None = None,
) -> Suggestion:
    """Settings of a solver for a problem, from its theorem and measured constants; the upper step, from a short trial.

    `measure_constants` at (x, y) gives μ, L and κ. From them the solver's theorem sets the lower and adjoint steps,
    orders, inner steps, batch sizes and momentum weights. The lower and adjoint steps are multiplied by a factor
    of the solver's own, and the cost of an iteration is capped. The theorems' upper steps, 1/L_Φ with L_Φ ∝ κ³, are far
    too cautious to be useful. The upper step is found as follows:

    1. The solver runs with x held fixed until y (and v) have settled.
    2. Let h be the hypergradient there, by conjugate gradient on all rows. A step below f/(K‖h‖²) could not close the
       gap in K steps, and a step above f/‖h‖² overshoots. The candidates lie between the two, spaced by factors of 4.
    3. Successive halving starts from this state. All candidates run on the same batches, the better ones longer. They
       are judged on all rows by f(x, y) − ⟨v, G_y(x, y)⟩ with the v of item 2, which to first order is f(x, y*(x)).
       Candidates whose iterates are not finite are dropped.
    4. The winner of a trial of n steps is too large for a run of K steps. It is scaled by (n/K)^p, where p is the
       power in the theorem's K^(−p) (p = 0 if its step is constant, or if all batches are full).

    **Arguments**

    - `x`, `y`: the initial values of the planned run. `key`: the same key gives the same suggestion.
    - `solver`: a solver's class, or a function or name of `bl.SOLVERS`; or `"FILE.py:NAME"`. A class of your own needs
      the method `suggested`. Settings in brackets, as in `"stocbio[inner_steps=5]"`, are kept, and so are those
      settings of a solver itself (`bl.StocBiO(...)`) that the theorem does not set.
    - `budget`: for the whole run, in oracle samples of all kinds; default: 20,000 batches of the lower level. It pays
      for the measurements, the trial (about a fifth of the rest) and the suggested `steps`.

    **Returns** a `Suggestion`; `print` shows the reasons.

    **Raises** `ValueError` or `TypeError` for an unknown solver, a solver without a theorem here, a lower level that is
    not strongly convex at (x, y), a budget too small to measure anything, or if no candidate stays finite.

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
    one, theorem = _with_theorem(solver)
    checks.key("key", key)
    if budget is not None:
        checks.count("budget", budget)
    if isinstance(problem, Episodes):
        raise TypeError(
            "problem: got Episodes, but candidates are judged on all rows of one problem; pass "
            "episodes.draw(key), and check the settings on the episodes"
        )
    prepared = prepare(problem, x, y)
    problem, x, y = prepared.problem, prepared.x, prepared.y
    budget = DEFAULT_BUDGET * problem.lower.size if budget is None else budget
    constants_key, trial_key = jax.random.split(key)
    constants, facts, spent = _facts(problem, x, y, theorem.scaling, budget, key=constants_key)
    if spent > budget / 2:
        raise ValueError(f"budget: got {budget}, but the measurements took {spent} of it; pass {4 * spent} or more")
    choices = theorem.suggested(facts) | {name: Choice(value, "given") for name, value in one.given.items()}

    def build(upper_step: float) -> AbstractSolver:
        return one.make({name: choice.value for name, choice in choices.items()} | {"upper_step": upper_step})

    found = try_steps(problem, x, y, build, budget - spent, theorem.normalized, key=trial_key)
    steps = max(1, int((budget - spent - found.samples) / found.per_step))
    power = theorem.power if facts.batch < facts.rows else 0.0  # without noise, the theorem's step is constant
    upper_step = min(1.0, found.winner.steps / steps) ** power * found.winner.upper_step
    choices["upper_step"] = Choice(upper_step, found.reason(steps, power))
    return Suggestion(
        solver=build(upper_step),
        steps=steps,
        constants=constants,
        reasons=tuple((setting, choice.value, choice.reason) for setting, choice in choices.items()),
        trials=tuple(found.trials),
        samples={"constants": spent, "trial": found.samples},
    )


def theorem_of(made: Any) -> Any:
    """The class or the preset that holds the theorem of a solver, of its class or of a function; None without one."""
    kind = type(made) if isinstance(made, AbstractSolver) else made
    suggested = getattr(kind, "suggested", None)
    return None if getattr(suggested, "__func__", suggested) in (None, AbstractSolver.suggested.__func__) else kind


def _with_theorem(solver: Any) -> tuple[Asked, Any]:
    """What was asked for, and what holds its theorem."""
    one = asked_one(solver)
    theorem = theorem_of(one.made)
    if theorem is None:
        raise ValueError(
            f"solver: there is no theorem here for {one.label}; give its settings, define its `suggested`, or pass one "
            f"of {', '.join(SOLVERS)}"
        )
    if "upper_step" in one.given:
        raise ValueError(f"solver: {one.label} has an upper_step, which is what the trial finds; leave it out")
    return one, theorem


def _facts(
    problem: Problem, x: Tree, y: Tree, scaling: float, budget: int, *, key: PRNGKeyArray
) -> tuple[Constants, Facts, int]:
    """The constants, the facts that theorems start from, and the number of samples that they took."""
    constants_key, rows_key, upper_key = jax.random.split(key, 3)
    constants = measure(problem, x, y, key=constants_key)
    if not constants.mu > constants.rounding:
        raise ValueError(
            f"problem: the least curvature of the lower level at (x, y) is {constants.mu:.3g}, but the theorems "
            "need it to be strongly convex; add a regularizer to the lower loss, e.g. 1e-3 times the squared norm of y"
        )
    upper = on_all_rows(problem, rows_key).upper
    smoothness = lanczos(Hessian.at(upper, x, y), key=upper_key, largest_only=True)
    noise = sum(size for pairs in constants.noise_measured.values() for size, _ in pairs) * DRAWS
    spent = constants.hessian_products * constants.lower_rows + smoothness.products * upper.length + noise
    lower = problem.lower
    facts = Facts(
        mu=constants.mu,
        L=constants.L,
        kappa=max(1.0, constants.kappa),
        upper_smoothness=abs(smoothness.largest),
        dim_y=trees.size(y),
        batch=lower.size,
        rows=lower.length,
        strata=1 if lower.data is None else lower.data.strata,
        passes=budget / lower.size,
        scaling=scaling,
    )
    return constants, facts, spent


def _short(value: Any) -> str:
    """A setting as text, for the table."""
    if isinstance(value, float):
        return short(value, 4)
    if isinstance(value, tuple) and len(value) > 4:
        return f"{value[0]}, …, {value[-1]}"
    return str(value)
