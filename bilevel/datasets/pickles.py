"""Pickles of NumPy arrays, read without running other code in them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

from bilevel.datasets.base import DatasetError


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """A replacement for `_codecs.encode`, with which pickles of protocol 2 store bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("multiarray", "_reconstruct"): multiarray._reconstruct,  # pyright: ignore[reportAttributeAccessIssue]
    ("multiarray", "scalar"): multiarray.scalar,
    ("numeric", "_frombuffer"): numeric._frombuffer,  # pyright: ignore[reportAttributeAccessIssue]
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "xrange"): range,
} | {("builtins", kind.__name__): kind for kind in (bytearray, bytes, complex, frozenset, list, range, set, slice)}
# The names of the same modules in Python 2 and in NumPy 1.
_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "multiarray",
    "numpy._core.multiarray": "multiarray",
    "numpy.core.numeric": "numeric",
    "numpy._core.numeric": "numeric",
}


class _Unpickler(pickle.Unpickler):
    """Builds arrays, numbers, texts and containers, and refuses all other names."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        module = module_name if (module_name, global_name) in _ALLOWED else _MODULES.get(module_name, module_name)
        found = _ALLOWED.get((module, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"{module_name}.{global_name}")
        return found


def read(path: Path) -> Any:
    """The content of a pickle with only NumPy arrays and built-in types. Texts of Python 2 are read as Latin-1.

    The usual unpickler would run any code that the file names.

    **Raises** `DatasetError` for any other content, and for a damaged file.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DatasetError(
            f"{path}: refused; it names more than NumPy arrays and built-in types ({error}), or is damaged; "
            "get the published file again"
        ) from error
    except (EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, MemoryError) as error:
        raise DatasetError(f"{path}: not a whole pickle ({error}); get the published file again") from error
