"""What `import bilevel` loads, and the message if an extra is not installed."""

import importlib
import re
import subprocess
import sys

import pytest

import bilevel as bl
from bilevel import _extras as extras
from bilevel import datasets
from bilevel._extras import MissingExtraError
from bilevel.compare import compare

EXTRAS = (
    "PIL", "jinja2", "matplotlib", "orbax", "pandas", "plotly", "pooch", "pyarrow", "rich", "sklearn", "typer",
)  # fmt: skip


def python(code, *without):
    """Run a program where some packages are not installed."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n"
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True)


def test_import_loads_no_extra():
    rooms = ("bilevel.tasks", "bilevel.compare", "bilevel.estimators", "bilevel.datasets")
    done = python(f"import bilevel; bilevel.solve; print([name for name in {EXTRAS + rooms} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_loads_no_jax():
    code = """
sys.argv = ['bilevel', '--help']
from bilevel.__main__ import main
try:
    main()
finally:
    print('jax' in sys.modules)
"""
    done = python(code)
    assert done.stdout.endswith("False\n") and "compare" in done.stdout, done.stderr


def test_public_names_load_with_the_first():
    code = """
import bilevel
print("jax" in sys.modules, bilevel.solvers.SOBA is bilevel.SOBA, "SOBA" in dir(bilevel), bilevel.oracles.__name__)
from bilevel import *
print(solve is bilevel.solve)
bilevel.solv
"""
    done = python(code)
    assert done.stdout == "False True True bilevel.oracles\nTrue\n"
    assert "AttributeError: module 'bilevel' has no attribute 'solv'" in done.stderr


@pytest.mark.parametrize("kept", [True, False])
def test_the_script_keeps_compiled_programs(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", str(kept))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    command = ["run", "quadratic", "--solver", "soba", "--steps", "2"]
    done = python(f"sys.argv = ['bilevel', *{command}]; from bilevel.__main__ import main; main()")
    assert done.returncode == 0, done.stderr
    assert any(tmp_path.rglob("*advance*")) == kept


def test_the_core_needs_no_extra():
    code = """
import bilevel as bl, jax
from bilevel import datasets, tasks
task, solver = tasks.quadratic(dim_x=3), bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)
print(bl.solve(task.problem, solver, task.x, task.y, steps=3, key=jax.random.key(0)).stats["steps"])
datasets.load_text("made-up"), datasets.load_fewshot("glyphs")
"""
    done = python(code, *EXTRAS)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_the_command_without_its_extra():
    done = python("import runpy; runpy.run_module('bilevel', run_name='__main__')", "typer")
    assert done.returncode == 1
    assert done.stderr == f"bilevel: not installed: typer; {extras.install('cli')}\n"


def test_a_command_without_the_extra_of_its_room():
    code = "sys.argv = ['bilevel', 'reproduce']; from bilevel.__main__ import main; main()"
    done = python(code, "matplotlib")
    assert done.returncode == 1
    assert done.stderr == f"bilevel: not installed: matplotlib; {extras.install('compare')}\n"


@pytest.mark.parametrize("command", [["list"], ["run", "quadratic", "--solver", "soba", "--steps", "2"]])
def test_what_the_command_line_does_without_the_other_extras(command):
    code = f"sys.argv = ['bilevel', *{command}]; from bilevel.__main__ import main; main()"
    done = python(code, "PIL", "jinja2", "matplotlib", "orbax", "pandas", "plotly", "pyarrow")
    assert done.returncode == 0 and "soba" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("room", "missing", "extra"),
    [("estimators", "sklearn", "estimators"), ("clean", "pandas", "clean"), ("papers", "matplotlib", "compare")],
)
def test_a_room_without_its_extra(room, missing, extra, monkeypatch):
    monkeypatch.delitem(sys.modules, f"bilevel.{room}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=re.escape(f"not installed: {missing}; {extras.install(extra)}")):
        importlib.import_module(f"bilevel.{room}")


@pytest.mark.parametrize(
    ("work", "missing", "extra"),
    [
        (lambda: compare("quadratic"), "plotly", "compare"),
        (lambda: datasets.load("digits"), "sklearn", "datasets"),
        (lambda: datasets.find("mnist"), "pooch", "datasets"),
        (lambda: bl.SmoothnessRecorder(None).plot(), "matplotlib", "display"),
    ],
)
def test_work_without_its_extra(work, missing, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=re.escape(extras.install(extra))):
        work()


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (None, "bilevel"),  # from an index
        ('{"url": "file://FOLDER", "dir_info": {"editable": true}}', "FOLDER"),
        ('{"url": "file://FOLDER", "dir_info": {}}', "FOLDER"),
        ('{"url": "file://FOLDER/gone", "dir_info": {}}', "bilevel"),
        ('{"url": "file://FOLDER/bilevel.whl", "archive_info": {}}', "bilevel"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came_from(origin, source, tmp_path, monkeypatch):
    class Distribution:
        def read_text(self, name):
            return origin and origin.replace("FOLDER", folder.as_uri().removeprefix("file://"))

    folder = tmp_path / "my checkout"
    folder.mkdir()
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    assert extras.install("cli") == f"pip install '{source.replace('FOLDER', str(folder))}[cli]'"
