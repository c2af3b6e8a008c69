"""Bilevel optimization for machine learning: min over x of f(x, y*(x)), y*(x) = argmin over y of g(x, y)."""

import importlib
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilevel._api import *  # noqa: F403
    from bilevel._api import __all__ as __all__

__version__ = metadata.version("bilevel")


def __getattr__(name: str) -> Any:
    """Load the public names, and JAX with them, when the first is asked for: `bilevel --help` asks for none."""
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
    if util.find_spec(f"bilevel.{name}") is not None:
        return importlib.import_module(f"bilevel.{name}")
    api = importlib.import_module("bilevel._api")
    if not hasattr(api, name):
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
    globals()[name] = getattr(api, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
