"""Rows that are split over devices: the same run, with equal shares of the work and no traffic of rows."""

import json
import os
import subprocess
import sys

import pytest

from bilevel.solvers.registry import SOLVERS

QUICK = ["soba", "stocbio", "f2sa"]
GRADIENTS = 64 * 8 * 4  # the bytes of y
# SABA refuses strata, and MAML has episodes. STABLE and SVRB decompose H on each device; BA's H is reduced whole.
OTHERS = [name for name in SOLVERS if name not in (*QUICK, "saba", "maml", "stable", "svrb", "ba")]


def on_eight(what, *arguments):
    folder = os.path.dirname(__file__)
    path = os.pathsep.join([os.path.dirname(folder), *sys.path])
    command = [sys.executable, os.path.join(folder, "devices.py"), what, *map(json.dumps, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_counts(names, *arguments):
    for name, (share, collectives, of_more) in on_eight("counts", names, 2048, *arguments).items():
        assert share < 1.5, name
        assert set(collectives) == {"all-reduce"} and collectives["all-reduce"] <= 16 * GRADIENTS, name
        assert collectives == of_more, name  # no traffic that grows with the rows


def check_runs(names, *arguments):
    for name, (distance, places, programs) in on_eight("runs", names, *arguments).items():
        assert distance < 1e-6 and places == [["data"], []] and programs == 1, name


def test_each_device_does_its_share():
    check_counts(QUICK)


def test_eight_devices_make_the_run_of_one():
    check_runs(QUICK, 2048, "Auto", "Rows")


@pytest.mark.parametrize(("kind", "source"), [("Explicit", "Rows"), ("Auto", "Blocks"), ("Auto", "Shuffled")])
def test_each_source_and_mode(kind, source):
    check_runs(["soba"], 2048, kind, source)


def test_each_device_has_its_share_of_each_part():
    check_counts(["soba"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_eight_devices_make_the_run_of_one_in_parts(kind):
    check_runs(["soba"], 2048, kind, "Rows", 2)


def test_rows_that_lag():
    check_runs(["masoba"], 2**15, "Auto", "Rows")


@pytest.mark.slow
def test_each_device_does_its_share_with_every_solver():
    check_counts(OTHERS)


@pytest.mark.slow
def test_eight_devices_make_the_run_of_one_with_every_solver():
    check_runs([*OTHERS, "stable", "svrb", "ba"], 2048, "Auto", "Rows")
