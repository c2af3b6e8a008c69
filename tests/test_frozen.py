"""Models of which only a part is trained: the rest belongs to the losses, and costs nothing more."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import bilevel as bl
from bilevel._prepare import prepare
from bilevel.run import _programs
from bilevel.run._programs import Programs

KEY = jax.random.key(0)
WIDE = 357  # no other array has this size


class Adapted(eqx.Module):
    """A dense layer W f, and an adapter of low rank: (W + B A) f."""

    dense: eqx.nn.Linear
    A: jax.Array
    B: jax.Array

    def __call__(self, features):
        return self.dense(features) + self.B @ (self.A @ features)


def model_of(dtype=jnp.float32):
    dense = eqx.nn.Linear(WIDE, 2 * WIDE, use_bias=False, dtype=dtype, key=KEY)
    return Adapted(dense, 0.01 * jax.random.normal(KEY, (2, WIDE)), jnp.zeros((2 * WIDE, 2)))


def trained_and_frozen(model):
    everywhere = jax.tree.map(lambda _: False, model)
    return eqx.partition(model, eqx.tree_at(lambda m: (m.A, m.B), everywhere, (True, True)))


def error(frozen, y, batch):
    out = jax.vmap(eqx.combine(y, frozen))(batch["features"])
    return jnp.mean((out.sum(1) - batch["targets"]) ** 2)


def upper(frozen, x, y, batch):
    return error(frozen, y, batch)


def lower(frozen, x, y, batch):
    return jnp.exp(x) * error(frozen, y, batch) + 0.1 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))


def problem_of(frozen):
    rng = np.random.default_rng(0)
    data = {"features": rng.normal(size=(8, WIDE)) / WIDE, "targets": rng.normal(size=8)}
    return bl.Problem(bl.Level(Partial(upper, frozen), data, 4), bl.Level(Partial(lower, frozen), data, 4))


def as_numpy(tree):
    return jax.tree.map(lambda leaf: np.array(leaf) if eqx.is_array(leaf) else leaf, tree)


@pytest.mark.parametrize("of", [lambda frozen: frozen, as_numpy], ids=["jax", "numpy"])
def test_frozen_leaves_are_in_memory_once_and_not_in_the_state(of):
    y, frozen = trained_and_frozen(model_of())
    frozen, solver = of(frozen), bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)

    def wide():
        return {id(array) for array in jax.live_arrays() if array.size == 2 * WIDE * WIDE}

    before, seen = wide(), set()

    def look(solution):
        assert solution.y.dense.weight is None
        seen.update(wide() - before)
        sizes = [leaf.size for leaf in jax.tree.leaves(solution.state) if eqx.is_array(leaf)]
        assert sum(sizes) == 2 * sum(leaf.size for leaf in jax.tree.leaves(y)) + 1  # y, v and x

    solution = bl.solve(problem_of(frozen), solver, 0.0, y, steps=20, every=5, key=KEY, callbacks=[look], signs=False)
    assert len(seen) == (of is as_numpy)  # the one copy on the device
    whole = eqx.combine(solution.y, frozen)
    np.testing.assert_array_equal(whole.dense.weight, model_of().dense.weight)
    assert not np.allclose(whole.B, 0)


def test_frozen_leaves_travel_as_arguments():
    y, frozen = trained_and_frozen(model_of())
    prepared = prepare(problem_of(frozen), 0.0, y)
    programs = Programs(bl.SOBA(0.1, 0.1, 0.1), prepared.problem, KEY, prepared.x, prepared.y)
    state, _ = programs.start(compute=False)
    arguments = programs._static, programs._arrays, state, np.int32(0), np.int32(1)
    text = _programs._advance.lower(*arguments).as_text()
    assert len(text) < 4 * WIDE * WIDE  # the matrix alone is 8 bytes times as much, in hexadecimal


def test_frozen_leaves_of_integers(x64):
    """As of a quantized model: they need no gradient."""
    model = model_of()
    y, frozen = trained_and_frozen(model)
    whole = eqx.tree_at(lambda m: m.dense.weight, frozen, jnp.round(100 * frozen.dense.weight).astype(jnp.int8))

    def quantized(frozen, x, y, batch):
        weight = frozen.dense.weight.astype(jnp.float32) / 100
        return lower(eqx.tree_at(lambda m: m.dense.weight, frozen, weight), x, y, batch)

    problem = problem_of(whole)
    problem = bl.Problem(problem.upper, bl.Level(Partial(quantized, whole), problem.lower.data, 4))
    found = bl.solve(problem, bl.SOBA(0.1, 0.1, 0.1), 0.0, y, steps=5, key=KEY, signs=False)
    assert np.isfinite(found.y.B).all() and not np.allclose(found.y.B, 0)


def test_the_statistics_of_a_pretrained_normalization_may_be_frozen():
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(WIDE, "batch", mode="ema")
    layer = eqx.nn.inference_mode(layer)

    def normalized(state, y, batch):
        out, _ = jax.vmap(y, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch["features"], state)
        return jnp.mean((out.sum(1) - batch["targets"]) ** 2) + 0.1 * jnp.sum(y.weight**2)

    def upper(state, x, y, batch):
        return normalized(state, y, batch)

    def lower(state, x, y, batch):
        return jnp.exp(x) * normalized(state, y, batch)

    data = problem_of(None).lower.data
    problem = bl.Problem(bl.Level(Partial(upper, state), data, 4), bl.Level(Partial(lower, state), data, 4))
    found = bl.solve(problem, bl.SOBA(0.1, 0.1, 0.1), 0.0, layer, steps=5, key=KEY, signs=False)
    assert not np.allclose(found.y.weight, layer.weight)
