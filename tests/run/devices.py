"""What the tests of several devices run in a process of its own, which has eight: it prints what it found."""

import contextlib
import functools
import json
import re
import sys
import warnings

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from solvers.test_properties import make_solvers

import bilevel as bl
from bilevel._prepare import prepare
from bilevel.run import _programs

WIDTH, CLASSES, BATCH, DEVICES = 64, 8, 64, 8
KEY = jax.random.key(0)
BYTES = {"f32": 4, "s32": 4, "u32": 4, "u16": 2, "u8": 1, "pred": 1}


def losses(y, batch):
    return -jnp.sum(jax.nn.log_softmax(batch["features"] @ y) * batch["targets"], axis=-1)


def upper_loss(x, y, batch):
    return jnp.mean(losses(y, batch))


def lower_loss(x, y, batch):
    return jnp.mean(jax.nn.sigmoid(x) * losses(y, batch)) + 0.05 * jnp.sum(y**2)


def split(tree, kind=AxisType.Auto):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def make(rows, source=bl.Rows, strata=DEVICES, place=lambda tree: tree, parts=1):
    """A problem with one weight per row, and a start."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows)
    data = {"features": rng.normal(size=(rows, WIDTH)), "targets": np.eye(CLASSES)[labels]}
    data = place({name: array.astype(np.float32) for name, array in data.items()})
    levels = (source(data, strata=strata) for _ in range(2))
    upper, lower = (loss if parts == 1 else bl.accumulated(loss, parts) for loss in (upper_loss, lower_loss))
    upper, lower = bl.Level(upper, next(levels), BATCH), bl.Level(lower, next(levels), BATCH, per_row=True)
    return bl.Problem(upper, lower), place(np.zeros(rows, np.float32)), np.zeros((WIDTH, CLASSES), np.float32)


def compiled(solver, problem, x, y):
    """The operations of a chunk of 3 steps per device, and the bytes of each kind of collective."""
    prepared = prepare(problem, x, y)
    programs = _programs.Programs(solver, prepared.problem, KEY, prepared.x, prepared.y)
    state = programs.start(compute=False)[0]
    program = _programs._advance.lower(programs._static, programs._arrays, state, np.int32(0), np.int32(3)).compile()
    found = {}
    for line in program.as_text().splitlines():
        match = re.search(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            size = sum(BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n])) for kind, shape in shapes)
            found[match[2]] = found.get(match[2], 0) + size
    return program.cost_analysis()["flops"], found


def counts(names, rows, parts=1):
    """Per solver: operations on one of eight devices as a multiple of an eighth of one device's, and collectives."""
    found = {}
    for name in names:
        solver = make_solvers()[name]
        alone, _ = compiled(solver, *make(rows, parts=parts))
        shared, collectives = compiled(solver, *make(rows, place=split, parts=parts))
        _, of_more = compiled(solver, *make(2 * rows, place=split, parts=parts))
        found[name] = DEVICES * shared / alone, collectives, of_more
    return found


def count(programs, _):
    programs.append(_programs._advance._cache_size())


def runs(names, rows, kind, source, parts=1):
    """Per solver: how far the run on eight devices is from that on one, the places, and the number of programs."""
    kind, source, found = getattr(AxisType, kind), getattr(bl, source), {}

    def place(tree):
        return split(tree, kind)

    for name in names:
        solver, programs = make_solvers()[name], []
        # the look at the end takes no part in the automatic mode, to save time
        options = {"steps": 20, "every": 5, "key": KEY, "signs": kind == AxisType.Explicit, "progress": False}
        problem, x, y = make(rows, source, parts=parts)
        one = bl.solve(problem, solver, x, y, **options)
        problem, x, y = make(rows, source, place=place, parts=parts)
        with jax.set_mesh(x.sharding.mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
            many = bl.solve(problem, solver, x, y, callbacks=[functools.partial(count, programs)], **options)
        pairs = zip(jax.tree.leaves((one.x, one.y)), jax.tree.leaves((many.x, many.y)), strict=True)
        distance = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
        places = [[axis for axis in leaf.sharding.spec if axis] for leaf in (many.x, many.y)]
        found[name] = distance, places, len(set(programs))
    return found


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    warnings.filterwarnings("error", "solve: the look at the end failed")
    print(json.dumps({"counts": counts, "runs": runs}[what](*map(json.loads, arguments))))
