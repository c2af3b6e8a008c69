"""Convolutions inside a loop: each oracle against the same oracle outside it, and XLA's convolution against ours.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --size 32 --channels 3 --filters 16 --batch 25

The lower level is that of cleaning by a convolutional network, on random images. Each line is one network:
`bilevel.tasks.networks.ConvNet`, which has its images as (c, s, s, n); the same with (n, s, s, c); and the latter with
XLA's own convolution, `lax.conv`. The columns are ms per evaluation, the best of some rounds, for the lower gradient G,
and for G, H[v], J[v] in one pass: called one by one from Python, inside a loop, and inside a loop for `--seeds`
networks under vmap, divided by their number. A last table is of few-shot steps: the gradient of a network on the
images of `--tasks` tasks, all tasks at once and under vmap over them. Run it on an idle machine.
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
from bilevel.tasks.networks import ConvNet
from bilevel.tasks.networks.losses import WeightedLoss

ROWS = 2000
LAYOUT = ("NHWC", "HWIO", "NHWC")


class ImagesFirst(ConvNet):
    """The same network on images (n, s, s, c)."""

    def __call__(self, images):
        for block in self.blocks:
            images = self.convolve(images, block.kernel)
            mean = images.mean((0, 1, 2), keepdims=True)
            variance = ((images - mean) ** 2).mean((0, 1, 2), keepdims=True)
            images = (images - mean) * lax.rsqrt(variance + 1e-5) * block.scale.reshape(1, 1, 1, -1)
            images = jax.nn.relu(images + block.shift.reshape(1, 1, 1, -1))
            if images.shape[1] > 1:
                images = pool(images)
        return jax.vmap(self.head)(images.reshape(len(images), -1))

    def convolve(self, images, kernel):
        n, h, w, channels = images.shape
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
        return (patches.reshape(n * h * w, 9 * channels) @ kernel.reshape(9 * channels, -1)).reshape(n, h, w, -1)


def pool(images):
    n, h, w, channels = images.shape
    whole = images[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, channels)
    rows = jnp.where(whole[:, :, 0] >= whole[:, :, 1], whole[:, :, 0], whole[:, :, 1])
    return jnp.where(rows[:, :, :, 0] >= rows[:, :, :, 1], rows[:, :, :, 0], rows[:, :, :, 1])


class XLAs(ImagesFirst):
    """By XLA's own convolution."""

    def convolve(self, images, kernel):
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


WAYS = {"bilevel": ConvNet, "images first": ImagesFirst, "lax.conv": XLAs}


def step(oracle, level, carry, key):
    """One evaluation on a fresh batch, all of it used."""
    x, y, v = carry
    batch = level.draw(key)
    if oracle == "G":
        return x, trees.axpy(-1e-3, oracles.gradient_y(level, x, y, batch), y), v
    G, H, J = oracles.lower_products(level, x, y, v, batch)
    return trees.axpy(1e-3, J, x), trees.axpy(-1e-3, G, y), trees.axpy(-1e-3, H, v)


@eqx.filter_jit
def looped(oracle, n, level, carry, key):
    return lax.fori_loop(0, n, lambda t, carry: step(oracle, level, carry, jax.random.fold_in(key, t)), carry)


@eqx.filter_jit
def single(oracle, level, carry, key):
    return step(oracle, level, carry, key)


@eqx.filter_jit
def looped_together(oracle, n, level, carry, key):
    return jax.vmap(lambda carry: looped(oracle, n, level, carry, key))(carry)


def milliseconds(call, evaluations, rounds):
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return 1e3 * min(times) / evaluations


def measure(oracle, level, carry, n, seeds, rounds):
    """Outside a loop, inside it, and inside it for several networks."""
    key = jax.random.key(2)

    def one_by_one():
        result = carry
        for t in range(n):
            result = single(oracle, level, result, jax.random.fold_in(key, t))
        return result

    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), carry)
    return (
        milliseconds(one_by_one, n, rounds),
        milliseconds(lambda: looped(oracle, n, level, carry, key), n, rounds),
        milliseconds(lambda: looped_together(oracle, n, level, copies, key), n * seeds, rounds),
    )


def of_tasks(given):
    """ms per gradient of a network on all tasks, inside a loop, for both ways of taking them."""
    model = ConvNet(given.channels, given.filters, given.size, layers=given.layers, key=jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (given.tasks, given.batch, given.size, given.size, given.channels))

    @eqx.filter_jit
    def descend(features, model, images):
        gradient = jax.grad(lambda model: jnp.sum(features(model, images) ** 2))
        return lax.fori_loop(0, given.n, lambda t, model: trees.axpy(-1e-6, gradient(model), model), model)

    ways = {"at once": lambda model, images: model(images), "vmap": lambda model, images: jax.vmap(model)(images)}
    return {way: milliseconds(lambda way=way: descend(ways[way], model, images), given.n, given.rounds) for way in ways}


def main():
    parser = argparse.ArgumentParser(description="Convolutions inside a loop.")
    settings = {"size": 14, "channels": 1, "filters": 8, "layers": 4, "batch": 64, "seeds": 5, "tasks": 4}
    for name, value in (settings | {"n": 20, "rounds": 5}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (ROWS, given.size, given.size, given.channels)
    rows = {"features": rng.random(shape, np.float32).reshape(ROWS, -1), "labels": rng.integers(0, 10, ROWS, np.int32)}
    level = Level(
        WeightedLoss(CrossEntropies(), jnp.float32(1e-3)), data=Rows(rows), batch_size=given.batch, per_row=True
    )
    columns = f"one by one  in a loop  of {given.seeds}"
    print(f"{given}\n\n{'ms/evaluation':16}  G: {columns}   GHJ: {columns}")
    for way, network in WAYS.items():
        model = network(
            given.channels, given.filters, given.size, layers=given.layers, outputs=10, key=jax.random.key(0)
        )
        carry = jnp.zeros(ROWS), model, model
        found = [measure(oracle, level, carry, given.n, given.seeds, given.rounds) for oracle in ("G", "GHJ")]
        print(f"{way:16}  " + "  ".join(f"{a:13.2f}  {b:9.2f}  {c:4.2f}" for a, b, c in found), flush=True)
    print(f"\nms/gradient of {given.tasks} tasks")
    for way, time_taken in of_tasks(given).items():
        print(f"{way:16}  {time_taken:13.2f}", flush=True)


if __name__ == "__main__":
    main()
