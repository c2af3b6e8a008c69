"""Runs that several processes share, by gloo on this machine: each test starts the processes anew."""

import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

FOLDER = os.path.dirname(__file__)
PATH = os.pathsep.join([os.path.dirname(FOLDER), *sys.path])


def together(folder, what="go", count=2, checkpoint="none"):
    """What each process found; None if it died."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    outs = [folder / f"{what} {number} of {count}" for number in range(count)]
    for out in outs:
        out.unlink(missing_ok=True)
    started = [
        subprocess.Popen(
            [sys.executable, os.path.join(FOLDER, "processes.py"), *map(str, (i, count, port, out, what, checkpoint))],
            env={**os.environ, "PYTHONPATH": PATH},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i, out in enumerate(outs)
    ]
    try:
        for process in started:
            process.wait(timeout=200)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [pickle.loads(out.read_bytes()) if out.exists() else None for out in outs]


def same(a, b, tolerance=0.0):
    for name in ("x", "y", "sizes"):
        np.testing.assert_allclose(a[name], b[name], atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return together(tmp_path_factory.mktemp("together"))


def test_two_processes_make_the_run_of_one(found, tmp_path):
    (alone,) = together(tmp_path, count=1)
    assert not alone["error"] and alone["steps"] == 40
    for one in found:
        assert not one["error"]
        same(one, alone, 1e-6)
    assert "[40/40]" in found[0]["shown"] and not found[1]["shown"]  # one progress display


def test_a_wish_of_one_process_stops_both(found, tmp_path):
    for one in together(tmp_path, "stop"):
        assert not one["error"] and one["steps"] == 20 and one["sizes"] == found[0]["sizes"][:3]


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(tmp_path):
    first, second = together(tmp_path, "fail")
    assert first["error"].startswith("OtherProcessError: process 1 of this run has failed")
    assert second["error"].startswith("KeyError") and first["steps"] == second["steps"] == 20


@pytest.mark.parametrize("count", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_they_resume_bit_for_bit_and_so_does_one_alone(count, found, tmp_path):
    checkpoint = tmp_path / "run"
    assert together(tmp_path, "all die", checkpoint=checkpoint) == [None, None]
    assert (checkpoint / "20").exists() or (checkpoint / "10").exists()
    for one in together(tmp_path, count=count, checkpoint=checkpoint):
        assert not one["error"] and one["steps"] == 40
        same(one, found[0], 0.0 if count == 2 else 1e-6)


@pytest.mark.slow
def test_ctrl_c_in_one_process_interrupts_both(tmp_path):
    for one in together(tmp_path, "interrupt", checkpoint=tmp_path / "run"):
        assert one["error"].startswith("KeyboardInterrupt") and one["steps"] == 20
    for one in together(tmp_path, checkpoint=tmp_path / "run"):
        assert one["steps"] == 40


@pytest.mark.slow
def test_a_variable_that_is_split_stays_split(found, tmp_path):
    for one in together(tmp_path, "split y"):
        assert not one["error"] and one["place"] == ["data"]
        same(one, found[0], 1e-6)


@pytest.mark.slow
def test_who_survives_says_that_another_is_gone(tmp_path):
    survivor, gone = together(tmp_path, "die", checkpoint=tmp_path / "run")
    assert gone is None and survivor["error"].startswith("OtherProcessError: the processes of this run could not")
    assert survivor["seconds"] < 60
    for one in together(tmp_path, checkpoint=tmp_path / "run"):
        assert not one["error"] and one["steps"] == 40
