"""The gain of a sweep: eight runs at once, on all cores, against the same runs one after another.

    python benchmarks/sweep.py                 # about a minute
    python benchmarks/sweep.py --runs 16 --steps 20000

Hyper-cleaning on digits (`tasks.cleaning("digits")`, batch 64) by SOBA, with a different upper step in each run. Each
round times all three ways in turn, without compilation. The throughput is in run-steps, and a ratio is the median over
rounds of the ratio within a round.
"""

import argparse
import os
import statistics

import jax
import jax.numpy as jnp

import bilevel as bl
from bilevel import tasks


def make(upper_step):
    return bl.SOBA(upper_step=upper_step, lower_step=0.1, adjoint_step=0.03)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one device per core, for the sweep to use
    task, key = tasks.cleaning("digits"), jax.random.key(0)
    rates = [float(rate) for rate in jnp.geomspace(0.1, 3.0, options.runs)]

    def alone():
        seconds = 0.0
        for rate in rates:
            run_key = jax.random.fold_in(key, 0)
            done = bl.solve(
                task.problem, make(rate), task.x, task.y, steps=options.steps, every=options.steps, key=run_key,
                progress=False,
            )  # fmt: skip
            seconds += done.stats["run_seconds"]
        return seconds

    def at_once(devices):
        arguments = (make, {"upper_step": rates}, task.problem, task.x, task.y)
        return bl.sweep(*arguments, steps=options.steps, key=key, devices=devices).run_seconds

    ways = {
        "one after another": alone,
        "at once, one device (vmap)": lambda: at_once(jax.devices()[:1]),
        f"at once, {len(jax.devices())} devices": lambda: at_once(None),
    }
    rounds = [{name: way() for name, way in ways.items()} for _ in range(options.rounds)]
    print(f"{options.runs} runs of {options.steps} steps, {options.rounds} rounds, {os.cpu_count()} cores")
    for name in ways:
        micros = statistics.median(r[name] for r in rounds) / (options.runs * options.steps) * 1e6
        ratio = statistics.median(r["one after another"] / r[name] for r in rounds)
        print(f"{name:28} {micros:7.1f} µs per run-step   {ratio:.2f} × the throughput")


if __name__ == "__main__":
    main()
