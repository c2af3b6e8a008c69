"""What the tests of several processes run: one process of `count`, with two devices."""

import io
import os
import pickle
import signal
import sys
import time

import jax

number, count, port, out, what, checkpoint = sys.argv[1:7]
jax.config.update("jax_num_cpu_devices", 2 if int(count) > 1 else 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(count), int(number), heartbeat_timeout_seconds=10)

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import bilevel as bl
from bilevel.run import _checkpoint

_checkpoint._OVERHEAD = 0
sys.stderr = io.StringIO()
ROWS, WIDTH = 64, 8
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def split(array, *axes):
    return jax.make_array_from_callback(
        array.shape, NamedSharding(mesh, PartitionSpec(*axes)), lambda index: array[index]
    )


def upper_loss(x, y, batch):
    return ((batch @ y - 1) ** 2).mean()


def lower_loss(x, y, batch):
    return (jax.nn.sigmoid(x) * (batch @ y - 1) ** 2).mean() + 0.1 * y @ y


rows = split(np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32), "data")
upper = bl.Level(upper_loss, bl.Rows(rows, strata=4), 8)
problem = bl.Problem(upper, bl.Level(lower_loss, bl.Rows(rows, strata=4), 8, per_row=True))
solver = bl.SOBA(upper_step=1.0, lower_step=0.1, adjoint_step=0.1)


def callback(solution):
    step = solution.stats["steps"]
    if what == "stop" and number == "1" and step == 20:
        return bl.RESULTS.stopped
    if what == "fail" and number == "1" and step == 20:
        raise KeyError("only here")
    if what == "interrupt" and number == "1" and step == 20:
        signal.raise_signal(signal.SIGINT)
    if what == "die" and number == "1" and step == 20:
        os._exit(9)
    if what == "all die" and step == 20:
        os._exit(9)


def metrics(x, y):
    return {"size": float((y**2).sum())}


def whole(array):
    return np.asarray(jax.jit(lambda a: a, out_shardings=NamedSharding(mesh, PartitionSpec()))(array))


error = None
begin = time.perf_counter()
try:
    solution = bl.solve(
        problem,
        solver,
        split(np.zeros(ROWS, np.float32), "data"),
        split(np.zeros(WIDTH, np.float32), *(["data"] if what == "split y" else [])),
        steps=40,
        every=10,
        key=jax.random.key(0),
        metrics=metrics,
        callbacks=[callback],
        progress=True,
        checkpoint=None if checkpoint == "none" else checkpoint,
    )
except BaseException as caught:
    error, solution = f"{type(caught).__name__}: {caught}", getattr(caught, "solution", None)
found = {"error": error, "seconds": time.perf_counter() - begin, "shown": sys.stderr.getvalue()}
if solution is not None and what != "die":
    sizes = solution.history["size"].tolist()
    place = [axis for axis in solution.y.sharding.spec if axis]
    found |= {"x": whole(solution.x), "y": whole(solution.y), "steps": solution.stats["steps"], "sizes": sizes}
    found |= {"place": place}
with open(out, "wb") as file:
    pickle.dump(found, file)
