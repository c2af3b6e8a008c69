"""Runs with rows on disk: the same, bit for bit, as with the rows in memory."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import identical
from solvers.test_properties import NOISE, make_problem, make_solvers, run, source_of

import bilevel as bl
from bilevel import _lagged, disk
from bilevel.problem import stores_of
from bilevel.run import _prefetch
from bilevel.run._plan import UnplannableError, plan_of
from bilevel.solvers.registry import SOLVERS

KEY = jax.random.key(7)
READ_ALL = ["srba", "hoag"]
LOOPS_OF_RANDOM_LENGTH = ["sustain", "bsa", "ttsa", "alset"]
ON_DEMAND = [*LOOPS_OF_RANDOM_LENGTH, "maml"]  # MAML has episodes
QUICK = ["soba", "stocbio", "itd", "saba", "sustain"]


@pytest.fixture(autouse=True)
def _no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture
def few_at_once(monkeypatch):
    """Windows of few steps, so that chunks have several."""
    monkeypatch.setattr(_prefetch, "_AT_ONCE", 2**11)


def both(name, source, **options):
    """The runs with the rows on disk and in memory."""
    problems = [make_problem(source=lambda rows, on=on: source(on(rows))) for on in (bl.OnDisk, np.asarray)]
    return [run(make_solvers()[name], problem, steps=30, signs=False, **options) for problem in problems]


def check_same(name, source, **options):
    found, expected = both(name, source, **options)
    identical(found.state, expected.state)
    assert all(found.stats[kind] == expected.stats[kind] for kind in "FGHJ")
    assert ("wait_seconds" in found.stats) == (name not in ON_DEMAND)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.usefixtures("few_at_once")
def test_the_run_is_the_one_in_memory(name):
    check_same(name, source_of(name), every=7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in (*QUICK, *READ_ALL)])
@pytest.mark.usefixtures("few_at_once")
def test_the_run_of_every_solver_is_the_one_in_memory(name):
    check_same(name, source_of(name), every=7)


@pytest.mark.parametrize(("source", "strata"), [(bl.Shuffled, 4), (bl.ShuffledBlocks, 1)])
def test_the_run_with_each_source_is_the_one_in_memory(source, strata):
    check_same("soba", lambda rows: source(rows, strata=strata))


@pytest.mark.parametrize("name", READ_ALL)
def test_a_solver_that_reads_all_rows_is_refused_by_name(name, compiled):
    problem = make_problem(source=lambda rows: bl.Rows(bl.OnDisk(rows)))
    compiled.clear()
    with pytest.raises(ValueError, match="data: all 48 rows .* are needed at once") as caught:
        run(make_solvers()[name], problem)
    assert caught.value.__notes__[-1] == f"It arose in a step of {type(make_solvers()[name]).__name__}."
    assert not [program for program in compiled if "advance" in program]


def weighted(data, rows, batch=4):
    """One weight per row."""

    def lower(x, y, batch):
        return jnp.mean(x * (y - batch) ** 2) + 0.5 * y**2

    levels = bl.Level(lambda x, y, batch: jnp.mean((y - batch) ** 2), data, batch), bl.Level(lower, data, batch, True)
    return bl.Problem(*levels), np.ones(rows, np.float32), np.float32(0)


@pytest.mark.parametrize("every", [30, 700, 1500])
@pytest.mark.usefixtures("few_at_once")
def test_rows_that_lag_are_cut_as_in_memory(every):
    rows = np.random.default_rng(0).normal(size=_lagged.LEAST).astype(np.float32)
    runs = []
    for source in (bl.OnDisk, bl.Rows):
        problem, x, y = weighted(source(rows), len(rows))
        solver, steps = bl.MASOBA(0.1, 0.1, 0.1, 0.5), 2 * every + 10
        runs.append(bl.solve(problem, solver, x, y, steps=steps, every=every, key=KEY, signs=False))
    identical(runs[0].state, runs[1].state)
    assert "wait_seconds" in runs[0].stats


def test_too_much_to_hold_is_read_on_demand(monkeypatch):
    monkeypatch.setattr(_prefetch, "_MOST", 2**10)
    rows = np.random.default_rng(0).normal(size=_lagged.LEAST).astype(np.float32)
    problem, x, y = weighted(bl.OnDisk(rows), len(rows))
    assert "wait_seconds" not in bl.solve(problem, bl.MASOBA(0.1, 0.1, 0.1, 0.5), x, y, steps=3, key=KEY).stats


def plan(step):
    return plan_of(lambda state, t: step(state, jax.random.fold_in(KEY, t)), (jnp.zeros(()), KEY))


@pytest.fixture(scope="module")
def source():
    return bl.Rows(bl.OnDisk(np.arange(50.0)))


def test_a_plan_holds_what_is_read_and_nothing_else(source):
    def step(state, key):
        def body(carry, t):
            key, total = carry
            key, now = jax.random.split(key)
            rows = jax.lax.cond(t < 2, lambda: source.draw(now, 3).rows, lambda: state[0] + jnp.ones(3))
            return (key, total + rows.sum()), rows

        (_, total), _ = jax.lax.scan(body, (key, state[0]), jnp.arange(4))
        return jax.jit(lambda key: source.draw(key, 2).rows.sum())(key) + total

    (indices,) = plan(step)(jnp.arange(5)).values()
    for t, row in enumerate(np.asarray(indices)):
        key, expected = jax.random.fold_in(KEY, t), []
        expected += source.draw(key, 2).indices.tolist()
        for _ in range(2):
            key, now = jax.random.split(key)
            expected += source.draw(now, 3).indices.tolist()
        assert sorted(row[row >= 0].tolist()) == sorted(expected)


@pytest.mark.parametrize(
    "step",
    [
        lambda source, state, key: source.take(state[0].astype(int)[None], 1),
        lambda source, state, key: source.draw(state[1], 2).rows,
        lambda source, state, key: jax.lax.cond(state[0] > 0, lambda: source.draw(key, 2).rows, lambda: jnp.zeros(2)),
        lambda source, state, key: jax.lax.fori_loop(
            0, state[0].astype(int), lambda i, s: s + source.draw(jax.random.fold_in(key, i), 2).rows.sum(), 0.0
        ),
        # the key is known at first, and then is not
        lambda source, state, key: jax.lax.scan(
            lambda key, _: (state[1], source.draw(key, 2).rows), key, None, length=3
        )[1],
    ],
    ids=["indices", "key", "branch", "length", "carry"],
)
def test_rows_that_depend_on_the_iterates_are_not_planned(step, source):
    with pytest.raises(UnplannableError):
        plan(lambda state, key: step(source, state, key))


class Slow:
    """Rows that take a while, of which some fail."""

    def __init__(self, seconds=0.0, wrong=(), at=None):
        self.seconds, self.wrong, self.at = seconds, wrong, at

    def __len__(self):
        return 48

    def __getitem__(self, i):
        if self.at is not None and threading.current_thread() is not threading.main_thread():
            self.at()
        time.sleep(self.seconds)
        if i in self.wrong:
            raise OSError("the disk is gone")
        return np.float32([i, i + 1, 1]) / 50


def on(rows):
    return make_problem(source=lambda _: bl.Rows(bl.OnDisk(rows)))


@pytest.mark.parametrize("name", ["soba", "sustain"])
def test_a_row_that_cannot_be_read_ends_the_run_by_its_number(name):
    with pytest.raises(bl.ReadError, match="reading row 11 failed: OSError") as caught:
        run(make_solvers()[name], on(Slow(wrong={11})))
    assert caught.value.solution.stats["steps"] == 0
    assert isinstance(caught.value.__cause__, OSError)


def test_ctrl_c_ends_the_reading():
    stopped = threading.Event()

    def stop():
        if not stopped.is_set():
            stopped.set()
            time.sleep(0.2)  # until the run waits
            os.kill(os.getpid(), signal.SIGINT)

    clock = time.perf_counter()
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            run(make_solvers()["soba"], on(Slow(seconds=0.5, at=stop)))
    finally:
        signal.signal(signal.SIGINT, ours)
    assert caught.value.solution.stats["steps"] == 0
    assert time.perf_counter() - clock < 20  # all rows would take longer


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, few_at_once):
    problem, solver = make_problem(source=lambda rows: bl.Rows(bl.OnDisk(rows))), make_solvers()["stocbio"]
    whole = run(solver, problem, steps=20, every=3)

    def stop(solution):
        if solution.stats["steps"] == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(solver, problem, steps=20, every=3, checkpoint=tmp_path / "saved", callbacks=[stop])
    resumed = run(solver, problem, steps=20, every=3, checkpoint=tmp_path / "saved")
    identical(whole.state, resumed.state)
    other = NOISE.copy()
    other[-1] += 1
    problem = make_problem(source=lambda _: bl.Rows(bl.OnDisk(np.float32(other))))
    with pytest.raises(bl.CheckpointError, match="rows on disk"):
        run(solver, problem, steps=20, every=3, checkpoint=tmp_path / "saved")


def test_a_run_that_diverges_ends_at_the_same_step(few_at_once):
    runs = []
    for rows in (bl.OnDisk, bl.Rows):
        data = rows(np.random.default_rng(0).normal(size=40).astype(np.float32))
        problem = bl.Problem(
            bl.Level(lambda x, y, batch: jnp.mean((y - batch) ** 2), data, 4),
            bl.Level(lambda x, y, batch: jnp.mean((y - x * batch) ** 2), data, 4),
        )
        runs.append(bl.solve(problem, bl.SOBA(0.1, 3.0, 3.0), 0.0, 1.0, steps=200, every=40, key=KEY, throw=False))
    assert runs[0].result == bl.RESULTS.nonfinite and runs[0].stats["steps"] == runs[1].stats["steps"] > 0
    identical(runs[0].state, runs[1].state)


X = {"x": (np.zeros(3, np.float32),)}
Y = {"a": {"deep": np.zeros(3, np.float32)}, "b": np.zeros((), np.float32)}


def check_alike(look):
    """What a function finds is the same on disk and in memory."""
    found = [look(make_problem(source=lambda a, rows=rows: bl.Rows(rows(a)))) for rows in (bl.OnDisk, np.asarray)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)


def test_what_looks_at_a_problem_sees_the_same_numbers():
    def look(problem):
        constants = bl.measure_constants(problem, X, Y, key=KEY)
        return constants.L, constants.noise_measured, bl.hypergradient(problem, X, Y, key=KEY)

    check_alike(look)


def test_a_sweep_makes_the_same_runs():
    grid = [{"lower_step": step} for step in (0.1, 0.2)]
    solver = bl.SOBA(0.1, 0.1, 0.1)

    def look(problem):
        return [run.x for run in bl.sweep(solver, grid, problem, X, Y, steps=10, key=KEY).runs]

    check_alike(look)


@pytest.mark.slow
def test_a_suggestion_and_a_diagnosis_are_the_same():
    def look(problem):
        suggested = bl.suggest(problem, X, Y, solver=bl.SOBA, budget=20_000, key=KEY).solver
        return suggested, bl.diagnose(problem, X, Y, key=KEY).constants.mu

    check_alike(look)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("soba", 2000), ("stocbio", 200)])
def test_thirty_gigabytes_where_four_may_be_allocated(name, steps, tmp_path):
    program = Path(__file__).with_name("on_disk.py")
    command = [sys.executable, str(program), str(tmp_path), name, str(steps)]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, env={**env, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bytes"] > 30e9 and found["peak"] < 2e9
    assert 0.9 * 64 * steps < found["moved"] <= 64 * steps and "wait_seconds" in found["stats"]


def test_two_levels_share_what_is_read_for_both():
    data = bl.OnDisk(np.zeros(10))
    problem = bl.Problem(*(bl.Level(lambda x, y, batch: y, data, 2) for _ in range(2)))
    assert stores_of(problem) == [data.store] and isinstance(data.store, disk.Store)


def lower_with(x, y, batch):
    return jnp.mean((y - batch) ** 2) / 2 + jnp.exp(x) * y**2 / 2


def upper_with(x, y, batch):
    return jnp.mean((batch - y) ** 2) / 2


def of_two(on, source=bl.Rows, dtype=np.float32):
    """Each level with rows of its own."""
    rng = np.random.default_rng(5)
    rows = [rng.normal(size=n).astype(dtype) for n in (30, 50)]
    levels = zip((upper_with, lower_with), rows, strict=True)
    return bl.Problem(*(bl.Level(loss, source(on(part)), 4) for loss, part in levels))


@pytest.mark.parametrize("name", ["soba", "stocbio"])
@pytest.mark.usefixtures("few_at_once")
def test_each_level_has_rows_of_its_own(name):
    runs = [bl.solve(of_two(on), make_solvers()[name], -1.0, 0.5, steps=20, key=KEY, signs=False) for on in BOTH]
    identical(runs[0].state, runs[1].state)
    assert "wait_seconds" in runs[0].stats


BOTH = bl.OnDisk, np.asarray


class Odd(bl.Rows):
    """Its draws depend on the precision."""

    def sample(self, key, size):
        return jax.random.randint(key, (size,), 0, self.length)


@pytest.mark.usefixtures("few_at_once")
def test_the_thread_that_reads_has_the_precision_of_the_run():
    with jax.enable_x64(True):
        problems = [of_two(on, Odd, np.float64) for on in BOTH]
        x, y = (np.asarray(start, np.float64) for start in (-1.0, 0.5))
        runs = [bl.solve(p, make_solvers()["soba"], x, y, steps=20, key=KEY, signs=False) for p in problems]
    assert runs[0].x.dtype == np.float64 and "wait_seconds" in runs[0].stats
    identical(runs[0].state, runs[1].state)


class First(bl.Rows):
    """It draws the first rows alone."""

    def sample(self, key, size):
        return jnp.arange(size, dtype=jnp.int32)


def test_a_run_that_has_ended_is_not_lost_by_the_look_at_it():
    problem = make_problem(source=lambda _: First(bl.OnDisk(Slow(wrong={47}))))
    with pytest.warns(bl.DiagnosisWarning, match="the look at the end failed.*reading row 47"):
        solution = bl.solve(problem, bl.SOBA(0.1, 0.1, 0.1), X, Y, steps=30, key=KEY)
    assert solution.stats["steps"] == 30 and solution.result == bl.RESULTS.successful


LOOKS = {
    "sweep": lambda p: bl.sweep(bl.SOBA(0.1, 0.1, 0.1), [{"lower_step": 0.1}], p, X, Y, steps=3, key=KEY),
    "hypergradient": lambda p: bl.hypergradient(p, X, Y, key=KEY),
    "unrolled": lambda p: bl.unrolled_hypergradient(p, X, Y, steps=2, lower_step=0.1, key=KEY),
}


@pytest.mark.parametrize("what", LOOKS)
def test_a_row_that_cannot_be_read_is_named_elsewhere_too(what):
    problem = on(Slow(wrong=set(range(50)) - {0}))
    with pytest.raises(bl.ReadError, match="failed: OSError"):
        LOOKS[what](problem)
