"""From a table to tuned penalties: the search for a start, the tuning, the final fit.

Shapes are rounded up, so that tables of nearly the same shape (the folds of a grid search) share one compiled program.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bilevel.estimators import _penalties as penalties
from bilevel.estimators._penalties import (
    Dense,
    Entries,
    HeldOutLoss,
    Loss,
    Model,
    Sparse,
    State,
    TrainingLoss,
    Tuner,
    advance,
)
from bilevel.estimators._units import Table, Units, in_units
from bilevel.problem import Level, Problem
from bilevel.steps import Rule

DECADES = range(2, -8, -1)  # for the common penalty, in units of the mean sum of squares of a feature over its scale
WORSE = 10.0  # nats by which a weaker common penalty is worse than the best so far when the search ends
RATE = 0.3  # of Adam, in units of log λ
# for the Newton decrement of all splits together, in nats per row: of a common penalty, of the final fit
TOLERANCE, FINAL_TOLERANCE = 5e-4, 1e-5
NEWTON_STEPS = 20  # at most, for a common penalty and the final fit; the tuning takes one per x

LEAST = (256, 32, 4096)  # rows, features and entries of a sparse X that small tables are padded to
_DTYPE = np.float32

# the score, higher is better, of the coefficients (k, c, d) and intercepts (k, c) of the splits' models
Judge = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Tuned:
    """Coefficients and intercepts in the units of the table; the λ of each group, in units of `scale`; and a row for
    each step."""

    coefficients: Float[np.ndarray, "c d"]
    intercepts: Float[np.ndarray, " c"]
    penalties: Float[np.ndarray, " p"]
    scale: Float[np.ndarray, " d"]
    history: list[dict[str, Any]]


def tune(
    table: Table, groups: Int[np.ndarray, "_ _"], loss: Loss, *, spread: float, steps: int, judge: Judge | None = None
) -> Tuned:
    """Penalties that the held-out rows prefer, and the model with them on all rows.

    1. One common penalty: decades of the mean sum of squares of a feature are tried, from strong to weak. A weaker one
       is taken if it makes all held-out rows together more probable by a nat. One that makes them less probable by ten
       ends the search. One that hardly matters does so only if the weakest of all hardly matters, too: where features
       are nearly collinear, a penalty may be too weak for one direction and too strong for another.
    2. From there, Adam takes `steps` steps along the hypergradient. In each step, a Newton step of all splits follows
       x, and the adjoint starts from the previous one. The x with the least objective is kept.
    3. The model is trained on all rows with these penalties.

    With a `judge`, all decades are tried, and the x with the best score is kept, of equal ones that with the least
    objective.

    `groups`: the index of the penalty of each w_jc, (d, 1) or (1, c).
    """
    table, units = in_units(table, loss)
    table = compressed(table, loss)
    problem, x, y = make_problem(table, units, groups, loss, spread=spread)
    tuner = Tuner(Rule(optax.adam, RATE), jnp.asarray(TOLERANCE, _DTYPE), jnp.asarray(NEWTON_STEPS))
    unit = float(np.log(table.total * np.mean((units.divisor / units.scale) ** 2)))

    def merit(x: Array, state: State) -> tuple[float, ...]:
        score = () if judge is None else (judge(*_models(problem, x, state.y, units)),)
        return *score, -float(state.objective)

    state = _search(problem, tuner, x, y, unit) if judge is None else _search_all(problem, tuner, x, y, unit, merit)
    history = []
    if steps:
        quick = eqx.tree_at(lambda tuner: tuner.newton_steps, tuner, jnp.asarray(1))
        state, history = _descend(problem, quick, state, steps, merit)
        # the loss is ½ of the squared error, in other units
        factor = 2 * units.target_divisor**2 if loss is penalties.SQUARED else 1.0
        history = [row | {"held-out loss": factor * row["held-out loss"]} for row in history]
    w, b = _fit(problem, tuner, state, units, table)
    return Tuned(w, b, np.exp(np.asarray(state.x, float))[: groups.max() + 1], units.scale, history)


def _trainer(problem: Problem, tuner: Tuner, x: Array, y: Any, unit: float) -> Callable[[int, Any], State]:
    """(decade, y) ↦ the models of the splits with this common penalty, trained from y, and the objective."""
    start = tuner.begin(problem, x, y)

    def at(decade: int, y: Any) -> State:
        x = jnp.full_like(start.x, unit + decade * np.log(10))
        state = eqx.tree_at(lambda state: (state.x, state.y), start, (x, y))
        return advance(problem, tuner, state, jnp.asarray(0), jnp.asarray(False))

    return at


def _search(problem: Problem, tuner: Tuner, x: Array, y: Any, unit: float) -> State:
    """The state with the best common penalty, and the models of the splits with it."""
    at = _trainer(problem, tuner, x, y, unit)
    best, is_level, nat = None, False, 1 / float(problem.upper.loss.judges)
    for decade in DECADES:
        state = at(decade, y)
        y = state.y
        if best is None or state.objective < best.objective - nat:
            best = state
        elif state.objective > best.objective + WORSE * nat:
            break
        elif not is_level and abs(state.objective - best.objective) <= nat:
            if abs(at(DECADES[-1], y).objective - best.objective) <= nat:
                break
            is_level = True
    assert best is not None
    return best


def _search_all(problem: Problem, tuner: Tuner, x: Array, y: Any, unit: float, merit: Any) -> State:
    """The same, of all decades that with the best score."""
    at, states = _trainer(problem, tuner, x, y, unit), []
    for decade in DECADES:
        states.append(at(decade, y))
        y = states[-1].y
    return max(states, key=lambda state: merit(state.x, state))


def _descend(
    problem: Problem, tuner: Tuner, state: State, steps: int, merit: Any
) -> tuple[State, list[dict[str, Any]]]:
    """The state with the best x of `steps` steps, and a row for each x on the way."""
    clock, rows, best = time.perf_counter(), [], None
    for t in range(steps + 1):
        x = state.x
        state = advance(problem, tuner, state, jnp.asarray(t), jnp.asarray(t < steps))
        losses = {"held-out loss": float(state.held_out), "objective": float(state.objective)}
        rows.append({"step": t, "seconds": time.perf_counter() - clock} | state.cost.to_dict() | losses)
        value = merit(x, state)
        if best is None or value > best[0]:
            best = value, x
    assert best is not None
    return eqx.tree_at(lambda state: state.x, state, best[1]), rows


def _fit(problem: Problem, tuner: Tuner, state: State, units: Units, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercepts of the model on all rows. Every split trains on all rows, which keeps the program the
    same, and their mean is taken."""
    shape = problem.lower.loss.weights.shape
    weights = np.broadcast_to(np.pad(table.weights, (0, shape[0] - len(table.weights)))[:, None], shape)
    problem = eqx.tree_at(lambda problem: problem.lower.loss.weights, problem, jnp.asarray(weights, _DTYPE))
    tuner = eqx.tree_at(lambda tuner: tuner.tolerance, tuner, jnp.asarray(FINAL_TOLERANCE, _DTYPE))
    state = advance(problem, tuner, state, jnp.asarray(0), jnp.asarray(False))
    w, b = _models(problem, state.x, state.y, units)
    return w.mean(axis=0), b.mean(axis=0)


def _models(problem: Problem, x: Array, y: Any, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients (k, c, d) and intercepts (k, c) of the splits' models, in the units of the table."""
    model, c = problem.lower.loss.model, len(units.target_center)
    w = np.asarray(model.weights(x, y), float)[: len(units.divisor)]
    w = np.moveaxis(w.reshape(len(w), -1, c), 0, 2) * (units.target_divisor / units.divisor)
    b = np.asarray(model.intercepts(y), float).reshape(-1, c) * units.target_divisor
    return w, b + units.target_center - w @ units.center


def compressed(table: Table, loss: Loss) -> Table:
    """Fewer rows with the same sums of squares: for the rows that all splits treat alike, the triangle of a QR
    factorization of (X, 1, t)."""
    features = table.X.shape[1]
    if loss is not penalties.SQUARED or not isinstance(table.X, np.ndarray):
        return table
    treated = np.hstack([table.trains, table.holds_out])
    kinds, part = np.unique(treated, axis=0, return_inverse=True)
    part = part.ravel()
    if len(kinds) * (features + 1 + table.targets.shape[1]) > len(part) / 2:
        return table
    rows = np.hstack([table.X, table.ones[:, None], table.targets]).astype(float) * np.sqrt(table.weights)[:, None]
    triangles = [np.linalg.qr(rows[part == number], mode="r") for number in range(len(kinds))]
    kinds = np.repeat(kinds, [len(triangle) for triangle in triangles], axis=0)
    trains, holds_out = np.split(kinds, 2, axis=1)
    X, ones, targets = np.split(np.vstack(triangles), [features, features + 1], axis=1)
    weights = np.ones(len(kinds))
    return replace(table, X=X, targets=targets, weights=weights, trains=trains, holds_out=holds_out, ones=ones[:, 0])


def make_problem(
    table: Table, units: Units, groups: Int[np.ndarray, "_ _"], loss: Loss, *, spread: float, dtype: Any = _DTYPE
) -> tuple[Problem, Array, Any]:
    """The bilevel problem of a table in its units, with x = 0 and y = 0."""
    splits = table.trains.shape[1]
    rows, width = (_rounded(size, least) for size, least in zip(table.X.shape, LEAST[:2], strict=True))
    count = int(groups.max()) + 1
    entries = _rounded(count + 1, LEAST[1])  # `count` is the group of the padding
    if len(groups) == table.X.shape[1]:
        groups = np.pad(groups, ((0, width - len(groups)), (0, 0)), constant_values=count)
    else:
        groups = np.tile(groups, (1, splits))

    def filled(array: np.ndarray, size: int) -> Array:
        return jnp.asarray(np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)).astype(dtype))

    training, held_out = (table.weights[:, None] * part for part in (table.trains, table.holds_out))
    model = Model(
        X=_product(table.X, units.offset, rows, width, dtype),
        ones=filled(table.ones, rows),
        targets=filled(table.targets, rows),
        groups=jnp.asarray(groups, jnp.int32),
        unit=filled(2 * np.log(units.scale / units.divisor), width)[:, None],
        curvature=jnp.asarray(table.total * loss.curvature, dtype),
        loss=loss,
    )
    real, scale = filled(np.ones(count), entries), jnp.asarray(spread, dtype)
    total, judges = jnp.asarray(table.held_out, dtype), jnp.asarray(table.judges, dtype)
    upper = HeldOutLoss(model, filled(held_out, rows), total, judges, scale, real)
    lower = TrainingLoss(model, filled(training, rows), jnp.asarray(table.total, dtype))
    columns = splits * table.targets.shape[1]
    y = {"weights": jnp.zeros((width, columns), dtype), "intercepts": jnp.zeros(columns, dtype)}
    return Problem(Level(upper), Level(lower)), jnp.zeros(entries, dtype), y


def _product(X: Any, offset: Float[np.ndarray, " d"], rows: int, width: int, dtype: Any) -> Dense | Sparse:
    if isinstance(X, np.ndarray):
        filled = np.zeros((rows, width), dtype)
        filled[: X.shape[0], : X.shape[1]] = X
        return Dense(jnp.asarray(filled), jnp.asarray(np.ascontiguousarray(filled.T)))
    filled = jnp.asarray(np.pad(offset, (0, width - X.shape[1])), dtype)
    return Sparse(_entries(X, rows, dtype), _entries(X.T.tocsr(), width, dtype), filled)


def _entries(X: Any, size: int, dtype: Any) -> Entries:
    """The entries by row, padded with zeros in the last row."""
    extra = _rounded(X.nnz, LEAST[2]) - X.nnz
    to = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    return Entries(
        values=jnp.asarray(np.pad(X.data, (0, extra)).astype(dtype)),
        source=jnp.asarray(np.pad(X.indices, (0, extra)), jnp.int32),
        to=jnp.asarray(np.pad(to, (0, extra), constant_values=size - 1), jnp.int32),
        size=size,
    )


def _rounded(size: int, least: int) -> int:
    """The size rounded up by at most an eighth, or `least`."""
    unit = 2 ** max(0, size.bit_length() - 4)
    return max(least, -(-size // unit) * unit)
