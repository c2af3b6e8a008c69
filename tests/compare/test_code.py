"""A value is told apart by its code and by all that this refers to, and by nothing else."""

import functools
import os
import subprocess
import sys
import threading
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from bilevel import tasks
from bilevel.compare.code import hash_of

LARGE = np.arange(5000.0)


def at(place, value=1e-9, array=LARGE):
    other = array.copy()
    other[place] += value
    return other


def ran(text, **names):
    """What a piece of code calls `f`."""
    names = {"__name__": "__main__", "np": np, **names}
    exec(text, names)
    return names["f"]


def module(text):
    made = types.ModuleType("own_module")
    exec(text, vars(made))
    return made


def closing(value):
    return lambda x: value


class Scaled:
    """With a number of its own, and one of all."""

    factor = 2.0

    def __init__(self, a):
        self.a = a

    def __call__(self, x):
        return self.a * self.factor * x

    def method(self, x):
        return self.a * x


class Slots:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Module(eqx.Module):
    a: float

    @eqx.filter_jit
    def __call__(self, x):
        return self.a * x


def of_class(text):
    return ran(f"class Own:\n {text}\nf = Own()")


def circle(a):
    def f(x):
        return a if x else f(x - 1)

    return f


def ring(a):
    found = [a]
    found.append(found)
    return found


def filled(path, value):
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(10**6,))
    rows[:] = value
    return rows


F = "def f(x):\n return "
DIFFERENT = {
    "a number": (1, 2),
    "a type": (1, 1.0),
    "a sign": (0.0, -0.0),
    "an order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "a constant": (ran(F + "x + 1"), ran(F + "x + 2")),
    "a name": (ran(F + "np.sin(x)"), ran(F + "np.cos(x)")),
    "a constant inside": (ran(F + "[2 * z for z in x]"), ran(F + "[3 * z for z in x]")),
    "a default": (ran("def f(x, a=1): return a"), ran("def f(x, a=2): return a")),
    "a keyword": (ran("def f(x, *, a=1): return a"), ran("def f(x, *, a=2): return a")),
    "a closure": (closing(1.0), closing(2.0)),
    "an array": (closing(LARGE), closing(at(2500))),
    "an array of JAX": (closing(jnp.asarray(LARGE)), closing(jnp.asarray(at(2500, 1.0)))),
    "a shape": (np.zeros(4), np.zeros((2, 2))),
    "a dtype": (np.zeros(4), np.zeros(4, int)),
    "a mask": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
    "texts": (np.array(["a", "b"]), np.array(["a", "c"])),
    "objects": (np.array(["a", None]), np.array(["a", 1.0], object)),
    "records": (np.array([(1, 2.0)], "i4,f4"), np.array([(1, 3.0)], "i4,f4")),
    "a global": (ran(F + "A", A=1), ran(F + "A", A=2)),
    "a function that is called": (ran(F + "g(x)", g=closing(1)), ran(F + "g(x)", g=closing(2))),
    "a function of a module": (
        ran(F + "own.g(x)", own=module("def g(x): return 1")),
        ran(F + "own.g(x)", own=module("def g(x): return 2")),
    ),
    "a field": (Scaled(1.0), Scaled(2.0)),
    "a slot": (Slots(1.0), Slots(2.0)),
    "a method": (Scaled(1.0).method, Scaled(1.0).__call__),
    "whose method": (Scaled(1.0).method, Scaled(2.0).method),
    "the code of a method": (of_class("def g(self): return 1"), of_class("def g(self): return 2")),
    "of a property": (of_class("g = property(lambda self: 1)"), of_class("g = property(lambda self: 2)")),
    "of a static method": (of_class("g = staticmethod(lambda: 1)"), of_class("g = staticmethod(lambda: 2)")),
    "of a class method": (of_class("g = classmethod(lambda c: 1)"), of_class("g = classmethod(lambda c: 2)")),
    "an attribute of a class": (of_class("a = 1"), of_class("a = 2")),
    "an Equinox module": (Module(1.0), Module(2.0)),
    "a partial": (functools.partial(closing, 1.0), functools.partial(closing, value=2.0)),
    "within jit": (jax.jit(closing(1.0)), jax.jit(closing(2.0))),
    "within filter_jit": (eqx.filter_jit(closing(1.0)), eqx.filter_jit(closing(2.0))),
    "within vmap": (jax.vmap(closing(1.0)), jax.vmap(closing(2.0))),
    "within a cache": (functools.cache(closing(1.0)), functools.cache(closing(2.0))),
    "a function of a package": (closing(np.mean), closing(np.median)),
    "a function of C": (closing(np.sin), closing(np.cos)),
    "a class of a package": (closing(np.float32), closing(np.float64)),
    "a sparse matrix": (scipy.sparse.csr_matrix([[0, 1.0]]), scipy.sparse.csr_matrix([[0, 2.0]])),
    "a generator": (np.random.default_rng(0), np.random.default_rng(1)),
    "a function in a circle": (circle(1), circle(2)),
    "a list in a circle": (ring(1), ring(2)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_told_apart(name):
    one, other = map(hash_of, DIFFERENT[name])
    assert one != other
    assert (one, other) == tuple(map(hash_of, DIFFERENT[name]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closing(1.0), closing(1.0)),
        (ran(F + "x + 1"), ran("def g(y):  # a comment\n\n    return y + 1\nf = g")),
        (ran(F + "A", A=1, B=1), ran(F + "A", A=1, B=2)),  # it does not name B
        (of_class("def g(self): return 1"), of_class("def g(self): return 1")),
        (closing(LARGE), closing(at(0, 0.0))),
        ({1, 2, 3}, {3, 2, 1}),
        (circle(1), circle(1)),
        (ring(1), ring(1)),
        (closing(threading.Lock()), closing(threading.Lock())),
    ],
)
def test_what_is_the_same_is_found_again(one, other):
    assert hash_of(one) == hash_of(other)


def test_a_cell_may_be_empty():
    def f():
        return later

    assert hash_of(f)
    later = 1.0


def test_an_array_on_disk_is_known_by_some_of_its_rows(tmp_path):
    one, other = (hash_of(closing(filled(tmp_path / str(value), value))) for value in (1.0, 2.0))
    assert one != other == hash_of(closing(np.load(tmp_path / "2.0", mmap_mode="r")))
    assert hash_of(np.memmap(tmp_path / "2.0", np.uint8, shape=())) != one  # a single number


def test_another_version_of_a_package_is_other_code(monkeypatch):
    was = hash_of(closing(np.mean))
    monkeypatch.setattr(np, "__version__", "99.0")
    assert hash_of(closing(np.mean)) != was


def test_metrics_of_the_package_are_told_apart_by_their_rows():
    one, again, other = (tasks.cleaning(seed=seed).metrics for seed in (0, 0, 1))
    assert hash_of(one) == hash_of(again) != hash_of(other)


SCRIPT = """
import numpy as np, scipy.sparse
from bilevel import tasks
from bilevel.compare.code import hash_of
def f(x): return x in {"a", "b", "c", "d"} and np.random.default_rng(0)
class Own: pass
held = {"a", "b", "c", "d"}, Own(), scipy.sparse.csr_matrix([[0, 1.0]])
print(hash_of(f, held, lambda: held, tasks.quadratic(dim_x=2).metrics))
"""


def test_a_hash_is_the_same_in_every_process():
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
