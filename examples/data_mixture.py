"""Reweight the data of a language model: which of five sources help on text that is trusted?

    python examples/data_mixture.py --steps 200 --seed 0 --out runs/mixture
    JAX_NUM_CPU_DEVICES=8 python examples/data_mixture.py    # on eight devices that JAX makes of one CPU

A small transformer reads bytes. Its training text is a mixture of five sources, of which two are garbage. Each source
has a weight, and the weights are judged on pages that are held out. All text comes with Python. The rows are placed on
all devices that JAX has; nothing else in the script is about devices, because `solve` works where its arrays are.
"""

import argparse
import ast
import math
import pathlib
import sysconfig
import tempfile
from pydoc_data.topics import topics

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import bilevel as bl

SOURCES = ("help pages", "docstrings", "code", "random bytes", "shuffled bytes")
LENGTH, HEADS = 32, 4  # the bytes of a row that the model reads, and the heads of its attention
DECAY = 1e-4


def adam(rate):
    return bl.Rule(optax.adam, rate)


SOLVERS = {
    "f2sa": bl.F2SA(
        upper_step=adam(0.03),
        penalized_step=adam(0.003),
        lower_step=adam(0.003),
        multiplier=10.0,
        common_samples=True,
        keep_rules=True,
    ),
    "soba": bl.SOBA(upper_step=adam(0.03), lower_step=adam(0.003), adjoint_step=0.2),
    "stocbio": bl.StocBiO(
        upper_step=adam(0.03), lower_step=adam(0.003), inner_steps=3, neumann_order=3, neumann_step=0.2
    ),
}


class Block(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    network: eqx.nn.MLP
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]

    def __init__(self, width, key):
        keys = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(HEADS, width, key=keys[0])
        self.network = eqx.nn.MLP(width, width, 4 * width, depth=1, activation=jax.nn.gelu, key=keys[1])
        self.norms = (eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width))

    def __call__(self, h):
        normal = jax.vmap(self.norms[0])(h)
        h = h + self.attention(normal, normal, normal, mask=jnp.tril(jnp.ones((LENGTH, LENGTH), bool)))
        return h + jax.vmap(lambda v: self.network(self.norms[1](v)))(h)


class Transformer(eqx.Module):
    """Reads bytes, and gives the logits of each next byte."""

    bytes: eqx.nn.Embedding
    places: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, width, layers, key):
        keys = jax.random.split(key, layers + 3)
        self.bytes = eqx.nn.Embedding(weight=0.02 * jax.random.normal(keys[0], (256, width)))
        self.places = 0.02 * jax.random.normal(keys[1], (LENGTH, width))
        self.blocks = [Block(width, key) for key in keys[3:]]
        self.norm, self.head = eqx.nn.LayerNorm(width), eqx.nn.Linear(width, 256, key=keys[2])

    def __call__(self, text):
        h = jax.vmap(self.bytes)(text) + self.places
        for block in self.blocks:
            h = block(h)
        return jax.vmap(lambda v: self.head(self.norm(v)))(h)


def row_losses(model, text):
    """The cross-entropy of each row, which is the mean over its bytes."""
    logits = jax.vmap(model)(text[:, :-1].astype(jnp.int32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:].astype(jnp.int32)).mean(axis=1)


def lower_loss(x, y, batch):
    """Training: rows are weighted by their source. Equal weights give the plain mean."""
    weights = len(SOURCES) * jax.nn.softmax(x)
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(y, eqx.is_inexact_array)))
    return jnp.mean(weights[batch["source"]] * row_losses(y, batch["text"])) + DECAY * squares


def upper_loss(x, y, batch):
    return jnp.mean(row_losses(y, batch))


@eqx.filter_jit
def measured(x, y, test):
    return jax.nn.softmax(x), jnp.mean(row_losses(y, test))


def texts():
    """The three texts: help pages, docstrings and code of Python's own modules."""
    modules = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("[a-f]*.py"))
    code = [path.read_text(encoding="utf-8") for path in modules]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for module in code for node in ast.walk(ast.parse(module)) if isinstance(node, kinds))
    docstrings = filter(None, map(ast.get_docstring, nodes))
    pages = (topics[name] for name in sorted(topics))
    return ["\n\n".join(parts).encode() for parts in (pages, docstrings, code)]


def draw_rows(seed, rows):
    """Training rows with their sources, trusted rows, and test rows: they are of help pages that are not trained on."""
    rng = np.random.default_rng(seed)
    pages, docstrings, code = texts()

    def windows(text, n):
        text = np.frombuffer(text, np.uint8)
        return text[rng.integers(len(text) - LENGTH, size=(n, 1)) + np.arange(LENGTH + 1)]

    kept, held_out, test = np.split(np.frombuffer(pages, np.uint8), [len(pages) * 3 // 4, len(pages) * 7 // 8])
    noise = rng.integers(256, size=(rows, LENGTH + 1), dtype=np.uint8)
    parts = [windows(kept, rows), windows(docstrings, rows), windows(code, rows), noise]
    parts.append(rng.permuted(windows(kept, rows), axis=1))
    train = {"text": np.concatenate(parts), "source": np.repeat(np.arange(len(SOURCES)), rows)}
    order = rng.permutation(len(train["text"]))
    return {name: array[order] for name, array in train.items()}, windows(held_out, rows), windows(test, 512)


def make(seed=0, batch_size=32, rows=4096, width=64, layers=2):
    """The problem, with its rows on all devices that there are; x; y; and the test rows."""
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    strata = math.lcm(8, mesh.size)  # on one to eight devices, the same rows are drawn
    train, trusted, test = draw_rows(seed, rows)
    train, trusted = jax.device_put((train, trusted), jax.NamedSharding(mesh, jax.P("rows")))
    problem = bl.Problem(
        upper=bl.Level(upper_loss, bl.Rows(trusted, strata=strata), batch_size),
        lower=bl.Level(lower_loss, bl.Rows(train, strata=strata), batch_size),
    )
    return problem, np.zeros(len(SOURCES), np.float32), Transformer(width, layers, jax.random.key(seed)), test


def draw(history, path):
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    styles = (("#0072B2", "-"), ("#009E73", "-"), ("#56B4E9", "-"), ("#D55E00", "--"), ("#CC79A7", "--"))
    for name, (color, dashes) in zip(SOURCES, styles, strict=True):
        axes.plot(history["step"], history[name], dashes, color=color, label=name)
    axes.set(xlabel="steps", ylabel="weight of the source", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def report(solution, solver, out):
    """Print every fifth part of the history, and draw all of it."""
    history = solution.history
    table = Table(title=f"{solver}, {jax.device_count()} device(s): weights of the sources")
    for name in ("step", *SOURCES, "test loss"):
        table.add_column(name, justify="right")
    for row in history.rows[:: max(1, len(history.rows) // 5)]:
        table.add_row(str(row["step"]), *(f"{row[name]:.3f}" for name in (*SOURCES, "test loss")))
    folder = pathlib.Path(out or tempfile.mkdtemp(prefix="data-mixture-"))
    folder.mkdir(parents=True, exist_ok=True)
    draw(history, folder / "weights.png")
    console = Console()
    console.print(table)
    console.print(f"Drawn to {folder / 'weights.png'}")
    if solution.result != bl.RESULTS.successful:
        console.print(f"After step {solution.stats['steps']}: {bl.RESULTS[solution.result]}")


def main(steps=200, seed=0, out=None, solver="f2sa", diagnose=False, every=10, **size):
    problem, x, y, test = make(seed, **size)

    def metrics(x, y):
        weights, loss = measured(x, y, test)
        return {"test loss": float(loss), **dict(zip(SOURCES, map(float, weights), strict=True))}

    options = dict(steps=steps, every=every, key=jax.random.key(seed), metrics=metrics)
    # `signs=False`: a network's loss is not convex in its weights, of which `solve` would warn
    solution = bl.solve(problem, SOLVERS[solver], x, y, **options, signs=False, throw=False)
    if jax.process_index() == 0:
        report(solution, solver, out)
    if diagnose:  # on few rows, because it takes some hundred passes over all of them
        few, *_ = make(seed, **{**size, "rows": 32})
        method = bl.Neumann(order=3, step=0.2) if solver == "stocbio" else None
        found = bl.diagnose(few, solution.x, solution.y, method=method, draws=8, key=jax.random.key(seed))
        if jax.process_index() == 0:
            print(found)
    return solution


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the rows, the network and the run")
    parser.add_argument("--out", help="the folder of the figure; default: a new one")
    parser.add_argument("--solver", choices=SOLVERS, default="f2sa")
    parser.add_argument("--diagnose", action="store_true", help="how far to trust the hypergradient at the end")
    for name, default, meaning in (
        ("batch-size", 32, "of both levels"),
        ("rows", 4096, "of each source"),
        ("width", 64, "of the transformer"),
        ("layers", 2, "of the transformer"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    parser.add_argument("--distributed", action="store_true", help="this is one process of several")
    options = vars(parser.parse_args())
    if options.pop("distributed"):
        jax.distributed.initialize()
    main(**options)
