"""Memory and time of `bl.unrolled_hypergradient` by each of its modes, as the lower steps grow.

    python benchmarks/unrolled_memory.py          # the table: about 20 seconds on 2 cores

Softmax regression on random rows, W of 1000×10, float32, and two hyperparameters: the penalties of weights and
biases. The memory is that of the compiled program without its arguments, by XLA's own analysis, also in units of
one lower iterate (40 kB). The time is the best of three runs, and the modes take turns.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from bilevel.hypergradients.unrolled import _unrolled
from bilevel.steps import as_step

ROWS, FEATURES, CLASSES = 100, 1000, 10
MODES = {
    "residuals": ("reverse", "residuals"),
    "iterates": ("reverse", "iterates"),
    "segments": ("reverse", "segments"),
    "forward": ("forward", "iterates"),
}


def cross_entropy(y, rows):
    logits = rows["features"] @ y["W"] + y["b"][None]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(ROWS), rows["labels"]])


def problem():
    generator = np.random.default_rng(0)

    def data():
        labels = generator.integers(0, CLASSES, ROWS).astype(np.int32)
        return {"features": generator.normal(size=(ROWS, FEATURES)).astype(np.float32) / 30, "labels": labels}

    def lower(x, y, rows):
        penalty = jnp.exp(x[0]) * jnp.sum(y["W"] ** 2) + jnp.exp(x[1]) * jnp.sum(y["b"] ** 2)
        return cross_entropy(y, rows) + 0.01 * penalty

    return bl.Problem(upper=bl.Level(lambda x, y, rows: cross_entropy(y, rows), data()), lower=bl.Level(lower, data()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="100,400,1600", help="numbers of lower steps")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()

    x, y = jnp.zeros(2), {"W": jnp.zeros((FEATURES, CLASSES)), "b": jnp.zeros(CLASSES)}
    arguments = problem(), x, y, as_step(0.5), jax.random.key(0)
    iterate = sum(leaf.nbytes for leaf in y.values())
    print(f"{'D':>5}  {'mode':<17}{'MB':>8}{'iterates':>10}{'ms':>9}  relative difference from the stored iterates")
    for steps in map(int, options.steps.split(",")):
        settings = {name: dict(steps=steps, truncation=None, mode=m, store=c) for name, (m, c) in MODES.items()}
        programs = {name: _unrolled.lower(*arguments, **setting).compile() for name, setting in settings.items()}
        times, h = {name: [] for name in MODES}, {}
        for _ in range(options.runs + 1):  # the first warms up
            for name, program in programs.items():
                start = time.perf_counter()
                h[name] = jax.block_until_ready(program(*arguments, **settings[name]))
                times[name].append(time.perf_counter() - start)
        for name, program in programs.items():
            memory = program.compiled.memory_analysis().temp_size_in_bytes
            difference = float(jnp.linalg.norm(h[name] - h["iterates"]) / jnp.linalg.norm(h["iterates"]))
            best = min(times[name][1:]) * 1e3
            print(f"{steps:>5}  {name:<17}{memory / 1e6:>8.2f}{memory / iterate:>10.1f}{best:>9.1f}  {difference:.1e}")


if __name__ == "__main__":
    main()
