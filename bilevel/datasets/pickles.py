"""Pickles of NumPy arrays, read without running what else they may hold."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

from bilevel.datasets.base import DatasetError


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What `_codecs.encode` is for in a pickle of protocol 2: bytes."""
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
# The names that the same modules have had in Python 2 and in NumPy 1.
_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "multiarray",
    "numpy._core.multiarray": "multiarray",
    "numpy.core.numeric": "numeric",
    "numpy._core.numeric": "numeric",
}


class _Unpickler(pickle.Unpickler):
    """Knows arrays, numbers, texts and containers; refuses every other name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        module = module_name if (module_name, global_name) in _ALLOWED else _MODULES.get(module_name, module_name)
        found = _ALLOWED.get((module, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"{module_name}.{global_name}")
        return found


def read(path: Path) -> Any:
    """What the pickle holds, if that is NumPy arrays and built-in types only; texts of Python 2 as Latin-1.

    Unpickling as usual would run whatever the file says.

    **Raises** `DatasetError` for anything else, and for a torn file.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DatasetError(
            f"{path}: refused, it asks for more than NumPy arrays and built-in types ({error}), or is torn; "
            "fetch it again from where it was published"
        ) from error
    except (EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, MemoryError) as error:
        raise DatasetError(f"{path}: not a whole pickle ({error}); fetch it again") from error
