"""From a table to tuned penalties: folds, units, the search for a start, the tuning, the final fit.

Shapes are rounded up, so that tables of nearly the same shape (the folds of a grid search) share one compiled program.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bilevel.estimators import _penalties as penalties
from bilevel.estimators._common import by_class
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
from bilevel.problem import Level, Problem
from bilevel.steps import Rule

DECADES = range(2, -8, -1)  # for the common penalty, in units of the mean sum of squares of a feature
RATE = 0.3  # of Adam, in units of log λ
TOLERANCE = 1e-4  # for the Newton decrement of all folds together, in nats per row; a tenth of it for the final fit
NEWTON_STEPS = 20  # at most, for a common penalty and the final fit; the tuning takes one per x

LEAST = (256, 32, 4096)  # rows, features and entries of a sparse X that small tables are padded to
_DTYPE = np.float32


@dataclass(frozen=True)
class Table:
    """Rows (X, ones), their targets and weights, and the fold that holds each row out (−1: none).

    `total` and `held_out`: the sums of the weights of all rows, and of the rows that a fold holds out.
    """

    X: Any
    targets: Float[np.ndarray, "n c"]
    weights: Float[np.ndarray, " n"]
    folds: Int[np.ndarray, " n"]
    ones: Float[np.ndarray, " n"]
    total: float
    held_out: float


@dataclass(frozen=True)
class Units:
    """In the fit, a feature is (x − center)/divisor and a target (t − target_center)/target_divisor; `size` is the
    root mean square of all x − center."""

    center: Float[np.ndarray, " d"]
    divisor: Float[np.ndarray, " d"]
    target_center: Float[np.ndarray, " c"]
    target_divisor: float
    size: float


@dataclass(frozen=True)
class Tuned:
    """Coefficients, intercepts and the λ of each group, in the units of the table; and a row for each step."""

    coefficients: Float[np.ndarray, "c d"]
    intercepts: Float[np.ndarray, " c"]
    penalties: Float[np.ndarray, " p"]
    history: list[dict[str, Any]]


def new_table(X: Any, targets: np.ndarray, weights: np.ndarray, folds: np.ndarray) -> Table:
    """`X`: an array or a SciPy CSR matrix."""
    total, held_out = float(weights.sum()), float(weights[folds >= 0].sum())
    return Table(X, targets, weights, folds, np.ones(len(folds)), total, held_out)


def draw_folds(
    rows: int, cv: Any, rng: np.random.RandomState, labels: Int[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"]:
    """The fold that holds each row out: 0, …, cv − 1. For a float cv: 0 for this share of rows, else −1.

    With `labels`, each class is spread evenly, and none is held out whole: a class of one row is always trained on.
    """
    order = rng.permutation(rows)
    if labels is not None:
        order = by_class(order, labels)
    place, folds = np.arange(rows), np.empty(rows, int)
    if isinstance(cv, int | np.integer):
        folds[order] = place % cv
    else:
        folds[order] = np.where(np.floor((place + 1) * cv) > np.floor(place * cv), 0, -1)
    if labels is not None:
        folds[np.bincount(labels)[labels] == 1] = -1
    return folds


def tune(table: Table, groups: Int[np.ndarray, "_ _"], loss: Loss, *, folds: int, spread: float, steps: int) -> Tuned:
    """Penalties that the held-out rows prefer, and the model with them on all rows.

    1. One common penalty: decades of the mean sum of squares of a feature are tried, from strong to weak. A weaker one
       is taken if it makes all held-out rows together more probable by a nat. The first that does not ends the search,
       but not before the third: the first two may be too strong to show any effect.
    2. From there, Adam takes `steps` steps along the hypergradient. In each step, a Newton step of all folds follows x,
       and the adjoint starts from the previous one. The x with the least objective is kept.
    3. The model is trained on all rows with these penalties.

    `groups`: the index of the penalty of each w_jc, (d, 1) or (1, c).
    """
    table, units = in_units(table, loss)
    problem, x, y = make_problem(compressed(table, loss), units, groups, loss, folds=folds, spread=spread)
    tuner = Tuner(Rule(optax.adam, RATE), jnp.asarray(TOLERANCE, _DTYPE), jnp.asarray(NEWTON_STEPS))
    state = _search(problem, tuner, x, y, np.log(table.total) + 2 * np.log(units.size))
    history = []
    if steps:
        quick = eqx.tree_at(lambda tuner: tuner.newton_steps, tuner, jnp.asarray(1))
        state, history = _descend(problem, quick, state, steps)
        unit = (
            2 * units.target_divisor**2 if loss is penalties.SQUARED else 1.0
        )  # the loss is ½ of the squared error, in other units
        history = [row | {"held-out loss": unit * row["held-out loss"]} for row in history]
    w, b = _fit(problem, tuner, state, units)
    return Tuned(w, b, np.exp(np.asarray(state.x, float))[: groups.max() + 1], history)


def _search(problem: Problem, tuner: Tuner, x: Array, y: Any, unit: float) -> State:
    """The state with the best common penalty, and the models of the folds with it."""
    best, taken, nat = None, 0, 1 / float(problem.upper.loss.total)
    for tried, decade in enumerate(DECADES):
        state = tuner.begin(problem, jnp.full_like(x, unit + decade * np.log(10)), y)
        state = advance(problem, tuner, state, jnp.asarray(0), jnp.asarray(False))
        y = state.y
        if best is None or state.objective < best.objective - nat:
            best, taken = state, tried
        elif taken or tried == 2:
            break
    assert best is not None
    return best


def _descend(problem: Problem, tuner: Tuner, state: State, steps: int) -> tuple[State, list[dict[str, Any]]]:
    """The state with the best x of `steps` steps, and a row for each x on the way."""
    clock, rows = time.perf_counter(), []
    for t in range(steps + 1):
        state = advance(problem, tuner, state, jnp.asarray(t), jnp.asarray(t < steps))
        losses = {"held-out loss": float(state.held_out), "objective": float(state.objective)}
        rows.append({"step": t, "seconds": time.perf_counter() - clock} | state.cost.to_dict() | losses)
    return eqx.tree_at(lambda state: state.x, state, state.best[1]), rows


def _fit(problem: Problem, tuner: Tuner, state: State, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercepts of the model on all rows. Every fold trains on all rows, which keeps the program the
    same, and their mean is taken."""
    weights = problem.lower.loss.weights + problem.upper.loss.weights
    problem = eqx.tree_at(lambda problem: problem.lower.loss.weights, problem, weights)
    tuner = eqx.tree_at(lambda tuner: tuner.tolerance, tuner, tuner.tolerance / 10)
    state = advance(problem, tuner, state, jnp.asarray(0), jnp.asarray(False))
    model = problem.lower.loss.model
    c = len(units.target_center)
    w = np.asarray(model.weights(state.x, state.y), float)[: len(units.divisor)]
    w = w.reshape(len(w), -1, c).mean(axis=1).T * (units.target_divisor / units.divisor)[None, :]
    b = np.asarray(model.intercepts(state.y), float).reshape(-1, c).mean(axis=0) * units.target_divisor
    return w, b + units.target_center - w @ units.center


def in_units(table: Table, loss: Loss) -> tuple[Table, Units]:
    """Scale features to mean square one, and center dense ones, which the intercept makes up for. For a squared loss,
    scale targets to mean zero and mean square one."""
    X, targets, share = table.X, table.targets, table.weights / table.total
    if isinstance(X, np.ndarray):
        center = share @ X
        X = X - center.astype(X.dtype)[None, :]
        size = _root_mean_square(X, share)
        divisor = _positive(size)
        X = X / divisor.astype(X.dtype)[None, :]
    else:
        center, size = np.zeros(X.shape[1]), _root_mean_square_of_sparse(X, share)
        divisor = _positive(size)
        X = X.copy()
        X.data = X.data / divisor.astype(X.dtype)[X.indices]
    target_center, target_divisor = np.zeros(targets.shape[1]), 1.0
    if loss is penalties.SQUARED:
        target_center = share @ targets
        targets = targets - target_center[None, :]
        each = _root_mean_square(targets, share)
        target_divisor = float(_positive(_root_mean_square(each, np.full(len(each), 1 / len(each)))))
        targets = targets / target_divisor
    whole = float(_positive(_root_mean_square(size, np.full(len(size), 1 / len(size)))))
    return replace(table, X=X, targets=targets), Units(center, divisor, target_center, target_divisor, whole)


def _root_mean_square(columns: Float[np.ndarray, "n ..."], share: Float[np.ndarray, " n"]) -> Float[np.ndarray, "..."]:
    """The root mean square of each column. No square overflows."""
    largest = _positive(np.abs(columns).max(axis=0).astype(float))
    return np.asarray(largest * np.sqrt(share @ (columns / largest) ** 2))


def _root_mean_square_of_sparse(X: Any, share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    largest = np.zeros(X.shape[1])
    np.maximum.at(largest, X.indices, np.abs(X.data))
    largest = _positive(largest)
    terms = np.repeat(share, np.diff(X.indptr)) * (X.data / largest[X.indices]) ** 2
    return largest * np.sqrt(np.bincount(X.indices, terms, minlength=X.shape[1]))


def _positive(values: Any) -> np.ndarray:
    return np.where(values > 0, values, 1.0)


def compressed(table: Table, loss: Loss) -> Table:
    """Fewer rows with the same sums of squares: for each fold, the triangle of a QR factorization of (X, 1, t)."""
    parts, features = np.unique(table.folds), table.X.shape[1]
    shrinks = len(parts) * (features + 1 + table.targets.shape[1]) <= len(table.folds) / 2
    if loss is not penalties.SQUARED or not isinstance(table.X, np.ndarray) or not shrinks:
        return table
    rows = np.hstack([table.X, table.ones[:, None], table.targets]).astype(float) * np.sqrt(table.weights)[:, None]
    triangles = [np.linalg.qr(rows[table.folds == part], mode="r") for part in parts]
    folds = np.repeat(parts, [len(triangle) for triangle in triangles])
    X, ones, targets = np.split(np.vstack(triangles), [features, features + 1], axis=1)
    return replace(table, X=X, targets=targets, weights=np.ones(len(folds)), folds=folds, ones=ones[:, 0])


def make_problem(
    table: Table,
    units: Units,
    groups: Int[np.ndarray, "_ _"],
    loss: Loss,
    *,
    folds: int,
    spread: float,
    dtype: Any = _DTYPE,
) -> tuple[Problem, Array, Any]:
    """The bilevel problem of a table in its units, with x = 0 and y = 0."""
    rows, width = (_rounded(size, least) for size, least in zip(table.X.shape, LEAST[:2], strict=True))
    count = int(groups.max()) + 1
    entries = _rounded(count + 1, LEAST[1])  # `count` is the group of the padding
    if len(groups) == table.X.shape[1]:
        groups = np.pad(groups, ((0, width - len(groups)), (0, 0)), constant_values=count)
    else:
        groups = np.tile(groups, (1, folds))

    def filled(array: np.ndarray, size: int) -> Array:
        return jnp.asarray(np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)).astype(dtype))

    holds_out = table.folds[:, None] == np.arange(folds)[None, :]
    held_out, training = (filled(table.weights[:, None] * part, rows) for part in (holds_out, ~holds_out))
    model = Model(
        X=_product(table.X, rows, width, dtype),
        ones=filled(table.ones, rows),
        targets=filled(table.targets, rows),
        groups=jnp.asarray(groups, jnp.int32),
        unit=filled(-2 * np.log(units.divisor), width)[:, None],
        curvature=jnp.asarray(table.total * loss.curvature, dtype),
        loss=loss,
    )
    real, scale = filled(np.ones(count), entries), jnp.asarray(spread, dtype)
    upper = HeldOutLoss(model, held_out, jnp.asarray(table.held_out, dtype), scale, real)
    lower = TrainingLoss(model, training, jnp.asarray(table.total, dtype))
    columns = folds * table.targets.shape[1]
    y = {"weights": jnp.zeros((width, columns), dtype), "intercepts": jnp.zeros(columns, dtype)}
    return Problem(Level(upper), Level(lower)), jnp.zeros(entries, dtype), y


def _product(X: Any, rows: int, width: int, dtype: Any) -> Dense | Sparse:
    if isinstance(X, np.ndarray):
        filled = np.zeros((rows, width), dtype)
        filled[: X.shape[0], : X.shape[1]] = X
        return Dense(jnp.asarray(filled), jnp.asarray(np.ascontiguousarray(filled.T)))
    return Sparse(_entries(X, rows, dtype), _entries(X.T.tocsr(), width, dtype))


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
