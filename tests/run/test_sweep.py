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
        ({"grid": {}, "make_solver": lambda: 3}, TypeError, "make_solver: <lambda> did not return a solver, but 3"),
        ({"make_solver": None}, TypeError, "make_solver: got None; pass a solver"),
        ({"make_solver": "sobo"}, ValueError, "make_solver: 'sobo' is unknown"),
        ({"make_solver": "soba"}, ValueError, "make_solver: soba needs lower_step, adjoint_step"),
        ({"make_solver": "soba[upper_step=1]"}, ValueError, "grid: upper_step is also in 'soba"),
        ({"grid": {"uper_step": [1.0]}}, ValueError, "make_solver: .*'uper_step' is unknown; did you mean upper_step"),
        ({"grid": None}, TypeError, "grid: got None; pass a list"),
        ({"grid": "ab"}, TypeError, "grid: got 'ab'; pass a list"),
        ({"grid": [3]}, TypeError, "grid: got the setting 3; pass dictionaries"),
        ({"grid": {3: [1]}}, TypeError, "grid: got the setting {3: 1}"),
        ({"grid": {"upper_step": 0.1}}, TypeError, "grid: upper_step is 0.1; pass a list of values"),
        ({"grid": {"upper_step": np.array(0.1)}}, TypeError, "grid: upper_step is array"),
        ({"grid": {"upper_step": "0.1"}}, TypeError, "grid: upper_step is '0.1'; pass a list"),
        ({"grid": []}, ValueError, "grid: got no setting"),
        ({"grid": {"upper_step": []}}, ValueError, "grid: got no setting"),
        ({"seeds": 0}, ValueError, "seeds: got 0"),
        ({"seeds": []}, ValueError, "seeds: got none"),
        ({"seeds": [1, 1]}, ValueError, r"seeds: got \[1, 1\]; pass each seed once"),
        ({"seeds": None}, TypeError, "seeds: got None; pass their number, or a list"),
        ({"seeds": 1.5}, TypeError, "seeds: got 1.5; pass their number, or a list"),
        ({"seeds": [1.5]}, TypeError, "seeds: got 1.5; pass an integer"),
        ({"seeds": [True]}, TypeError, "seeds: got True; pass an integer"),
        ({"seeds": "12"}, TypeError, "seeds: got '12'; pass their number"),
        ({"seeds": [-1]}, ValueError, "seeds: got -1; it must be zero or more"),
        ({"seeds": [2**40]}, ValueError, "seeds: got 1099511627776; it must be .*below"),
        ({"seeds": 2**70}, ValueError, "seeds: got an integer of 71 bits; it must be at most"),
        ({"problem": None}, TypeError, "problem: got NoneType"),
        ({"problem": [survivor.make()]}, TypeError, "problem: got list"),
        ({"steps": 2**31}, ValueError, "steps: got 2147483648; it must be at most"),
        ({"metrics": 3}, TypeError, "metrics: got 3; pass a function"),
        ({"metrics": lambda x: {}}, TypeError, "metrics: it cannot be called as"),
        ({"devices": []}, TypeError, r"devices: got \[\]; pass a list"),
        ({"devices": jax.devices()[:1] * 2}, TypeError, "devices: got .*different devices"),
        ({"devices": "cpu"}, TypeError, "devices: got 'cpu'"),
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"every": 0}, ValueError, "every: got 0"),
        ({"key": 0}, TypeError, "key: got 0"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_compiled(change, error, message, compiled):
    options = {"grid": {"upper_step": [0.01]}, "steps": 3, "key": KEY, "x": ZEROS, "y": ZEROS}
    options |= {"problem": survivor.make(), "make_solver": survivor.solver} | change
    compiled.clear()
    with pytest.raises(error, match=message):
        bl.sweep(**options)
    assert compiled == []


def test_the_solver_may_be_a_name_with_settings_or_a_solver(four):
    names = swept({"upper_step": [0.05]}, make_solver="fsla[lower_step=0.05,adjoint_step=0.05,storm_weight=0.3,0.4]")
    assert [list(run.setting) for run in names.runs] == [
        ["lower_step", "adjoint_step", "storm_weight", "upper_step"]
    ] * 2
    assert [run.setting["storm_weight"] for run in names.runs] == [0.3, 0.4]
    changed = swept([{"upper_step": 0.05}], make_solver=survivor.solver(7.0))
    for found in (names, changed):
        np.testing.assert_allclose(found.runs[0].x, four.runs[2].x, rtol=2e-5, atol=1e-7)


def test_a_run_ends_as_it_would_alone():
    """Where the lower level is not convex, and where the numbers are no longer finite."""
    upper = bl.Level(lambda x, y, _: 0.5 * jnp.sum((y - 1.0) ** 2))
    for sign, wanted in ((-1.0, "not_convex"), (1.0, "nonfinite")):
        problem = bl.Problem(upper, bl.Level(lambda x, y, _, sign=sign: 0.5 * (y[0] - x) ** 2 + sign * y[1] ** 2))
        start = jnp.zeros(()), jnp.full(2, 0.1)
        alone = bl.solve(
            problem,
            bl.AIDBiO(1e30, 0.1, inner_steps=1),
            *start,
            steps=40,
            every=20,
            key=KEY,
            throw=False,
            progress=False,
        )
        make = bl.AIDBiO(1.0, 0.1, inner_steps=1)
        (run,) = bl.sweep(make, {"upper_step": [1e30]}, problem, *start, steps=40, every=20, key=KEY).runs
        assert bl.RESULTS[alone.result] == bl.RESULTS[getattr(bl.RESULTS, run.result)] and run.result == wanted


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


TAKEN = ("step", "seconds", "F", "G", "H", "J", "seed", "result")


@pytest.mark.parametrize("name", TAKEN)
def test_a_setting_named_like_a_column_is_refused_before_anything_is_compiled(name, compiled):
    make = {"make_solver": eval(f"lambda {name}: survivor.solver({name})", {"survivor": survivor})}
    compiled.clear()
    for grid in ({name: [0.01, 0.05]}, [{name: 0.01}]):
        with pytest.raises(ValueError, match=f"grid: {name!r} is a column of the table already; .*another name"):
            swept(grid, **make)
    assert compiled == []


def test_a_setting_in_brackets_is_refused_too(tmp_path):
    (tmp_path / "own_steps.py").write_text("import bilevel as bl\ndef make(step): return bl.SOBA(step, 0.5, 0.5)\n")
    with pytest.raises(ValueError, match="make_solver: 'step' is a column of the table already; .*another name"):
        swept([{}], make_solver=f"{tmp_path / 'own_steps.py'}:make[step=0.1,1]")


@pytest.mark.parametrize("name", [*TAKEN, "upper_step"])
def test_a_metric_named_like_a_column_is_refused_before_the_first_step(name):
    calls = []

    def metrics(x, y):
        calls.append(np.asarray(x).tolist())
        return {name: 1.0}

    with pytest.raises(ValueError, match=f"metrics: {name!r} is .*; give it another name"):
        swept({"upper_step": [0.01, 0.05]}, metrics=metrics)
    assert calls == [[0.0] * 5]


def by_inner_steps(inner_steps):
    """Another number of inner steps is another program."""
    return bl.ITDBiO(upper_step=0.01, lower_step=0.05, inner_steps=inner_steps)


def failing_at(n, error):
    calls = []

    def metrics(x, y):
        calls.append(n)
        if len(calls) == n:
            raise error
        return survivor.metrics(x, y)

    return metrics


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_has_what_had_finished_and_how_far_the_others_were(error):
    """The rows of two seeds of the first program, at three steps; then some of those of the second one."""
    options = {"make_solver": by_inner_steps, "steps": 20, "every": 10, "seeds": 2}
    whole = swept({"inner_steps": [1, 2, 3]}, **options)
    with pytest.raises(error) as raised:
        swept({"inner_steps": [1, 2, 3]}, metrics=failing_at(6 + 4, error), **options)
    found = raised.value.sweep
    assert [(run.setting["inner_steps"], run.seed, run.result) for run in found.runs] == [
        (1, 0, "successful"), (1, 1, "successful"), (2, 0, "interrupted"), (2, 1, "interrupted"),
    ]  # fmt: skip
    assert [len(run.history) for run in found.runs] == [3, 3, 2, 1]
    for run, wanted in zip(found.runs, whole.runs, strict=False):
        np.testing.assert_allclose(run.history["loss"], wanted.history["loss"][: len(run.history)], rtol=1e-6)
    np.testing.assert_array_equal(found.runs[0].x, whole.runs[0].x)
    assert found.best("loss", largest=False) == {"inner_steps": 1} and found.run_seconds > 0
    assert raised.value.__notes__ == ["`.sweep` of this exception has 2 of the 6 runs, and the rows so far of 2 others"]


def test_a_run_that_has_its_last_row_has_finished():
    with pytest.raises(ZeroDivisionError) as raised:
        swept({"upper_step": [0.01, 1e30, 0.05]}, every=30, metrics=failing_at(5, ZeroDivisionError))
    found = raised.value.sweep
    assert [run.result for run in found.runs] == ["successful", "nonfinite", "interrupted"]
    assert found.best("loss", largest=True) == {"upper_step": 0.01}


def test_an_error_before_the_first_row_has_no_runs():
    with pytest.raises(ZeroDivisionError) as raised:
        swept({"upper_step": [0.01]}, metrics=failing_at(1, ZeroDivisionError))
    assert not hasattr(raised.value, "sweep") and not hasattr(raised.value, "__notes__")
