"""How much of a grid's gain does `bl.suggest` reach? On four tasks, for each solver that has a theorem.

    python benchmarks/suggest.py --out runs/suggest.json
    python benchmarks/suggest.py --tasks cleaning --solvers soba,stocbio --seeds 1

For each task and solver there is a 5×5 grid over upper and lower steps, by factors of 4 and 2, around those that
`suggest` gives (the geometric mean over the seeds), with its other settings as suggested. If the best point lies on the
edge, the grid is moved there, up to twice. Every run has the same oracle budget (all kinds of samples counted alike).
`suggest` pays for its measurements and trial from it, so its run is shorter. The share of a gap is
(start − suggest)/(start − best of the grid), with losses that are medians over the seeds (each with its own task), for

- `f`: the upper loss f(x, y) on all rows, at the final x and y, or at the initial x and y;
- `Φ`: the upper loss at the lower solution, f(x, y*(x)), the function that is minimized.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from bilevel import _checks as checks
from bilevel import oracles, tasks, trees
from bilevel._output.files import write_json
from bilevel._prepare import prepare
from bilevel._suggest._trial import _upper_loss
from bilevel.steps import GradientStep
from bilevel.tasks._base import SOURCES
from bilevel.tasks._regularization import cross_entropy, regularization

GOAL = 0.9
SEEDS = range(2000, 2010)
UPPER, LOWER = 4.0, 2.0  # factors between neighbors in the grid
MOVES = 2
POLISH = 400  # accelerated gradient steps to y*(x)


def embedded_loss(x: Any, y: Any, batch: Any) -> Any:
    return cross_entropy(None, x @ y, batch)


def ridge_loss(x: Any, y: Any, batch: Any) -> Any:
    return embedded_loss(x, y, batch) + 5e-3 * jnp.sum(y**2)


def representation(seed: int, source: str = "rows", width: int = 8) -> Any:
    """A shared linear embedding x of the digits, and a ridge-regularized softmax head y on it.

    The curvature of the lower level grows with the square of x, so the constants change along the run.
    """
    task = regularization(seed=seed, split="validation", train=320, validation=320, batch_size=32, source=source)
    data, rows = task.data, SOURCES[source]
    features = data.train["features"].shape[1]
    x = np.random.default_rng(seed).normal(size=(features, width)) / math.sqrt(features)
    upper = bl.Level(embedded_loss, data=rows(data.validation), batch_size=32)
    lower = bl.Level(ridge_loss, data=rows(data.train), batch_size=32)
    start = jnp.zeros((width, data.classes))
    return dataclasses.replace(task, problem=bl.Problem(upper, lower), x=jnp.asarray(x, jnp.float32), y=start)


@dataclasses.dataclass(frozen=True)
class Case:
    """A task for a seed and a source of rows, and the budget of a run."""

    make: Callable[..., Any]
    budget: int


CASES = {
    "quadratic": Case(
        functools.partial(tasks.quadratic, 10, 10, mu=1.0, L=100.0, noise=0.1, rows=400, batch_size=16), 600_000
    ),
    "cleaning": Case(
        functools.partial(tasks.cleaning, train=640, trusted=96, batch_size=32, split="validation"), 600_000
    ),
    "regularization": Case(
        functools.partial(regularization, train=192, validation=192, batch_size=32, split="validation"), 600_000
    ),
    "representation": Case(representation, 600_000),
}
DENSE = ("stable", "svrb")  # they hold matrices of size dim y: only on the quadratic
SOLVERS = [name for name in bl.SOLVERS if name not in ("reverse", "aid-fp", "aid-cg", "maml")]  # itd and aid again


@eqx.filter_jit
def solved_loss(problem: bl.Problem, x: Any, y: Any) -> Any:
    """Φ(x) by accelerated gradient descent with restarts from y, with the step from power iteration on H."""
    level, batch = problem.lower, problem.lower.all_rows()

    def power(_: Any, carry: Any) -> Any:
        u, _ = carry
        Hu = oracles.hessian_product(level, x, trees.zeros_like(y), u, batch)
        norm = trees.norm(Hu)
        return trees.scale(1 / norm, Hu), norm

    ones = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype), y)
    L = 1.2 * jax.lax.fori_loop(0, 30, power, (trees.scale(1 / trees.norm(ones), ones), jnp.zeros(())))[1]

    def step(_: Any, carry: Any) -> Any:
        y, z, k = carry
        G = oracles.gradient_y(level, x, z, batch)
        new = trees.axpy(-1 / L, G, z)
        k = jnp.where(trees.dot(G, trees.sub(new, y)) > 0, 0.0, k + 1)
        return new, trees.axpy(k / (k + 3), trees.sub(new, y), new), k

    y = jax.lax.fori_loop(0, POLISH, step, (y, y, jnp.zeros(())))[0]
    return _upper_loss(problem.upper, x, y)


def run_for(solver: Any, problem: bl.Problem, start: Any, key: Any, budget: Any) -> Any:
    """The state once a budget of samples is spent."""

    def step(carry: Any) -> Any:
        state, cost, t = carry
        state, spent = bl.advance(solver, problem, state, key, t, 1)
        return state, cost + spent, t + 1

    return jax.lax.while_loop(lambda carry: carry[1].samples() < budget, step, (*start, jnp.zeros((), jnp.int32)))[0]


@eqx.filter_jit
def finish_all(problem: bl.Problem, base: Any, lanes: Any, x: Any, y: Any, key: Any) -> Any:
    """(f, Φ) at the end of runs; each lane has its factors for the upper and lower step, and its budget."""

    def one(lane: Any) -> Any:
        solver = scaled(base, lane[0], lane[1])
        state = run_for(solver, problem, bl.initial_state(solver, problem, x, y, key), key, lane[2])
        return jnp.stack([_upper_loss(problem.upper, state.x, state.y), solved_loss(problem, state.x, y)])

    return jax.vmap(one)(lanes)


def finish(
    problem: bl.Problem, base: Any, lanes: Sequence[tuple[float, float, float]], x: Any, y: Any, key: Any
) -> Any:
    """The same, with infinity for runs that broke down."""
    found = np.asarray(finish_all(problem, base, jnp.asarray(lanes, jnp.float32), x, y, key), float)
    return np.where(np.isfinite(found).all(axis=1, keepdims=True), found, math.inf)


def scaled(solver: Any, upper: Any, lower: Any) -> Any:
    """The solver with its upper and lower steps multiplied."""

    def times(rate: Any, factor: Any) -> Any:
        leaf = "value" if hasattr(rate, "value") else "scale"  # a constant, or an inverse power
        return GradientStep(eqx.tree_at(lambda rate: getattr(rate, leaf), rate, getattr(rate, leaf) * factor))

    where = lambda solver: (solver.upper_step, solver.lower_step)  # noqa: E731
    steps = (times(solver.upper_step.rate, upper), times(solver.lower_step.rate, lower))
    return eqx.tree_at(where, solver, steps)


def measure_cell(case: Case, name: str, seeds: list[int]) -> dict[str, Any]:
    source = {"source": "blocks"} if name == "saba" else {}
    made = {seed: case.make(seed=seed, **source) for seed in seeds}
    prepared = {seed: prepare(task.problem, task.x, task.y) for seed, task in made.items()}
    problems = {seed: (part.problem, part.x, part.y) for seed, part in prepared.items()}
    keys = {seed: jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds}
    clock = time.perf_counter()
    found = {s: bl.suggest(*problems[s], solver=name, key=keys[s], budget=case.budget) for s in seeds}
    suggest_seconds = time.perf_counter() - clock
    uppers, lowers = ({s: _rate(found[s].solver, name) for s in seeds} for name in ("upper_step", "lower_step"))
    middle = [math.exp(np.mean(np.log(list(steps.values())))) for steps in (uppers, lowers)]
    start = [(float(_upper_loss(p.upper, x, y)), float(solved_loss(p, x, y))) for p, x, y in problems.values()]
    grid: dict[tuple[int, int], list[float]] = {}
    ours: Any = None
    center, moves = (0, 0), 0
    clock = time.perf_counter()
    while True:
        points = [(center[0] + i, center[1] + j) for i, j in itertools.product(range(-2, 3), repeat=2)]
        ends = []
        for seed, (problem, x, y) in problems.items():
            factors = [(middle[0] / uppers[seed] * UPPER**i, middle[1] / lowers[seed] * LOWER**j) for i, j in points]
            left = case.budget - sum(found[seed].samples.values())
            lanes = [*((u, lower, case.budget) for u, lower in factors), (1.0, 1.0, left)]  # the last is suggest's own
            ends.append(finish(problem, found[seed].solver, lanes, x, y, keys[seed]))
        medians = np.median(ends, axis=0).tolist()
        ours, grid = [end[-1] for end in ends], grid | dict(zip(points, medians[:-1], strict=True))
        best = [min(grid, key=lambda point: grid[point][kind]) for kind in range(2)]
        inside = [_inside(point, grid) for point in best]
        if all(inside) or moves == MOVES:
            break
        # Φ first: it is the objective
        center, moves = best[1] if not inside[1] else best[0], moves + 1
    row: dict[str, Any] = {"seeds": seeds, "budget": case.budget, "moves": moves}
    for kind, label in enumerate(("f", "Φ")):
        at_start, at_end = (float(np.median([pair[kind] for pair in pairs])) for pairs in (start, ours))
        least = grid[best[kind]][kind]
        row[label] = {
            "start": at_start,
            "suggest": at_end,
            "best": least,
            "share": (at_start - at_end) / (at_start - least) if at_start > least else math.nan,
            "best factors": [UPPER ** best[kind][0], LOWER ** best[kind][1]],
            "inside": inside[kind],
        }
    first = found[seeds[0]]
    row["grid"] = [{"upper": UPPER**i, "lower": LOWER**j, "f": f, "Φ": phi} for (i, j), (f, phi) in grid.items()]
    row["samples"] = {str(seed): found[seed].samples for seed in seeds}
    row["reasons"] = [[setting, str(value), why] for setting, value, why in first.reasons]
    row["upper steps"] = list(uppers.values())
    row["seconds"] = {"suggest": suggest_seconds, "grid": time.perf_counter() - clock}
    return row


def _rate(solver: Any, step: str) -> float:
    """A step at the start."""
    return float(np.asarray(getattr(solver, step).rate(0)))


def _inside(point: tuple[int, int], grid: dict[tuple[int, int], Any]) -> bool:
    """Whether the point has evaluated neighbors on all sides."""
    i, j = point
    return all(neighbor in grid for neighbor in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(CASES))
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, help="write a JSON file")
    arguments = parser.parse_args()
    print(
        f"{'task':15}{'solver':9}{'share f':>8}{'share Φ':>9}  {'f: start → suggest, best':34}best/suggest (u, l)  cost"
    )
    table: dict[str, Any] = {}
    for task_name, name in itertools.product(arguments.tasks.split(","), arguments.solvers.split(",")):
        checks.one_of("tasks", task_name, CASES)
        checks.one_of("solvers", name, bl.SOLVERS)
        if name in DENSE and task_name != "quadratic":
            continue
        try:
            row = measure_cell(CASES[task_name], name, list(SEEDS[: arguments.seeds]))
        except Exception as error:  # a failure is a row of the table
            row = {"error": f"{type(error).__name__}: {error}"}
        table.setdefault(task_name, {})[name] = row
        print(line(task_name, name, row), flush=True)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, table)


def line(task_name: str, name: str, row: dict[str, Any]) -> str:
    head = f"{task_name:15}{name:9}"
    if "error" in row:
        return head + " " + row["error"][:120]
    f, phi = row["f"], row["Φ"]
    met = "  " if min(f["share"], phi["share"]) >= GOAL else " *"
    factors = "; ".join(f"{u:g}, {lower:g}" for u, lower in (f["best factors"], phi["best factors"]))
    edges = "" if f["inside"] and phi["inside"] else " edge"
    cost = np.mean([sum(samples.values()) for samples in row["samples"].values()]) / row["budget"]
    loss = f"{f['start']:.4g} → {f['suggest']:.4g}, {f['best']:.4g}"
    seconds = "+".join(f"{value:.0f}" for value in row["seconds"].values())
    return f"{head}{f['share']:8.1%}{phi['share']:8.1%}{met} {loss:34}{factors}{edges}  {cost:.0%} {seconds} s"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
