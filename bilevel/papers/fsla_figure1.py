"""FSLA's figure 1: the error of hypergradient estimators on a quadratic with a known solution."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bilevel import _checks as checks
from bilevel.hypergradients import ConjugateGradient, general_hypergradient, hypergradient
from bilevel.oracles import gradient_y
from bilevel.papers._estimation import EstimationTask, estimation
from bilevel.problem import Problem
from bilevel.solvers.fsla import FSLA

STEP = 0.2  # on the mean over 10⁴ rows: the paper's 2e-5 on their sum
POWERS = (2.0, 1.0, 0.5, 0.25)  # a in the sequences y* + ỹ/k^a
GRID_POINTS = 40  # values of k in a sequence, evenly spaced in log k
MOVING = "FSLA, x moving"
ESTIMATORS = ("BP", "NS", "CG", "FSLA", MOVING)

Row = dict[str, Any]
Curve = tuple[str, str, float | None, np.ndarray, np.ndarray]  # panel, estimator, a, the k's and the squared errors


def estimator_errors(
    seeds: Iterable[int] = range(5),
    *,
    iterations: int = 500,
    sequence_iterations: int = 10_000,
    rows: int = 10_000,
    step: float = STEP,
) -> list[Row]:
    """Squared distances from ∇Φ(x) of estimates of the hypergradient, in float64, on the task `estimation`.

    Panel "descent", every k up to `iterations`: gradient descent with the step β from y_0 = 0, at a fixed x.

    | estimator | from y_0, …, y_k |
    |---|---|
    | BP | back-propagation through the k steps |
    | NS | k terms of the Neumann series with weight β, at y_k |
    | CG | k conjugate-gradient steps at y_k |
    | FSLA | forward mode, p_i = F_y(x, y_i), weights β |
    | FSLA, x moving | d_k of the solver, its three steps all β, against ∇Φ(x_k) |

    Two results are inevitable. H and J are constant, so BP and NS are the same number, and their error is linear in
    y_k − y* except for a geometric term. If x keeps moving, y and v lag behind by the size of its moves, so the squared
    error levels off at a value proportional to the square of x's step.

    Panel "sequence", k up to `sequence_iterations`: y_k = y* + ỹ/k^a with y_0 = y_1, ỹ uniform, and a = 2, 1, ½, ¼.
    The estimate is the Neumann choice of Lemma 2 (weights β ≤ 1/L) in backward mode (p_k = F_y(x, y_k)) and in forward
    mode (p_i = F_y(x, y_i)). The lemma's bound O(‖y_k − y*‖) means a squared error of order k^{−2a}.

    The package's public functions give each number. All k share one compiled program: the first k points are placed
    last in a sequence of full length, and the weights before them are zero, which does not change the result.

    **Arguments**

    - `seeds`: each draws new data and a new ỹ.
    - `rows`: n for each level. They enter through their triangular factors (`EstimationTask.reduced`).
    - `step`: β for means of squares; for their sums it is β/n.

    **Returns** one row per number: `panel`, `estimator`, `a` (None for descent), `k`, `seed`, `squared error` (for sums
    over the rows, as in the paper: n² times that of the means) and `relative`, over ‖∇Φ(x_0)‖².

    **Raises** `ValueError` or `TypeError`, naming the argument, for sizes out of range and a step above 1/L.

    Example:

        >>> from bilevel.papers.fsla_figure1 import estimator_errors
        >>> rows = estimator_errors([0], iterations=2, sequence_iterations=1_000, rows=100)
        >>> errors = {row["k"]: row["relative"] for row in rows if row["estimator"] == "backward" and row["a"] == 0.5}
        >>> round(errors[100] / errors[1_000])  # squared errors fall as k^-2a
        10

    Reference: Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse", AAAI
    2022, section 6.1 and Figure 1.
    """
    for name, value in (("iterations", iterations), ("sequence_iterations", sequence_iterations)):
        checks.count(name, value, least=2)
    checks.positive("step", step)
    table: list[Row] = []
    with jax.enable_x64(True):  # relative squared errors fall to 1e-20
        for seed in seeds:
            task = estimation(rows=rows, seed=seed)
            if step * task.L > 1:
                raise ValueError(f"step: got {step}; it must be at most 1/L, here {1 / task.L:.3g}")
            scale = float(np.sum(task.hypergradient(task.x) ** 2))
            for panel, estimator, a, ks, squares in [
                *_descent(task, iterations, step),
                *_sequences(task, sequence_iterations, step, seed),
            ]:
                table += [
                    {"panel": panel, "estimator": estimator, "a": a, "k": int(k), "seed": seed}
                    | {"squared error": float(rows**2 * square), "relative": float(square / scale)}
                    for k, square in zip(ks, squares, strict=True)
                ]
    return table


def _descent(task: EstimationTask, last: int, step: float) -> list[Curve]:
    problem, x, ks = task.reduced, task.x, np.arange(1, last + 1)
    answer = task.hypergradient(x)
    ys = _gradient_descent(problem, x, task.y, step, last)
    held = {
        "BP": _general(problem, x, ys, ks, step, "backward"),
        "NS": _general(problem, x, ys, ks, step, "backward", last_point=True),
        "CG": _conjugate_gradient(problem, x, ys),
        "FSLA": _general(problem, x, ys, ks, step, "forward"),
    }
    curves: list[Curve] = [("descent", name, None, ks, _squares(h, answer)) for name, h in held.items()]
    solver = FSLA(upper_step=step, lower_step=step, adjoint_step=step, storm_weight=1.0)
    xs, ds = _iterates(solver, problem, x, task.y, last)
    answers = np.stack([task.hypergradient(x) for x in xs])
    return [*curves, ("descent", MOVING, None, ks, _squares(ds, answers))]


def _sequences(task: EstimationTask, last: int, step: float, seed: int) -> list[Curve]:
    ks = np.unique(np.geomspace(1, last, GRID_POINTS).round().astype(int))
    y_star, answer = task.y_star(task.x), task.hypergradient(task.x)
    offset = np.random.default_rng((seed, 1)).uniform(size=len(y_star))
    curves: list[Curve] = []
    for a in POWERS:
        k = np.maximum(np.arange(last + 1.0), 1)[:, None]
        ys = jnp.asarray(y_star + offset / k**a)
        for mode in ("backward", "forward"):
            h = _general(task.reduced, task.x, ys, ks, step, mode)
            curves.append(("sequence", mode, a, ks, _squares(h, answer)))
    return curves


def _squares(estimates: Any, answer: np.ndarray) -> Float[np.ndarray, " K"]:
    return np.sum((np.asarray(estimates) - answer) ** 2, axis=-1)


@eqx.filter_jit
def _gradient_descent(problem: Problem, x: Array, y: Array, step: Any, last: int) -> Float[Array, "K dim_y"]:
    """y_0, …, y_K."""
    batch = problem.lower.all_rows()

    def move(y: Array, _: None) -> tuple[Array, Array]:
        return y - step * gradient_y(problem.lower, x, y, batch), y

    y, ys = jax.lax.scan(move, y, length=last)
    return jnp.append(ys, y[None], axis=0)


@eqx.filter_jit
def _general(
    problem: Problem, x: Array, ys: Array, ks: Any, step: float, mode: str, *, last_point: bool = False
) -> Float[Array, "K dim_x"]:
    """For each k, Lemma 2 with y_0, …, y_k, or with only y_k, and k equal weights."""
    last = len(ys) - 1

    def at(k: Any) -> Array:
        place = jnp.arange(last + 1) - (last - k)
        betas = jnp.where(place[:-1] >= 0, step, 0.0)
        points = ys[jnp.full(last + 1, k) if last_point else jnp.maximum(place, 0)]
        return general_hypergradient(problem, x, points, betas, mode=mode)

    return jax.vmap(at)(ks)


@eqx.filter_jit
def _conjugate_gradient(problem: Problem, x: Array, ys: Array) -> Float[Array, "K dim_x"]:
    """For k = 1, …, K, k steps at y_k. It stops at rounding error, well before 2 dim y steps."""
    most = min(2 * ys.shape[1], len(ys) - 1)

    def at(steps: int, y: Array) -> Array:
        return hypergradient(problem, x, y, method=ConjugateGradient(steps=steps))

    first = jnp.stack([at(k, ys[k]) for k in range(1, most)])
    return jnp.append(first, jax.vmap(lambda y: at(most, y))(ys[most:]), axis=0)


@eqx.filter_jit
def _iterates(solver: FSLA, problem: Problem, x: Array, y: Array, last: int) -> tuple[Array, Array]:
    """x_k and d_k, k = 1, …, K. Without batches, d_k is ∇f_k, whatever the weight of the fresh sample."""
    key = jax.random.key(0)  # nothing draws from it

    def step(state: Any, t: Any) -> tuple[Any, tuple[Array, Array]]:
        state, _ = solver.step(problem, state, t, key=key)
        return state, (state.x, state.d)

    return jax.lax.scan(step, solver.init(problem, x, y, key=key)[0], jnp.arange(last))[1]
