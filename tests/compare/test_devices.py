"""The run of one device, to rounding, by two that share the work: in a process of its own, which has two."""

import os
import subprocess
import sys

MINE = """
import bilevel as bl
import jax
import numpy as np
from bilevel.tasks import Task


def dropped(x, y, batch, key):
    return ((batch @ (y * jax.random.bernoulli(key, 0.5, y.shape)) - x) ** 2).mean() + 0.1 * (y**2).sum()


def made(data, **options):
    loss = bl.accumulated(dropped, 2)
    problem = bl.Problem(bl.Level(lambda x, y, _: ((y - 1) ** 2).sum()), bl.Level(loss, data, 8, **options))
    return Task(name="mine", problem=problem, x=np.zeros(()), y=np.zeros(3), metrics=lambda x, y: {"x": x}, score="x")


def make():
    return made(np.random.default_rng(0).normal(size=(40, 3)), random=True)


def stored():
    return made(bl.OnDisk(np.ones((40, 3))), random=True)
"""

CODE = """
import pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
import equinox as eqx
import numpy as np
from typer.testing import CliRunner

from bilevel import tasks
from bilevel._placement import mesh_of
from bilevel.cli import app
from bilevel.compare import devices
from bilevel.solvers.registry import SOLVERS

folder, split, divided = pathlib.Path(sys.argv[1]), devices.split, []


def run(*arguments):
    return CliRunner().invoke(app, ["run", *arguments, "--steps", "10", "--devices", "2", "--out", str(folder)])


def solution(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    with np.load(folder / "solution.npz") as arrays:
        return dict(arrays)


def divide(task, must):
    divided.append(split(task, must=must))
    return divided[-1]


def check(on_two, *arguments):
    devices.split = divide
    two = solution(*arguments)
    assert (mesh_of(divided[-1].problem) is not None) == on_two, arguments
    devices.split = lambda task, must: task
    for name, one in solution(*arguments).items():
        np.testing.assert_allclose(two[name], one, rtol=1e-4, atol=1e-6, err_msg=f"{arguments}: {name}")


check(False, "quadratic", "--solver", "soba")  # one row
check(True, "quadratic", "--solver", "soba", "--set", "noise=0.1", "--set", "batch_size=10")
check(True, "quadratic", "--solver", "aid", "--set", "noise=0.1")
check(True, "cleaning", "--solver", "soba")
SOBA = "soba[upper_step=0.1,lower_step=0.1,adjoint_step=0.1]"
check(True, f"{sys.argv[2]}:make", "--solver", SOBA)

made = tasks.cleaning()


def operations(task):
    solver, key = SOLVERS["f2sa"](1.0, 0.1, 0.1, 1.0, common_samples=True), jax.random.key(0)
    state, _ = solver.init(task.problem, task.x, task.y, key=key)
    arrays, rest = eqx.partition(task.problem, eqx.is_array)
    step = jax.jit(lambda arrays, state: solver.step(eqx.combine(arrays, rest), state, 0, key=key))
    return step.lower(arrays, state).compile().cost_analysis()["flops"]


shares = operations(split(made, must=True)), operations(made)
assert shares[0] < 0.6 * shares[1], shares

devices.split = split
for message, *arguments in (
    ("devices: got 2, which divides neither", "quadratic", "--solver", "soba", "--set", "batch_size=5"),
    ("devices: got 2, but rows of", f"{sys.argv[2]}:stored", "--solver", SOBA),
    ("devices: got 2, but fewshot draws", "fewshot", "--solver", "itd[upper_step=1,lower_step=1,inner_steps=1]"),
):
    result = run(*arguments)
    assert result.exit_code == 2 and result.stderr.startswith("Error: " + message), result.output
print("same")
"""


def test_two_devices_make_the_run_of_one(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(mine)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "same", done.stderr
