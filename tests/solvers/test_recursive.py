"""Recursive momentum around the double loops: against the transcription, and its cost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from listings.draws import Draws
from listings.problem import NumpyCleaning, NumpyProblem
from listings.recursive import bp, cg, ns, recursive
from solvers.recording import Log, package_problem
from solvers.test_properties import for_solver, make_problem, start

import bilevel as bl
from bilevel import _random
from bilevel.compare import settings

STEPS, UPPER, LOWER = 6, 12, 9
KEY = jax.random.key(3)
ALPHA, alpha = bl.inverse_power(0.3, 0.5), lambda t: 0.3 / np.sqrt(1 + t)
ETA, eta = bl.inverse_power(2.5, 2 / 3), lambda t: 2.5 * (1 + t) ** (-2 / 3)  # exceeds 1 until t = 2

CASES = {
    "bp": (lambda: bl.ITDBiO(ALPHA, 0.4, 5), bp(0.4, 5)),
    "cg": (lambda: bl.AIDBiO(ALPHA, 0.4, 4, bl.ConjugateGradient(steps=3)), cg(0.4, 4, 3)),
    "ns": (lambda: bl.StocBiO(ALPHA, 0.4, 3, neumann_order=4, neumann_step=0.3), ns(0.4, 3, 4, 0.3)),
}


@pytest.mark.parametrize("per_row", [False, True], ids=["dense x", "x per row"])
@pytest.mark.parametrize("name", CASES)
def test_recursive_momentum_is_its_listing(name, per_row):
    make, hypergradient = CASES[name]
    numpy_problem = NumpyProblem.random(0)
    numpy_problem = NumpyCleaning(numpy_problem) if per_row else numpy_problem
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=numpy_problem.n if per_row else numpy_problem.p), rng.normal(size=4)
    with jax.enable_x64(True):
        solver, log = bl.RecursiveMomentum(make(), ETA), Log()
        recording = package_problem(numpy_problem, per_row=per_row, sizes=(UPPER, LOWER), log=log)
        problem = package_problem(numpy_problem, per_row=per_row, sizes=(UPPER, LOWER))
        state, _ = solver.init(problem, jnp.asarray(x), jnp.asarray(y), key=KEY)
        step, states = jax.jit(lambda *args, key: solver.step(problem, *args, key=key)[0]), []
        log.begin()
        for t in range(STEPS):
            log.begin()
            key = _random.at(KEY, t)
            with jax.disable_jit():  # what the solver inside draws; where x is does not matter to it
                solver.solver.hypergradient(recording, state.inside, jnp.asarray(t), key=key)
            state = step(state, jnp.asarray(t), key=key)
            states.append(state)
        draws = Draws(log.draws())
        records = recursive(numpy_problem, x, y, draws, STEPS, beta=alpha, eta=eta, hypergradient=hypergradient)
    for state, record in zip(states, records, strict=True):
        for field in ("x", "y", "d", *(["v"] if name == "cg" else [])):
            np.testing.assert_allclose(getattr(state, field), record[field], rtol=0, atol=1e-10, err_msg=field)


INSIDE = {
    "itd": lambda rate: bl.ITDBiO(rate, 0.4, 3, truncation=2),
    "itd cold": lambda rate: bl.ITDBiO(rate, 0.4, 3, warm_start=False),
    "aid": lambda rate: bl.AIDBiO(rate, 0.4, lambda k: k + 1, bl.ConjugateGradient(3)),
    "stocbio": lambda rate: bl.StocBiO(bl.Rule(optax.adam, rate), 0.4, 2, 3, 0.5, cross_batch_size=5),
    "maml": lambda rate: bl.MAML(rate, 0.4, 2),
}


@pytest.mark.parametrize("name", INSIDE)
def test_weights_of_one_are_the_solver_inside_at_twice_the_cost(name):
    make = INSIDE[name]
    problem = for_solver(make(0.1), make_problem())
    plain = bl.solve(problem, make(0.1), *start(), steps=5, key=KEY)
    solver = bl.RecursiveMomentum(make(0.1), 1.0)
    run = bl.solve(problem, solver, *start(), steps=5, every=2, key=KEY)
    for a, b in zip(jax.tree.leaves((plain.x, plain.y)), jax.tree.leaves((run.x, run.y)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert {kind: run.stats[kind] for kind in "FGHJ"} == {kind: 2 * plain.stats[kind] for kind in "FGHJ"}
    other = bl.solve(problem, bl.RecursiveMomentum(make(0.1), 0.3), *start(), steps=5, key=KEY)
    assert not np.allclose(other.x["x"][0], run.x["x"][0], rtol=1e-4)


def test_momentum_takes_noise_out():
    """Of a fixed x's hypergradient, here that of a step of nearly zero: d's spread is that of a mean of the draws."""

    def spread(weight):
        solver = bl.RecursiveMomentum(bl.ITDBiO(1e-6, 0.5, 8), weight)
        problem = make_problem()

        def direction(key):
            x, y = jax.tree.map(jnp.asarray, start())
            state, _ = bl.initial_state(solver, problem, x, y, key)
            return bl.advance(solver, problem, state, key, 0, 30)[0].d["x"][0]

        return float(jnp.std(jax.jit(jax.vmap(direction))(jax.random.split(KEY, 200)), axis=0).mean())

    plain, averaged = spread(1.0), spread(0.1)
    assert averaged < 0.4 * plain  # √(η/(2 − η)) = 0.23


class Redrawn(eqx.Module):
    pool: jax.Array

    def __call__(self, key):
        drawn = jax.random.choice(key, self.pool, (4,))
        return bl.Problem(
            bl.Level(lambda x, y, c: jnp.mean((y - c) ** 2) + 0.1 * x**2, drawn),
            bl.Level(lambda x, y, c: 0.5 * (y - x * jnp.mean(c)) ** 2, drawn),
        )


def test_fresh_tasks():
    """d and the previous x go on; y starts anew, for both estimates."""
    redraw = Redrawn(jnp.linspace(1.0, 2.0, 10))
    problem = bl.Episodes(redraw, start=lambda x: jnp.zeros(()))
    solver = bl.RecursiveMomentum(bl.ITDBiO(0.1, 0.5, 2), 0.3)
    seen = []
    bl.solve(problem, solver, 1.0, steps=4, every=1, key=KEY, callbacks=[lambda s: seen.append(s.state)])
    x, x_old, d = 1.0, 1.0, 0.0
    for t, state in enumerate(seen[1:]):
        tasks_key, *_ = jax.random.split(_random.at(KEY, t), 3)
        c = np.asarray(redraw(tasks_key).upper.all_rows().rows)

        def h(x, c=c):  # y^2 = ¾ x mean(c), from 0
            return 2 * np.mean(0.75 * x * c.mean() - c) * 0.75 * c.mean() + 0.2 * x

        d = h(x) + (0.7 if t else 0.0) * (d - h(x_old))
        x, x_old = x - 0.1 * d, x
        np.testing.assert_allclose((state.d, state.x, state.x_old), (d, x, x_old), rtol=1e-5)
        np.testing.assert_allclose(state.y, 0.75 * x_old * c.mean(), rtol=1e-5)


@pytest.mark.parametrize("solver", [None, "itd", bl.SOBA(0.1, 0.1, 0.1), bl.ITDBiO])
def test_solvers_without_an_estimate_are_refused(solver):
    with pytest.raises(
        TypeError, match=r"(?s)^solver: got .*; pass e\.g\. one that estimates a hypergradient in each step"
    ):
        bl.RecursiveMomentum(solver, 0.5)


def test_the_solver_inside_may_fail_and_says_so():
    concave = bl.Problem(
        bl.Level(lambda x, y, _: jnp.sum((y - 1.0) ** 2)), bl.Level(lambda x, y, _: -0.5 * jnp.sum((y - x) ** 2))
    )
    solver = bl.RecursiveMomentum(bl.AIDBiO(0.1, 0.1, 1), 0.5)
    solution = bl.solve(concave, solver, 1.0, np.zeros(2, np.float32), steps=2, key=KEY, throw=False)
    assert solution.result == bl.RESULTS.not_convex


def test_description():
    described = settings.describe(bl.RecursiveMomentum(bl.ITDBiO(0.1, 0.4, 3), 0.5))
    assert described["solver"]["inner_steps"] == 3
    assert described["storm_weight"] == 0.5
