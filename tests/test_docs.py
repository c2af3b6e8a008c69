"""The code on the pages runs in the order of the page, with the output that the page shows."""

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

import bilevel as bl
from bilevel.cli import app

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r'^```python(?: title="([^"]+)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)


def blocks(page):
    """(file it belongs to, or "", code) of each Python block."""
    return FENCE.findall((ROOT / "docs" / page).read_text())


def test_the_files_of_ones_own_on_the_page_run_as_it_says(write_module, tmp_path, monkeypatch):
    """The commands of the page, and what a package would declare."""
    page = (ROOT / "docs/adding_a_solver.md").read_text()
    codes = {title: code for title, code in blocks("adding_a_solver.md") if "/" not in title}
    for title, code in codes.items():
        write_module(title, code)
    monkeypatch.chdir(tmp_path)
    commands = re.search(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1].splitlines()
    assert len(commands) == 5
    for command in commands:
        done = CliRunner(env={"COLUMNS": "100"}).invoke(app, command.split()[1:])
        assert done.exit_code == 0, (command, done.output)
        assert "nonfinite" not in done.output and "…" not in done.output
    table = (tmp_path / "runs/compare-mine.py-make/results.csv").read_text()
    assert "stocbio,1," in table
    monkeypatch.syspath_prepend(tmp_path)
    with jax.numpy_rank_promotion("allow"):
        exec(compile(codes["own.py"], "own.py", "exec"), {})

    declared = tomllib.loads(re.search(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1])
    points = [
        EntryPoint(name, value, group)
        for group, found in declared["project"]["entry-points"].items()
        for name, value in found.items()
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [p for p in points if p.group == group])
    done = CliRunner(env={"COLUMNS": "100"}).invoke(
        app, ["run", "six-features", "--solver", "shortcut", "--steps", "2"]
    )
    assert done.exit_code == 0, done.output
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["list"]).output
    assert re.search(r"shortcut +mine:Shortcut", shown) and re.search(r"six-features +Only the first two", shown)


def test_the_page_about_adding_a_solver_shows_what_is_in_the_files():
    parts = [(title, code) for title, code in blocks("adding_a_solver.md") if (ROOT / title).is_file()]
    assert len(parts) == 3
    for title, code in parts:
        text = (ROOT / title).read_text()
        assert any(textwrap.indent(code, n * " ") in text for n in (0, 4, 8)), title
    whole = re.findall(r'^--8<-- "(.*)"$', (ROOT / "docs/adding_a_solver.md").read_text(), re.MULTILINE)
    assert whole == ["bilevel/solvers/bome.py", "tests/listings/bome.py"]


@pytest.mark.parametrize(
    "page", ["index.md", "in_practice.md", "large_models.md", "from_higher.md", "from_torchopt.md"]
)
def test_the_page_is_one_program_that_runs(page):
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for title, code in blocks(page):
            assert not title
            exec(compile(code, page, "exec"), names)
    assert names["solution"].result == bl.RESULTS.successful
    if page == "index.md":
        wrong = names["given"] != names["y"]
        assert wrong[names["cleaner"].scores_["row"][:200]].mean() > 0.99
        penalties = jax.nn.sigmoid(names["solution"].x)
        assert penalties[:5].max() < 0.5 < 0.8 < jnp.median(penalties[5:])
        assert names["cleaner"].score(names["X_test"], names["y_test"]) == pytest.approx(0.94, abs=0.01)


def test_the_page_about_many_devices_runs():
    """In a process of its own, which has eight devices."""
    titles, codes = zip(*blocks("many_devices.md"), strict=True)
    assert not any(titles)
    subprocess.run(
        [sys.executable, "-c", "\n".join(codes)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.filterwarnings("ignore::bilevel.estimators.NoTrustedRowsWarning")  # of the user's own model
def test_the_page_about_tables_finds_the_wrong_labels(capsys):
    names = {}
    for title, code in blocks("examples/clean_a_table.md"):
        assert not title
        exec(compile(code, "clean_a_table.md", "exec"), names)
    wrong = (names["given"] != names["truth"])[40:]
    assert wrong[names["cleaner"].scores_["row"][: wrong.sum()]].mean() > 0.7
    assert capsys.readouterr().out.startswith("amount in $, comma between thousands, from ")
    assert wrong[names["pipeline"][-1].suspects_["row"][: wrong.sum()]].mean() > 0.7
    assert names["search"].best_score_ == max(names["search"].cv_results_["mean_test_score"]) >= 0.9
    assert names["search"].best_estimator_[-1].sample_weight_.shape == (200,)


def test_no_other_page_has_code_that_does_not_run():
    """The pages of the examples show the files, which `test_examples.py` runs."""
    with_code = {path.name for path in (ROOT / "docs").rglob("*.md") if "```python" in path.read_text()}
    named = [
        "adding_a_solver",
        "clean_a_table",
        "from_higher",
        "from_jaxopt",
        "from_optimistix",
        "from_torchopt",
        "in_practice",
        "index",
        "large_models",
        "many_devices",
    ]
    assert with_code == {f"{name}.md" for name in named}
    shown = re.findall(r'--8<-- "examples/(.*)"', "".join(p.read_text() for p in (ROOT / "docs/examples").glob("*.md")))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_the_api_pages_hold_every_public_name():
    pages = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md") if path.stem != "writing")
    paths = re.findall(r"^::: bilevel\.(?!tasks\.|datasets\.|compare\.|estimators$|clean$)(\S+)$", pages, re.MULTILINE)
    contract = [
        "AbstractAdjoint",
        "Adjoint",
        "AbstractLower",
        "LowerSolution",
        "HessianOperator",
        "SolutionMap",
        "Solved",
    ]
    assert sorted(path.rpartition(".")[2] for path in paths) == sorted([*bl.__all__, *contract])
    modules = {path.stem for path in (ROOT / "bilevel").iterdir()}
    assert not modules & set(paths), "these would show the module of that name: write bilevel.run._solve.solve"


def test_what_a_solver_imports_is_public_and_on_the_api_pages():
    shown = re.findall(r"^::: bilevel\.(\S+)$", (ROOT / "docs/api/writing.md").read_text(), re.MULTILINE)
    shown += ["problem", "sampling", "cost", "hypergradients.adjoint"]  # whose names are on other pages
    imported = set()
    for path in (ROOT / "bilevel/solvers").glob("*.py"):
        if path.stem in ("registry", "_text"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in ("bilevel", "bilevel.solvers"):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("bilevel."):
                imported.add(node.module)
    modules = {name.removeprefix("bilevel.") for name in imported}
    others = {f"solvers.{path.stem}" for path in (ROOT / "bilevel/solvers").glob("*.py")} - set(shown)
    assert modules - others - {"solvers"} == set(shown) | {"_checks"}  # for the arguments of `from_paper`


def test_signatures_on_the_pages_are_those_of_the_classes():
    pytest.importorskip("griffe", reason="griffe is not installed")
    fields = load("signatures").fields
    classes = [found for found in (getattr(bl, name) for name in bl.__all__) if isinstance(found, type)]
    modules = [found for found in classes if issubclass(found, eqx.Module) and not inspect.isabstract(found)]
    shown = {found: fields(found) for found in modules}
    assert shown[bl.F2SA]["inner_steps"] == ("int", "1") and shown[bl.F2SA]["multiplier"] == ("Any", None)
    assert shown[bl.AIDBiO]["adjoint"] == ("AbstractAdjoint", "ConjugateGradient(steps=10)")
    assert shown[bl.BSA]["warm_start"] == ("bool", "False")  # of its base class
    assert shown[bl.Blocks] is None  # its own
    for found, arguments in shown.items():
        if arguments is not None:
            for name, parameter in inspect.signature(found).parameters.items():
                _, default = arguments[name]
                assert (default is None) == (parameter.default is parameter.empty), (found, name)


def test_a_page_that_loads_from_elsewhere_breaks_the_build():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    hooks = load("hooks")
    page = type("Page", (), {"file": type("File", (), {"src_path": "a.md"})})
    fine = '<a href="https://example.org">x</a><script src="assets/a.js"></script><link rel="stylesheet" href="a.css">'
    assert hooks.on_post_page(fine, page) == fine
    for wrong in (
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<img alt="" src="//example.org/a.png">',
    ):
        with pytest.raises(hooks.PluginError, match=r"a\.md: it would load .*example\.org"):
            hooks.on_post_page(fine + wrong, page)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_pages_are_what_the_solvers_say():
    tables = load("build_tables")
    for page in tables.PARTS:
        assert tables.written(page) == (ROOT / page).read_text(), f"{page}: run `make tables`"
