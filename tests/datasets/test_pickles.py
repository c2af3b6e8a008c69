"""The pickles' reader: what it refuses; what it reads is also in test_fewshot."""

import io
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import pickles


def load(content):
    return pickles.read_from(io.BytesIO(content), pathlib.Path("x.pickle"))


class Made:
    """What is pickled as a call of a function, and a state."""

    def __init__(self, function, arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def dtype(code, *state):
    return Made(np.dtype, (code, False, True), state or None)


def array(kind, shape, content):
    empty = np._core.multiarray._reconstruct
    return Made(empty, (np.ndarray, (0,), b"b"), (1, shape, kind, False, content))


FRAMES = np._core.numeric._frombuffer
POINTERS = bytearray(b"A" * 64)
FIELDS = {"a": (np.dtype("u1"), 1_000_000_000)}
OBJECTS = dtype("O", 3, "|", None, None, None, -1, -1, 63)
FAR = (None, ("a",), FIELDS, 8, 1, 0)
CRAFTED = {
    "objects in bytes": Made(FRAMES, (POINTERS, dtype("O", 3, "|", None, None, None, -1, -1, 0), (8,), "C")),
    "objects by their order": Made(FRAMES, (POINTERS, dtype("i8", 3, "O", None, None, None, 8, 8, 0), (8,), "C")),
    "a field far away": Made(FRAMES, (POINTERS, dtype("V8", 3, "|", *FAR), (8,), "C")),
    "fields of a plain code": array(dtype("u8", 3, "|", *FAR), (8,), bytes(64)),
    "parts of another type": array(dtype("u8", 3, "|", (np.dtype("O"), (1,)), *FAR[1:]), (8,), bytes(64)),
    "another size": array(dtype("u1", 3, "|", None, None, None, 1_000_000, 1, 0), (8,), bytes(8)),
    "a list of objects": array(OBJECTS, (2,), [1, 2]),
    "too few bytes": array(dtype("u1"), (10**9,), bytes(8)),
    "lengths that overflow": array(dtype("u1"), (2**33, 2**31), bytes(8)),
    "two codes": array(dtype("u1,O"), (2,), bytes(18)),
    "a bare array": Made(np.ndarray, ((10,), "O", POINTERS)),
    "an object": Made(np._core.multiarray.scalar, (OBJECTS, b"A" * 8)),
    "many bytes": Made(bytearray, (10**11,)),
    "a long range": range(10**8),
}


@pytest.mark.parametrize("what", CRAFTED)
@pytest.mark.parametrize("protocol", [2, 4])
def test_crafted_arrays_are_refused(what, protocol):
    with pytest.raises(datasets.DatasetError, match=r"x.pickle: (refused|not a whole pickle)"):
        load(pickle.dumps(CRAFTED[what], protocol))


def nested(n):
    """A tuple in a tuple, and so on, as a key."""
    return b"\x80\x02})" + b"\x85" * n + b"K\x01s."


def doubled(n):
    """A tuple of the same tuple twice, and so on, as a key."""
    return b"\x80\x04}" + b")\x94" + b"".join(b"h%c\x86\x94" % i for i in range(n)) + b"K\x01s."


@pytest.mark.parametrize("content", [nested(1_000_000), doubled(60), b"\x80\x04]" + b"\x94h\x00\x86" * 200 + b"."])
def test_objects_in_objects_in_objects(content, tmp_path):
    """In a process of its own, because it would end or never end."""
    path = tmp_path / "x.pickle"
    path.write_bytes(content)
    program = f"import pathlib; from bilevel.datasets import pickles; pickles.read(pathlib.Path({str(path)!r}))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "DatasetError" in ended.stderr and "objects in objects" in ended.stderr


def test_what_is_shared_is_read():
    part = ("a", "b")
    whole = {"list": [part] * 500, "tuple": (part, {part: 1}, [[[]]]), "set": {1, 2}}
    for protocol in range(6):
        assert load(pickle.dumps(whole, protocol)) == whole


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.ones((2, 3), np.float32)),
        np.array(["apple", "é"]),
        np.array([b"a", b"bc"]),
        np.zeros((0, 3), np.uint8),
        np.array([True, False]),
        np.transpose(np.arange(24).reshape(2, 3, 4), (1, 0, 2)),
        np.float64(0.5),
    ],
    ids=str,
)
def test_arrays_are_read(value, protocol):
    content = pickle.dumps([value, value], protocol)
    for one, other in zip(load(content), pickle.loads(content), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_dotted_name_is_refused(tmp_path):
    path = tmp_path / "dotted.pickle"
    path.write_bytes(b"\x80\x04\x8c\x08builtins\x8c\x0elist.__class__\x93.")
    assert pickle.loads(path.read_bytes()) is type
    with pytest.raises(datasets.DatasetError, match="refused"):
        pickles.read(path)
