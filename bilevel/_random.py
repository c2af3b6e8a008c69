"""The light random key of a run, indices drawn by it, and permutations that need no table.

On a CPU, Threefry takes as long as all else in a small step. Here a key is three words: two for the place where it is
used, which `split` and `fold_in` change, and the iteration t, which they leave alone. A draw of bits is a few integer
operations, which XLA fuses into what uses them. Every function of `jax.random` takes these keys. They are made for
sampling; they are not cryptographic.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

Words = UInt32[Array, "..."]
Shape = Any  # a tuple of integers, of which a check at run time would look at a random one

_GOLDEN, _SPLIT, _FOLD, _TIME = (np.uint32(word) for word in (0x9E3779B9, 0x51ED270B, 0x2545F491, 0x6C8E9CF5))
_UINTS = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}


def _mix(word: Words) -> Words:
    """A permutation of 32-bit words whose bits of output each depend on all bits of input: Ettinger's `lowbias32`."""
    word = (word ^ (word >> 16)) * np.uint32(0x21F0AAAD)
    word = (word ^ (word >> 15)) * np.uint32(0x735A2D97)
    return word ^ (word >> 15)


def _child(key: Words, number: Words, salt: np.uint32) -> Words:
    """The key of each number; the iteration is the parent's."""
    h = _mix(number + salt)
    a = _mix(key[0] ^ h)
    b = _mix((key[1] ^ h) + a)
    return jnp.stack([a, b, jnp.broadcast_to(key[2], a.shape)], axis=-1)


def _seed(seed: Any) -> Words:
    seed = jnp.asarray(seed)
    low = seed.astype(jnp.uint32)
    high = (seed >> 32).astype(jnp.uint32) if seed.dtype.itemsize == 8 else jnp.zeros_like(low)
    return _absorb(jnp.stack([high, low]))


def _absorb(words: Words) -> Words:
    key = jnp.array([_GOLDEN, _TIME, 0], jnp.uint32)
    for i in range(words.shape[0]):
        key = _child(key, words[i], _FOLD)
    return key


def _split(key: Words, shape: Shape) -> Words:
    return _child(key, jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape), _SPLIT)


def _fold_in(key: Words, data: Any) -> Words:
    return _child(key, jnp.asarray(data).astype(jnp.uint32), _FOLD)


def _bits(key: Words, width: int, shape: Shape) -> Array:
    if width == 64:
        high, low = (_bits(_fold_in(key, i), 32, shape).astype(jnp.uint64) for i in range(2))
        return (high << 32) | low
    return _word(key, jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)).astype(_UINTS[width])


def _word(key: Words, i: Any) -> Words:
    """The i-th random word of a key."""
    a = _mix((i ^ _mix(key[2] + _TIME)) + key[0])
    return _mix(a ^ (key[1] + key[2] * _GOLDEN)) ^ a  # ^ a: words may then repeat, as they must


_LIGHT: Any = define_prng_impl(
    key_shape=(3,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="light", tag="light"
)


def light(key: PRNGKeyArray) -> PRNGKeyArray:
    """A light key made of another key; a light key is itself."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) == _LIGHT:
            return key
        key = jax.random.key_data(key)
    return jax.random.wrap_key_data(_absorb(key), impl=_LIGHT)


def at(key: PRNGKeyArray, t: Any) -> PRNGKeyArray:
    """The key of iteration t, of a key of iteration 0."""
    words = jax.random.key_data(light(key))
    return jax.random.wrap_key_data(jnp.stack([words[0], words[1], jnp.asarray(t).astype(jnp.uint32)]), impl=_LIGHT)


def epoch(key: PRNGKeyArray, length: int) -> tuple[PRNGKeyArray, Int[Array, ""]]:
    """The key of an epoch of so many iterations at a place, and the number of the iteration in it."""
    number, i = _divided(jax.random.key_data(light(key))[2], length)
    return jax.random.fold_in(at(key, 0), number), i.astype(jnp.int32)


def _divided(word: Words, n: int) -> tuple[Words, Words]:
    """⌊word / n⌋ and the rest, by a multiplication: XLA gives divisions kernels of their own."""
    quotient = _high(word, jnp.uint32(2**32 // n)) if n > 1 else word  # too small by one at most
    rest = word - quotient * np.uint32(n)
    return jnp.where(rest < n, quotient, quotient + 1), jnp.where(rest < n, rest, rest - np.uint32(n))


def _high(word: Words, n: Words) -> Words:
    """⌊word · n / 2³²⌋, by halves of 16 bits."""
    low, high, n_low, n_high = word & 0xFFFF, word >> 16, n & 0xFFFF, n >> 16
    middle = high * n_low + ((low * n_low) >> 16)
    return high * n_high + (middle >> 16) + ((low * n_high + (middle & 0xFFFF)) >> 16)


def below(key: PRNGKeyArray, n: Any, shape: Shape = (), *, most: int | None = None) -> Int[Array, "..."]:
    """Uniform integers from 0 to n − 1: ⌊u n⌋, u of 32 random bits, or of 64 for n > 2¹⁶.

    No integer is likelier than another by more than a factor of 1 + 2⁻¹⁶. A traced n is at most `most`, which then
    decides on the bits.
    """
    wide = (n if most is None else most) > 2**16
    bits, n_word = jax.random.bits(key, ((2, *shape) if wide else shape), jnp.uint32), jnp.uint32(n)
    if not wide:
        return _high(bits, n_word).astype(jnp.int32)
    low = bits[0] * n_word
    carry = low + _high(bits[1], n_word) < low
    return (_high(bits[0], n_word) + carry).astype(jnp.int32)


def permuted(key: PRNGKeyArray, indices: Int[Array, "..."], n: int) -> Int[Array, "..."]:
    """A random permutation of 0, …, n − 1, given by the key, at these indices; no table of it is made.

    A Feistel network permutes 0, …, ab − 1 as pairs (l, r), l < a and r < b, where ab is n or a little more. An index
    that ends at n or above goes through it again: after as many passes as there are such places, none can be left.
    Up to 128, where such a network mixes badly, an index goes to the rank of its random word.
    """
    if n <= 128:
        words, every = jax.random.bits(key, (n,), jnp.uint32), jnp.arange(n, dtype=jnp.int32)

        def rank(i: Int[Array, ""]) -> Int[Array, ""]:
            return jnp.sum((words < words[i]) | ((words == words[i]) & (every < i)), dtype=jnp.int32)

        return jax.vmap(rank)(indices.ravel()).reshape(indices.shape)
    a, b = _factors(n)
    data = jax.random.key_data(light(key))
    words = [_word(data, np.uint32(i)) for i in range(_ROUNDS)]  # scalars, which XLA fuses into what uses them
    x = _feistel(words, indices.astype(jnp.uint32), a, b)
    for _ in range(a * b - n):
        x = jnp.where(x < n, x, _feistel(words, x, a, b))
    return x.astype(jnp.int32)


_ROUNDS = 8


def _feistel(words: list[Words], x: Words, a: int, b: int) -> Words:
    left, right = _divided(x, b)
    for i in range(0, _ROUNDS, 2):
        left = _shifted(left, right, words[i], a)
        right = _shifted(right, left, words[i + 1], b)
    return left * np.uint32(b) + right


def _shifted(x: Words, other: Words, word: Words, n: int) -> Words:
    """x plus a random function of the other half, mod n."""
    moved = x + (((_mix(other ^ word) >> 16) * np.uint32(n)) >> 16)
    return jnp.where(moved < n, moved, moved - np.uint32(n))


@functools.cache
def _factors(n: int) -> tuple[int, int]:
    """a ≤ b near √n, whose product is at least n, by as little as can be."""
    root = math.isqrt(n)
    a = min(range(root, max(root // 4, 8) - 1, -1), key=lambda a: -n % a)
    return a, -(-n // a)
