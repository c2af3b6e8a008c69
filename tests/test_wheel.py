"""The wheel, built and installed in a place without the checkout on the path."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SMALL_SOLVE = """
import pathlib, bilevel as bl, jax
print(bl.__file__)
problem = bl.Problem(
    upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2), lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2)
)
solver = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)
print(round(float(bl.solve(problem, solver, 1.0, 0.0, steps=500, key=jax.random.key(0)).x), 3))
from bilevel._output.pages import render
print(render("base.html", title="A page").count("A page"))
"""


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    out = tmp_path_factory.mktemp("wheel")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    call(sys.executable, "-m", "pip", "wheel", *quiet, "--no-build-isolation", "--wheel-dir", str(out), str(ROOT))
    (found,) = out.glob("bilevel-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`run(program, ...)` in a new environment that holds the wheel; the dependencies are those of this one."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "env", with_pip=False, symlinks=True)
    python = home / "env/bin/python"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    call(sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, str(wheel))
    (packages,) = (home / "env").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program, *arguments):
        return call(str(home / "env/bin" / program), *arguments, cwd=home, env=environment)

    return home, run


def test_the_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = archive.read(next(name for name in held if name.endswith("/METADATA"))).decode()
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bilevel").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"bilevel/py.typed", "bilevel/datasets/glyphs.npz", "bilevel/_output/pages/compare.html"} <= package
    assert {name for name in held if ".dist-info/" not in name} == package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)
    assert "License-Expression: Apache-2.0" in metadata


def test_it_runs_outside_the_repository(installed):
    home, run = installed
    where, x, titles = run("python", "-c", SMALL_SOLVE).split()
    assert Path(where).is_relative_to(home / "env")
    assert (float(x), int(titles)) == (0.333, 2)


def test_its_commands_find_their_data(installed):
    _, run = installed
    assert "bl.SOBA" in run("bilevel", "list")
    assert "667" in run("bilevel", "data", "glyphs")
