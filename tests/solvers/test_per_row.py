"""A plain step on one variable per row touches only the batch's rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solvers.test_properties import make_solvers

import bilevel as bl

KEY, SIZE = jax.random.key(0), 4
OF_THE_BATCH = ("aid", "stocbio", "soba", "ba", "bsa", "ttsa", "alset", "amigo", "f2sa", "aid-fp", "aid-cg")


def lower_loss(x, y, batch):
    return jnp.mean(jax.nn.sigmoid(x) * (batch @ y - 1) ** 2) + 0.1 * y @ y


def upper_loss(x, y, batch):
    return jnp.mean((batch @ y - 1) ** 2)


def temporaries(solver, rows, source):
    data = source(np.ones((rows, 3), np.float32))
    problem = bl.Problem(bl.Level(upper_loss, data, SIZE), bl.Level(lower_loss, data, SIZE, per_row=True))
    state, _ = solver.init(problem, jnp.zeros(rows), jnp.ones(3), key=KEY)
    program = eqx.filter_jit(bl.advance).lower(solver, problem, state, KEY, 0, 5).compile().compiled
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", OF_THE_BATCH)
def test_a_step_copies_no_per_row_variable(name):
    solver = make_solvers()[name]
    grown = temporaries(solver, 80_000, bl.Rows) - temporaries(solver, 800, bl.Rows)
    assert grown < 80_000  # a copy of x takes 320,000 bytes


def test_two_blocks_are_added_in_one_scatter():
    solver = make_solvers()["f2sa"]  # its direction has the blocks of two batches
    assert temporaries(solver, 80_000, bl.Blocks) - temporaries(solver, 800, bl.Blocks) < 80_000
