"""Checks of single arguments: the error names the argument, what it got and what to do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel import _checks as checks
from bilevel import tasks

STOCBIO = {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2, "neumann_order": 2, "neumann_step": 0.1}
NO_NUMBERS = ["a", None, ["a", "b"], [1.0, None], True, 1j, object(), [1, [2]]]


@pytest.mark.parametrize("check", [checks.positive, checks.fraction, checks.nonnegative])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number(check, value):
    with pytest.raises(TypeError, match=r"^rate: got .*; pass a .*number"):
        check("rate", value)


@pytest.mark.parametrize("check", [checks.fraction, checks.nonnegative])
def test_an_array_where_a_number_is_meant(check):
    with pytest.raises(TypeError, match=r"^rate: got array\(.*; pass a .*number"):
        check("rate", np.ones(2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_numbers_of_any_kind_pass(dtype):
    for check in (checks.positive, checks.fraction, checks.nonnegative):
        check("rate", 1)
        check("rate", np.asarray(1.0))
        check("rate", jnp.ones((), dtype))
        jax.jit(lambda rate, check=check: check("rate", rate))(1.0)
    checks.positive("rates", [0.1, 0.2], scalar=False)
    with pytest.raises(TypeError, match=r"^rate: got \[0.1, 0.2\]; pass a number above zero"):
        checks.positive("rate", [0.1, 0.2])


@pytest.mark.parametrize("value", [-1, -1e-9, np.inf, np.nan])
def test_below_zero_or_not_finite(value):
    checks.nonnegative("noise", 0)
    with pytest.raises(ValueError, match=r"^noise: got .*; it must be a finite number, zero or more"):
        checks.nonnegative("noise", value)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: bl.ConjugateGradient(3, "a"), "tolerance: got 'a'"),
        (lambda: bl.ConjugateGradient(3, np.ones(2)), "tolerance: got array"),
        (lambda: bl.EpochSGD.plain(3, "0.1"), "rate: got '0.1'"),
        (lambda: bl.EpochSGD.plain(3, bl.inverse_power(1.0, 0.5)), "rate: got InversePower"),
        (lambda: bl.EpochSGD((3,), ["0.1"]), "rates: got array"),
        (lambda: bl.EpochSGD.from_constants(mu=1, L=1, sigma="a", initial_gap=1, accuracy=0.1, failure=0.1), "sigma"),
        (lambda: bl.FSLA.from_paper("a", 1, 1, 1), "delta: got 'a'"),
        (lambda: tasks.quadratic(mu="a"), "mu: got 'a'"),
        (lambda: tasks.quadratic(noise="a"), "noise: got 'a'"),
        (lambda: tasks.cleaning(corruption="abc"), "corruption: got 'abc'"),
        (lambda: tasks.cleaning(regularization="abc"), "regularization: got 'abc'"),
    ],
)
def test_arguments_that_are_no_numbers(call, name, compiled):
    with pytest.raises(TypeError, match=rf"(?s)^{name}.*; pass a .*number"):
        call()
    assert not compiled


def test_direct_needs_some_memory():
    with pytest.raises(TypeError, match=r"^max_bytes: got 'x'; it must be a Python integer"):
        bl.Direct(max_bytes="x")
    with pytest.raises(ValueError, match=r"^max_bytes: got 0"):
        bl.Direct(max_bytes=0)


# sizes


@pytest.mark.parametrize("sizes", [[3, 2], (np.int64(3), 2), np.array([3, 2])], ids=str)
def test_sizes_of_other_types(sizes):
    solver = bl.StocBiO(**STOCBIO, hessian_batch_sizes=sizes)
    assert solver.hessian_batch_sizes == (3, 2)
    assert {type(size) for size in solver.hessian_batch_sizes} == {int}
    assert bl.EpochSGD(sizes, [0.1, 0.1]).lengths == (3, 2)
    hash((solver.hessian_batch_sizes, bl.EpochSGD(sizes, [0.1, 0.1]).lengths))  # what a program is found by


def test_one_size_as_a_numpy_integer():
    solver = bl.StocBiO(**STOCBIO, hessian_batch_sizes=np.int64(3), cross_batch_size=np.int64(4))
    assert type(solver.hessian_batch_sizes) is type(solver.cross_batch_size) is int
    level = bl.Level(lambda x, y, a: jnp.mean(a) * (y - x) ** 2, data=np.ones(8, np.float32), batch_size=2)
    problem = bl.Problem(bl.Level(lambda x, y, _: y**2), level)
    stats = bl.solve(problem, solver, 1.0, 0.0, steps=1, key=jax.random.key(0)).stats
    assert (stats["H"], stats["J"]) == (6, 4)


@pytest.mark.parametrize("sizes", ["a", 2.5, True, (3, "a"), (3, True), [[3, 2], 1], {3, 2}], ids=str)
def test_sizes_that_are_no_integers(sizes):
    with pytest.raises(TypeError, match=r"^hessian_batch_sizes: got .*; pass an integer or a tuple of them"):
        bl.StocBiO(**STOCBIO, hessian_batch_sizes=sizes)


def test_lengths_that_are_no_tuple():
    with pytest.raises(TypeError, match=r"^lengths: got 3; pass a tuple of integers"):
        bl.EpochSGD(3, [0.1])


# settings of an optimizer


@pytest.mark.parametrize(
    ("optimizer", "setting", "advice"),
    [
        (optax.adam, "beta", "known are b1, b2, eps, eps_root"),
        (optax.sgd, "momentun", "did you mean momentum?"),
        (optax.adamw, "weight_decoy", "did you mean weight_decay?"),
    ],
)
def test_a_setting_that_an_optimizer_does_not_have(optimizer, setting, advice, compiled):
    name = f"setting of optax.{optimizer.__name__}"
    with pytest.raises(ValueError, match=rf"^{name}: '{setting}' is unknown; {advice.replace('?', '[?]')}"):
        bl.Rule(optimizer, 0.1, **{setting: 0.9})
    assert not compiled


def test_an_optimizer_that_takes_any_setting():
    bl.Rule(lambda rate, **settings: optax.adam(rate, **settings), 0.1, b1=0.8)
    with pytest.raises(TypeError, match="Rule: "):
        bl.Rule(lambda rate, **settings: optax.adam(rate, **settings), 0.1, beta=0.8)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_the_state_of_a_layer_is_no_variable(mode):
    """Neither by itself, nor in a layer that holds it; a layer whose state is elsewhere is one."""
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode=mode)
    whole = eqx.nn.BatchNorm(3, "batch", mode=mode)
    spectral = eqx.nn.SpectralNorm(eqx.nn.Linear(3, 3, key=jax.random.key(0)), "weight", key=jax.random.key(0))
    for value in (state, {"layer": layer, "state": state}, whole, [whole], spectral):
        with pytest.raises(TypeError, match=r"^y.*: got the state of a layer.*LayerNorm"):
            checks.tree("y", value)
    assert checks.tree("y", layer).weight is layer.weight
    trained, _ = eqx.partition(whole, eqx.tree_at(lambda m: m.weight, jax.tree.map(lambda _: False, whole), True))
    assert checks.tree("y", trained).weight is whole.weight
