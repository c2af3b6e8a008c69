"""The light key: its words pass tests that bad generators fail. Permutations without a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl
from scipy import stats

import bilevel as bl
from bilevel import _random

SIDE = 128


def impl_with(**functions):
    """The light generator with other functions in places."""
    parts = {"seed": _random._seed, "split": _random._split, "fold_in": _random._fold_in, "random_bits": _random._bits}
    parts |= functions
    return define_prng_impl(key_shape=(3,), **parts, tag=f"bad {id(parts)}")


def streams(impl):
    """Tables of words (rows, columns), by where a run takes them from."""
    words = jax.jit(jax.vmap(lambda key: jax.random.bits(key, (SIDE,), jnp.uint32)))
    numbers = jnp.arange(2 * SIDE)

    def at(key, t):
        data = jax.random.key_data(key)
        return jax.random.wrap_key_data(data.at[2].set(t.astype(jnp.uint32)), impl=impl)

    key = jax.random.key(7, impl=impl)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    folded, split = fold(key, numbers), jax.random.split(key, 2 * SIDE)
    nested = jax.vmap(lambda key: jax.random.split(key)[1])(folded)
    steps = jax.vmap(at, (None, 0))(key, numbers)
    places = jax.vmap(lambda key: jax.random.split(key)[0])(steps)
    return {
        "seeds": words(jnp.stack([jax.random.key(seed, impl=impl) for seed in range(2 * SIDE)])),
        "steps": words(steps),
        "the same place in steps": words(places),
        "fold_in": words(folded),
        "split": words(split),
        "split of fold_in": words(nested),
        "split beside fold_in": words(jnp.stack([folded, split], axis=1).ravel()),
        "one key": jax.random.bits(key, (2**10, 2**9), jnp.uint32),
    }


def uniform(cells, count):
    """p-value of Pearson's test that cell numbers below `count` are equally likely."""
    return stats.chisquare(np.bincount(cells, minlength=count)).pvalue


def smallest_p(words):
    """The smallest p-value of: cells of high, middle and low bits, neighbors in rows and columns, repeated words."""
    words = words.astype(np.int64)
    found = [uniform(((words >> shift) & 31).ravel(), 32) for shift in (0, 9, 27)]
    for a, b in ((words[:, :-1], words[:, 1:]), (words[:-1], words[1:])):
        for shift in (0, 27):
            pairs = ((a >> shift) & 31) * 32 + ((b >> shift) & 31)
            if pairs.size:
                found.append(uniform(pairs.ravel(), 1024))
        if a.size:
            ones = np.bitwise_count(a ^ b).sum(dtype=np.int64)
            found.append(2 * stats.norm.sf(abs(ones - 16 * a.size) / np.sqrt(8 * a.size)))
    repeats, expected = words.size - len(np.unique(words)), words.size**2 / 2**33
    found += [stats.poisson.cdf(repeats, expected), stats.poisson.sf(repeats - 1, expected)]
    return min(found)


def verdicts(impl):
    return {name: smallest_p(np.asarray(words)) for name, words in streams(impl).items()}


def test_words_look_random():
    assert min(verdicts(_random._LIGHT).values()) > 1e-5


def shifted(key, numbers):
    zeros = jnp.zeros_like(numbers)
    return jnp.stack([key[0] + numbers, key[1] + zeros, key[2] + zeros], axis=-1)


def multiplied(key, width, shape):
    i = jnp.arange(np.prod(shape), dtype=jnp.uint32).reshape(shape)
    return ((i + key[0] + key[2]) * np.uint32(0x9E3779B9)) ^ key[1]


def one_to_one(key, width, shape):
    i = jnp.arange(np.prod(shape), dtype=jnp.uint32).reshape(shape)
    return _random._mix(_random._mix(i + key[0] + 77 * key[2]) ^ key[1])


def the_same_in_all_steps(key, width, shape):
    return _random._bits(key.at[2].set(0), width, shape)


def of_one_word(key, width, shape):
    return _random._bits(key * jnp.array([1, 0, 0], jnp.uint32), width, shape)


BAD = {
    "one multiplication": {"random_bits": multiplied},
    "words that never repeat": {"random_bits": one_to_one},
    "no iteration": {"random_bits": the_same_in_all_steps},
    "streams that overlap": {
        "fold_in": lambda key, data: shifted(key, jnp.asarray(data).astype(jnp.uint32)),
        "random_bits": one_to_one,
    },
    "children by their number alone": {
        "fold_in": lambda key, data: _random._child(0 * key, jnp.asarray(data).astype(jnp.uint32), _random._FOLD),
        "split": lambda key, shape: _random._child(
            0 * key, jnp.arange(np.prod(shape), dtype=jnp.uint32).reshape(shape), _random._FOLD
        ),
    },
    "seeds alike": {"seed": lambda seed: _random._seed(seed // 2)},
}


@pytest.mark.parametrize("functions", BAD.values(), ids=BAD)
def test_bad_generators_are_caught(functions):
    assert min(verdicts(impl_with(**functions)).values()) < 1e-9


def test_keys_of_all_kinds_become_light():
    keys = [jax.random.key(3), jax.random.key(4), jax.random.key(3, impl="rbg"), jax.random.PRNGKey(3)]
    found = [jax.random.key_data(_random.light(key)).tolist() for key in keys]
    assert found[0] == found[3]  # the same words
    assert len({tuple(words) for words in found}) == 3
    light = _random.light(keys[0])
    assert _random.light(light) is light


def test_the_functions_of_jax_take_it():
    key = _random.at(jax.random.key(0), 3)
    normal = jax.random.normal(key, (10_000,))
    assert stats.kstest(np.asarray(normal), "norm").pvalue > 1e-3
    assert sorted(jax.random.permutation(key, 9).tolist()) == list(range(9))
    assert len(set(jax.random.choice(key, 100, (50,), replace=False).tolist())) == 50
    assert jax.random.bits(key, (5,), jnp.uint8).dtype == jnp.uint8
    with jax.enable_x64(True):
        assert len(set(jax.random.bits(key, (5,), jnp.uint64).tolist())) == 5


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**16, 2**16 + 1, 10_000_019, 2**31 - 1])
def test_indices_are_uniform(n):
    drawn = np.asarray(_random.below(jax.random.key(n), n, (100_000,)), np.int64)
    assert drawn.min() >= 0 and drawn.max() < n
    if n > 1:
        cells = min(n, 1000)
        edges = np.bincount(np.arange(n) * cells // n) if n < 10**6 else np.full(cells, n / cells)
        expected = edges / n * len(drawn)
        assert stats.chisquare(np.bincount(drawn * cells // n, minlength=cells), expected).pvalue > 1e-4


def test_an_index_is_the_floor_of_exact_arithmetic():
    words = np.array([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1], np.uint32)
    for n in (1, 3, 2**16, 2**16 + 1, 10_000_019, 2**31 - 1):
        exact = [int(word) * n >> 32 for word in words]
        assert np.asarray(_random._high(jnp.asarray(words), jnp.uint32(n))).tolist() == exact


@pytest.mark.parametrize("n", [1, 2, 3, 7, 781, 2**16, 2**31 - 1])
def test_quotients_are_exact(n):
    words = [0, 1, n - 1, n, n + 1, 2 * n - 1, 3 * n, 2**31 - 1, 2**31, 2**32 - n, 2**32 - 1]
    words = np.unique(np.concatenate([np.array(words) % 2**32, np.random.default_rng(0).integers(0, 2**32, 1000)]))
    quotient, rest = _random._divided(jnp.asarray(words, jnp.uint32), n)
    np.testing.assert_array_equal(quotient, words // n)
    np.testing.assert_array_equal(rest, words % n)


permuted = jax.jit(jax.vmap(_random.permuted, (0, None, None)), static_argnums=2)


@pytest.mark.parametrize("n", [1, 2, 5, 12, 97, 128, 129, 195, 257, 1009, 4096])
def test_permutations(n):
    """Each is one; each value, and each difference of neighbors, is equally likely."""
    count = 20_000 if n < 100 else 400
    keys = jax.random.split(_random.light(jax.random.key(n)), count)
    found = np.asarray(permuted(keys, jnp.arange(n), n))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.broadcast_to(np.arange(n), (count, n)))
    if n > 1:
        for column in range(min(n, 5)):
            assert uniform(found[:, column], n) > 1e-5
    if n > 2:
        differences = (found[:, 1] - found[:, 0]) % n if n < 100 else ((found[:, 1:] - found[:, :-1]) % n).ravel()
        assert uniform(differences - 1, n - 1) > 1e-5
    if n == 5:
        assert len({tuple(row) for row in found}) == 120


def test_all_values_at_large_n():
    n = 1_000_003  # a prime: no two factors make it
    found = np.asarray(jax.jit(_random.permuted, static_argnums=2)(jax.random.key(0), jnp.arange(n), n))
    np.testing.assert_array_equal(np.sort(found), np.arange(n))
    assert abs(np.corrcoef(found, np.arange(n))[0, 1]) < 0.005


# Batches


def indices(source, size, steps, seed=0):
    """Those of one place of a listing, by iteration."""
    key = _random.light(jax.random.key(seed))

    def drawn(t):
        return source.draw(jax.random.split(_random.at(key, t))[0], size).indices

    return np.asarray(jax.jit(jax.vmap(drawn))(jnp.arange(steps)))


@pytest.mark.parametrize("kind", [bl.Shuffled, bl.ShuffledBlocks])
def test_every_row_once_per_epoch(kind):
    source = kind(np.arange(60.0))
    drawn = indices(source, 4, 45)
    rows = drawn if kind is bl.Shuffled else drawn[:, None] + np.arange(4)
    epochs = rows.reshape(3, 60)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(60))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    assert (indices(source, 4, 15, seed=1) != drawn[:15]).any()


def test_rows_left_over_are_others_in_each_epoch():
    drawn = indices(bl.Shuffled(np.arange(11.0)), 4, 2000).reshape(1000, 8)
    assert {len(set(epoch)) for epoch in drawn.tolist()} == {8}
    assert uniform(drawn.ravel(), 11) > 1e-4


def test_batches_of_iterations_are_independent():
    drawn = indices(bl.Rows(np.arange(50.0)), 8, 4000)
    pairs = drawn[:-1, 0] * 50 + drawn[1:, 0]
    assert uniform(pairs, 2500) > 1e-4
    assert uniform(drawn[:, 0] * 50 + drawn[:, 1], 2500) > 1e-4
