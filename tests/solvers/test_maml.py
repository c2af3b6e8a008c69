"""MAML and ANIL against their transcription, on the tasks that the run drew."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from listings.maml import Features, Logistic, anil, maml, run

import bilevel as bl
from bilevel import _random

STEPS, TASKS, DIM, HEAD, MU = 5, 4, 4, 3, 0.1
KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
ROWS = {part: RNG.normal(size=(20, n, DIM)) for part, n in (("support", 6), ("query", 7))}
LABELS = {part: np.sign(a @ RNG.normal(size=DIM) + RNG.normal(size=a.shape[:2])) for part, a in ROWS.items()}
THETA = RNG.normal(size=HEAD)
W = RNG.normal(size=(HEAD, DIM))
ALPHA, D = 0.6, 4


def task_loss(features, labels, y):
    return jnp.mean(jax.nn.softplus(-labels * (features @ y))) + 0.5 * MU * y @ y


def each(x, y, batch):
    features, labels = batch
    if isinstance(x, tuple):
        features = jnp.tanh(jnp.einsum("tnd,hd->tnh", features, x[0]))
    return jax.vmap(task_loss)(features, labels, y)


def lower_loss(x, y, batch):
    return jnp.sum(each(x, y, batch))


def upper_loss(x, y, batch):
    return jnp.mean(each(x, y, batch))


def start(x):
    return jnp.stack([x[1] if isinstance(x, tuple) else x] * TASKS)


class Tasks(eqx.Module):
    arrays: dict

    def __call__(self, key):
        chosen = choose(key)
        support, query = (tuple(a[chosen] for a in self.arrays[part]) for part in ("support", "query"))
        return bl.Problem(bl.Level(upper_loss, query), bl.Level(lower_loss, support))


def choose(key):
    return jax.random.choice(key, 20, (TASKS,), replace=False)


def drawn_tasks():
    keys = [jax.random.split(_random.at(KEY, t), 3)[0] for t in range(STEPS)]
    return [np.asarray(choose(key)).tolist() for key in keys]


FORMS = {"maml": (Logistic, maml, np.append(THETA, 0.3)), "anil": (Features, anil, (W, THETA))}


@pytest.mark.parametrize("upper", ["plain", "adam"])
@pytest.mark.parametrize("form", FORMS)
def test_maml_is_its_listing(form, upper):
    loss, listing, x = FORMS[form]
    pairs = [tuple(loss(ROWS[part][i], LABELS[part][i], MU) for part in ("support", "query")) for i in range(20)]
    drawn = drawn_tasks()
    expected = run(
        listing(pairs, x, drawn, alpha=ALPHA, D=D), x, drawn, beta=lambda k: 0.5 / (k + 1) ** 0.5, upper=upper
    )
    rate = bl.inverse_power(0.5, 0.5)
    states = []
    with jax.enable_x64(True):
        redraw = Tasks({part: (jnp.asarray(ROWS[part]), jnp.asarray(LABELS[part])) for part in ROWS})
        problem = bl.Episodes(redraw, start)
        solver = bl.MAML(bl.Rule(optax.adam, rate) if upper == "adam" else rate, ALPHA, D)
        solution = bl.solve(problem, solver, x, steps=STEPS, every=1, key=KEY, callbacks=[lambda s: states.append(s)])
    for state, record in zip(states[1:], expected, strict=True):
        found, wanted = (jax.tree.leaves(pair) for pair in ((state.x, state.y), (record["x"], record["y"])))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    loop = STEPS * D * TASKS
    assert {kind: solution.stats[kind] for kind in "FGHJ"} == {"F": STEPS * TASKS, "G": loop, "H": loop, "J": loop}


def test_a_lower_rule_is_differentiated_through():
    """By Adam, whose moments depend on the start too: the direction is the derivative of the adapted loss."""
    with jax.enable_x64(True):
        arrays = [(jnp.asarray(ROWS[part][:TASKS]), jnp.asarray(LABELS[part][:TASKS])) for part in ("query", "support")]
        problem = bl.Problem(bl.Level(upper_loss, arrays[0]), bl.Level(lower_loss, arrays[1]))
        problem = bl.Episodes(lambda key: problem, start).draw(KEY)
        rule = bl.Rule(optax.adam, 0.1, eps_root=1e-8)
        solver, x = bl.MAML(1.0, rule, 3), (jnp.asarray(W), jnp.asarray(THETA))

        def adapted(x):
            y, optimizer = start(x), optax.adam(0.1, eps_root=1e-8)
            moments = optimizer.init(y)
            for _ in range(3):
                updates, moments = optimizer.update(jax.grad(lower_loss, argnums=1)(x, y, arrays[1]), moments)
                y = y + updates
            return upper_loss(x, y, arrays[0])

        state, _ = solver.init(problem, x, start(x), key=KEY)
        moved = jax.jit(lambda state: solver.step(problem, state, 0, key=KEY)[0].x)(state)
        expected = jax.jit(jax.grad(adapted))(x)
    for before, after, slope in zip(x, moved, expected, strict=True):
        np.testing.assert_allclose(before - after, slope, rtol=0, atol=1e-10)
