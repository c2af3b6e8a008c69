"""Objects of a user's own: what a file holds, and what installed packages declare as entry points."""

import difflib
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any


def is_file(text: str) -> bool:
    """Whether the text is of the form FILE.py:NAME, or should be."""
    return ".py:" in text or text.endswith(".py")


def from_file(argument: str, text: str) -> Any:
    """What FILE.py:NAME names. The file is run once per process, as the module of its own name."""
    path, _, name = text.rpartition(":")
    if text.endswith(".py"):
        raise ValueError(f"{argument}: got {text!r}; add the name of what is in the file, as in {text}:NAME")
    module = _module(argument, pathlib.Path(path).expanduser())
    if name not in vars(module):
        own = [known for known in vars(module) if not known.startswith("_")]
        near = difflib.get_close_matches(name, own, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(own) or 'no names'}"
        raise ValueError(f"{argument}: {path} has no {name!r}; {advice}")
    return vars(module)[name]


def _module(argument: str, path: pathlib.Path) -> ModuleType:
    """The module of a file: the one that is loaded already, or a new one. Files beside it can be imported from it."""
    if not path.is_file():
        raise ValueError(f"{argument}: there is no file {path}")
    path = path.resolve()
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and os.path.realpath(file) == str(path):
            return module
    name = path.stem if _is_free(path) else str(path)  # a file json.py must not be in the way of Python's own
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"{argument}: {path}{where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _is_free(path: pathlib.Path) -> bool:
    """Whether no other module that can be imported has the file's name."""
    if not path.stem.isidentifier() or path.stem in sys.modules:
        return False
    spec = importlib.util.find_spec(path.stem)
    return spec is None or (spec.origin is not None and os.path.realpath(spec.origin) == str(path))


def entry_points(group: str) -> dict[str, list[importlib.metadata.EntryPoint]]:
    """The entry points of installed packages, by name."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def from_entry_point(argument: str, name: str, points: list[importlib.metadata.EntryPoint]) -> Any:
    """What the entry point of this name names."""
    if len(points) > 1:
        given = ", ".join(point.value for point in points)
        raise ValueError(f"{argument}: {name!r} is the name of several entry points ({given}); pass one of them itself")
    try:
        return points[0].load()
    except Exception as error:
        raise ValueError(f"{argument}: the entry point {name} = {points[0].value}: {error}") from error


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The named parameters of a function or class; None if it takes any name, or does not say which."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values()):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in found.items() if parameter.kind in named}
