"""Steps of benchmark_bilevel's solvers beside ours, on the problems of `step_limit.py`, with the same losses and
starts.

    git clone <benchmark_bilevel> ../benchmark_bilevel
    pip install benchopt
    python benchmarks/peers.py ../benchmark_bilevel --rounds 9        # about 10 minutes on 2 cores

Their solver classes are taken as they are, with their default settings, and their jitted epoch of n steps is timed.
They read blocks in an order that is shuffled once per epoch. Ours read `bl.ShuffledBlocks`, and `bl.Blocks` beside it.
Both have batches of 64, 10 inner steps, 10 products per adjoint. In each round every program runs once, in turn; a
ratio is the median over rounds of theirs ÷ ours, so that above 1 ours is faster. Settings are not tuned: this is about
time.
"""

import argparse
import functools
import importlib.util
import pathlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from step_limit import BATCH, KEY, PROBLEMS, measure

import bilevel as bl

SOLVERS = {
    "soba": bl.SOBA(0.1, 0.1, 0.1),
    "saba": bl.SABA(0.1, 0.1, 0.1, full_pass=False),
    "fsla": bl.FSLA(0.1, 0.1, 0.1, 0.5),
    "ttsa": bl.TTSA(0.1, 0.1, 10, 0.1),
    "sustain": bl.SUSTAIN(0.1, 0.1, 10, 0.1, 0.5, 0.5),
    "bsa": bl.BSA(0.1, 0.1, 10, 0.1, inner_steps=10),
    "amigo": bl.AmIGO(0.1, 0.1, 0.1, 10, 10),
    "stocbio": bl.StocBiO(0.1, 0.1, 10, 10, 0.1),
    "mrbo": bl.MRBO(0.1, 0.1, 10, 0.1, 0.5, 0.5),
    "f2sa": bl.F2SA(0.1, 0.01, 0.1, 1.0, 10),
}
WORK = {
    "soba": 1,
    "saba": 1,
    "fsla": 2,
    "ttsa": 4,
    "sustain": 6,
    "bsa": 10,
    "amigo": 12,
    "stocbio": 12,
    "mrbo": 14,
    "f2sa": 20,
}


def their_loss(level, shape):
    """f(y, x, start, batch_size), where y is flat and x is dense: rows are cut out of it where ours are."""
    per_row = level.per_row is True

    def loss(y, x, start=0, batch_size=1):
        rows = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, start, batch_size), level.data.arrays)
        return level.loss(jax.lax.dynamic_slice_in_dim(x, start, batch_size) if per_row else x, y.reshape(shape), rows)

    return loss


def their_program(checkout, name, problem, x, y, steps):
    specification = importlib.util.spec_from_file_location(f"peer_{name}", checkout / "solvers" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    solver = module.Solver.get_instance(batch_size=BATCH)
    solver.run_once = lambda *_: None  # their warm-up, which benchopt's driver runs
    solver.set_objective(
        f_inner=their_loss(problem.lower, y.shape),
        f_outer=their_loss(problem.upper, y.shape),
        n_inner_samples=problem.lower.length,
        n_outer_samples=problem.upper.length,
        inner_var0=y.ravel(),
        outer_var0=x,
    )
    start = solver.init()
    if isinstance(start, dict):
        return functools.partial(solver.one_epoch, start, steps)

    def saba():  # its memory is donated, and goes on
        nonlocal start
        start = solver.one_epoch(start[1], start[0], steps)
        return start

    return saba


def our_program(solver, problem, x, y, steps):
    state, _ = eqx.filter_jit(bl.initial_state)(solver, problem, x, y, KEY)
    return functools.partial(
        eqx.filter_jit(bl.advance), solver, problem, state, KEY, jnp.asarray(0), jnp.asarray(steps)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=pathlib.Path, help="a directory with benchmark_bilevel's files")
    parser.add_argument("--problems", default="small,large")
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout))
    console = Console(width=120)
    for name in options.problems.split(","):
        make, _, steps = PROBLEMS[name]
        table, ratios = Table(title=f"{name}: µs per step"), []
        for head in ("solver", "theirs", "ShuffledBlocks", "theirs ÷ ours", "Blocks", "theirs ÷ ours"):
            table.add_column(head, justify="right")
        for solver in options.solvers.split(","):
            n = max(5, round(steps / WORK[solver]))
            programs = {}
            for kind, source in (("ShuffledBlocks", bl.ShuffledBlocks), ("Blocks", bl.Blocks)):
                problem, x, y = make(source)
                programs[kind] = our_program(SOLVERS[solver], problem, x, y, n), n
            programs["theirs"] = their_program(options.checkout, solver, problem, x, y, n), n
            times = {kind: wall for kind, (wall, _) in measure(programs, options.rounds).items()}
            cells = [solver, f"{np.median(times['theirs']) * 1e6:.1f}"]
            for kind in ("ShuffledBlocks", "Blocks"):
                ratio = np.median(times["theirs"] / times[kind])
                cells += [f"{np.median(times[kind]) * 1e6:.1f}", f"{ratio:.2f}"]
                if kind == "ShuffledBlocks":
                    ratios.append(ratio)
            table.add_row(*cells)
        console.print(table)
        console.print(f"median of theirs ÷ ours with ShuffledBlocks: {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
