"""The recurrent network against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.tasks.networks import TextRNN

KEY = jax.random.key(0)
TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 0, 0], [0, 0, 0, 0, 0], [7, 0, 0, 0, 0]])


def network(layers=2, outputs=3, seed=0, **more):
    return TextRNN(8, 4, 5, layers=layers, outputs=outputs, key=jax.random.key(seed), **more)


def by_hand(model, tokens):
    """Word by word, and no further than the last one."""
    rows = []
    for row in tokens:
        states = [np.asarray(model.vectors)[token] for token in row if token]
        h = np.zeros(5)
        for cell in model.cells:
            forward, recurrent, bias = (np.asarray(leaf) for leaf in (cell.forward, cell.recurrent, cell.bias))
            h, below, states = np.zeros(5), states, []
            for e in below:
                h = np.tanh(e @ forward + h @ recurrent + bias)
                states.append(h)
        rows.append(h)
    return np.array(rows)


def biased(model):
    """A start has no bias; a mistake there would not show."""
    return jax.tree.map(lambda leaf: leaf + 0.3, model)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_states_are_those_of_a_loop(layers):
    model = biased(network(layers, outputs=None))
    expected = by_hand(model, TOKENS)
    np.testing.assert_allclose(model(jnp.asarray(TOKENS)), expected, atol=1e-5)
    with_head = biased(network(layers))
    weight, bias = np.asarray(with_head.head.weight), np.asarray(with_head.head.bias)
    np.testing.assert_allclose(with_head(jnp.asarray(TOKENS)), expected @ weight.T + bias, atol=1e-5)


def test_padding_changes_nothing():
    model = biased(network())
    longer = np.pad(TOKENS, ((0, 0), (0, 4)))
    np.testing.assert_allclose(model(jnp.asarray(longer)), model(jnp.asarray(TOKENS)), atol=1e-6)
    np.testing.assert_array_equal(network(outputs=None)(jnp.asarray(TOKENS))[2], np.zeros(5))


def test_vectors_of_words_that_are_there_have_a_gradient():
    gradient = jax.grad(lambda model: jnp.sum(model(jnp.asarray(TOKENS[1:]))))(network()).vectors
    np.testing.assert_array_equal(np.flatnonzero(np.abs(gradient).sum(1)), [2, 5, 6, 7])


def test_hessian_products_are_differences_of_gradients(x64):
    model, v = biased(network()), network(seed=1)
    gradient = jax.grad(lambda model: jnp.mean(jnp.sin(model(jnp.asarray(TOKENS)))))
    H = jax.jvp(gradient, (model,), (v,))[1]
    ahead, behind = (gradient(jax.tree.map(lambda a, b, s=s: a + s * b, model, v)) for s in (1e-5, -1e-5))
    difference = jax.tree.map(lambda a, b: (a - b) / 2e-5, ahead, behind)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), H, difference)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(H)) > 1e-2


def test_parameters_may_be_batched():
    models = [network(seed=seed) for seed in range(3)]
    batched = jax.vmap(lambda model: model(jnp.asarray(TOKENS)))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    )
    np.testing.assert_allclose(batched, jnp.stack([model(jnp.asarray(TOKENS)) for model in models]), atol=1e-5)


def test_every_leaf_is_a_floating_array():
    leaves, structure = jax.tree.flatten(network())
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    assert len(leaves) == 1 + 2 * 3 + 2
    assert structure == jax.tree.structure(network(seed=1))


def test_given_vectors():
    vectors = np.arange(32, dtype=np.float32).reshape(8, 4)
    np.testing.assert_array_equal(network(vectors=vectors).vectors, vectors)


def test_vectors_may_stay_outside():
    whole = network()
    outside = whole.without_vectors()
    np.testing.assert_array_equal(outside(jnp.asarray(TOKENS), whole.vectors), whole(jnp.asarray(TOKENS)))
    assert len(jax.tree.leaves(outside)) == len(jax.tree.leaves(whole)) - 1
    with pytest.raises(ValueError, match="vectors: got None"):
        outside(jnp.asarray(TOKENS))


def test_layers_of_their_own_sizes():
    model = TextRNN(8, 4, (5, 3), outputs=2, key=KEY)
    assert [cell.forward.shape for cell in model.cells] == [(4, 5), (5, 3)]
    assert model.head.weight.shape == (2, 3) and model(jnp.asarray(TOKENS)).shape == (len(TOKENS), 2)


def test_a_uniform_start():
    leaves = jax.tree.leaves(TextRNN(8, 40, (50, 30), outputs=20, uniform=0.5, key=KEY).without_vectors())
    assert all(0.4 < jnp.abs(leaf).max() <= 0.5 for leaf in leaves)
    assert len({float(leaf.ravel()[0]) for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 0}, "vocabulary: got 0"),
        ({"hidden": (5, 0)}, "hidden: got 0"),
        ({"hidden": (5, 4, 3)}, "hidden: got 3 sizes for 2 layers"),
        ({"uniform": 0.0}, "uniform: got 0.0"),
        ({"hidden": 5.0}, "hidden: got 5.0"),
        ({"layers": 0}, "layers: got 0"),
        ({"outputs": 0}, "outputs: got 0"),
        ({"vectors": np.ones((8, 5))}, r"vectors: got shape \(8, 5\); it must be \(vocabulary, embedding\) = \(8, 4\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TextRNN(**{"vocabulary": 8, "embedding": 4, "hidden": 5, "key": KEY, **settings})
