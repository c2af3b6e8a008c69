"""JAX's debugging modes: strict promotion of dtypes, the leak checker, NaN checks, no compilation, and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

STEP = bl.inverse_power(0.5, 0.5, 4.0)
SOLVERS = {
    "soba": bl.SOBA(STEP, 0.5, 0.5),
    "ba": bl.BA(STEP, 0.5),
    "bsa": bl.BSA(STEP, bl.inverse_power(0.5, 0.1), 4, 0.5),
    "hoag": bl.HOAG(STEP, 0.5, strong_convexity=1.0),
    "sustain": bl.SUSTAIN(STEP, 0.5, 4, 0.5, 0.5, 0.7),
    "borep": bl.BOREP(STEP, 0.5, 0.5),
}
MODES = {
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "leaks": jax.checking_leaks,
    "nans": lambda: jax.debug_nans(True),
    "disable_jit": jax.disable_jit,
    "x64": lambda: jax.enable_x64(True),
}
KEY = jax.random.key(0)


def problem():
    data = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    upper = bl.Level(lambda x, y, _: 0.5 * jnp.sum((y - 1.0) ** 2))
    return bl.Problem(upper, bl.Level(lambda x, y, rows: 0.5 * jnp.mean(rows) * jnp.sum((y - x) ** 2), data, 4))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_runs_in_every_mode(name, mode):
    if mode != "strict" and name not in ("soba", "hoag"):
        pytest.skip("its schedules are what differs")
    x, y = np.float32(3.0), np.zeros(2, np.float32)
    plain = bl.solve(problem(), SOLVERS[name], x, y, steps=4, key=KEY).x
    with MODES[mode]():
        solution = bl.solve(problem(), SOLVERS[name], x, y, steps=4, key=KEY)
    np.testing.assert_allclose(solution.x, plain, rtol=1e-4)
    assert solution.x.dtype == np.float32


@pytest.mark.parametrize("call", ["sweep", "diagnose", "hypergradient"])
def test_no_tracer_leaks(call):
    calls = {
        "sweep": lambda: bl.sweep(lambda a: bl.SOBA(a, 0.5, 0.5), {"a": [0.1]}, problem(), 1.0, 1.0, steps=2, key=KEY),
        "diagnose": lambda: bl.diagnose(problem(), 1.0, np.ones(2, np.float32), key=KEY, draws=2),
        "hypergradient": lambda: bl.hypergradient(problem(), 1.0, np.ones(2, np.float32), key=KEY),
    }
    with jax.checking_leaks():
        calls[call]()
