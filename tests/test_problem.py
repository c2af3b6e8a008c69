"""Bad input raises an error that names it, before anything is compiled."""

import inspect
import re
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import bilevel as bl
from bilevel._prepare import prepare

KEY = jax.random.key(0)
ROWS = np.arange(12.0, dtype=np.float32)
Y = np.zeros(2, np.float32)


def upper(x, y, _):
    return jnp.sum((y - 1.0) ** 2)


def lower(x, y, a):
    return jnp.mean(a) * jnp.sum((y - jnp.mean(jax.tree.leaves(x)[0])) ** 2)


def problem(lower_loss=lower, upper_loss=upper, **options):
    """A small good problem but for what is passed."""
    project = options.pop("project", None)
    level = bl.Level(lower_loss, **({"data": ROWS, "batch_size": 3} | options))
    return bl.Problem(bl.Level(upper_loss), level, project=project)


SOBA = bl.SOBA(upper_step=0.01, lower_step=0.1, adjoint_step=0.1)


def solve(x=1.0, y=Y, solver=SOBA, key=KEY, steps=2, every=2, **options):
    return bl.solve(problem(**options), solver, x, y, key=key, steps=steps, every=every)


def fails(call, error, message, compiled):
    """`call` raises, naming what `message` says, and nothing is compiled on the way."""
    with pytest.raises(error, match=message):
        call()
    assert not compiled


# the counter, without which "nothing was compiled" means nothing


def test_a_good_run_compiles_each_program_once(compiled):
    """A start that is a Python float is weakly typed in JAX; it must not bring a second program."""
    options = {"key": KEY, "steps": 6, "every": 2}
    good = problem()
    jax.clear_caches()
    for x, y in ((1.0, Y), (jnp.asarray(1.0), jnp.asarray(Y)), (np.float32(1.0), Y)):
        bl.solve(good, SOBA, x, y, **options)
        assert compiled.count("jit(_advance)") == 1
        assert compiled.count("jit(_status)") == 1
    compiled.clear()
    bl.solve(good, SOBA, 2.0, Y + 1, **options)
    assert not compiled


def test_the_checks_of_good_input_compile_nothing(compiled):
    x, y = np.ones((5, 3)), {"a": jnp.ones(7), "b": 1.0}
    loss = bl.Level(lambda x, y, a: jnp.mean(a) * jnp.sum(y["a"] ** 2), data=ROWS, batch_size=3)
    good = bl.Problem(loss, loss)
    jax.clear_caches()
    compiled.clear()
    prepare(good, x, y)
    assert not compiled


# losses

LOSSES = {
    "vector": (lambda x, y, a: y, ValueError, r"returned shape \(2,\); it must return a scalar"),
    "tuple": (lambda x, y, a: (jnp.sum(y), 0.0), ValueError, "returned tuple; it must return a scalar"),
    "none": (lambda x, y, a: None, ValueError, "returned NoneType; it must return a scalar"),
    "integer": (lambda x, y, a: jnp.sum(y > 0), TypeError, "returned dtype int32; it must return a floating"),
    "boolean": (lambda x, y, a: jnp.all(y > 0), TypeError, "returned dtype bool"),
    "complex": (lambda x, y, a: jnp.sum(y) * 1j, TypeError, "returned dtype complex64"),
}


@pytest.mark.parametrize("where", ["upper", "lower"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_that_is_no_floating_scalar(name, where, compiled):
    loss, error, message = LOSSES[name]
    bad = {f"{where}_loss": loss}
    fails(lambda: solve(**bad), error, rf"{where}\.loss: {message}", compiled)
    fails(lambda: bl.hypergradient(problem(**bad), 1.0, Y, key=KEY), error, rf"{where}\.loss: {message}", compiled)
    unrolled = lambda: bl.unrolled_hypergradient(problem(**bad), 1.0, Y, steps=1, lower_step=0.1, key=KEY)  # noqa: E731
    fails(unrolled, error, rf"{where}\.loss: {message}", compiled)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: 0.0,
        lambda x, y: 0.0,
        lambda x, y, a, b: 0.0,
        lambda x, y, *, a: 0.0,
        lambda x, y, a, *, b: 0.0,
        3.0,
        None,
    ],
)
def test_a_loss_that_does_not_take_three_arguments(loss, compiled):
    fails(lambda: bl.Level(loss), TypeError, "loss: (it cannot be called as loss.x, y, batch.|got)", compiled)


def test_losses_that_do_take_three_arguments():
    class Module(eqx.Module):
        def __call__(self, x, y, batch):
            return 0.0

    for loss in (Module(), lambda *all_of_them: 0.0, lambda x, y, a, b=1: 0.0, jax.tree_util.Partial(lower)):
        bl.Level(loss)


# data and batches

LEVELS = {
    "leading axes": ({"data": {"a": ROWS, "b": np.ones((4, 2))}}, ValueError, "data: leading axes differ"),
    "zero rows": ({"data": np.ones((0, 3))}, ValueError, "data: got zero rows"),
    "nan": ({"data": np.array([1.0, np.nan])}, ValueError, "data: contains NaN or infinity"),
    "infinity": ({"data": {"a": jnp.array([1.0, -jnp.inf])}}, ValueError, "data: contains NaN or infinity"),
    "scalar": ({"data": {"a": ROWS, "b": 1.0}}, ValueError, "data: got a scalar"),
    "text": ({"data": np.array(["a"])}, TypeError, "data: got an array of dtype <U1"),
    "nothing": ({"data": []}, ValueError, "data: got a pytree without arrays"),
    "too large": ({"batch_size": 13}, ValueError, "batch_size: got 13, but the data have 12 rows"),
    "block too large": ({"data": bl.Blocks(ROWS), "batch_size": 13}, ValueError, "batch_size: got 13"),
    "block not dividing": ({"data": bl.Blocks(ROWS), "batch_size": 5}, ValueError, "batch_size: 12 rows do not divide"),
    "zero": ({"batch_size": 0}, ValueError, "batch_size: got 0; it must be at least 1"),
    "negative": ({"batch_size": -3}, ValueError, "batch_size: got -3"),
    "float": ({"batch_size": 3.0}, TypeError, "batch_size: got 3.0; it must be a Python integer"),
    "bool": ({"batch_size": True}, TypeError, "batch_size: got True"),
    "without data": ({"data": None}, ValueError, "batch_size: got 3 for a level without data"),
    "per_row without data": ({"data": None, "batch_size": None, "per_row": True}, ValueError, "per_row: got True"),
}


@pytest.mark.parametrize("name", list(LEVELS))
def test_a_bad_level(name, compiled):
    options, error, message = LEVELS[name]
    fails(lambda: problem(**options), error, message, compiled)


@pytest.mark.parametrize(
    ("per_row", "x", "message"),
    [
        (True, np.ones(11), r"lower\.per_row: x has a leaf of shape \(11,\), but the lower data have 12 rows"),
        (True, 1.0, r"lower\.per_row: x has a leaf of shape \(\)"),
        ({"a": True, "b": False}, {"a": np.ones((3, 2)), "b": np.ones(2)}, r"lower\.per_row: .*\(3, 2\)"),
        ({"a": True}, {"a": np.ones(12), "b": np.ones(2)}, "per_row: .* is not a prefix of x's tree"),
    ],
)
def test_per_row_that_does_not_fit(per_row, x, message, compiled):
    fails(lambda: solve(x, per_row=per_row), ValueError, message, compiled)


def test_a_level_or_a_problem_that_is_none(compiled):
    level = bl.Level(upper)
    fails(lambda: bl.Problem(upper, level), TypeError, "upper: got function; pass bl.Level", compiled)
    fails(lambda: bl.Problem(level, None), TypeError, "lower: got NoneType; pass bl.Level", compiled)
    fails(lambda: bl.Problem(level, level, project=3), TypeError, "project: got 3", compiled)
    fails(lambda: bl.solve(level, SOBA, 1.0, Y, key=KEY, steps=1), TypeError, "problem: got Level", compiled)
    fails(lambda: bl.hypergradient(None, 1.0, Y), TypeError, "problem: got NoneType", compiled)


@pytest.mark.parametrize("project", [lambda x: x[None], lambda x: (x, x), lambda x: x > 0, lambda x: None])
def test_a_projection_that_changes_what_x_is(project, compiled):
    fails(lambda: solve(project=project), ValueError, "project: its output has another structure", compiled)


# starts

STARTS = {
    "int": (1, TypeError, r"{}: got 1 \(int\)"),
    "bool": (True, TypeError, r"{}: got True \(bool\)"),
    "complex": (1j, TypeError, r"{}: got 1j \(complex\)"),
    "integer array": (np.arange(2), TypeError, "{}: got dtype int32; pass floating-point arrays"),
    "integer leaf": ({"a": Y, "b": [jnp.arange(2)]}, TypeError, r"{}\['b'\]\[0\]: got dtype int32"),
    "boolean leaf": ((Y, np.array([True])), TypeError, r"{}\[1\]: got dtype bool"),
    "int leaf": ([1.0, 2], TypeError, r"{}\[1\]: got 2 \(int\)"),
    "empty": (np.ones((0,)), ValueError, r"{}: got an empty array of shape \(0,\)"),
    "empty leaf": ({"a": Y, "b": jnp.ones((2, 0))}, ValueError, r"{}\['b'\]: got an empty array"),
    "no leaf": ({"a": []}, TypeError, "{}: got dict without any array"),
    "nothing": (None, TypeError, "{}: got NoneType without any array"),
    "function": (jnp.tanh, TypeError, "{}: got .* without any array"),
    "nan": (np.array([0.0, np.nan], np.float32), ValueError, "{}: contains NaN or infinity"),
    "nan scalar": (float("nan"), ValueError, "{}: contains NaN or infinity"),
    "infinite leaf": ({"a": jnp.array([jnp.inf])}, ValueError, r"{}\['a'\]: contains NaN or infinity"),
    "bfloat16 nan": (jnp.array([jnp.nan], jnp.bfloat16), ValueError, "{}: contains NaN"),
}


@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("name", list(STARTS))
def test_a_bad_start(name, where, compiled):
    value, error, message = STARTS[name]
    at = {where: value}
    message = "^" + message.format(where)
    fails(lambda: solve(**at), error, message, compiled)
    pair = {"x": 1.0, "y": Y} | at
    fails(lambda: bl.hypergradient(problem(), **pair, key=KEY), error, message, compiled)
    unrolled = lambda: bl.unrolled_hypergradient(problem(), **pair, steps=1, lower_step=0.1, key=KEY)  # noqa: E731
    fails(unrolled, error, message, compiled)


class ArrayLike:
    """An array of another library."""

    shape = (2,)

    def __array__(self, dtype=None, copy=None):
        return np.ones(2, np.float32)


OTHERS = {
    "array-like": (ArrayLike(), "got a .*ArrayLike, which would not be trained; pass numpy.asarray of it"),
    "Series": (pd.Series([1.0]), "got a pandas.Series, which would not be trained"),
    "masked": (np.ma.masked_array([1.0, 2.0], [True, False]), "got a masked array, whose mask would be lost"),
    "SciPy": (scipy.sparse.eye(2), "got a sparse matrix"),
    "BCOO": (BCOO.fromdense(jnp.eye(2)), r"got a sparse matrix \(BCOO\)"),
    "records": (np.zeros(2, [("a", float)]), "got an array of dtype"),
    "long double": (np.ones(2, np.longdouble), "got an array of dtype float128, which JAX does not have"),
    "key": (KEY, "got dtype key<fry>; pass floating-point arrays here, and what is not to be trained as data"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_leaf_beside_arrays_that_would_not_be_trained(name, compiled):
    value, message = OTHERS[name]
    fails(lambda: solve({"a": 1.0, "b": value}), TypeError, r"^x\['b'\]: " + message, compiled)


def test_a_start_with_keys_of_two_types(compiled):
    fails(lambda: solve({1: 1.0, "a": 1.0}), TypeError, "^x: got a dictionary whose keys cannot be sorted", compiled)


def test_a_big_endian_start():
    assert solve(np.ones(3, ">f4")).x.dtype == np.float32


class Net(eqx.Module):
    w: jax.Array
    parts: list


class Named(NamedTuple):
    w: jax.Array
    n: jax.Array


def test_arrays_of_a_module_that_are_no_parameters_are_set_aside():
    """Integers, booleans and keys, also in a list of a module, and of NumPy; in other trees they are refused."""
    y = Net(jnp.zeros(2), [jnp.array([1, 0]), np.array([True, False]), jax.random.key(3), jnp.ones(2)])

    def loss(x, y, _):
        order, mask, key, scale = y.parts
        return 0.5 * jnp.sum(jnp.where(mask, scale * y.w[order] - x, y.w[order]) ** 2) + 0 * jax.random.normal(key)

    case = bl.Problem(bl.Level(lambda x, y, _: jnp.sum((y.w - 1) ** 2)), bl.Level(loss))
    solution = bl.solve(case, bl.SOBA(0.1, 0.5, 0.5), 0.5, y, steps=50, key=KEY)
    assert abs(solution.y.w[0]) < 0.1 and abs(solution.y.w[1]) > 0.5  # in the order of the buffer
    assert solution.y.parts[0].dtype == np.int32 and solution.y.parts[1].dtype == bool
    with pytest.raises(TypeError, match=r"^y\.n: got dtype int32"):
        bl.solve(case, SOBA, 0.5, Named(jnp.zeros(2), jnp.arange(2)), steps=1, key=KEY)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_keys_of_every_generator(impl):
    key = jax.random.key(0, impl=impl)
    default = jax.config.jax_default_prng_impl
    jax.config.update("jax_default_prng_impl", impl)
    try:
        raw = jax.random.PRNGKey(0)
        assert solve(key=key).x == solve(key=raw).x
        with pytest.raises(TypeError, match=r"key: got an array of shape \(3,\)"):
            solve(key=jnp.zeros(3, jnp.uint32))
    finally:
        jax.config.update("jax_default_prng_impl", default)


@pytest.mark.parametrize("flag", ["False", "no", 0.5, 1, None, np.ones(())])
def test_per_row_is_true_or_false(flag, compiled):
    fails(lambda: problem(per_row=flag), TypeError, "per_row: got .*; pass True or False", compiled)
    assert problem(per_row=np.True_).lower.per_row is True


def test_a_batch_size_of_numpy_is_an_integer():
    assert type(problem(batch_size=np.int64(3)).lower.batch_size) is int


def test_a_per_row_variable_whose_flag_is_forgotten(compiled):
    """With a batch as long as the data the shapes fit, and weights meet the rows of others."""
    message = r"lower\.batch_size: it is the number of rows, 12, .* pass per_row=True"
    fails(lambda: solve(np.ones(12, np.float32), batch_size=12), ValueError, message, compiled)
    solve(np.ones(12, np.float32), batch_size=None)


def test_a_loss_may_change_the_dictionary_that_it_is_given():
    def pops(x, y, rows):
        y = y.pop("y")
        return jnp.mean(rows.pop("a")) * jnp.sum((y - x) ** 2)

    case = bl.Problem(bl.Level(lambda x, y, _: jnp.sum((y.pop("y") - 1) ** 2)), bl.Level(pops, {"a": ROWS}, 3))
    for solver in (SOBA, bl.ITDBiO(0.1, 0.1, 2)):
        bl.solve(case, solver, 1.0, {"y": Y}, steps=2, key=KEY)
    assert bl.hypergradient(case, 1.0, {"y": Y}, key=KEY).shape == ()


class Unhashable:
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __call__(self, x, y, rows):
        return 0.0


def test_a_loss_that_cannot_be_hashed(compiled):
    fails(lambda: bl.Level(Unhashable()), TypeError, "loss: Unhashable cannot be hashed; pass a plain", compiled)


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        (lambda x, y, _: float(jnp.sum(y)), jax.errors.ConcretizationTypeError),
        (lambda x, y, _: jnp.sum(np.sin(y)), jax.errors.TracerArrayConversionError),
        (lambda x, y, _: y.nothing, AttributeError),
    ],
)
def test_an_error_of_a_loss_says_of_which(loss, error, compiled):
    with pytest.raises(error, match=".") as info:
        solve(upper_loss=loss)
    assert "It arose in upper.loss" in "".join(info.value.__notes__)
    assert not compiled


FUNCTIONS = {
    "project": (lambda: problem(project=lambda: 1), "x -> x"),
    "start": (lambda: bl.Episodes(lambda key: 1, start=lambda: 1), "x -> y"),
    "redraw": (lambda: bl.Episodes(lambda: 1), "key -> bl.Problem"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_with_other_arguments(name, compiled):
    call, meant = FUNCTIONS[name]
    fails(call, TypeError, f"^{name}: it cannot be called as {meant}; too many", compiled)


def test_a_length_that_32_bits_do_not_hold(compiled):
    fails(
        lambda: bl.ITDBiO(0.1, 0.1, 10**400),
        ValueError,
        "inner_steps: got an integer of 1329 bits; .* at most",
        compiled,
    )
    fails(lambda: bl.StocBiO(0.1, 0.1, 2, 2**63, 0.1), ValueError, "neumann_order: got .* at most 2147483647", compiled)
    bl.Direct(max_bytes=4 * 10**9)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None])])
def test_a_start_of_text_or_objects(value, compiled):
    fails(lambda: solve(value), TypeError, "^x: got", compiled)


# keys

KEYS = {
    "missing": (None, ValueError, r"key: missing; pass key=jax.random.key\(0\)"),
    "seed": (0, TypeError, "key: got 0; pass a single key, such as"),
    "several": (jax.random.split(KEY), TypeError, r"key: got an array of shape \(2,\) and dtype key"),
    "floats": (jnp.ones(2), TypeError, r"key: got an array of shape \(2,\) and dtype float32"),
    "numpy": (np.zeros(2, np.uint32), TypeError, "key: got array"),
}


@pytest.mark.parametrize("name", list(KEYS))
def test_a_bad_key(name, compiled):
    key, error, message = KEYS[name]
    fails(lambda: solve(key=key), error, message, compiled)
    fails(lambda: bl.hypergradient(problem(), 1.0, Y, key=key), error, message, compiled)
    unrolled = lambda: bl.unrolled_hypergradient(problem(), 1.0, Y, steps=1, lower_step=0.1, key=key)  # noqa: E731
    fails(unrolled, error, message, compiled)


def test_a_key_is_asked_for_without_noise_too(compiled):
    fails(lambda: solve(key=None, data=None, batch_size=None, lower_loss=upper), ValueError, "key: missing", compiled)


def test_both_kinds_of_key_pass():
    from bilevel import _checks as checks

    checks.key("key", KEY)
    checks.key("key", jax.random.PRNGKey(0))


# steps, sizes, periods, weights: every setting of every solver

POSITIVE = [0, 0.0, -0.1, float("nan"), float("inf"), np.array(-1.0), jnp.asarray(0.0)]
COUNT = [0, -1, 2.5, True, "3"]
WEIGHT = [-0.1, 1.5, float("nan")]
GOOD = {
    bl.ITDBiO: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2},
    bl.AIDBiO: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2},
    bl.StocBiO: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2, "neumann_order": 2, "neumann_step": 0.1},
    bl.SUSTAIN: {
        "upper_step": 0.1,
        "lower_step": 0.1,
        "neumann_order": 2,
        "neumann_step": 0.1,
        "upper_storm_weight": 0.5,
        "lower_storm_weight": 0.5,
    },
    bl.FSLA: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1, "storm_weight": 0.5},
    bl.BOREP: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1},
    bl.SOBA: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1},
    bl.SABA: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1},
    bl.MASOBA: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1, "average_weight": 0.5},
    bl.BA: {"upper_step": 0.1, "lower_step": 0.1},
    bl.BSA: {"upper_step": 0.1, "lower_step": 0.1, "neumann_order": 2, "neumann_step": 0.1},
    bl.TTSA: {"upper_step": 0.1, "lower_step": 0.1, "neumann_order": 2, "neumann_step": 0.1},
    bl.ALSET: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2, "neumann_order": 2, "neumann_step": 0.1},
    bl.AmIGO: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1, "inner_steps": 2, "adjoint_steps": 2},
    bl.STABLE: {"upper_step": 0.1, "lower_step": 0.1, "storm_weight": 0.5, "strong_convexity": 0.1},
    bl.SVRB: {"upper_step": 0.1, "lower_step": 0.1, "storm_weight": 0.5, "strong_convexity": 0.1},
    bl.MRBO: {
        "upper_step": 0.1,
        "lower_step": 0.1,
        "neumann_order": 2,
        "neumann_step": 0.1,
        "upper_storm_weight": 0.5,
        "lower_storm_weight": 0.5,
    },
    bl.VRBO: {
        "upper_step": 0.1,
        "lower_step": 0.1,
        "inner_steps": 2,
        "neumann_order": 2,
        "neumann_step": 0.1,
        "period": 2,
    },
    bl.F2SA: {"upper_step": 0.1, "penalized_step": 0.1, "lower_step": 0.1, "multiplier": 2.0},
    bl.SRBA: {"upper_step": 0.1, "lower_step": 0.1, "adjoint_step": 0.1, "period": 2},
    bl.BOME: {"upper_step": 0.1, "penalized_step": 0.1, "lower_step": 0.1},
    bl.PZOBO: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2},
    bl.HOAG: {"upper_step": 0.1, "lower_step": 0.1, "strong_convexity": 0.1},
    bl.MAML: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2},
    bl.RecursiveMomentum: {"solver": bl.ITDBiO(0.1, 0.1, 2), "storm_weight": 0.5},
    bl.reverse: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2},
    bl.aid_fp: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2, "adjoint_steps": 2},
    bl.aid_cg: {"upper_step": 0.1, "lower_step": 0.1, "inner_steps": 2, "adjoint_steps": 2},
    bl.TTSA.from_paper: {
        "c_alpha": 1.0,
        "c_beta": 1.0,
        "k_alpha": 1.0,
        "k_beta": 1.0,
        "neumann_order": 2,
        "neumann_step": 0.1,
    },
    bl.MRBO.from_paper: {
        "delta": 0.1,
        "offset": 2.0,
        "c_upper": 1.0,
        "c_lower": 1.0,
        "c_1": 1.0,
        "c_2": 1.0,
        "neumann_order": 2,
        "neumann_step": 0.1,
    },
    bl.F2SA.from_paper: {"c_alpha": 0.1, "c_gamma": 0.5, "ratio": 1.0},
    bl.FSLA.from_paper: {"delta": 0.1, "c_tau": 1.0, "c_beta": 1.0, "c_eta": 1.0},
    bl.SUSTAIN.from_paper: {
        "offset": 2.0,
        "c_beta": 1.0,
        "c_upper": 1.0,
        "c_lower": 1.0,
        "neumann_order": 2,
        "neumann_step": 0.1,
    },
    bl.EpochSGD.from_constants: {
        "mu": 1.0,
        "L": 2.0,
        "sigma": 0.1,
        "initial_gap": 1.0,
        "accuracy": 0.25,
        "failure": 0.1,
    },
    bl.ConjugateGradient: {"steps": 2},
    bl.Neumann: {"order": 2, "step": 0.1},
    bl.RandomNeumann: {"order": 2, "step": 0.1},
    bl.FixedPoint: {"steps": 2, "step": 0.1},
    bl.Nystrom: {"rank": 2, "damping": 0.1},
    bl.FiniteDifference: {"step": 0.1},
    bl.neumann_batch_sizes: {"batch_size": 4, "order": 2, "step": 0.1, "strong_convexity": 1.0},
}
BAD = {
    **dict.fromkeys(("upper_step", "lower_step", "adjoint_step", "neumann_step", "step", "radius"), POSITIVE),
    **dict.fromkeys(("delta", "c_tau", "c_beta", "c_eta", "c_upper", "c_lower", "mu", "L"), POSITIVE),
    **dict.fromkeys(("initial_gap", "accuracy", "strong_convexity", "cross_bound"), POSITIVE),
    **dict.fromkeys(("penalized_step", "multiplier", "c_alpha", "c_gamma", "k_alpha", "k_beta", "ratio"), POSITIVE),
    **dict.fromkeys(("barrier", "smoothing"), POSITIVE),
    **dict.fromkeys(("gamma", "lambda_", "c_1", "c_2"), POSITIVE),
    **dict.fromkeys(("inner_steps", "update_period", "steps", "batch_size", "cross_batch_size"), COUNT),
    **dict.fromkeys(("adjoint_steps", "period", "period_batch_size", "directions"), COUNT),
    **dict.fromkeys(("upper_storm_weight", "lower_storm_weight", "storm_weight", "momentum", "tolerance"), WEIGHT),
    "average_weight": WEIGHT,
    "absolute_tolerance": [-0.1, float("nan")],
    "truncation": [0, 2.5, 3],  # of two steps
    "noise": ["lower"],
    "max_bytes": [0, -1, float("nan")],
    "neumann_order": COUNT,
    "order": COUNT,
    "rank": COUNT,
    "damping": POSITIVE,
    "hessian_batch_sizes": [0, (3,), (3, 0), (3, 2.5)],
    "batch_sizes": [0, (3,), (3, 0), (3, 2.5)],
    "adjoint": [None, "cg"],
    "preconditioner": [2, "jacobi"],
    "solver": [None, "itd", bl.SOBA(0.1, 0.1, 0.1)],
    "initial": [5, "plain"],
    "offset": [1.0, 0.0, -1.0],
    "sigma": [-0.1, float("nan")],
    "failure": [0.0, 1.5],
}
BAD_OF = {(bl.HOAG, "tolerance"): POSITIVE, (bl.F2SA.from_paper, "offset"): POSITIVE}
FREE = {"warm_start", "adjoint_warm_start", "full_pass", "indefinite", "common_samples", "keep_rules"}
ZERO_IS_FINE = {(make, "neumann_order") for make in (bl.StocBiO, bl.MRBO, bl.VRBO, bl.MRBO.from_paper)}
ZERO_IS_FINE |= {(bl.Neumann, "order")}


def settings_of(make):
    return [name for name in inspect.signature(make).parameters if name not in FREE]


def label(make):
    return getattr(make, "__qualname__", str(make))


CASES = [
    pytest.param(make, name, value, id=f"{label(make)}-{name}-{value}")
    for make in GOOD
    for name in settings_of(make)
    for value in BAD_OF.get((make, name), BAD.get(name, ()))
    if not ((make, name) in ZERO_IS_FINE and value == 0 and value is not False)
]


@pytest.mark.parametrize(("make", "name", "value"), CASES)
def test_a_bad_setting(make, name, value, compiled):
    fails(lambda: make(**(GOOD[make] | {name: value})), (ValueError, TypeError), rf"^{name}: .*", compiled)


def test_the_settings_above_are_good_but_for_the_bad_one():
    for make, settings in GOOD.items():
        make(**settings)
    assert set(GOOD) >= set(bl.SOLVERS.values())
    assert {name for make in GOOD for name in settings_of(make)} <= set(BAD)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bl.EpochSGD.plain(0, 0.1), "lengths: got 0"),
        (lambda: bl.EpochSGD.plain(2, -0.1), "rates: got"),
        (lambda: bl.EpochSGD((2, 3), [0.1]), r"rates: got shape \(1,\) for 2 epochs"),
        (lambda: bl.EpochSGD((2,), [0.1], radii=[0.0]), "radii: got"),
        (lambda: bl.EpochSGD((2,), [0.1], radii=[0.1, 0.2]), "radii: got shape"),
        (lambda: bl.FSLA.from_paper(2.0, 1.0, 1.0, 1.0), "c_eta: delta · c_eta is 2; it must be at most 1"),
        (lambda: bl.Target("loss"), "Target: pass one of at_least and at_most"),
        (lambda: bl.Target("loss", 1.0, 2.0), "Target: pass one of at_least and at_most"),
    ],
)
def test_bad_parts(call, message, compiled):
    fails(call, ValueError, message, compiled)


@pytest.mark.parametrize("name", ["steps", "every"])
@pytest.mark.parametrize("value", COUNT)
def test_bad_lengths_of_a_run(name, value, compiled):
    fails(lambda: solve(**{name: value}), (ValueError, TypeError), f"^{name}: got {value!r}", compiled)


@pytest.mark.parametrize(("name", "size"), [("hessian_batch_sizes", 50), ("cross_batch_size", 50)])
def test_adjoint_batches_larger_than_the_data_are_found_before_compiling(name, size, compiled):
    solver = bl.StocBiO(0.1, 0.1, 1, 2, 0.1, **{name: size})
    fails(lambda: solve(solver=solver), ValueError, f"{name}: got 50, but the data have 12 rows", compiled)


# names


def test_an_unknown_solver_gives_the_nearest_names():
    with pytest.raises(ValueError, match=re.escape("solver: 'sobaa' is unknown; did you mean soba or")):
        bl.get_solver("sobaa")
    with pytest.raises(ValueError, match=r"did you mean .*stocbio"):
        bl.get_solver("stocbo")
    with pytest.raises(ValueError, match="known are itd, aid, stocbio, sustain, fsla, borep, soba"):
        bl.get_solver("??")
    assert {name: bl.get_solver(name) for name in bl.SOLVERS} == bl.SOLVERS


@pytest.mark.parametrize("solver", ["soba", bl.SOBA, None])
def test_a_solver_that_is_none(solver, compiled):
    fails(lambda: solve(solver=solver), TypeError, r"solver: got .*; pass a solver such as bl.SOBA\(", compiled)


# arrays in a closure

LARGE = np.ones((600, 600), np.float32)


class Holds(eqx.Module):
    array: jax.Array

    def __call__(self, x, y, batch):
        return jnp.sum(self.array) * jnp.sum((y - x) ** 2)


@pytest.mark.parametrize("array", [LARGE, jnp.asarray(LARGE)], ids=["numpy", "jax"])
@pytest.mark.parametrize("where", ["upper", "lower"])
def test_a_large_array_in_a_closure_warns(array, where):
    def loss(x, y, batch):
        return jnp.sum(array) * jnp.sum((y - x) ** 2)

    levels = {"upper": bl.Level(upper), "lower": bl.Level(upper)} | {where: bl.Level(loss)}
    with pytest.warns(UserWarning, match=rf"{where}.loss closes over 1 MB of arrays, which are compiled") as caught:
        bl.hypergradient(bl.Problem(**levels), 1.0, Y)
    assert len(caught) == 1


def test_arrays_that_are_passed_do_not_warn():
    """Warnings are errors here."""
    held = Holds(jnp.asarray(LARGE))
    partial = jax.tree_util.Partial(lambda array, x, y, batch: Holds(array)(x, y, batch), jnp.asarray(LARGE))
    for loss in (held, partial, lambda x, y, batch: jnp.sum(jnp.asarray(LARGE[:9])) * jnp.sum((y - x) ** 2)):
        bl.hypergradient(bl.Problem(bl.Level(upper), bl.Level(loss)), 1.0, Y)
    data = bl.Level(lambda x, y, a: jnp.mean(a) * jnp.sum((y - x) ** 2), data=LARGE)
    bl.hypergradient(bl.Problem(bl.Level(upper), data), 1.0, Y)
