"""benchmark_bilevel's two problems: SOBA, SABA and SRBA on cleaning MNIST, and on one penalty per feature.

    BILEVEL_DATA=data python benchmarks/benchmark_bilevel.py            # 5 minutes on 2 shared cores
    BILEVEL_DATA=data python benchmarks/benchmark_bilevel.py --problems cleaning --seeds 10

Each number is a mean over seeds, each with its own rows and labels, with its standard error. Step sizes were chosen
from a grid of 3×3 by the validation split of another seed. The row "none" has an upper step of nearly zero: x stays at
its start.
"""

import argparse

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import bilevel as bl
from bilevel import tasks

BATCH = 64
METRICS = ("test accuracy", "test loss", "upper loss")


# --8<-- [start:tasks]
def cleaning(seed: int, corruption: float = 0.5) -> tasks.Task:
    """20,000 training rows of MNIST, half of the labels redrawn; 5,000 trusted rows."""
    return tasks.cleaning(
        "mnist",
        corruption,
        trusted=5_000,
        train=20_000,
        test_fraction=1 / 7,
        regularization=0.2,
        start_weight=-2.0,
        standardize=True,
        batch_size=BATCH,
        source="shuffled blocks",
        seed=seed,
    )


def regularization(name: str, seed: int, train: int, validation: int) -> tasks.Task:
    """One penalty exp(x_j) per feature of a set with two classes."""
    return tasks.regularization(
        name,
        train=train,
        validation=validation,
        test_fraction=0.2,
        bound=None,
        batch_size=BATCH,
        source="shuffled blocks",
        seed=seed,
    )


# --8<-- [end:tasks]

PROBLEMS = {
    "cleaning": cleaning,
    "a9a": lambda seed: regularization("a9a", seed, train=24_000, validation=8_000),
    "w8a": lambda seed: regularization("w8a", seed, train=32_000, validation=7_680),
}
# steps, and solvers whose runs cost about the same number of samples, but for SRBA's two points per step
RUNS = {
    "cleaning": {
        "none": (6000, bl.SOBA(1e-9, 0.01, 0.01)),
        "SOBA": (6000, bl.SOBA(1000.0, 0.01, 0.01)),
        "SABA": (6000, bl.SABA(1000.0, 0.03, 0.03, full_pass=False)),
        "SRBA": (3000, bl.SRBA(1000.0, 0.03, 0.03, period=195)),
    },
    "a9a": {
        "none": (8000, bl.SOBA(1e-9, 0.3, 0.3)),
        "SOBA": (8000, bl.SOBA(10.0, 0.3, 0.3)),
        "SABA": (8000, bl.SABA(10.0, 0.3, 0.3)),
        "SRBA": (4000, bl.SRBA(10.0, 0.3, 0.3, period=250)),
    },
    "w8a": {  # with an upper step of 10, SABA diverges on one of two seeds
        "none": (8000, bl.SOBA(1e-9, 1.0, 1.0)),
        "SOBA": (8000, bl.SOBA(3.0, 1.0, 1.0)),
        "SABA": (8000, bl.SABA(3.0, 1.0, 1.0)),
        "SRBA": (4000, bl.SRBA(3.0, 1.0, 1.0, period=310)),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name in options.problems.split(","):
        table = Table(title=name)
        for head in ("solver", *METRICS, "samples", "seconds"):
            table.add_column(head, justify="right")
        made = [PROBLEMS[name](seed) for seed in range(options.seeds)]
        for solver_name, (steps, solver) in RUNS[name].items():
            found = [run(task, solver, steps, seed) for seed, task in enumerate(made)]
            values = [spread([solution.history[key][-1] for solution in found]) for key in METRICS]
            stats = found[-1].stats  # the first run compiles
            samples = sum(stats[kind] for kind in "FGHJ")
            table.add_row(solver_name, *values, f"{samples / 1e6:.2g}M", f"{found[-1].history['seconds'][-1]:.2f}")
        Console(width=120).print(table)


def run(task: tasks.Task, solver: bl.AbstractSolver, steps: int, seed: int) -> bl.Solution:
    key = jax.random.key(seed)
    return bl.solve(task.problem, solver, task.x, task.y, steps=steps, key=key, metrics=task.metrics, throw=False)


def spread(values: list[float]) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{np.mean(values):.4f} ± {error:.4f}"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
