"""The cost of a step, against that of the oracles in its listing, each evaluated alone inside a loop.

    python benchmarks/step_time.py                # the tables: about 10 minutes on 2 cores
    python benchmarks/step_time.py --pairs 5 --solvers soba,saba

Hyper-cleaning with 20,000 noisy and 5,000 trusted rows of Fashion-MNIST, W of 10×784, batch 64, float32. If
`BILEVEL_DATA` does not have the set, random rows of that shape are used: the time does not depend on the values. Each
round times every program once, in turn, and a ratio is the median over rounds of the ratio within a round.
Solvers that hold matrices of size dim y run on 512 rows of 8 features, W of 10×8. `benchmarks/growth.py` shows how
time and memory grow.
"""

import argparse
import functools
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import raw_oracles
from rich.console import Console
from rich.table import Table

import bilevel as bl

BATCH = 64
# per solver: the settings, and the oracles of one step by its listing (fused where the listing shares a sample)
SOLVERS = {
    "soba": (bl.SOBA(0.1, 0.1, 0.1), {"GHJ": 1, "F": 1}),
    "fsla": (bl.FSLA(0.1, 0.1, 0.1, 0.5), {"G": 1, "F": 1, "H": 1, "J": 2}),  # F_x is zero here
    "borep": (bl.BOREP(0.1, 0.1, 0.1), {"HJ": 1, "F": 1, "G": 3 / 2}),
    "sustain": (bl.SUSTAIN(0.1, 0.1, 5, 0.1, 0.5, 0.5), {"G": 2, "F": 2, "H": 2 * 2, "J": 2}),  # mean of k is 2
    "stocbio": (bl.StocBiO(0.1, 0.1, 10, 10, 0.1), {"G": 10, "F": 1, "H": 10, "J": 1}),
    "aid": (bl.AIDBiO(0.1, 0.1, 10), {"G": 10, "F": 1, "H": 11, "J": 1}),
    "itd": (bl.ITDBiO(0.1, 0.1, 10), {"G": 10, "F": 1, "HJ": 10}),
    "saba": (bl.SABA(0.1, 0.1, 0.1), {"GHJ": 1, "F": 1}),
    "masoba": (bl.MASOBA(0.1, 0.1, 0.1, 0.5), {"GHJ": 1, "F": 1}),
    "bsa": (bl.BSA(0.1, 0.1, 5, 0.1, inner_steps=10), {"G": 10, "F": 1, "H": 2, "J": 1}),  # mean of p is 2
    "ttsa": (bl.TTSA(0.1, 0.1, 5, 0.1), {"G": 1, "F": 1, "H": 2, "J": 1}),
    "alset": (bl.ALSET(0.1, 0.1, 3, 5, 0.1), {"G": 3, "F": 1, "H": 2, "J": 1}),
    "amigo": (bl.AmIGO(0.1, 0.1, 0.1, 10, 10), {"G": 10, "F": 1, "H": 10, "J": 1}),
    "mrbo": (bl.MRBO(0.1, 0.1, 5, 0.1, 0.5, 0.5), {"G": 2, "F": 2, "H": 2 * 5, "J": 2}),
    # 4 differences, and one more sample every third step
    "vrbo": (
        bl.VRBO(0.1, 0.1, 3, 5, 0.1, period=3, period_batch_size=BATCH),
        {"G": 8 + 1 / 3, "F": 8 + 1 / 3, "H": 5 * (8 + 1 / 3), "J": 8 + 1 / 3},
    ),
    "f2sa": (bl.F2SA(0.1, 0.01, 0.1, 10.0, 10), {"G": 20, "F": 10, "Gx": 2}),  # F_x is zero here
    "reverse": (bl.reverse(0.1, 0.1, 10, truncation=5), {"G": 10, "F": 1, "HJ": 5}),
    "aid-fp": (bl.aid_fp(0.1, 0.1, 10, 10), {"G": 10, "F": 1, "H": 10, "J": 1}),
    "aid-cg": (bl.aid_cg(0.1, 0.1, 10, 10), {"G": 10, "F": 1, "H": 11, "J": 1}),
}
# on all rows, with tolerances that are never reached
FULL = {
    "hoag": (bl.HOAG(0.1, 0.1, 1e-20, 1e-15, 5, 5), {"G": 6, "F": 1, "H": 6, "J": 1}),
}
# for a small y
SMALL = {
    "ba": (bl.BA(0.1, 0.1, inner_steps=10), {"G": 10, "F": 1, "HH solved": 1, "J": 1}),
    "stable": (bl.STABLE(0.1, 0.1, 0.5, 1e-3), {"HH, HJ": 2, "F": 1, "G": 1, "eigh": 1}),
    "svrb": (bl.SVRB(0.1, 0.1, 0.5, 1e-3), {"HH, HJ": 2, "F": 2, "eigh": 1}),
}
ALL = SOLVERS | FULL | SMALL
KEY = jax.random.key(0)


def data(lower_rows, upper_rows, width=784):
    """(upper, lower) rows, of Fashion-MNIST if it is available."""
    if os.environ.get("BILEVEL_DATA") and lower_rows + upper_rows <= 60_000 and width == 784:
        from bilevel.datasets import load

        dataset = load("fashion-mnist")
        features, labels = dataset.features, dataset.labels
    else:
        generator = np.random.default_rng(0)
        features = generator.random((lower_rows + upper_rows, width), dtype=np.float32)
        labels = generator.integers(0, 10, lower_rows + upper_rows).astype(np.int32)
    split = slice(lower_rows), slice(lower_rows, lower_rows + upper_rows)
    lower, upper = ({"features": features[part], "labels": labels[part]} for part in split)
    return jax.tree.map(jnp.asarray, (upper, lower))


def make_problem(upper, lower, source, size=BATCH):
    return bl.Problem(
        upper=bl.Level(raw_oracles.upper_loss, source(upper), size),
        lower=bl.Level(raw_oracles.lower_loss, source(lower), size, per_row=True),
    )


def seconds(program):
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start


def interleaved(programs, pairs):
    """{name: seconds of each round}, the programs taking turns after one round to warm up."""
    times = {name: [] for name in programs}
    for turn in range(pairs + 1):
        for name, program in programs.items():
            elapsed = seconds(program)
            if turn:
                times[name].append(elapsed)
    return {name: np.array(values) for name, values in times.items()}


def compiled(solver, problem, x, W):
    """A program of a number of steps, and its cost: seconds to compile, MB of memory, MB of text."""
    state, _ = bl.initial_state(solver, problem, x, W, KEY)
    jax.clear_caches()
    start = time.perf_counter()
    program = eqx.filter_jit(bl.advance).lower(solver, problem, state, KEY, jnp.asarray(0), jnp.asarray(1)).compile()
    memory = program.compiled.memory_analysis()
    cost = {
        "compile": time.perf_counter() - start,
        "state": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6,
        "temporaries": memory.temp_size_in_bytes / 1e6,
        "peak": (memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes) / 1e6,
        "program": len(program.compiled.as_text()) / 1e6,
    }
    return functools.partial(program, solver, problem, state, KEY, jnp.asarray(0)), cost


def measure(names, source, rows, width, pairs, n, size=BATCH):
    """{solver: µs per step, ratios, costs} and {oracle: µs}, by `n` evaluations of each oracle, or as many in steps."""
    blocks = source is bl.Blocks
    upper, lower = data(*rows, width)
    x, W = jnp.zeros(rows[0]), 0.01 * jnp.ones((10, width))
    problem = make_problem(upper, lower, source)
    tables = raw_oracles.tables(upper, lower, size, blocks)
    used = ["G+F", "G, W of columns", *dict.fromkeys(oracle for name in names for oracle in ALL[name][1])]
    programs = {
        ("raw", oracle): functools.partial(raw_oracles.repeat, oracle, (x, W, W), tables, upper, lower, size, blocks, n)
        for oracle in used
    }
    costs, steps = {}, {}
    for name in names:
        solver, oracles = ALL[name]
        steps[name] = max(5, round(2 * n / sum(oracles.values())))
        program, costs[name] = compiled(solver, problem, x, W)
        programs[name] = functools.partial(program, jnp.asarray(steps[name]))
    times = interleaved(programs, pairs)
    raw = {oracle: times["raw", oracle] / n for oracle in used}
    results = {}
    for name in names:
        step = times[name] / steps[name]
        listing = sum(count * raw[oracle] for oracle, count in ALL[name][1].items())
        results[name] = {
            "times": step,
            "step": float(np.median(step)) * 1e6,
            "listing": float(np.median(step / listing)),
            "plain": float(np.median(step / raw["G+F"])),
            **costs[name],
        }
    return results, {oracle: float(np.median(t)) * 1e6 for oracle, t in raw.items()}


def solve_overhead(pairs, steps):
    """Ratio of `solve(every=1000)` to the same steps in one scan."""
    upper, lower = data(20_000, 5_000)
    problem, x, W = make_problem(upper, lower, bl.Rows), jnp.zeros(20_000), jnp.zeros((10, 784))
    solver = SOLVERS["soba"][0]
    scan, _ = compiled(solver, problem, x, W)
    programs = {
        "scan": lambda: scan(jnp.asarray(steps)),
        "solve": lambda: bl.solve(problem, solver, x, W, steps=steps, every=1000, key=KEY, progress=False).state,
    }
    times = interleaved(programs, pairs)
    return float(np.median(times["solve"] / times["scan"]))


def print_raw(console, title, raw):
    console.print(f"raw oracles, {title}, µs: ", "  ".join(f"{name} {value:.0f}" for name, value in raw.items()))


def print_table(console, title, results):
    """Print one row per solver. `results` is {heading: {solver: costs}}."""
    table = Table(title=title)
    table.add_column("solver")
    for heading in results:
        for head in (f"µs, {heading}", "÷ listing", "÷ (G+F)"):
            table.add_column(head, justify="right")
    for head in ("compile s", "peak MB (temp.)"):
        table.add_column(head, justify="right")
    for name in dict.fromkeys(name for by_name in results.values() for name in by_name):
        cells, last = [], None
        for by_name in results.values():
            r = by_name.get(name)
            cells += ["", "", ""] if r is None else [f"{r['step']:.0f}", f"{r['listing']:.2f}", f"{r['plain']:.2f}"]
            last = last or r
        table.add_row(name, *cells, f"{last['compile']:.2f}", f"{last['peak']:.1f} ({last['temporaries']:.1f})")
    console.print(table)


def print_main(console, names, pairs):
    """The table for single draws and for blocks. SABA runs only on blocks."""
    by_rows, raw = measure([name for name in names if name != "saba"], bl.Rows, (20_000, 5_000), 784, pairs, 300)
    print_raw(console, "Rows", raw)
    by_blocks, raw = measure(names, bl.Blocks, (19_968, 4_992), 784, pairs, 300)
    print_raw(console, "Blocks", raw)
    title = "A step of hyper-cleaning, 20,000 / 5,000 rows, batch 64, float32"
    print_table(console, title, {"Rows": by_rows, "Blocks": by_blocks})
    if {"saba", "soba"} <= set(names):
        ratio = np.median(by_blocks["saba"]["times"] / by_blocks["soba"]["times"])
        console.print(f"SABA ÷ SOBA on the same blocks: {ratio:.2f}")
    largest = max(r["program"] for results in (by_rows, by_blocks) for r in results.values())
    console.print(f"largest compiled program, as text: {largest:.2f} MB (the data are 78 MB: it holds none of them)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21, help="rounds that every program is timed in")
    parser.add_argument("--solvers", default=",".join(ALL), help="names, separated by commas")
    options = parser.parse_args()
    names = options.solvers.split(",")
    console = Console(width=120)

    if any(name in SOLVERS for name in names):
        print_main(console, [name for name in names if name in SOLVERS], options.pairs)
    full = [name for name in names if name in FULL]
    if full:
        results, raw = measure(full, bl.Rows, (20_000, 5_000), 784, options.pairs, 10, size=None)
        print_raw(console, "all rows", raw)
        print_table(console, "The same on all rows", {"all rows": results})
    small = [name for name in names if name in SMALL]
    if small:
        results, raw = measure(small, bl.Rows, (512, 512), 8, options.pairs, 100)
        print_raw(console, "8 features", raw)
        print_table(console, "A small y: 512 rows of 8 features, W of 10×8", {"Rows": results})
    if "soba" in names:
        console.print(f"solve(every=1000) ÷ the same steps in one scan: {solve_overhead(options.pairs, 5000):.3f}")


if __name__ == "__main__":
    main()
