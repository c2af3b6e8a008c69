"""What the slow test of rows on disk runs in a process of its own: rows of 30 GB where 4 GB may be allocated."""

import json
import resource
import sys

resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30,) * 2)

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl

ROWS, WIDTH, CLASSES = 30_000_000, 256, 4


def losses(y, batch):
    logits = batch["features"] @ y["W"] + y["b"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None].astype(int), 1)[:, 0]


def upper(x, y, batch):
    return jnp.mean(losses(y, batch))


def lower(x, y, batch):
    return jnp.mean(jax.nn.sigmoid(x) * losses(y, batch)) + 0.05 * sum(jnp.sum(leaf**2) for leaf in y.values())


def main(folder, name, steps):
    """A file with holes takes no space on the disk; its rows are zeros, and the labels are not."""
    features = np.lib.format.open_memmap(f"{folder}/features.npy", "w+", np.float32, (ROWS, WIDTH))
    size = features.nbytes
    del features
    np.save(f"{folder}/label.npy", np.random.default_rng(0).integers(-2, CLASSES, ROWS, np.int8).clip(0))
    data = bl.OnDisk({"features": f"{folder}/features.npy", "label": f"{folder}/label.npy"})
    problem = bl.Problem(bl.Level(upper, data, 64), bl.Level(lower, data, 64, per_row=True))
    solver = {"soba": bl.SOBA(10.0, 0.1, 0.1), "stocbio": bl.StocBiO(10.0, 0.1, 10, 10, 0.1)}[name]
    y = {"W": np.zeros((WIDTH, CLASSES), np.float32), "b": np.zeros(CLASSES, np.float32)}
    solution = bl.solve(problem, solver, np.zeros(ROWS, np.float32), y, steps=steps, key=jax.random.key(0))
    found = {
        "bytes": size,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "moved": int(np.count_nonzero(solution.x)),
        "stats": solution.stats,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
