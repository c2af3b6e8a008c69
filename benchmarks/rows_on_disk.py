"""The time of a step with rows on disk, against the same rows in memory.

    python benchmarks/rows_on_disk.py              # 1 GB in a temporary folder: some minutes on 2 cores
    python benchmarks/rows_on_disk.py --rows 4_000_000 --folder /data

Rows of 256 float32 and a label, batches of 64 from one file for both levels, softmax regression with 4 classes. The
file has just been written, so it is in the page cache. Each round times every run once, in turn; a ratio is the median
over rounds of the ratio within a round. The runs are checked to be equal, bit for bit. The thread that reads needs a
core of its own: where there is none, its time adds to that of the steps.
"""

import argparse
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bilevel as bl

WIDTH, CLASSES, BATCH = 256, 4, 64
SOLVERS = {"soba": (bl.SOBA(0.1, 0.1, 0.1), 10_000), "stocbio": (bl.StocBiO(0.1, 0.1, 10, 10, 0.1), 1_000)}


def losses(y, batch):
    return -jnp.sum(jax.nn.log_softmax(batch["features"] @ y) * jax.nn.one_hot(batch["label"], CLASSES), axis=1)


def upper(x, y, batch):
    return jnp.mean(losses(y, batch))


def lower(x, y, batch):
    return jnp.mean(losses(y, batch)) + jnp.exp(x) * jnp.sum(y**2)


def write(folder, rows):
    """The paths of the two files."""
    rng, paths = np.random.default_rng(0), {name: f"{folder}/{name}.npy" for name in ("features", "label")}
    features = np.lib.format.open_memmap(paths["features"], "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, 2**16):
        part = features[start : start + 2**16]
        part[:] = rng.standard_normal(part.shape, np.float32)
    features.flush()
    np.save(paths["label"], rng.integers(0, CLASSES, rows, np.int8))
    return paths


def solution(data, solver, steps):
    problem = bl.Problem(bl.Level(upper, data, BATCH), bl.Level(lower, data, BATCH))
    y = np.zeros((WIDTH, CLASSES), np.float32)
    return bl.solve(problem, solver, np.float32(-3), y, steps=steps, every=steps, key=jax.random.key(0), signs=False)


def main(folder, rows, rounds):
    paths = write(folder, rows)
    sources = {"memory": bl.Rows({name: np.load(path) for name, path in paths.items()}), "disk": bl.OnDisk(paths)}
    table = Table("solver", "µs per step in memory", "on disk", "ratio", "waited", "rows per step")
    for name, (solver, steps) in SOLVERS.items():
        seconds, waited, found = {kind: [] for kind in sources}, [], {}
        for turn in range(rounds + 1):  # the first one warms up
            found = {kind: solution(data, solver, steps) for kind, data in sources.items()}
            assert np.array_equal(found["disk"].y, found["memory"].y)
            for kind, run in found.items() if turn else ():
                seconds[kind].append(run.stats["run_seconds"] / steps)
            waited.append(found["disk"].stats["wait_seconds"] / steps)
        memory, disk = (1e6 * np.median(seconds[kind]) for kind in ("memory", "disk"))
        ratio = np.median(np.divide(seconds["disk"], seconds["memory"]))
        drawn = sum(found["disk"].stats[kind] for kind in "FGH") / steps
        cells = f"{memory:.0f}", f"{disk:.0f}", f"{ratio:.2f}", f"{1e6 * np.median(waited[1:]):.0f}", f"{drawn:.0f}"
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where to write the files (default: a temporary folder)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        main(folder, arguments.rows, arguments.rounds)
