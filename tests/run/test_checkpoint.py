"""Runs resume after they are killed, and checkpoints are not mistaken for those of other runs."""

import json
import multiprocessing
import random
import resource
import signal
import time

import jax
import numpy as np
import pytest
from run import survivor

import bilevel as bl
from bilevel.run._checkpoint import Checkpoint, described


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
    with pytest.raises(ValueError, match=r"checkpoint: orbax.*bilevel\[checkpoint\]"):
        survivor.run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_words_for_a_tree_have_no_addresses():
    class Odd:
        pass

    assert "0x" in repr(Odd()) and "0x" not in described(({"a": Odd(), "b": np.ones(2)},))
