"""What tells values apart that JAX does not trace, such as metrics: their code, and all that it refers to.

A function is its compiled code, with its constants, defaults, closures and the globals that it names, and so on down.
What comes with Python or is installed as a package counts by its name and version. Names of functions, comments and
places of files do not count.
"""

import functools
import hashlib
import os
import pathlib
import re
import sys
import sysconfig
from collections.abc import Iterable
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from bilevel.disk import some_of
from bilevel.run._identity import add_array

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_NUMBERS = "biufcmM"  # the kinds of NumPy's dtypes whose bytes are their values
_PACKAGES = re.compile(r"[/\\](site|dist)-packages[/\\]|^<frozen ")
_LIBRARIES = tuple(
    os.path.join(folder, "")
    for folder in (pathlib.Path(__file__).parents[1], sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
)


def hash_of(*values: Any) -> str:
    """A hash of values, functions among them, that is the same in every process.

    It cannot know what a function reads or imports when it is called, code that is not Python's, and a package that
    was changed without a new version.

    Example:

        >>> from bilevel.compare.code import hash_of
        >>> def scaled(factor):
        ...     return lambda x: factor * x
        >>> hash_of(scaled(2.0)) == hash_of(scaled(2.0)), hash_of(scaled(2.0)) == hash_of(scaled(3.0))
        (True, False)
    """
    return _Hashes().of(values)[:16]


class _Hashes:
    """The hashes of values that refer to each other, perhaps in circles."""

    def __init__(self):
        self._known: dict[int, tuple[str, Any]] = {}  # with the value itself, so that no other one gets its id
        self._open: set[int] = set()

    def of(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return _hash([type(value).__name__, repr(value)])
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return self._of_array(value)
        if id(value) in self._known:
            return self._known[id(value)][0]
        if id(value) in self._open:
            return "a circle"
        self._open.add(id(value))
        parts = [self.of(part) for part in _parts(value)]
        if isinstance(value, set | frozenset):
            parts.sort()  # their order differs from process to process
        found = _hash([_name(type(value)), *parts])
        self._open.remove(id(value))
        self._known[id(value)] = found, value
        return found

    def _of_array(self, value: Any) -> str:
        if isinstance(value, np.memmap):  # it may be as large as a disk
            rows = np.atleast_1d(value)
            return _hash(["rows on disk", str(value.shape), self.of(np.array(rows[some_of(len(rows))]))])
        if isinstance(value, jax.Array) or (type(value) is np.ndarray and value.dtype.kind in _NUMBERS):
            digest = hashlib.sha256()
            add_array(digest, value)
            return digest.hexdigest()
        return _hash([_name(type(value)), str(value.dtype), str(value.shape), self.of(value.tolist())])


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()


def _parts(value: Any) -> Iterable[Any]:
    """The values that a value is made of."""
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, dict | MappingProxyType):
        return [part for item in value.items() for part in item]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_consts, value.co_names]
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, ModuleType):
        return [_name(value)]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, property):
        return [value.fget]
    if hasattr(value, "__wrapped__"):  # of jax.jit, functools.cache, staticmethod, ...
        return [value.__wrapped__]
    return [type(value), getattr(value, "__name__", None), getattr(value, "__module__", None), _state(value)]


def _of_function(function: FunctionType) -> list[Any]:
    given = [function.__defaults__, function.__kwdefaults__, [_content(cell) for cell in function.__closure__ or ()]]
    code = function.__code__
    if not _is_own(code.co_filename):
        return [_name(function), *given]
    return [code, *given, _named(function.__globals__, _names(code), ())]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return None


def _names(code: CodeType) -> set[str]:
    """The globals and attributes that a code names, functions inside it included."""
    inside = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inside)


def _named(namespace: dict[str, Any], names: set[str], above: tuple[ModuleType, ...]) -> dict[str, Any]:
    """What a namespace has under these names. Of a module of the user's it is what that has under them."""
    found = {name: namespace[name] for name in sorted(names) if name in namespace}
    for name, value in found.items():
        if isinstance(value, ModuleType) and _is_own_module(value.__name__):
            found[name] = None if value in above else _named(vars(value), names, (*above, value))
    return found


def _of_class(kind: type) -> list[Any]:
    if not _is_own_module(kind.__module__):
        return [_name(kind)]
    members = {
        name: value
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType) or not (name.startswith("__") and name.endswith("__"))
    }
    return [kind.__bases__, members]


def _state(value: Any) -> Any:
    """What pickle would make the object from again; None for one that it does not take, such as a lock."""
    try:
        return value.__reduce_ex__(4)
    except Exception:  # each class has its own
        return None


def _name(thing: Any) -> str:
    """The name of a class, a function or a module, and the version of its package."""
    module = thing.__name__ if isinstance(thing, ModuleType) else str(getattr(thing, "__module__", ""))
    version = getattr(sys.modules.get(module.partition(".")[0]), "__version__", "")
    return f"{module} {getattr(thing, '__qualname__', '')} {version}"


def _is_own(file: str) -> bool:
    """Whether a file is the user's: not of Python, of an installed package, or of this one."""
    return not (_PACKAGES.search(file) or file.startswith(_LIBRARIES))


def _is_own_module(name: str) -> bool:
    if name == "__main__":  # a script, a notebook, or `python -m`
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return name not in sys.builtin_module_names if file is None else _is_own(file)
