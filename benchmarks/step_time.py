"""What a step costs, against the oracles that its listing calls for, each by itself inside a loop.

    python benchmarks/step_time.py                # the tables: about 8 minutes on 2 cores
    python benchmarks/step_time.py --pairs 5 --quick

Hyper-cleaning with 20,000 noisy and 5,000 trusted rows of Fashion-MNIST (random rows of that shape where
`BILEVEL_DATA` does not have it: the time does not depend on the values), W of 784×10, batch 64, float32. Each
round times every program once, in turn, and a ratio is the median over rounds of the ratio within a round.
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
}
KEY = jax.random.key(0)


def data(lower_rows, upper_rows):
    """(upper, lower) rows: Fashion-MNIST where it is at hand."""
    if os.environ.get("BILEVEL_DATA") and lower_rows + upper_rows <= 60_000:
        from bilevel.datasets import load

        dataset = load("fashion-mnist")
        features, labels = dataset.features, dataset.labels
    else:
        generator = np.random.default_rng(0)
        features = generator.random((lower_rows + upper_rows, 784), dtype=np.float32)
        labels = generator.integers(0, 10, lower_rows + upper_rows).astype(np.int32)
    split = slice(lower_rows), slice(lower_rows, lower_rows + upper_rows)
    lower, upper = ({"features": features[part], "labels": labels[part]} for part in split)
    return jax.tree.map(jnp.asarray, (upper, lower))


def make_problem(upper, lower, source):
    return bl.Problem(
        upper=bl.Level(raw_oracles.upper_loss, source(upper), BATCH),
        lower=bl.Level(raw_oracles.lower_loss, source(lower), BATCH, per_row=True),
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


def step_programs(problem, x, W, names, n):
    """Programs of about as many oracles each, taking a number of steps; and what it costs to compile them."""
    programs, costs, steps = {}, {}, {}
    for name in names:
        solver, oracles = SOLVERS[name]
        state = solver.init(problem, x, W, key=KEY)
        steps[name] = max(10, round(2 * n / sum(oracles.values())))
        jax.clear_caches()
        start = time.perf_counter()
        lowered = eqx.filter_jit(bl.advance).lower(solver, problem, state, KEY, jnp.asarray(0), jnp.asarray(1))
        compiled = lowered.compile()
        memory = compiled.compiled.memory_analysis()
        costs[name] = {
            "compile": time.perf_counter() - start,
            "temporaries": memory.temp_size_in_bytes / 1e6,
            "peak": (memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes) / 1e6,
            "program": len(compiled.compiled.as_text()) / 1e6,
        }
        programs[name] = functools.partial(compiled, solver, problem, state, KEY, jnp.asarray(0))
    return programs, costs, steps


def measure(source, names, pairs, n):
    """µs a step and ratios for one source."""
    blocks = source is bl.Blocks
    rows = (20_000 - 20_000 % BATCH, 5_000 - 5_000 % BATCH) if blocks else (20_000, 5_000)
    upper, lower = data(*rows)
    x, W = jnp.zeros(rows[0]), jnp.zeros((784, 10))
    programs, costs, steps = step_programs(make_problem(upper, lower, source), x, W, names, n)
    raw = {
        oracle: lambda oracle=oracle: raw_oracles.repeat(oracle, (x, W, W), KEY, upper, lower, BATCH, blocks, n)
        for oracle in raw_oracles.ORACLES
    }
    runs = {name: functools.partial(program, jnp.asarray(steps[name])) for name, program in programs.items()}
    times = interleaved({**runs, **{("raw", oracle): program for oracle, program in raw.items()}}, pairs)
    oracle_times = {oracle: times["raw", oracle] / n for oracle in raw}
    results = {}
    for name in names:
        step = times[name] / steps[name]
        listing = sum(count * oracle_times[oracle] for oracle, count in SOLVERS[name][1].items())
        results[name] = {
            "step": float(np.median(step)) * 1e6,
            "listing": float(np.median(step / listing)),
            "plain": float(np.median(step / oracle_times["G+F"])),
            **costs[name],
        }
    return results, {oracle: float(np.median(t)) * 1e6 for oracle, t in oracle_times.items()}


def solve_overhead(pairs, steps):
    """Ratio of `solve(every=1000)` to the same steps in one scan."""
    upper, lower = data(20_000, 5_000)
    problem, x, W = make_problem(upper, lower, bl.Rows), jnp.zeros(20_000), jnp.zeros((784, 10))
    solver = SOLVERS["soba"][0]
    state = solver.init(problem, x, W, key=KEY)
    scan = eqx.filter_jit(bl.advance)
    programs = {
        "scan": lambda: scan(solver, problem, state, KEY, jnp.asarray(0), jnp.asarray(steps)),
        "solve": lambda: bl.solve(problem, solver, x, W, steps=steps, every=1000, key=KEY, progress=False).state,
    }
    times = interleaved(programs, pairs)
    return float(np.median(times["solve"] / times["scan"]))


def row_growth(names, sizes, pairs):
    """µs a step as the rows grow, one weight a row and 8 features."""
    table = {}
    for rows in sizes:
        generator = np.random.default_rng(0)
        lower = {
            "features": jnp.asarray(generator.random((rows, 8), dtype=np.float32)),
            "labels": jnp.asarray(generator.integers(0, 10, rows).astype(np.int32)),
        }
        upper = jax.tree.map(lambda array: array[:5_000], lower)
        problem, x, W = make_problem(upper, lower, bl.Rows), jnp.zeros(rows), jnp.zeros((8, 10))
        programs, _, _ = step_programs(problem, x, W, names, 1)
        table[rows] = {}
        for name, program in programs.items():
            steps = 10  # then as many as take half a second: a chunk copies its state once, which must not show
            for _ in range(3):
                once = seconds(lambda: program(jnp.asarray(steps)))  # noqa: B023
                steps = int(np.clip(0.5 / once * steps, 10, 5_000))
            times = [seconds(lambda: program(jnp.asarray(steps))) for _ in range(pairs)]  # noqa: B023
            table[rows][name] = float(np.median(times)) / steps * 1e6
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21, help="rounds that every program is timed in")
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    parser.add_argument("--quick", action="store_true", help="skip the growth with rows and the driver")
    options = parser.parse_args()
    names = options.solvers.split(",")
    console = Console(width=120)

    by_source = {source: measure(source, names, options.pairs, n=300) for source in (bl.Rows, bl.Blocks)}
    for source, (_, raw) in by_source.items():
        console.print(f"raw oracles, {source.__name__}, µs: ", "  ".join(f"{k} {v:.0f}" for k, v in raw.items()))
    table = Table(title="A step of hyper-cleaning, 20,000 / 5,000 rows, batch 64, float32")
    heads = (
        "solver",
        "µs, Rows",
        "÷ listing",
        "÷ (G+F)",
        "µs, Blocks",
        "÷ listing",
        "÷ (G+F)",
        "compile s",
        "peak MB (temp.)",
    )
    for head in heads:
        table.add_column(head, justify="left" if head == "solver" else "right")
    for name in names:
        cells = []
        for source in (bl.Rows, bl.Blocks):
            r = by_source[source][0][name]
            cells += [f"{r['step']:.0f}", f"{r['listing']:.2f}", f"{r['plain']:.2f}"]
        r = by_source[bl.Rows][0][name]
        table.add_row(name, *cells, f"{r['compile']:.2f}", f"{r['peak']:.1f} ({r['temporaries']:.1f})")
    console.print(table)
    largest = max(r["program"] for results, _ in by_source.values() for r in results.values())
    console.print(f"largest compiled program, as text: {largest:.2f} MB (the data are 78 MB: it holds none of them)")
    if options.quick:
        return
    console.print(f"solve(every=1000) ÷ the same steps in one scan: {solve_overhead(options.pairs, 5000):.3f}")
    sizes = (10**4, 10**5, 10**6, 10**7)
    growth = row_growth(names, sizes, 5)
    table = Table(title="µs a step, one weight a row, 8 features")
    for head in ("solver", *(f"{rows:,} rows" for rows in sizes)):
        table.add_column(head, justify="left" if head == "solver" else "right")
    for name in names:
        table.add_row(name, *(f"{growth[rows][name]:,.0f}" for rows in sizes))
    console.print(table)


if __name__ == "__main__":
    main()
