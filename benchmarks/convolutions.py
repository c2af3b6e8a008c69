"""Convolutions inside a loop: each oracle against the same oracle outside it, and XLA's convolution against ours.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --size 32 --channels 3 --filters 16 --batch 25

The lower level is that of cleaning by a convolutional network, on random images. Each line is one way to convolve: that
of `bilevel.tasks.networks` ("shifted views"), `lax.conv`, and two other ways to make patches. The columns are
ms per evaluation, the best of some rounds, for the lower gradient G, and for G, H[v], J[v] in one pass: called
one by one from Python, inside a loop, and inside a loop for `--seeds` networks under vmap, divided by their number. Run
it on an idle machine.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel import oracles, trees
from bilevel.problem import Level
from bilevel.sampling import Rows
from bilevel.tasks._cleaning import CrossEntropies
from bilevel.tasks.networks import ConvNet, convnet
from bilevel.tasks.networks.losses import WeightedLoss

ROWS = 2000
LAYOUT = ("NHWC", "HWIO", "NHWC")


def lax_conv(images, kernel):
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def dilated_patches(images, kernel):
    n, h, w, channels = images.shape
    patches = lax.conv_general_dilated_patches(images, (3, 3), (1, 1), "SAME", dimension_numbers=LAYOUT)
    by_channel = jnp.moveaxis(kernel, 2, 0).reshape(9 * channels, -1)
    return (patches.reshape(n * h * w, 9 * channels) @ by_channel).reshape(n, h, w, -1)


def gathered(images, kernel):
    n, h, w, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(n, (h + 2) * (w + 2), channels)
    corners = (np.arange(h)[:, None] * (w + 2) + np.arange(w)).reshape(-1, 1)
    around = (np.arange(3)[:, None] * (w + 2) + np.arange(3)).reshape(1, -1)
    patches = padded.at[:, corners + around].get(mode="promise_in_bounds")
    return (patches.reshape(n * h * w, 9 * channels) @ kernel.reshape(9 * channels, -1)).reshape(n, h, w, -1)


WAYS = {
    "shifted views": convnet.convolve,
    "lax.conv": lax_conv,
    "dilated patches": dilated_patches,
    "gather": gathered,
}


def step(oracle, level, carry, key):
    """One evaluation on a fresh batch, all of it used."""
    x, y, v = carry
    batch = level.draw(key)
    if oracle == "G":
        return x, trees.axpy(-1e-3, oracles.gradient_y(level, x, y, batch), y), v
    G, H, J = oracles.lower_products(level, x, y, v, batch)
    return trees.axpy(1e-3, J, x), trees.axpy(-1e-3, G, y), trees.axpy(-1e-3, H, v)


@eqx.filter_jit
def looped(way, oracle, n, level, carry, key):
    return lax.fori_loop(0, n, lambda t, carry: step(oracle, level, carry, jax.random.fold_in(key, t)), carry)


@eqx.filter_jit
def single(way, oracle, level, carry, key):
    return step(oracle, level, carry, key)


@eqx.filter_jit
def looped_together(way, oracle, n, level, carry, key):
    return jax.vmap(lambda carry: looped(way, oracle, n, level, carry, key))(carry)


def milliseconds(call, evaluations, rounds):
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return 1e3 * min(times) / evaluations


def measure(way, oracle, level, carry, n, seeds, rounds):
    """Outside a loop, inside it, and inside it for several networks."""
    key = jax.random.key(2)

    def one_by_one():
        result = carry
        for t in range(n):
            result = single(way, oracle, level, result, jax.random.fold_in(key, t))
        return result

    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), carry)
    return (
        milliseconds(one_by_one, n, rounds),
        milliseconds(lambda: looped(way, oracle, n, level, carry, key), n, rounds),
        milliseconds(lambda: looped_together(way, oracle, n, level, copies, key), n * seeds, rounds),
    )


def main():
    parser = argparse.ArgumentParser(description="Convolutions inside a loop.")
    settings = {"size": 14, "channels": 1, "filters": 8, "layers": 4, "batch": 64, "seeds": 5, "n": 20, "rounds": 5}
    for name, value in settings.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (ROWS, given.size, given.size, given.channels)
    rows = {"features": rng.random(shape, np.float32).reshape(ROWS, -1), "labels": rng.integers(0, 10, ROWS, np.int32)}
    level = Level(
        WeightedLoss(CrossEntropies(), jnp.float32(1e-3)), data=Rows(rows), batch_size=given.batch, per_row=True
    )
    model = ConvNet(given.channels, given.filters, given.size, layers=given.layers, outputs=10, key=jax.random.key(0))
    carry = jnp.zeros(ROWS), model, model
    columns = f"one by one  in a loop  of {given.seeds}"
    print(f"{given}\n\n{'ms/evaluation':16}  G: {columns}   GHJ: {columns}")
    for way, convolve in WAYS.items():
        convnet.convolve = convolve  # the network's blocks look it up while they are traced
        found = [measure(way, oracle, level, carry, given.n, given.seeds, given.rounds) for oracle in ("G", "GHJ")]
        print(f"{way:16}  " + "  ".join(f"{a:13.2f}  {b:9.2f}  {c:4.2f}" for a, b, c in found), flush=True)


if __name__ == "__main__":
    main()
