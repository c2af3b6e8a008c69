"""Pickles of NumPy arrays, read without running other code in them."""

import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bilevel.datasets.base import DatasetError

# Python itself crashes on the hash of a tuple in a million tuples, and never ends that of a tuple of the same tuple
# twice, and so on: objects in objects are only so deep, and so many in all that an operation takes.
_DEPTH, _WORK = 100, 10_000_000
_LONGEST_RANGE = 1_000_000
_PLAIN = re.compile(r"[biufcSU]\d+")  # Booleans, numbers, bytes and texts


class _Dtype:
    """A stand-in for a dtype. `numpy.dtype` would take a state that makes NumPy follow pointers from the file."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not (isinstance(code, str) and _PLAIN.fullmatch(code)):
            raise pickle.UnpicklingError(f"the dtype {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """The byte order; all else in the state of a plain dtype is known from its code."""
        _, order, *structure, size, _, _ = state[:8]
        if structure != [None] * 3 or size not in (-1, self.dtype.itemsize):
            raise pickle.UnpicklingError("a dtype with fields")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose content is in the file. It has no memory but its own."""

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, is_fortran, content = state
        array = _array(content, dtype, shape, "F" if is_fortran else "C")
        whole: Any = 1, array.shape, array.dtype, bool(is_fortran), array.tobytes("A")
        super().__setstate__(whole)


def _array(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """The array in these bytes: `numpy._core.numeric._frombuffer`, for plain dtypes."""
    if isinstance(content, str):
        content = content.encode("latin1")
    if not (isinstance(content, bytes | bytearray) and isinstance(dtype, _Dtype)):
        raise pickle.UnpicklingError("an array of Python objects")
    array = np.frombuffer(content, dtype.dtype) if content else np.empty(0, dtype.dtype)
    return array.reshape(shape, order="C").transpose(axes) if order == "K" else array.reshape(shape, order=order)


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An empty array, whose `__setstate__` gets the content."""
    return _Array(0, np.uint8)


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(content, dtype, (), "C")[()]


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """A replacement for `_codecs.encode`, with which pickles of protocol 2 store bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(content: Any = b"") -> bytes:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("bytes of something else")
    return content


def _bytearray(content: Any = b"") -> bytearray:
    return bytearray(_bytes(content))


def _range(*arguments: int) -> range:
    made = range(*arguments)
    if max(abs(made.start), abs(made.stop), abs(made.step)) > _LONGEST_RANGE:
        raise pickle.UnpicklingError(f"{made}")
    return made


def _set(content: Any = ()) -> frozenset[Any]:
    if not isinstance(content, list | tuple):
        raise pickle.UnpicklingError("a set of something else")
    return frozenset(content)


class _Bunch(dict):
    """A dictionary of scikit-learn's, without its attributes."""

    def __setstate__(self, state: Any) -> None:
        pass


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only an argument of `_reconstruct`
    ("numpy", "dtype"): _Dtype,
    ("multiarray", "_reconstruct"): _reconstruct,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _array,
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "range"): _range,
    ("builtins", "xrange"): _range,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _set,
    ("sklearn.utils._bunch", "Bunch"): _Bunch,
}
# The names of the same modules in Python 2, in NumPy 1 and in older scikit-learn.
_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "multiarray",
    "numpy._core.multiarray": "multiarray",
    "numpy.core.numeric": "numeric",
    "numpy._core.numeric": "numeric",
    "sklearn.utils": "sklearn.utils._bunch",
}


class _Unpickler(pickle.Unpickler):
    """Builds arrays, numbers, texts and containers, and refuses all other names."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _ALLOWED.get((_MODULES.get(module_name, module_name), global_name))
        if found is None:
            raise pickle.UnpicklingError(f"{module_name}.{global_name}")
        return found


def read(path: Path) -> Any:
    """The content of a pickle file, see `read_from`."""
    with open(path, "rb") as file:
        return read_from(file, path)


def read_from(file: BinaryIO, path: Path) -> Any:
    """The content of a pickle with only NumPy arrays and built-in types. Texts of Python 2 are read as Latin-1.

    The usual unpickler would run any code that the file names. `path` is named in errors.

    **Raises** `DatasetError` for any other content, and for a damaged file.
    """
    try:
        _check_size(file)
        file.seek(0)
        return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DatasetError(
            f"{path}: refused; it names more than NumPy arrays and built-in types ({error}), or is damaged; "
            "get the published file again"
        ) from error
    except Exception as error:  # a damaged pickle raises nearly any
        raise DatasetError(f"{path}: not a whole pickle ({error}); get the published file again") from error


_FILLING = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_Measure = list[int]  # the depth of an object, and the number of objects in it, each counted wherever it stands


def _check_size(file: BinaryIO) -> None:
    """Go through the pickle's operations, without building anything, and measure what they would build."""
    stack: list[_Measure | None] = []  # None is a mark
    memo: dict[int, _Measure | None] = {}
    work = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "MARK":
            stack.append(None)
        elif opcode.name == "MEMOIZE" or "PUT" in opcode.name:
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif "GET" in opcode.name:
            stack.append(memo[int(argument or 0)])
        else:
            parts = _taken(stack, opcode.stack_before)
            result = parts.pop(0) if opcode.name in _FILLING else [0, 1]  # a container, or what is made of the parts
            size = sum(size for _, size in parts)
            result[:] = max(result[0], 1 + max((depth for depth, _ in parts), default=0)), result[1] + size
            work += size
            if result[0] > _DEPTH or work > _WORK:
                raise pickle.UnpicklingError(f"objects in objects, {result[0]} deep, {work:,} at least")
            stack += [result] * len(opcode.stack_after)


def _taken(stack: list[_Measure | None], before: list[Any]) -> list[_Measure]:
    """What an operation takes from the stack, the uppermost last."""
    taken = []
    to_mark = pickletools.markobject in before
    while to_mark and (top := stack.pop()) is not None:
        taken.append(top)
    taken += [stack.pop() for _ in range(before.index(pickletools.markobject) if to_mark else len(before))]
    return [part for part in taken[::-1] if part is not None]
