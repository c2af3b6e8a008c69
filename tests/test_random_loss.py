"""Losses that want randomness: one key per batch, made from the run's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import oracles

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
DATA = {"features": RNG.normal(size=(40, 3)).astype(np.float32), "targets": RNG.normal(size=40).astype(np.float32)}
X, Y, V = (jnp.asarray(RNG.normal(size=n), jnp.float32) for n in (3, 3, 3))


def dropped(x, y, batch, key):
    kept = jax.random.bernoulli(key, 0.5, batch["features"].shape)
    fit = jnp.tanh((2 * kept * batch["features"]) @ (y + x**2))
    return jnp.mean((fit - batch["targets"]) ** 2) + jnp.sum(jnp.exp(0.1 * x) * y**2)


def plain(x, y, batch):
    return jnp.mean((batch["features"] @ y - batch["targets"]) ** 2)


def problem_of(source=bl.Rows, lower=dropped, **settings):
    return bl.Problem(bl.Level(plain, source(DATA), 4), bl.Level(lower, source(DATA), 4, random=True, **settings))


def test_all_that_is_computed_on_a_batch_is_of_one_function():
    level = problem_of().lower
    one, two = level.draw(KEY), level.draw(jax.random.key(1))

    def gradient(y, batch):
        return jax.grad(dropped, argnums=1)(X, y, batch.rows, batch.key)

    G_y, Hv, Jv = oracles.lower_products(level, X, Y, V, one)
    np.testing.assert_allclose(G_y, gradient(Y, one), rtol=1e-5)
    np.testing.assert_allclose(Hv, jax.jvp(lambda y: gradient(y, one), (Y,), (V,))[1], rtol=1e-5)
    product = jax.grad(lambda x: V @ jax.grad(dropped, argnums=1)(x, Y, one.rows, one.key))(X)
    np.testing.assert_allclose(Jv, product, rtol=1e-4)
    np.testing.assert_allclose(oracles.gradient_y(level, X, Y, one), G_y, rtol=1e-6)
    assert not np.allclose(G_y, oracles.gradient_y(level, X, Y, eqx.tree_at(lambda b: b.key, one, two.key)))


@pytest.mark.parametrize("source", [bl.Rows, bl.ShuffledBlocks])
def test_steps_have_keys_of_their_own_from_the_key_of_the_run(source):
    def noise(x, y, batch, key):  # G_y is the noise, whatever the rows
        return jnp.sum(y * jax.random.normal(key, y.shape)) + 0 * x.sum()

    problem, solver = problem_of(source, noise), bl.SOBA(upper_step=0.1, lower_step=1.0, adjoint_step=0.1)

    def path(seed, every):
        seen = []
        bl.solve(
            problem, solver, X, Y, steps=12, every=every, key=jax.random.key(seed), signs=False,
            callbacks=[lambda solution: seen.append(np.asarray(solution.y))],
        )  # fmt: skip
        return np.array(seen)

    one = path(0, 1)
    moves = np.diff(one, axis=0).ravel()
    assert len(np.unique(moves.round(5))) == len(moves) == 36
    assert abs(moves.mean()) < 0.6 and 0.5 < moves.std() < 1.6
    np.testing.assert_array_equal(path(0, 4), one[::4])
    assert not np.isin(np.diff(path(1, 1), axis=0).round(5), moves.round(5)).any()


def test_the_reverse_pass_sees_the_keys_of_the_steps():
    found = [
        bl.unrolled_hypergradient(problem_of(), X, Y, steps=7, lower_step=0.1, key=KEY, store=store)
        for store in ("iterates", "segments", "residuals")
    ]
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4)
    np.testing.assert_allclose(found[1], found[2], rtol=1e-4)


def test_each_part_of_a_batch_has_its_own_key(x64):
    def noise(x, y, batch, key):
        return jnp.mean(batch["targets"]) + y @ jax.random.normal(key, y.shape)

    level = bl.Level(bl.accumulated(noise, 4), DATA, 4, random=True)
    batch = level.draw(KEY)
    keys = jax.vmap(lambda j: jax.random.fold_in(batch.key, j))(jnp.arange(4))
    wanted = jnp.mean(jax.vmap(lambda key: jax.random.normal(key, Y.shape))(keys), axis=0)
    np.testing.assert_allclose(oracles.gradient_y(level, X, Y, batch), wanted, rtol=1e-6)


def test_measurements_have_one_key():
    problem = problem_of()
    first, second = (bl.measure_constants(problem, X, Y, key=KEY) for _ in range(2))
    assert first.L == second.L > 0 and first.sigma["G_y"] > 0
    bl.solve(problem, bl.SOBA(upper_step=0.01, lower_step=0.1, adjoint_step=0.1), X, Y, steps=300, key=KEY)  # signs


def test_what_reads_all_rows_is_refused_by_name():
    with pytest.raises(ValueError, match=r"random: a loss that wants a key has one per batch.* pass a batch_size"):
        bl.Level(dropped, DATA, random=True)
    with pytest.raises(TypeError, match=r"loss\(x, y, batch, key\) -> scalar"):
        bl.Level(plain, DATA, 4, random=True)
    with pytest.raises(TypeError, match=r"loss\(x, y, batch\) -> scalar"):
        bl.Level(dropped, DATA, 4)
    with pytest.raises(TypeError, match="random: got 1"):
        bl.Level(dropped, DATA, 4, random=1)
    steps = {"upper_step": 0.1, "lower_step": 0.1}
    for solver, source in (
        (bl.HOAG(**steps, strong_convexity=1.0), bl.Rows),
        (bl.SABA(**steps, adjoint_step=0.1), bl.Blocks),
        (bl.SRBA(**steps, adjoint_step=0.1, period=3), bl.Rows),
        (bl.VRBO(**steps, period=3, inner_steps=2, neumann_order=2, neumann_step=0.1), bl.Rows),
    ):
        with pytest.raises(ValueError, match="random: "):
            bl.solve(problem_of(source), solver, X, Y, steps=2, key=KEY)
