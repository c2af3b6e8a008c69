"""The cost of a step of examples/data_mixture.py against a step of plain training: time and FLOPs.

    python benchmarks/data_mixture.py             # about 3 minutes on 2 cores
    python benchmarks/data_mixture.py --width 1024 --layers 8 --batch-size 256    # on an accelerator

Plain training is Adam on the same model and the same batches with equal weights. Each round times every step in turn,
and a ratio is the median over rounds of the ratio within a round. The time is the clock's, or with `--cpu-time` that of
the process, for a CPU that is busy with other work. XLA counts a loop once, however long it runs: stocBiO has loops.
"""

import argparse
import pathlib
import runpy
import statistics
import time

import equinox as eqx
import jax
import optax
from rich.console import Console
from rich.table import Table

from bilevel._prepare import prepare

LOOPS = {"stocbio"}  # their FLOPs are not shown


def plain(problem, x, y, rate, key):
    """The step of plain training, and its state."""
    rule = optax.adam(rate)

    def step(problem, state):
        y, memory = state
        loss = jax.grad(problem.lower.loss, argnums=1)
        changes, memory = rule.update(loss(x, y, problem.lower.draw(key).rows), memory)
        return optax.apply_updates(y, changes), memory

    return step, (y, rule.init(y))


def bilevel(problem, x, y, solver, key):
    return lambda problem, state: solver.step(problem, state, 0, key=key)[0], solver.init(problem, x, y, key=key)[0]


def compiled(problem, step, state):
    """A function that takes a step, with its FLOPs and the bytes of its temporary arrays."""
    arrays, rest = eqx.partition(problem, eqx.is_array)
    program = jax.jit(lambda arrays, state: step(eqx.combine(arrays, rest), state)).lower(arrays, state).compile()
    found = program.memory_analysis().temp_size_in_bytes
    return lambda: jax.block_until_ready(program(arrays, state)), program.cost_analysis()["flops"], found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="in a round")
    parser.add_argument("--cpu-time", action="store_true")
    for name, default in (("batch-size", 32), ("width", 64), ("layers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    example = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "examples" / "data_mixture.py"))
    problem, x, y, _ = example["make"](0, options.batch_size, width=options.width, layers=options.layers)
    prepared, key = prepare(problem, x, y), jax.random.key(0)
    problem, point = prepared.problem, (prepared.x, prepared.y)
    steps = {"plain": compiled(problem, *plain(problem, *point, 0.003, key))}
    for name, solver in example["SOLVERS"].items():
        steps[name] = compiled(problem, *bilevel(problem, *point, solver, key))

    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, (take, _, _) in steps.items():
            start = clock()
            for _ in range(options.steps):
                take()
            seconds[name].append((clock() - start) / options.steps)
    size = sum(leaf.size for leaf in jax.tree.leaves(prepared.y))
    table = Table(title=f"{size:,} parameters, batches of {options.batch_size}, {jax.devices()[0].device_kind}")
    for name in ("step", "ms", "ratio", "GFLOPs", "ratio of FLOPs", "temporaries, MB"):
        table.add_column(name, justify="right")
    for name, (_, flops, temporaries) in steps.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
        counts = ("", "") if name in LOOPS else (f"{flops / 1e9:.2f}", f"{flops / steps['plain'][1]:.2f}")
        milliseconds = f"{1e3 * statistics.median(seconds[name]):.1f}"
        table.add_row(name, milliseconds, f"{ratio:.1f}", *counts, f"{temporaries / 1e6:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
