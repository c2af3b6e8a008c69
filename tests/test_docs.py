"""The code on the pages runs in the order of the page, with the output that the page shows."""

import doctest
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import bilevel as bl

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r'^```python(?: title="([^"]+)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)


def blocks(page):
    """(file it belongs to, or "", code) of each Python block."""
    return FENCE.findall((ROOT / "docs" / page).read_text())


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The new files of the page about adding a solver, imported; the entries that it makes in files that exist."""
    entries = {}
    for title, code in blocks("adding_a_solver.md"):
        if (ROOT / title).exists():
            entries[title] = code
            continue
        path = tmp_path / Path(title).name
        path.write_text(code)
        name = title.removesuffix(".py").removeprefix("tests/").replace("/", ".")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return sys.modules["bilevel.solvers.bome"], sys.modules["listings.bome"], entries


def entry(code, module, **names):
    return eval(f"{{{code}}}", vars(module) | names)


def test_the_solver_of_the_page_is_its_listing_and_keeps_the_promises(added, monkeypatch):
    solver, listing, entries = added
    package, registry, listings, properties = (
        importlib.import_module(name)
        for name in (
            "bilevel.solvers", "bilevel.solvers.registry", "solvers.test_listings", "solvers.test_properties"
        )
    )  # fmt: skip
    line = entries.pop("bilevel/solvers/__init__.py")
    assert line.count("\n") == 1 and "bome" not in registry.SOLVERS  # else the page is about what the package has
    monkeypatch.setattr(package, "BOME", None, raising=False)
    exec(line, vars(package))
    assert registry._found() == registry.SOLVERS | {"bome": solver.BOME}
    monkeypatch.setitem(registry.SOLVERS, "bome", solver.BOME)
    assert "| `bome` | `BOME` | one step with x |" in load("build_tables").solvers_table()
    case = entry(entries["tests/solvers/test_listings.py"], listings, bome=listing.bome)
    assert case.keys() == {"bome"}
    assert entries.keys() == {"tests/solvers/test_listings.py", "tests/solvers/test_properties.py"}
    monkeypatch.setattr(bl, "BOME", solver.BOME, raising=False)

    monkeypatch.setitem(listings.CASES, "bome", case["bome"])
    listings.test_solver_is_its_listing("bome", per_row=False)
    listings.test_solver_is_its_listing("bome", per_row=True)
    listings.test_deterministic_levels_follow_the_listing("bome")

    ours = entries["tests/solvers/test_properties.py"]
    monkeypatch.setattr(properties, "make_solvers", lambda scale=1.0: entry(ours, properties, scale=scale))
    problem = properties.make_problem()
    properties.test_reaches_the_closed_form_solution("bome", None)
    properties.test_a_run_depends_on_its_key_alone("bome", problem)

    with jax.numpy_rank_promotion("allow"):
        results = doctest.testmod(solver, extraglobs={"BOME": solver.BOME})
    assert results.attempted > 0 and not results.failed


@pytest.mark.parametrize("page", ["index.md", "in_practice.md", "from_higher.md", "from_torchopt.md"])
def test_the_page_is_one_program_that_runs(page):
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for title, code in blocks(page):
            assert not title
            exec(compile(code, page, "exec"), names)
    assert names["solution"].result == bl.RESULTS.successful
    if page == "index.md":
        wrong = names["given"] != names["y"]
        assert wrong[names["cleaner"].suspects_["row"][:200]].mean() > 0.99
        penalties = jax.nn.sigmoid(names["solution"].x)
        assert penalties[:5].max() < 0.5 < 0.8 < jnp.median(penalties[5:])
        assert names["cleaner"].score(names["X_test"], names["y_test"]) == pytest.approx(0.94, abs=0.01)


def test_no_other_page_has_code_that_does_not_run():
    """The pages of the examples show the files, which `test_examples.py` runs."""
    with_code = {path.name for path in (ROOT / "docs").rglob("*.md") if "```python" in path.read_text()}
    run = {"adding_a_solver.md", "from_higher.md", "from_jaxopt.md", "from_torchopt.md", "in_practice.md", "index.md"}
    assert with_code == run
    shown = re.findall(r'--8<-- "examples/(.*)"', "".join(p.read_text() for p in (ROOT / "docs/examples").glob("*.md")))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_the_api_pages_hold_every_public_name():
    pages = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    paths = re.findall(r"^::: bilevel\.(?!tasks\.|datasets\.|estimators$)(\S+)$", pages, re.MULTILINE)
    contract = ["AbstractAdjoint", "Adjoint", "AbstractLower", "LowerSolution", "HessianOperator"]
    assert sorted(path.rpartition(".")[2] for path in paths) == sorted([*bl.__all__, *contract])
    modules = {path.stem for path in (ROOT / "bilevel").iterdir()}
    assert not modules & set(paths), "these would show the module of that name: write bilevel.run._solve.solve"


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
