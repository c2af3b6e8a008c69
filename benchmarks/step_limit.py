"""What a step takes beside what it could: with batches drawn beforehand, and written by hand without any draw.

    python benchmarks/step_limit.py                       # both problems: about 15 minutes on 2 cores
    python benchmarks/step_limit.py --problems small --solvers soba,fsla --rounds 21

- large: hyper-cleaning, 19,968 / 4,992 rows of 784 features, W of 10×784, one weight per row.
- small: regularization, 49,984 / 12,480 rows of 22 features, one exp(x_i) per feature.

Batches of 64, float32. In each round every program runs once, in turn; a ratio is the median over rounds of the ratio
within a round. "cores" is processor time divided by wall time. The hand-written SOBA step has W and v stacked, so that
each level has two matrix products, and reads its blocks from a table.
"""

import argparse
import functools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from raw_oracles import REGULARIZATION, TABLE
from rich.console import Console
from rich.table import Table
from step_time import SOLVERS, data, make_problem

import bilevel as bl

BATCH, STEP = 64, 0.1
KEY = jax.random.key(0)


class DrawnRows(bl.Rows):
    """Rows whose indices were drawn beforehand: a place of a listing reads its line of a table."""

    table: jax.Array

    def __init__(self, arrays):
        super().__init__(arrays)
        self.table = jnp.asarray(np.random.default_rng(0).integers(0, self.length, (TABLE, BATCH)), jnp.int32)

    def sample(self, key, size):
        return self.table[line(key)]


class DrawnBlocks(bl.Blocks):
    """Blocks that were drawn beforehand."""

    table: jax.Array

    def __init__(self, arrays):
        super().__init__(arrays)
        self.table = BATCH * jnp.asarray(np.random.default_rng(0).integers(0, self.length // BATCH, TABLE), jnp.int32)

    def sample(self, key, size):
        return self.table[line(key)]


def line(key):
    words = jax.random.key_data(key)
    return (words[0] + words[2]) % TABLE


SOURCES = {"Blocks": bl.Blocks, "ShuffledBlocks": bl.ShuffledBlocks, "Rows": bl.Rows, "Shuffled": bl.Shuffled}


# The small problem


def logistic(x, y, batch):
    return jnp.mean(jax.nn.softplus(-batch["labels"] * (batch["features"] @ y)))


def penalized(x, y, batch):
    return logistic(x, y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)


def small_data():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=22)
    parts = []
    for rows in (12_480, 49_984):
        features = generator.normal(size=(rows, 22)).astype(np.float32)
        labels = np.sign(features @ truth + generator.normal(size=rows)).astype(np.float32)
        parts.append({"features": jnp.asarray(features), "labels": jnp.asarray(labels)})
    return parts


def small(source):
    upper, lower = small_data()
    problem = bl.Problem(bl.Level(logistic, source(upper), BATCH), bl.Level(penalized, source(lower), BATCH))
    return problem, jnp.full(22, -2.0, jnp.float32), jnp.zeros(22)


def small_by_hand(state, upper, lower, u, i):
    x, y, v = state
    A, b = block(lower["features"], i), block(lower["labels"], i)
    margins = A @ jnp.stack([y, v], axis=1)
    s = jax.nn.sigmoid(-b * margins[:, 0])
    weights = jnp.exp(x)
    back = jnp.stack([-b * s, s * (1 - s) * margins[:, 1]], axis=1).T @ A / BATCH
    U, c = block(upper["features"], u), block(upper["labels"], u)
    F_y = (-c * jax.nn.sigmoid(-c * (U @ y))) @ U / BATCH
    return x + STEP * weights * y * v, y - STEP * (back[0] + weights * y), v - STEP * (back[1] + weights * v - F_y)


# The large problem


def large(source):
    upper, lower = data(19_968, 4_992)
    return make_problem(upper, lower, source), jnp.zeros(19_968), 0.01 * jnp.ones((10, 784))


def large_by_hand(state, upper, lower, u, i):
    x, W, v = state
    A, labels, rows = block(lower["features"], i), block(lower["labels"], i), block(x, i)
    weights = jax.nn.sigmoid(rows)
    logits, moved = jnp.split(A @ jnp.concatenate([W, v]).T, 2, axis=1)
    p = jax.nn.softmax(logits)
    error = p - jax.nn.one_hot(labels, 10)
    curved = p * (moved - jnp.sum(p * moved, axis=1, keepdims=True))
    back = (jnp.concatenate([error, curved], axis=1) * (weights / BATCH)[:, None]).T @ A
    Jv = weights * (1 - weights) * jnp.sum(error * moved, axis=1) / BATCH
    U, c = block(upper["features"], u), block(upper["labels"], u)
    F_y = (jax.nn.softmax(U @ W.T) - jax.nn.one_hot(c, 10)).T @ U / BATCH
    x = jax.lax.dynamic_update_slice_in_dim(x, rows + STEP * Jv, i, 0)
    return x, W - STEP * (back[:10] + 2 * REGULARIZATION * W), v - STEP * (back[10:] + 2 * REGULARIZATION * v - F_y)


def block(array, start):
    return jax.lax.dynamic_slice_in_dim(array, start, BATCH)


PROBLEMS = {"small": (small, small_by_hand, 2000), "large": (large, large_by_hand, 200)}


@functools.partial(jax.jit, static_argnames="step")
def by_hand(step, state, upper, lower, tables, n):
    def body(t, state):
        return step(state, upper, lower, tables[0][t % TABLE], tables[1][t % TABLE])

    return jax.lax.fori_loop(0, n, body, state)


def programs(name, solvers):
    """{(solver or "by hand", source): a program and its number of steps}."""
    make, hand, steps = PROBLEMS[name]
    found = {}
    for kind, source in (SOURCES | {"drawn Blocks": DrawnBlocks, "drawn Rows": DrawnRows}).items():
        problem, x, y = make(source)
        for solver in solvers:
            if solver == "saba" and "Blocks" not in kind:
                continue
            settings = SOLVERS[solver][0]
            n = max(5, round(2 * steps / sum(SOLVERS[solver][1].values())))
            state, _ = eqx.filter_jit(bl.initial_state)(settings, problem, x, y, KEY)
            run = eqx.filter_jit(bl.advance)
            found[solver, kind] = (
                functools.partial(run, settings, problem, state, KEY, jnp.asarray(0), jnp.asarray(n)),
                n,
            )
    problem, x, y = make(DrawnBlocks)
    levels = problem.upper.data, problem.lower.data
    state = (x, y, jnp.zeros_like(y))
    arguments = (hand, state, *(level.arrays for level in levels), [level.table for level in levels], steps)
    found["by hand", "drawn Blocks"] = functools.partial(by_hand, *arguments), steps
    return found


def measure(found, rounds):
    """{program: (seconds per step of each round, cores in use)}."""
    wall, cpu = ({key: [] for key in found} for _ in range(2))
    for turn in range(rounds + 1):
        for key, (program, n) in found.items():
            start, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(program())
            if turn:
                wall[key].append((time.perf_counter() - start) / n)
                cpu[key].append((time.process_time() - used) / n)
    return {key: (np.array(wall[key]), float(np.median(np.divide(cpu[key], wall[key])))) for key in found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="small,large")
    parser.add_argument("--solvers", default="soba,saba,fsla,ttsa,sustain,bsa,amigo,stocbio,mrbo,f2sa")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    solvers, console = options.solvers.split(","), Console(width=140)
    for name in options.problems.split(","):
        times = measure(programs(name, solvers), options.rounds)
        hand = times["by hand", "drawn Blocks"][0]
        table = Table(title=f"{name}: µs per step (÷ drawn beforehand); SOBA by hand {np.median(hand) * 1e6:.1f}")
        for head in ("solver", "drawn Blocks", *list(SOURCES)[:2], "drawn Rows", *list(SOURCES)[2:], "cores"):
            table.add_column(head, justify="right")
        for solver in solvers:
            cells = [solver]
            for drawn, kinds in (("drawn Blocks", list(SOURCES)[:2]), ("drawn Rows", list(SOURCES)[2:])):
                base = times.get((solver, drawn))
                cells.append("" if base is None else f"{np.median(base[0]) * 1e6:.1f}")
                for kind in kinds:
                    step = times.get((solver, kind))
                    ratio = "" if step is None or base is None else f" ({np.median(step[0] / base[0]):.2f})"
                    cells.append("" if step is None else f"{np.median(step[0]) * 1e6:.1f}{ratio}")
            table.add_row(*cells, f"{times[solver, 'Blocks'][1]:.2f}")
        console.print(table)
        if "soba" in solvers:
            console.print(f"SOBA with Blocks ÷ by hand: {np.median(times['soba', 'Blocks'][0] / hand):.2f}")


if __name__ == "__main__":
    main()
