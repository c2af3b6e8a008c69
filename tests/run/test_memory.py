"""The memory of a chunk of steps, and what a run in bfloat16 keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel._prepare import prepare
from bilevel.run import _programs
from bilevel.run._programs import Programs

KEY = jax.random.key(0)
WIDE, LAYERS, ROWS = 160, 8, 4
DATA = {
    "features": np.random.default_rng(0).normal(size=(64, WIDE)).astype(np.float32),
    "source": np.arange(64) % 5,
}
STEPS = {"upper_step": 0.1, "lower_step": 0.01}


def error(y, batch):
    h = batch["features"].astype(y[0].dtype)
    for weight in y:
        h = jnp.tanh(h @ weight)
    return jnp.mean((h.astype(jnp.float32) - jnp.roll(batch["features"], 1, axis=1)) ** 2, axis=1)


def upper(x, y, batch):
    return jnp.mean(error(y, batch))


def lower(x, y, batch):
    decay = sum(jnp.sum(weight.astype(jnp.float32) ** 2) for weight in y)
    return jnp.mean(jax.nn.sigmoid(x)[batch["source"]] * error(y, batch)) + 1e-3 * decay


PROBLEM = bl.Problem(bl.Level(upper, DATA, ROWS), bl.Level(lower, DATA, ROWS))


def layers(dtype):
    keys = jax.random.split(KEY, LAYERS)
    return [jax.random.normal(key, (WIDE, WIDE)).astype(dtype) / np.sqrt(WIDE).astype(dtype) for key in keys]


def memory_of_a_chunk(solver, y):
    """Arguments, results and temporaries of the program, in units of y. Results overwrite arguments."""
    prepared = prepare(PROBLEM, jnp.zeros(5), y)
    programs = Programs(solver, prepared.problem, KEY, prepared.x, prepared.y)
    state, _ = programs.start(compute=False)
    arguments = programs._static, programs._arrays, state, np.int32(0), np.int32(5)
    found = _programs._advance.lower(*arguments).compile().memory_analysis()
    data = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(PROBLEM.upper.data))
    whole = found.argument_size_in_bytes - data + found.output_size_in_bytes - found.alias_size_in_bytes
    return (whole + found.temp_size_in_bytes) / sum(weight.nbytes for weight in y)


@pytest.mark.parametrize(
    ("solver", "most"),
    [
        (bl.SOBA(**STEPS, adjoint_step=0.01), 4.6),
        (bl.F2SA(**STEPS, penalized_step=0.01, multiplier=10.0), 4.6),
        (bl.F2SA(**STEPS, penalized_step=0.01, multiplier=10.0, inner_steps=10, common_samples=True), 4.6),
        (bl.StocBiO(**STEPS, inner_steps=10, neumann_order=10, neumann_step=0.1), 4.0),
    ],
    ids=["soba", "f2sa", "f2sa, common samples", "stocbio"],
)
def test_the_copies_of_y_that_a_chunk_holds(solver, most):
    found = memory_of_a_chunk(solver, layers(jnp.float32))
    assert 2 < found <= most


@pytest.mark.parametrize(
    "solver",
    [
        bl.SOBA(upper_step=0.1, lower_step=0.3, adjoint_step=0.01),
        bl.F2SA(
            upper_step=0.1, lower_step=bl.Rule(optax.adam, 1e-3), penalized_step=bl.Rule(optax.adam, 1e-3),
            multiplier=10.0, keep_rules=True,
        ),
        bl.StocBiO(upper_step=0.1, lower_step=0.3, inner_steps=3, neumann_order=3, neumann_step=0.1),
    ],
    ids=["soba", "f2sa with adam", "stocbio"],
)  # fmt: skip
def test_a_run_in_bfloat16_keeps_its_dtype_and_falls(solver):
    y = layers(jnp.bfloat16)[:2]
    solution = bl.solve(
        PROBLEM, solver, jnp.zeros(5), y, steps=60, every=60, key=KEY, signs=False,
        metrics=lambda x, y: {"loss": upper(x, y, DATA)},
    )  # fmt: skip
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.y)} == {jnp.dtype(jnp.bfloat16)}
    for name in ("v", "penalized"):
        assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(getattr(solution.state, name, ())))
    assert solution.x.dtype == jnp.float32 and not np.allclose(solution.x, 0)
    assert solution.history["loss"][-1] < 0.95 * solution.history["loss"][0]
