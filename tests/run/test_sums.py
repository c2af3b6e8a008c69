"""The number that tells arrays apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.run import _sums
from bilevel.run._sums import array_sum

ARRAYS = {
    "floats": np.random.default_rng(0).normal(size=(24, 10)).astype(np.float32),
    "bytes": np.random.default_rng(0).integers(0, 256, (24, 7), np.uint8),
    "long rows of bytes": np.random.default_rng(0).integers(0, 256, (6, 5, 16), np.uint8),
    "flags": np.random.default_rng(0).random(50) < 0.5,
    "complex": np.arange(7) * (1 + 2j),
    "half": jnp.arange(9, dtype=jnp.bfloat16),
    "scalar": np.float64(3.0).reshape(()),
    "empty": np.zeros((0, 4)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_another_entry_or_place_gives_another_sum(name):
    array = np.asarray(ARRAYS[name])
    sums = {array_sum(array).item()}
    for i in range(array.size):
        other = array.copy().reshape(-1)
        other[i] = ~other[i] if array.dtype == bool else other[i] ^ 1 if array.dtype == np.uint8 else other[i] + 1
        sums.add(array_sum(other.reshape(array.shape)).item())
    assert len(sums) == array.size + 1
    if name in ("floats", "bytes", "long rows of bytes"):
        assert array_sum(array) != array_sum(array[::-1]) and array_sum(array) != array_sum(array[:, ::-1])


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("block", [1, 3, 2**20])
def test_neither_blocks_nor_the_kind_of_array_change_it(name, block, monkeypatch):
    array = np.asarray(ARRAYS[name])
    expected = array_sum(array)
    monkeypatch.setattr(_sums, "_BLOCK", block)
    with jax.enable_x64():
        assert array_sum(array) == array_sum(jnp.asarray(array)) == expected
