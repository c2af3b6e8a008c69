"""What a user may ask for when a solver is wanted, and what is said if it is none."""

import importlib.metadata

import equinox as eqx
import pytest

import bilevel as bl
from bilevel.solvers.registry import asked, asked_one, get_solver

OWN = """
import bilevel as bl
from bilevel.fields import step

class Own(bl.SOBA):
    about = None

class Half(bl.AbstractSolver):
    def init(self, problem, x, y, *, key): ...

def fast(upper_step=1.0):
    return bl.SOBA(upper_step, 0.5, adjoint_step=0.25)

def any_setting(**settings):
    return fast(**settings)

ready = fast()
number = 3
class Other: pass
def nothing(): pass
"""


@pytest.fixture
def own(write_module):
    return write_module("own_solvers.py", OWN)


def test_names_files_classes_functions_and_solvers(own):
    assert get_solver(f"{own}:Own")(0.1, 0.2, 0.3).upper_step.rate(0) == 0.1
    for given, name in [("soba", "soba"), (bl.SOBA, "soba"), (bl.aid_cg, "aid-cg"), (bl.SOBA(1.0, 1.0, 1.0), "soba")]:
        found = asked_one(given)
        assert (found.name, found.label, found.text) == (name, name, given if isinstance(given, str) else None)
    found = asked_one(f"{own}:fast[upper_step=0.5]")
    assert (found.name, found.label) == ("fast", "own_solvers.py:fast[upper_step=0.5]")
    assert found.text == f"{own}:fast[upper_step=0.5]"
    assert float(found.make({}).upper_step.rate(0)) == 0.5
    assert float(asked_one(f"{own}:any_setting").make({"upper_step": 2.0}).upper_step.rate(0)) == 2.0


def test_what_is_given_comes_before_other_settings():
    found = asked_one("soba[upper_step=0.1,lower_step=0.2]").make({"upper_step": 3.0, "adjoint_step": 0.3})
    assert eqx.tree_equal(found, bl.SOBA(0.1, 0.2, 0.3))
    found = asked_one(bl.SOBA(0.1, 0.2, 0.3)).make({"lower_step": 1.0})
    assert eqx.tree_equal(found, bl.SOBA(0.1, 1.0, 0.3))


def test_several_values_are_several_solvers():
    found = asked("soba[upper_step=0.1,1,lower_step=2,inverse_power(1,0.5)]")
    assert [one.label for one in found] == [
        "soba[upper_step=0.1,lower_step=2]", "soba[upper_step=0.1,lower_step=inverse_power(1,0.5)]",
        "soba[upper_step=1,lower_step=2]", "soba[upper_step=1,lower_step=inverse_power(1,0.5)]",
    ]  # fmt: skip
    assert float(found[1].make({"adjoint_step": 1.0}).lower_step.rate(3)) == 0.5
    with pytest.raises(ValueError, match=r"make_solver: 'soba\[.*' names 2 solvers; give each setting one value"):
        asked_one("soba[upper_step=1,2]", "make_solver")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("sobo", ValueError, "solver: 'sobo' is unknown; did you mean soba"),
        ("Half", TypeError, r"solver: .*:Half is an abstract class; a solver must define step$"),
        ("number", TypeError, r"solver: .*:number is 3; it must be a solver, or a class or function that makes one"),
        ("Other", TypeError, r"solver: .*:Other is a class, but no solver; derive it from bl\.AbstractSolver"),
        ("Owm", ValueError, r"solver: .*has no 'Owm'; did you mean Own"),
        (3, TypeError, r"solver: got 3; pass a solver such as bl\.SOBA"),
        (None, TypeError, r"solver: got None; pass a solver"),
        (int, TypeError, r"solver: int is a class, but no solver"),
        (bl.AbstractSolver, TypeError, "AbstractSolver is an abstract class; a solver must define init, step"),
    ],
)
def test_what_is_no_solver_is_refused(own, given, error, message):
    given = f"{own}:{given}" if isinstance(given, str) and given != "sobo" else given
    with pytest.raises(error, match=message):
        asked(given)


def test_settings_are_checked_by_name(own):
    with pytest.raises(ValueError, match=r"setting of soba: 'uper_step' is unknown; did you mean upper_step"):
        asked_one("soba[uper_step=1]").make({})
    with pytest.raises(ValueError, match="soba needs lower_step, adjoint_step; ask me$"):
        asked_one("soba").make({"upper_step": 1.0}, advice="; ask me")
    with pytest.raises(ValueError, match="setting of soba: 'uper_step' is unknown"):
        asked_one(bl.SOBA(1.0, 1.0, 1.0)).make({"uper_step": 1.0})
    with pytest.raises(TypeError, match=r"nothing did not return a solver, but None; return e\.g\. bl\.SOBA"):
        asked_one(f"{own}:nothing").make({})
    ready = asked_one(f"{own}:ready")
    assert ready.is_whole and ready.name == "soba" and ready.make({}) is not None


def test_entry_points_have_names(own, monkeypatch):
    asked_one(f"{own}:Own")  # the module is loaded
    points = [
        importlib.metadata.EntryPoint(name, f"own_solvers:{value}", "bilevel.solvers")
        for name, value in (("own", "Own"), ("none", "number"), ("soba", "Own"))
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if "solvers" in group else [])
    assert asked_one("own[upper_step=1]").made is get_solver(f"{own}:Own")
    with pytest.raises(ValueError, match="'ownn' is unknown; did you mean own"):
        asked_one("ownn")
    with pytest.raises(TypeError, match="solver: none is 3"):
        asked_one("none")
    with pytest.raises(ValueError, match="'soba' is a solver of bilevel and the entry point own_solvers:Own"):
        asked_one("soba")
