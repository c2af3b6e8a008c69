"""The imports of the rooms. Contracts of import-linter (pyproject.toml) check their order and exclude cycles."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bilevel as bl

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
ROOMS = sorted({path.stem for path in (ROOT / "bilevel").iterdir() if path.suffix in (".py", "")} - {"__pycache__"})
BROUGHT_BY = metadata.packages_distributions()  # the distributions of each package that can be imported
# Which extras bring what a room imports; the other rooms need the core alone.
EXTRAS = {
    "_readers": ["parquet"],
    "_output": ["compare"],
    "clean": ["clean", "excel", "parquet"],
    "cli": ["cli"],
    "columns": ["estimators", "display"],  # pandas, of which the data frames are
    "compare": ["compare", "optuna"],
    "datasets": ["datasets"],
    "diagnostics": ["display"],
    "estimators": ["estimators", "display"],
    "hypergradients": ["implicit"],
    "papers": ["compare"],
    "run": ["checkpoint", "display"],
    "tasks": ["datasets"],
    "__main__": ["cli"],
}


def imports(path):
    """(module, name) of each import in a file, those inside functions and for types included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def distributions(requirements):
    """The names of what is asked for, through our own extras."""
    found = set()
    for requirement in map(Requirement, requirements):
        if requirement.name == "bilevel":
            for extra in requirement.extras:
                found |= distributions(PROJECT["optional-dependencies"][extra])
        else:
            found.add(requirement.name)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_its_extras_bring(room):
    allowed = distributions(PROJECT["dependencies"])
    for extra in EXTRAS.get(room, []):
        allowed |= distributions(PROJECT["optional-dependencies"][extra])
    for path in (ROOT / "bilevel").glob(f"{room}.py" if (ROOT / f"bilevel/{room}.py").exists() else f"{room}/**/*.py"):
        for module, _ in imports(path):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "bilevel":
                brought_by = BROUGHT_BY.get(top, [top])  # Optuna need not be installed
                names = {re.sub("[-_.]+", "-", name).lower() for name in brought_by}
                assert names & allowed, f"{path}: no extra of {room} brings {top}"


def test_no_module_imports_from_a_package_that_holds_it():
    for path in (ROOT / "bilevel").rglob("*.py"):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        for module, name in imports(path):
            if f"{package}.".startswith(f"{module}."):
                part = ROOT.joinpath(*module.split("."), str(name))
                assert part.is_dir() or part.with_suffix(".py").exists(), f"{path}: {name} is of {module}/__init__.py"


def test_no_public_name_is_a_module_of_the_top_level():
    assert not set(ROOMS) & set(bl.__all__)


def test_the_plan_in_contributing_is_the_order_that_is_checked():
    plan = re.search(r"^bilevel/\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    layers = " ".join(reversed(PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]))
    order = [room for room in re.findall(r"\w+", layers) if room in ROOMS]
    assert re.findall(r"^  (\w+)(?:/|\.py) ", plan, re.MULTILINE) == order
