"""Find the settings of each solver and of each reference row on a validation set. The test rows are never drawn.

    python benchmarks/tune.py cleaning --solvers soba,aid --out runs/tune-cleaning.json

For each point of a solver's grid, the score on the validation rows is averaged over the last rows of the history
and over seeds that `bilevel compare` does not use. The best settings go into `tuned` of the solver's
class, and those of the reference rows into `bilevel/compare/settings.py`.
"""

import argparse
import itertools
import math
import pathlib
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from bilevel import RESULTS
from bilevel import _checks as checks
from bilevel._output.files import write_json
from bilevel._output.tables import with_error
from bilevel.compare import records, references, settings
from bilevel.compare._compare import ROWS, run_key
from bilevel.run._solve import solve
from bilevel.solvers._text import assignments

FIRST_SEED = 1000  # compare counts from zero
LAST_ROWS = 4  # the score of a run is the mean over this many rows, a fifth of the run

UPPER = (0.3, 1.0, 3.0, 10.0)
LARGE_UPPER = (3.0, 10.0, 30.0, 100.0)  # few outer steps
LOWER = (0.03, 0.1, 0.3)
ADJOINT = (0.01, 0.03, 0.1, 0.3, 1.0)
NEUMANN = (1.0, 2.0, 4.0)
WEIGHTS = (0.1, 0.3, 1.0)

GRIDS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "cleaning": {
        "itd": {"upper_step": (*LARGE_UPPER, 300.0), "lower_step": (*LOWER, 1.0, 2.0)},
        "aid": {"upper_step": LARGE_UPPER, "lower_step": LOWER},
        "stocbio": {"upper_step": LARGE_UPPER, "lower_step": LOWER, "neumann_step": NEUMANN},
        "sustain": {"upper_step": UPPER, "lower_step": LOWER, "neumann_step": NEUMANN, "upper_storm_weight": WEIGHTS},
        "fsla": {"upper_step": UPPER, "lower_step": LOWER, "adjoint_step": ADJOINT[2:], "storm_weight": WEIGHTS},
        "borep": {"upper_step": (0.003, 0.01, 0.03, 0.1), "lower_step": LOWER, "adjoint_step": ADJOINT[1:]},
        "soba": {"upper_step": UPPER, "lower_step": LOWER, "adjoint_step": ADJOINT[:-1]},
        "saba": {"upper_step": UPPER[1:], "lower_step": (*LOWER[1:], 1.0), "adjoint_step": ADJOINT[1:4]},
        "srba": {"upper_step": (3.0, 10.0, 30.0), "lower_step": (0.1, 0.3, 1.0), "adjoint_step": ADJOINT[2:]},
        "masoba": {"upper_step": UPPER[:3], "lower_step": LOWER[1:], "adjoint_step": ADJOINT[1:3]},
        "ba": {"upper_step": (1.0, 3.0, 10.0, 30.0), "lower_step": (0.1, 0.3, 1.0)},
        "bsa": {"upper_step": (1.0, 3.0, 10.0, 30.0), "lower_step": LOWER},
        "ttsa": {"upper_step": (1.0, 3.0, 10.0), "lower_step": LOWER[1:]},
        "alset": {"upper_step": (1.0, 3.0, 10.0), "lower_step": LOWER[1:]},
        "amigo": {"upper_step": LARGE_UPPER, "lower_step": LOWER[1:], "adjoint_step": ADJOINT[2:4]},
        "stable": {"upper_step": LARGE_UPPER[1:], "strong_convexity": (0.03, 0.1), "lower_step": (0.5, 1.0)},
        "svrb": {"upper_step": (30.0, 100.0, 300.0), "strong_convexity": (0.01, 0.03), "storm_weight": WEIGHTS[:2]},
        "mrbo": {"upper_step": LARGE_UPPER[1:], "lower_step": (0.1, 0.3, 1.0)},
        "vrbo": {"upper_step": LARGE_UPPER[1:], "lower_step": (0.1, 0.3, 1.0)},
        "f2sa": {"upper_step": (10.0, 30.0, 100.0), "penalized_step": (0.03, 0.1), "multiplier": (0.3, 1.0, 3.0)},
        "bome": {"upper_step": (10.0, 100.0, 1000.0), "penalized_step": (0.1, 0.3), "lower_step": (0.3, 1.0, 2.0)},
        "pzobo": {"upper_step": (3.0, 10.0, 30.0, 100.0, 300.0), "lower_step": (0.1, 0.3, 1.0)},
        "hoag": {"upper_step": (30.0, 100.0, 300.0), "lower_step": (1.0, 2.0)},
        "reverse": {"upper_step": (30.0, 100.0, 300.0, 1000.0), "lower_step": (0.3, 1.0), "truncation": (30, 100)},
        "aid-fp": {"upper_step": LARGE_UPPER[1:], "lower_step": (0.3, 1.0), "adjoint_steps": (20, 50)},
        "aid-cg": {"upper_step": LARGE_UPPER[:3], "lower_step": LOWER},
    }
}
STRENGTHS = tuple(10.0**k for k in np.arange(-4, 2.5, 0.5))  # scikit-learn's C


def main() -> None:
    arguments = parse_arguments()
    checks.one_of("task", arguments.task, GRIDS)
    grids = GRIDS[arguments.task]
    names = arguments.solvers.split(",") if arguments.solvers else [*grids, "references"]
    for name in names:
        checks.one_of("solver", name, [*grids, "references"])
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    changes = {"split": "validation"} | assignments("set", arguments.set or ())
    console = Console()
    found: dict[str, Any] = {"task": arguments.task, "arguments": changes, "seeds": list(seeds)}
    for name in names:
        own = {} if name == "references" else settings.setting(arguments.task, name, changes).task
        tasks = {seed: settings.make_task(arguments.task, seed, own | changes) for seed in seeds}
        if name == "references":
            found[name] = tune_references(console, arguments.task, tasks)
        else:
            found[name] = tune_solver(console, arguments.task, name, grids[name], tasks, arguments.steps)
        if arguments.out:  # after each, so that an interruption loses little
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="cleaning")
    parser.add_argument("--solvers", help="names separated by commas, which may include 'references'; default: all")
    parser.add_argument("--seeds", type=int, default=3, help=f"number of tuning seeds, from {FIRST_SEED} on")
    parser.add_argument("--steps", type=int, help="steps of a run; default: as in the settings")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="an argument of the task")
    parser.add_argument("--out", type=pathlib.Path, help="write a JSON file")
    return parser.parse_args()


def tune_solver(
    console: Console, task_name: str, name: str, grid: dict[str, tuple[float, ...]], tasks: dict[int, Any], steps: Any
) -> dict[str, Any]:
    """All points of the grid, best first."""
    steps, points = steps or settings.setting(task_name, name).steps, []
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        solver = settings.settings(task_name, name, point)
        scores = [score(task, solver, seed, steps) for seed, task in tasks.items()]
        points.append({"point": point} | records.spread(scores))
        if console.is_terminal:
            console.print(f"{name} {point} {points[-1]['mean']:.4f}\x1b[K", end="\r", soft_wrap=True, highlight=False)
    return report(console, f"{name}, {steps} steps", grid, points)


def score(task: Any, solver: Any, seed: int, steps: int) -> float:
    """The validation score at the end of one run; −∞ for a run that broke down."""
    rest = max(1, steps * LAST_ROWS // ROWS)
    options: dict[str, Any] = {"metrics": task.metrics, "progress": False, "throw": False}
    solution = solve(
        task.problem, solver, task.x, task.y, steps=steps - rest, every=steps, key=run_key(seed), **options
    )
    if solution.result == RESULTS.successful:
        solution = solve(task.problem, solver, solution, steps=rest, every=max(1, rest // LAST_ROWS), **options)
    return float(np.mean(solution.history[task.score][2:])) if solution.result == RESULTS.successful else -math.inf


def tune_references(console: Console, task_name: str, tasks: dict[int, Any]) -> dict[str, Any]:
    """The same for the C of each reference row."""
    found = {}
    for name in settings.REFERENCES[task_name]:
        points = []
        for C in STRENGTHS:
            scores = [references.fit(*references.training_rows(task, name), C, task) for task in tasks.values()]
            points.append({"point": {"C": C}} | records.spread(scores))
        found[name] = report(console, name, {"C": STRENGTHS}, points)
    return found


def report(
    console: Console, title: str, grid: dict[str, tuple[float, ...]], points: list[dict[str, Any]]
) -> dict[str, Any]:
    """Print the best points, warn if the best lies on the grid's edge, and return all."""
    points = sorted(points, key=lambda point: -point["mean"])
    table = Table(*grid, "score", title=title, title_justify="left")
    for point in points[:8]:
        values = [f"{value:g}" for value in point["point"].values()]
        table.add_row(*values, with_error(point["mean"], point["standard_error"], 4).text)
    console.print(table)
    best = points[0]["point"]
    edges = [name for name, values in grid.items() if len(values) > 1 and best[name] in (min(values), max(values))]
    for name in edges:
        console.print(f"[yellow]{title}: the best {name}, {best[name]:g}, lies on the grid's edge: widen it[/]")
    return {"best": best, "edges": edges, "points": points}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
