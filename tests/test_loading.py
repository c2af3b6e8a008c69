"""Files and entry points of a user's own: what is found in them, once, and what is said if it is not."""

import importlib.metadata
import sys

import pytest

from bilevel import _loading as loading

FILE = """
from neighbor import number
calls = globals().get("calls", 0) + 1
class Own: pass
"""


@pytest.fixture
def file(write_module):
    write_module("neighbor.py", "number = 3")
    return write_module


@pytest.fixture
def declared(monkeypatch):
    """`declared(group, name=value)` declares entry points."""

    def declare(group, *points):
        made = [importlib.metadata.EntryPoint(name, value, group) for name, value in points]
        original = importlib.metadata.entry_points
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            lambda group: [p for p in made if p.group == group] or original(group=group),
        )

    return declare


def test_a_file_is_run_once_as_the_module_of_its_name(file):
    path = file("own_file.py", FILE)
    before = list(sys.path)
    found = loading.from_file("solver", f"{path}:Own")
    assert found.__module__ == "own_file" and sys.modules["own_file"].Own is found
    assert sys.modules["own_file"].number == 3 and sys.path == before  # files beside it can be imported
    assert loading.from_file("task", f"{path}:Own") is found and sys.modules["own_file"].calls == 1


def test_a_file_that_is_imported_already_is_not_run_again(file):
    path = file("own_file.py", FILE)
    sys.path.insert(0, path.rpartition("/")[0])
    try:
        import own_file  # pyright: ignore[reportMissingImports]
    finally:
        del sys.path[0]
    assert loading.from_file("solver", f"{path}:Own") is own_file.Own


def test_a_file_does_not_hide_a_module_of_its_name(file):
    import json

    json_path, other = file("json.py", FILE), file("other/own_file.py", "Own = 1")
    assert loading.from_file("solver", f"{json_path}:Own").__module__ == json_path
    assert sys.modules["json"] is json
    first = loading.from_file("solver", f"{file('own_file.py', FILE)}:Own")
    assert loading.from_file("solver", f"{other}:Own") == 1 and sys.modules["own_file"].Own is first
    assert loading.from_file("solver", f"{file('my-solver 2.py', 'Own = 2')}:Own") == 2


@pytest.mark.parametrize(
    ("name", "text", "wanted", "message"),
    [
        ("a.py", "Own = 1", "a.py", r"solver: got '.*a\.py'; add the name of what is in the file, as in .*a\.py:NAME$"),
        ("a.py", "Own = 1", "b.py:Own", r"solver: there is no file .*b\.py$"),
        ("a.py", "Own = 1", "a.py:Ovn", r"solver: .*a\.py has no 'Ovn'; did you mean Own\?$"),
        ("a.py", "Own = 1", "a.py:Sparse", r"solver: .*a\.py has no 'Sparse'; it has Own$"),
        ("a.py", "", "a.py:Own", r"solver: .*a\.py has no 'Own'; it has no names$"),
        ("a.py", "import jax\n\n1 / 0", "a.py:Own", r"solver: .*a\.py, line 3: ZeroDivisionError: division by zero$"),
        ("a.py", "import no_such", "a.py:Own", r"line 1: ModuleNotFoundError: No module named 'no_such'$"),
        ("a.py", "def Own(:", "a.py:Own", r"SyntaxError: .*line 1"),
        ("a.py", "exit(3)", "a.py:Own", r"line 1: SystemExit: 3$"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, name, text, wanted, message):
    path = file(name, text)
    with pytest.raises(ValueError, match=message):
        loading.from_file("solver", path.replace(name, wanted))
    if "has no" not in message:
        assert "a" not in sys.modules  # what failed is tried again


def test_entry_points_are_loaded_by_name(declared):
    declared("bilevel.solvers", ("one", "math:pi"), ("two", "math:tau"), ("two", "math:e"), ("bad", "math:no_such"))
    points = loading.entry_points("bilevel.solvers")
    assert loading.from_entry_point("solver", "one", points["one"]) == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(ValueError, match=r"solver: 'two' is the name of several entry points \(math:tau, math:e\)"):
        loading.from_entry_point("solver", "two", points["two"])
    with pytest.raises(ValueError, match="solver: the entry point bad = math:no_such: .*no_such"):
        loading.from_entry_point("solver", "bad", points["bad"])


def test_the_parameters_of_a_function():
    assert list(loading.parameters(lambda a, b=1, *c, d: 0)) == ["a", "b", "d"]
    assert loading.parameters(lambda a, **rest: 0) is None
    assert loading.parameters(max) is None  # its signature is not known
