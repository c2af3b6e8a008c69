"""Runs resume after they are killed, and checkpoints are not mistaken for those of other runs."""

import json
import math
import multiprocessing
import pathlib
import random
import resource
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run import survivor

import bilevel as bl
from bilevel.run._checkpoint import Checkpoint

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def whole():
    """The run that nobody kills."""
    return survivor.run(None)


def same(one, other):
    """Bit for bit, but for the clock."""
    leaves = (jax.tree.leaves((solution.x, solution.y, solution.state)) for solution in (one, other))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    clock = ("seconds", "compile_seconds", "run_seconds")
    rows = [[{k: v for k, v in row.items() if k not in clock} for row in s.history.rows] for s in (one, other)]
    stats = [{k: v for k, v in s.stats.items() if k not in clock} for s in (one, other)]
    assert rows[0] == rows[1] and stats[0] == stats[1] and one.result == other.result


def steps_kept(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_killed_ten_times_at_random_it_ends_as_if_nothing_had_been(tmp_path, whole):
    context, chance, reached = multiprocessing.get_context("forkserver"), random.Random(0), [0]
    context.set_forkserver_preload(["jax", "bilevel", "orbax.checkpoint", "run.survivor"])
    for _ in range(10):
        row = context.Semaphore(0)
        child = context.Process(target=survivor.process, args=(tmp_path / "run", row))
        child.start()
        for _ in range(chance.randint(1, 12)):
            assert row.acquire(timeout=120)
        time.sleep(chance.uniform(0.0, 0.1))  # in a chunk, or while it is being saved
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        reached.append(max(steps_kept(tmp_path / "run"), default=0))
    assert reached == sorted(reached) and 0 < reached[-1] < survivor.STEPS, reached  # never behind what there was
    same(survivor.run(tmp_path / "run"), whole)


def test_the_same_call_goes_on_and_more_steps_go_further(tmp_path, whole):
    solutions = [survivor.run(tmp_path, steps=steps) for steps in (20, 100, survivor.STEPS, survivor.STEPS)]
    assert [len(solution.history) for solution in solutions] == [5, 21, 201, 201]
    same(solutions[2], whole)
    same(solutions[3], whole)
    assert len(steps_kept(tmp_path)) <= 2


def test_a_continued_solution_is_kept_too(tmp_path):
    first = survivor.run(None, steps=50)
    arguments = dict(steps=50, every=survivor.EVERY, metrics=survivor.metrics, progress=False)
    plain = bl.solve(survivor.make(), survivor.solver(), first, **arguments)
    for _ in range(2):
        same(bl.solve(survivor.make(), survivor.solver(), first, checkpoint=tmp_path, **arguments), plain)


def test_what_was_done_is_kept_when_an_exception_leaves(tmp_path, whole):
    def stop(solution):
        if solution.stats["steps"] == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        survivor.run(tmp_path, callbacks=[stop])
    assert caught.value.solution.stats["steps"] == 40 and "the same call resumes it" in caught.value.__notes__[0]
    assert max(steps_kept(tmp_path)) == 40
    same(survivor.run(tmp_path), whole)


def test_a_stop_or_a_failure_is_remembered(tmp_path):
    def stop(solution):
        return bl.RESULTS.stopped if solution.stats["steps"] == 15 else None

    for _ in range(2):
        solution = survivor.run(tmp_path / "a", callbacks=[stop])
        assert solution.result == bl.RESULTS.stopped and solution.stats["steps"] == 15
    wild = [survivor.run(tmp_path / "b", chosen=survivor.solver(1e30), throw=False, steps=40) for _ in range(2)]
    assert wild[0].result == bl.RESULTS.nonfinite
    same(*wild)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"chosen": survivor.solver(0.02)}, "solver"),
        ({"problem": survivor.make(1)}, "problem"),
        ({"key": 1}, "key"),
        ({"every": 10}, "every"),
    ],
)
def test_another_run_is_refused_and_nothing_overwritten(tmp_path, change, name):
    survivor.run(tmp_path, steps=10)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(bl.CheckpointError, match=f"belongs to another run: its {name} was"):
        survivor.run(tmp_path, **change)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_fewer_steps_than_it_has_are_refused(tmp_path):
    survivor.run(tmp_path, steps=10)
    with pytest.raises(bl.CheckpointError, match="it is at step 10, beyond the requested 5 steps"):
        survivor.run(tmp_path, steps=5)


def test_a_directory_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(bl.CheckpointError, match="holds files that are not a checkpoint"):
        survivor.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(bl.CheckpointError, match="cannot be used"):
        survivor.run(tmp_path / "file")


def test_a_torn_checkpoint_is_named_and_the_one_before_it_serves(tmp_path, whole):
    for steps in (10, 20):
        survivor.run(tmp_path, steps=steps)
    for path in (tmp_path / "20").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(bl.CheckpointError, match=r"20 is corrupt and cannot be read .* delete that folder"):
        survivor.run(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for path in sorted((tmp_path / "20").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "20").rmdir()
    same(survivor.run(tmp_path), whole)


def test_a_first_file_that_was_cut_off_is_written_again(tmp_path, whole):
    (tmp_path / "bilevel.part").write_text('{"solver": "FS')
    same(survivor.run(tmp_path), whole)
    assert json.loads((tmp_path / "bilevel.json").read_text())["every"] == survivor.EVERY


def test_a_full_disk_loses_nothing_that_was_written(tmp_path, whole):
    survivor.run(tmp_path, steps=20)
    kept = steps_kept(tmp_path)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may grow, as on a disk that is full
    try:
        with pytest.raises(bl.CheckpointError, match=r"could not be written to .* free some space") as caught:
            survivor.run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.solution.stats["steps"] > 20
    assert set(kept) <= set(steps_kept(tmp_path))
    same(survivor.run(tmp_path), whole)


def test_saving_takes_a_tenth_of_the_time(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {"run": 1})
    clock = iter([0.0, 1.0, 5.0, 11.5, 12.0, 20.0])  # is it due? start and end of saving; …
    monkeypatch.setattr("bilevel.run._checkpoint.time.perf_counter", lambda: next(clock))
    checkpoint.save(1, np.zeros(2), {}, now=True)  # takes one second, so nothing for the next ten
    checkpoint.save(2, np.zeros(2), {}, now=False)
    assert steps_kept(tmp_path) == [1]
    checkpoint.save(3, np.zeros(2), {}, now=False)
    assert steps_kept(tmp_path) == [1, 3]
    checkpoint.close()


def test_without_orbax_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("bilevel.run._checkpoint.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"checkpoint: orbax.*pip install .*\[checkpoint\]"):
        survivor.run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_that_resumes_compiles_nothing_on_the_clock(tmp_path, compiled):
    survivor.run(tmp_path, steps=10)
    del compiled[:]
    solution = survivor.run(tmp_path, steps=30)
    assert solution.stats["steps"] == 30 and compiled == []


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_numbers_are_kept(tmp_path, dtype):
    def run(where, steps):
        loss = bl.Level(lambda x, y, batch: jnp.sum((y - x) ** 2) + jnp.mean(batch) * jnp.sum(y), jnp.ones(4, dtype), 2)
        x = jnp.ones(2, dtype)
        solver = bl.TTSA(upper_step=0.1, lower_step=0.1, neumann_order=1, neumann_step=0.1)
        return bl.solve(bl.Problem(loss, loss), solver, x, x, steps=steps, every=2, key=KEY, checkpoint=where)

    run(tmp_path, 4)
    resumed = run(tmp_path, 8)
    assert resumed.x.dtype == dtype
    same(resumed, run(None, 8))


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def large(tmp_path):
    """A checkpoint of a large array, whose file has no checksum of its own, and the paths of its files."""
    state = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    record = {"stats": {"steps": 10}, "rows": [{"step": 10, "loss": math.nan}]}
    checkpoint = Checkpoint(tmp_path / "run", {})
    checkpoint.save(10, state, record, now=True)
    checkpoint.close()

    def load():
        checkpoint = Checkpoint(tmp_path / "run", {})
        try:
            found, about = checkpoint.load(jnp.zeros_like(state))
        finally:
            checkpoint.close()
        np.testing.assert_array_equal(found, state)
        assert json.dumps(about) == json.dumps(record)

    load()
    files = sorted(
        (path for path in (tmp_path / "run" / "10").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    return load, files


def test_a_bit_that_flips_is_found(large):
    load, files = large
    record = next(path for path in files if "sha256" in path.read_bytes().decode("latin-1"))
    places = {files[-1]: (1000, 200_000, 900_000), record: (12, 40, -30)}
    for path, chosen in places.items():
        for place in chosen:
            flipped(path, place)
            with pytest.raises(bl.CheckpointError, match="10 is corrupt and cannot be read"):
                load()
            flipped(path, place)
    load()


def test_two_runs_in_one_directory(tmp_path, whole):
    refused = []

    def intrude(solution):
        if solution.stats["steps"] in (0, 500):
            with pytest.raises(bl.CheckpointError, match="is in use by another run; wait until it has ended") as caught:
                survivor.run(tmp_path)
            refused.append(caught)

    same(survivor.run(tmp_path, callbacks=[intrude]), whole)
    assert len(refused) == 2
    same(survivor.run(tmp_path), whole)  # an end gives it back


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (3, "checkpoint: got 3; pass the path of a directory"),
        (True, "checkpoint: got True"),
        ([], r"checkpoint: got \[\]"),
        (b"run", "checkpoint: got b'run'"),
        ("", "checkpoint: got ''; pass a directory"),
        ("s3://bucket/run", "checkpoint: got 's3://bucket/run'; pass a directory on this machine"),
        ("gs://bucket/run", "checkpoint: got 'gs://bucket/run'"),
        ("file:///tmp/run", "checkpoint: got 'file:///tmp/run'; pass a directory on this machine, without a scheme"),
        (pathlib.Path("s3://bucket/run"), "checkpoint: got 's3:/bucket/run'"),
        ("~nobody-of-this-name/run", "checkpoint: got '~nobody-of-this-name/run'.*write the path without ~"),
    ],
)
def test_what_is_no_directory_here(where, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        survivor.run(where, steps=10)
    assert not list(tmp_path.iterdir())


def test_a_directory_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    survivor.run("~/run", steps=10)
    assert steps_kept(tmp_path / "home" / "run") == [0, 10] and not (tmp_path / "~").exists()
