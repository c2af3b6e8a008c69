"""Sweeps: many runs at once equal the runs one by one."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run import survivor

import bilevel as bl

KEY = jax.random.key(7)
ZEROS = jnp.zeros(5)


def swept(grid, *, make_solver=survivor.solver, steps=30, **options):
    options = {"key": KEY, "metrics": survivor.metrics} | options
    return bl.sweep(make_solver, grid, survivor.make(), ZEROS, ZEROS, steps=steps, **options)


@pytest.fixture(scope="module")
def four():
    return swept({"upper_step": [0.01, 0.05]}, seeds=2, every=10)


def test_each_run_is_what_solve_gives(four):
    assert [(run.setting["upper_step"], run.seed) for run in four.runs] == [(0.01, 0), (0.01, 1), (0.05, 0), (0.05, 1)]
    for run in four.runs:
        key = jax.random.fold_in(KEY, run.seed)
        alone = bl.solve(
            survivor.make(), survivor.solver(**run.setting), ZEROS, ZEROS, steps=30, every=10, key=key,
            metrics=survivor.metrics, progress=False,
        )  # fmt: skip
        np.testing.assert_allclose(run.x, alone.x, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(run.y, alone.y, rtol=2e-5, atol=1e-7)
        for column in ("step", "F", "G", "H", "J"):
            assert run.history[column].tolist() == alone.history[column].tolist()
        np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=2e-5)
    assert len({float(run.history["loss"][-1]) for run in four.runs}) == 4


def test_the_table_has_a_row_for_each_run(four):
    table = four.to_pandas()
    assert list(table["upper_step"]) == [0.01, 0.01, 0.05, 0.05] and list(table["seed"]) == [0, 1, 0, 1]
    assert set(table["result"]) == {"successful"} and set(table["step"]) == {30}
    assert four.run_seconds > 0 and four.compile_seconds > 0


def test_best_is_of_the_mean_over_seeds(four):
    means = {step: np.mean([row["loss"] for row in four.table if row["upper_step"] == step]) for step in (0.01, 0.05)}
    assert four.best("loss", largest=False) == {"upper_step": min(means, key=means.get)}
    assert four.best("loss", largest=True) == {"upper_step": max(means, key=means.get)}
    with pytest.raises(ValueError, match="metric: 'accuracy' is unknown"):
        four.best("accuracy", largest=True)


def test_numbers_share_a_program_and_loop_lengths_do_not(compiled):
    def make(lower_step, inner_steps):
        return bl.ITDBiO(upper_step=0.01, lower_step=lower_step, inner_steps=inner_steps)

    grid = [{"lower_step": step, "inner_steps": n} for n in (1, 2) for step in (0.05, 0.1, 0.2)]
    found = swept(grid, make_solver=make, steps=3)
    assert [run.setting for run in found.runs] == grid
    spread = [name for name in compiled if "_spread" in name]
    assert len(spread) == 6  # start, steps and check, for each of two loop lengths


def test_a_run_that_diverges_leaves_the_others_alone(four):
    found = swept({"upper_step": [0.01, 1e30]}, every=10)
    good, bad = found.runs
    assert good.result == "successful" and bad.result == "nonfinite" and len(bad.history) < len(good.history) == 4
    np.testing.assert_allclose(good.x, four.runs[0].x, rtol=2e-5, atol=1e-7)
    assert found.best("loss", largest=True) == {"upper_step": 0.01}
    with pytest.raises(ValueError, match="no setting has a finite 'loss'"):
        swept({"upper_step": [1e30]}).best("loss", largest=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grid": {}, "make_solver": lambda: 3}, TypeError, "make_solver: it did not return a solver"),
        ({"grid": []}, ValueError, "grid: got no setting"),
        ({"grid": {"upper_step": []}}, ValueError, "grid: got no setting"),
        ({"seeds": 0}, ValueError, "seeds: got none"),
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"every": 0}, ValueError, "every: got 0"),
        ({"key": 0}, TypeError, "key: got 0"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    grid = change.pop("grid", {"upper_step": [0.01]})
    with pytest.raises(error, match=message):
        swept(grid, **change)


SCRIPT = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np, bilevel as bl, survivor
from test_sweep import swept
one = swept({"upper_step": [0.01, 0.02, 0.05]}, devices=jax.devices()[:1], steps=20)
two = swept({"upper_step": [0.01, 0.02, 0.05]}, steps=20)
assert len(jax.devices()) == 2 and len(two.runs) == 3  # one device has a run to spare
for a, b in zip(one.runs, two.runs):
    np.testing.assert_allclose(a.x, b.x, rtol=2e-5, atol=1e-7)
    assert len(a.history) == 2 and a.setting == b.setting
print("both")
"""


def test_devices_share_the_runs():
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "both", done.stderr
