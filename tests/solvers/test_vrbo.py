"""VRBO's directions on full batches."""

import jax
import jax.numpy as jnp
import numpy as np
from listings.problem import NumpyProblem
from solvers.recording import package_problem

import bilevel as bl


def test_d_and_s_leave_the_inner_loop_at_the_new_point(x64):
    """The first difference spans x_k → x_{k+1}: on full batches nothing of the old point remains."""
    problem = package_problem(NumpyProblem.random(0), per_row=False, sizes=None)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=4))
    solver = bl.VRBO(0.2, 0.3, inner_steps=3, neumann_order=2, neumann_step=0.4, period=5)
    solution = bl.solve(problem, solver, x, y, steps=4, key=jax.random.key(0))  # no new start after the first step
    state = solution.state
    h = bl.hypergradient(problem, state.x, state.y, method=bl.Neumann(2, 0.4))
    np.testing.assert_allclose(state.d, h, atol=1e-12)
    G_y = jax.grad(problem.lower.loss, argnums=1)(state.x, state.y, problem.lower.all_rows().rows)
    np.testing.assert_allclose(state.s, G_y, atol=1e-12)
    assert np.linalg.norm(state.x - x) > 0.05 and np.linalg.norm(state.y - y) > 0.05
