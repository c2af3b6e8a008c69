"""How the time of a step and the memory grow with the rows, the dimension of y and the batch, for each solver.

    python benchmarks/growth.py --out docs/growth.png      # about 12 minutes on 2 cores, 3 GB

Hyper-cleaning on random data, one weight per row, float32. Time: the median of a few runs, each of as many steps as
take about a third of a second. Memory: the state of the solver and the temporaries of the compiled step, without data.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import step_time
from rich.console import Console
from rich.table import Table

import bilevel as bl

# (rows, features, batch size) along each axis; W is 10 × features
AXES = {
    "rows": [(64 * n, 8, 64) for n in (160, 1_600, 16_000, 160_000)],
    "dim y": [(2_048, features, 64) for features in (8, 64, 512, 4_096)],
    "batch": [(10_240, 64, size) for size in (16, 64, 256, 1_024)],
}
POSITION = {"rows": 0, "dim y": 1, "batch": 2}
SECONDS = 0.3


def make_problem(name, rows, features, size):
    """The cleaning problem of these sizes, its x and W."""
    generator = np.random.default_rng(0)
    lower = {
        "features": jnp.asarray(generator.random((rows, features), dtype=np.float32)),
        "labels": jnp.asarray(generator.integers(0, 10, rows).astype(np.int32)),
    }
    upper = jax.tree.map(lambda array: array[:2_048], lower)
    source = bl.Blocks if name == "saba" else bl.Rows
    problem = step_time.make_problem(upper, lower, source, size)
    return problem, jnp.zeros(rows), jnp.zeros((10, features))


def measure(name, rows, features, size, repeats=3):
    """(µs a step, MB)."""
    problem, x, W = make_problem(name, rows, features, size)
    program, cost = step_time.compiled(step_time.SOLVERS[name][0], problem, x, W)
    steps = 10  # later, as many as fill the time: a chunk copies its state once, which must not matter
    for _ in range(3):
        once = step_time.seconds(functools.partial(program, jnp.asarray(steps)))
        steps = int(np.clip(SECONDS / once * steps, 10, 5_000))
    times = [step_time.seconds(functools.partial(program, jnp.asarray(steps))) for _ in range(repeats)]
    return float(np.median(times)) / steps * 1e6, cost["state"] + cost["temporaries"]


def print_table(console, axis, results):
    table = Table(title=f"µs per step (MB of state and temporaries) by {axis}")
    table.add_column("solver")
    for sizes in AXES[axis]:
        table.add_column(f"{size_of(axis, sizes):,}", justify="right")
    for name, cells in results.items():
        table.add_row(name, *(f"{time:,.0f} ({memory:.3g})" for time, memory in cells))
    console.print(table)


def size_of(axis, sizes):
    """The number on the axis. y has ten entries per feature."""
    return sizes[POSITION[axis]] * (10 if axis == "dim y" else 1)


def draw(results, path):
    """Draw time above and memory below, with one column per axis."""
    figure, panels = plt.subplots(2, len(AXES), figsize=(13, 8), sharey="row", layout="constrained")
    colors = plt.colormaps["tab10"].colors
    styles = ("-", "--", ":")
    for column, (axis, by_solver) in enumerate(results.items()):
        positions = [size_of(axis, sizes) for sizes in AXES[axis]]
        for number, (name, cells) in enumerate(by_solver.items()):
            look = {"color": colors[number % 10], "linestyle": styles[number // 10], "marker": ".", "label": name}
            for row in (0, 1):
                panels[row, column].loglog(positions, [cell[row] for cell in cells], **look)
        rows, features, size = AXES[axis][1]
        fixed = {"rows": f"{rows:,} rows", "dim y": f"dim y {10 * features}", "batch": f"batch {size}"}
        panels[0, column].set_title(", ".join(text for other, text in fixed.items() if other != axis), fontsize=10)
        panels[1, column].set_xlabel({"rows": "rows, one weight each", "dim y": "dim y", "batch": "batch size"}[axis])
    panels[0, 0].set_ylabel("time of a step (µs)")
    panels[1, 0].set_ylabel("state and temporaries (MB)")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", default=",".join(step_time.SOLVERS), help="names, separated by commas")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/growth.png"))
    options = parser.parse_args()
    console = Console(width=120)
    results = {}
    for axis, points in AXES.items():
        results[axis] = {name: [measure(name, *sizes) for sizes in points] for name in options.solvers.split(",")}
        print_table(console, axis, results[axis])
    draw(results, options.out)
    console.print(f"Drawn to {options.out}")


if __name__ == "__main__":
    main()
