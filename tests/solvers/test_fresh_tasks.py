"""Problems that redraw their tasks in each step: what starts anew, what goes on, and what it costs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from solvers.test_properties import Probe, make_solvers

import bilevel as bl

KEY = jax.random.key(5)
POOL = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
CURVATURE = np.array([1.0, 1.5, 2.0], np.float32)
X = np.array([0.3, -0.2], np.float32)  # no leaf of y, v, … has its shape
Y = np.array([5.0, 6.0, 7.0], np.float32)  # far from where a run begins


def spread(x):
    return jnp.stack([x[0], x[1], x[0] - x[1]])


def upper_loss(x, y, c):
    return 0.5 * jnp.sum((y - jnp.mean(c, axis=0)) ** 2) + 0.05 * jnp.sum(x**2)


def lower_loss(x, y, c):
    shift = jnp.mean(c, axis=0) + 0.5 * spread(x)
    quartic = 0.01 * jnp.mean(c[:, 0] ** 2) * jnp.sum(spread(x) * y**4)
    return 0.5 * jnp.sum(CURVATURE * (y - shift) ** 2) + quartic


class Tasks(eqx.Module):
    """Levels of 8 and 12 of the pool's rows."""

    pool: jax.Array
    size: int | None = eqx.field(static=True, default=None)
    source: type = eqx.field(static=True, default=bl.Rows)

    def __call__(self, key):
        rows = jax.random.choice(key, self.pool, (20,))
        upper, lower = (self.source(part) for part in (rows[:8], rows[8:]))
        return bl.Problem(bl.Level(upper_loss, upper, self.size), bl.Level(lower_loss, lower, self.size))


def start(x):
    return 0.1 * spread(x)


def make_problem(redraw=None, start=start):
    redraw = Tasks(jnp.asarray(POOL)) if redraw is None else redraw
    first = redraw(jax.random.key(99))
    return bl.Problem(first.upper, first.lower, start=start, redraw=redraw)


PROBLEM = make_problem()


def solvers():
    presets = ("reverse", "aid-fp", "aid-cg")
    return {name: solver for name, solver in make_solvers().items() if name not in presets} | {
        "soba adam": bl.SOBA(0.1, bl.Rule(optax.adam, 0.1), bl.Rule(optax.adam, 0.1)),
        "itd cold": bl.ITDBiO(0.1, 0.4, 2, warm_start=False),
        "sustain option 2": bl.SUSTAIN(0.05, 0.4, 4, 0.4, 0.5, 0.7, option=2),
    }


def identical(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(np.asarray(u), np.asarray(v)), a, b)


_advance = eqx.filter_jit(bl.advance)


def advance(solver, state, n, problem=PROBLEM):
    return _advance(solver, problem, state, KEY, jnp.int32(2), jnp.int32(n))


def some_state(solver):
    """A state in the midst of a run; its numbers do not matter."""
    begin = eqx.Partial(bl.begin, solver, PROBLEM, jnp.asarray(X), jnp.asarray(Y))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(begin, KEY))
    return scrambled(eqx.tree_at(lambda state: state.x, zeros, jnp.asarray(X)), lambda shape: True, seed=0)


def scrambled(state, chosen, seed=1):
    """The state with other numbers in the floating leaves of the chosen shapes, x apart."""
    leaves, structure = jax.tree.flatten(eqx.tree_at(lambda state: state.x, state, None))
    rng = np.random.default_rng(seed)
    changed = [
        jnp.asarray(rng.uniform(0.1, 1, size=leaf.shape), leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and chosen(leaf.shape)
        else leaf
        for leaf in leaves
    ]
    assert any(chosen(leaf.shape) for leaf in leaves)
    return eqx.tree_at(
        lambda s: s.x, jax.tree.unflatten(structure, changed), state.x, is_leaf=lambda leaf: leaf is None
    )


@pytest.mark.parametrize("name", solvers())
def test_what_belongs_to_tasks_starts_anew(name):
    """Whatever y, the adjoint, their momenta and step rules were, a step on fresh tasks gives the same."""
    solver = solvers()[name]
    state = some_state(solver)
    after = advance(solver, state, 1)
    other = scrambled(state, lambda shape: shape != X.shape)
    assert not np.array_equal(state.y, other.y)
    identical(advance(solver, other, 1), after)
    assert not np.array_equal(after.x, state.x)
    assert np.isfinite(after.x).all()


GO_ON = ("sustain", "sustain option 2", "fsla", "masoba", "mrbo", "borep")


@pytest.mark.parametrize("name", GO_ON)
def test_what_belongs_to_x_goes_on(name):
    solver = solvers()[name]
    state = some_state(solver)
    other = scrambled(state, lambda shape: shape == X.shape)
    assert not np.allclose(advance(solver, state, 2).x, advance(solver, other, 2).x, rtol=1e-4)


@pytest.mark.parametrize(("name", "direction"), [("sustain", "hg"), ("mrbo", "s"), ("svrb", "s"), ("vrbo", "s")])
def test_a_lower_recursion_begins_with_the_plain_gradient(name, direction):
    """On all rows, where the plain gradient is known: there is no past of fresh tasks to weigh it against."""
    state = some_state(solvers()[name])
    after = advance(solvers()[name], state, 1)
    tasks_key, *_ = jax.random.split(jax.random.fold_in(KEY, 2), 3)
    rows = PROBLEM.resample(tasks_key).lower.everything().rows
    at = (after.x, after.y) if name == "vrbo" else (state.x, start(state.x))  # VRBO's is where its loop ends
    np.testing.assert_allclose(getattr(after, direction), jax.grad(lower_loss, argnums=1)(*at, rows), rtol=1e-4)


def test_the_matrices_of_stable_begin_with_the_plain_ones():
    state = some_state(solvers()["stable"])
    after = advance(solvers()["stable"], state, 1)
    tasks_key, *_ = jax.random.split(jax.random.fold_in(KEY, 2), 3)
    rows = PROBLEM.resample(tasks_key).lower.everything().rows
    np.testing.assert_allclose(after.Hyy, jax.hessian(lower_loss, argnums=1)(state.x, start(state.x), rows), rtol=1e-4)


def counting_upper_loss(x, y, c):  # losses of this test's own, so that no program compiled without the probe is found
    return upper_loss(x, y, c) + 0.0


def counting_lower_loss(x, y, c):
    return lower_loss(x, y, c) + 0.0


class CountedTasks(Tasks):
    def __call__(self, key):
        rows = jax.random.choice(key, self.pool, (84,))
        upper, lower = self.source(rows[:36]), self.source(rows[36:])  # the probe knows the levels by their lengths
        return bl.Problem(
            bl.Level(counting_upper_loss, upper, self.size and 6), bl.Level(counting_lower_loss, lower, self.size)
        )


@pytest.mark.parametrize("name", ["saba", "fsla", "maml"])
def test_tally_with_fresh_tasks_is_what_a_probe_counts(name, monkeypatch):
    """What starting anew costs, such as SABA's pass, counts; FSLA's d_0 is only taken once."""
    solver = make_solvers()[name]
    problem = make_problem(CountedTasks(jnp.asarray(POOL), 8, bl.Blocks if name == "saba" else bl.Rows))
    probe = Probe(monkeypatch)
    solution = bl.solve(problem, solver, X, Y, steps=5, key=KEY)
    jax.block_until_ready(solution.state)
    assert {kind: solution.stats[kind] for kind in "FGHJ"} == probe.counts
    rows = {"saba": 5 * (36 + 6), "fsla": 6 + 5 * 18}
    assert solution.stats["F"] == rows.get(name, solution.stats["F"])
