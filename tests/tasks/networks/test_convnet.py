"""The convolutional network against XLA's own convolution and pooling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bilevel.tasks.networks import ConvNet
from bilevel.tasks.networks.convnet import convolve, max_pool

KEY = jax.random.key(0)


def images(n=5, side=7, channels=2):
    return jax.random.normal(jax.random.key(1), (n, side, side, channels))


def by_channel(images):
    """(n, h, w, channels) as (channels, h, w, n), the order inside the network."""
    return jnp.transpose(images, (3, 1, 2, 0))


def published(model, images):
    """The same network by `lax.conv` and `lax.reduce_window`."""
    for block in model.blocks:
        images = lax.conv_general_dilated(
            images, block.kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if block.scale is not None:
            mean, variance = images.mean((0, 1, 2), keepdims=True), images.var((0, 1, 2), keepdims=True)
            images = (images - mean) / jnp.sqrt(variance + 1e-5) * block.scale.reshape(1, 1, 1, -1)
        images = jnp.maximum(images + block.shift.reshape(1, 1, 1, -1), 0)
        if images.shape[1] >= 2:
            images = lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return images.reshape(len(images), -1) @ model.head.weight.T + model.head.bias[None, :]


def perturbed(model, seed=2):
    """A point where no scale is one and no shift is zero."""
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def loss(model, images, *, of):
    return jnp.mean(jnp.sin(of(model, images)))


def close(a, b, tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("normalize", [True, False])
def test_values_and_both_derivatives_are_those_of_lax(x64, normalize):
    model = perturbed(ConvNet(2, 3, 5, layers=2, outputs=4, normalize=normalize, key=KEY))
    v, data = perturbed(model, seed=3), images(side=5)
    ours, theirs = (
        functools.partial(loss, images=data, of=of) for of in (lambda model, images: model(images), published)
    )
    close(jax.jit(jax.value_and_grad(ours))(model), jax.jit(jax.value_and_grad(theirs))(model), 1e-9)
    H, expected = (jax.jit(lambda m, f=f: jax.jvp(jax.grad(f), (m,), (v,))[1])(model) for f in (ours, theirs))
    close(H, expected, 1e-9)
    assert all(jnp.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(H))


def test_a_convolution_pads_by_zeros():
    kernel = jax.random.normal(KEY, (3, 3, 2, 4))
    expected = lax.conv_general_dilated(images(), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "CHWN"))
    np.testing.assert_allclose(convolve(by_channel(images()), kernel), expected, atol=1e-5)


def test_pooling_leaves_out_an_odd_last_row_and_column():
    data = images(side=5).at[:, 4].set(100.0).at[:, :, 4].set(100.0)
    by_hand = [[data[:, r : r + 2, c : c + 2].max((1, 2)) for c in (0, 2)] for r in (0, 2)]
    expected = jnp.stack([jnp.stack(row, 1) for row in by_hand], 1)
    np.testing.assert_array_equal(max_pool(by_channel(data)), by_channel(expected))


@pytest.mark.parametrize(("size", "layers", "width"), [(28, 4, 3), (14, 4, 3), (32, 4, 12), (14, 2, 27), (1, 1, 3)])
def test_width(size, layers, width):
    model = ConvNet(1, 3, size, layers=layers, key=KEY)
    assert model.width == width
    assert jax.eval_shape(model, jnp.zeros((2, size, size, 1))).shape == (2, width)


def test_parameters_may_be_batched():
    models = [ConvNet(2, 3, 7, layers=2, outputs=4, key=jax.random.key(seed)) for seed in range(3)]
    batched = jax.vmap(lambda model: model(images()))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *models))
    np.testing.assert_allclose(batched, jnp.stack([model(images()) for model in models]), atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"normalize": False}, {"outputs": 4}])
def test_each_group_of_images_is_a_batch_of_its_own(x64, settings):
    model = perturbed(ConvNet(2, 3, 5, layers=2, **settings, key=KEY))
    groups = jax.random.normal(KEY, (3, 4, 5, 5, 2)) * jnp.arange(1, 4).reshape(3, 1, 1, 1, 1)

    def alone(model, groups):
        return jnp.stack([model(images) for images in groups])

    close(model(groups), alone(model, groups), 1e-9)
    together, one_by_one = (
        jax.grad(functools.partial(loss, images=groups, of=of))(model) for of in (lambda m, images: m(images), alone)
    )
    close(together, one_by_one, 1e-9)


def test_every_leaf_is_a_floating_array():
    model = ConvNet(2, 3, 7, outputs=4, key=KEY)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(model))
    assert len(jax.tree.leaves(model)) == 4 * 3 + 2
    assert len(jax.tree.leaves(ConvNet(2, 3, 7, normalize=False, key=KEY))) == 4 * 2
    assert jax.tree.structure(model) == jax.tree.structure(ConvNet(2, 3, 7, outputs=4, key=jax.random.key(1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 0}, "filters: got 0"),
        ({"layers": 0}, "layers: got 0"),
        ({"size": 7.0}, "size: got 7.0"),
        ({"outputs": 0}, "outputs: got 0"),
        ({"normalize": 1}, "normalize: got 1"),
        ({"key": None}, "key: missing"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ConvNet(**{"channels": 1, "filters": 2, "size": 7, "key": KEY, **settings})


def test_images_of_another_shape():
    with pytest.raises(ValueError, match=r"images: got shape \(5, 7, 7, 2\); this network takes \(n, 8, 8, 2\)"):
        ConvNet(2, 3, 8, key=KEY)(images())
    for shape in ((8,), (8, 2), (8, 8, 2)):
        with pytest.raises(ValueError, match=r"images: got shape .* this network takes \(n, 8, 8, 2\)"):
            ConvNet(2, 3, 8, key=KEY)(jnp.ones(shape))
