"""The convolutional network of the experiments, in a form that is fast inside a scan."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from bilevel import _checks as checks

_EPSILON = 1e-5  # added to a variance


class ConvNet(eqx.Module):
    """Blocks of a 3×3 convolution, batch statistics, ReLU and 2×2 max pooling, then a linear layer.

    Each block maps s × s pixels to ⌊s/2⌋ × ⌊s/2⌋, without pooling if s is already 1. The network is twice
    differentiable (the second derivatives of ReLU and maxima are zero) and works under `jax.vmap` over its parameters.
    Convolutions are patches and a matrix product: inside a loop on a CPU, XLA's own are several times slower
    (`benchmarks/convolutions.py`). Inside the network images are (c, s, s, n), so that a patch, a maximum and a mean
    are made of whole rows of n numbers, however few the channels.

    With `normalize`, each channel is always normalized by its mean and variance over the batch. No running averages
    are kept, and an output depends on the other rows of its batch. The loss is then constant along each kernel's own
    direction, so it is not strongly convex in the parameters without a regularizer.

    Images of shape (groups, n, size, size, channels) are many batches at once, such as the tasks of a few-shot step:
    each group has its own statistics. `jax.vmap` over the groups gives the same and takes twice the time, as it copies
    every patch once more.

    **Arguments**

    - `channels`, `size`: of the images, (…, n, size, size, channels). `filters`: channels of each block's output.
    - `layers`: the number of blocks. `outputs`: of the linear layer; `None` leaves it out.
    - `normalize`: use batch statistics, with a trained scale and shift per channel; `False`: only a trained shift.
    - `key`: for the initial parameters, uniform in ± 1/√(inputs of a unit).

    Attributes: `width`, the number of features before the linear layer.

    **Raises** `ValueError` or `TypeError`, naming the argument, for counts below one and images of another shape.

    Example:

        >>> import jax, jax.numpy as jnp
        >>> from bilevel.tasks.networks import ConvNet
        >>> images = jnp.ones((5, 14, 14, 1))
        >>> ConvNet(1, 8, 14, outputs=10, key=jax.random.key(0))(images).shape
        (5, 10)
        >>> embedding = ConvNet(1, 8, 14, layers=2, key=jax.random.key(0))
        >>> embedding(images).shape, embedding.width
        ((5, 72), 72)

    Reference: the 4-layer network of few-shot learning (Vinyals et al., NeurIPS 2016), which Ji, Yang & Liang (ICML
    2021) and Li, Gu & Huang (AAAI 2022) use.
    """

    blocks: tuple["_Block", ...]
    head: eqx.nn.Linear | None
    channels: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        filters: int,
        size: int,
        *,
        layers: int = 4,
        outputs: int | None = None,
        normalize: bool = True,
        key: PRNGKeyArray,
    ):
        for name, value in (("channels", channels), ("filters", filters), ("size", size), ("layers", layers)):
            checks.count(name, value)
        checks.flag("normalize", normalize)
        head_key, *keys = jax.random.split(checks.key("key", key), layers + 1)
        inputs = [channels] + [filters] * (layers - 1)
        self.blocks = tuple(_Block(n, filters, normalize, key) for n, key in zip(inputs, keys, strict=True))
        side = max(size >> layers, 1)
        self.channels, self.size, self.width = channels, size, side * side * filters
        if outputs is not None:
            checks.count("outputs", outputs)
        self.head = None if outputs is None else eqx.nn.Linear(self.width, outputs, key=head_key)

    def __call__(self, images: Float[Array, "*groups n size size channels"]) -> Float[Array, "*groups n outputs"]:
        if images.ndim < 4 or images.shape[-3:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"images: got shape {images.shape}; this network takes (n, {self.size}, {self.size}, {self.channels})"
            )
        by_channel = jnp.moveaxis(images, (-1, -3, -2), (0, 1, 2))
        for block in self.blocks:
            by_channel = block(by_channel)
        features = jnp.moveaxis(by_channel, (0, 1, 2), (-1, -3, -2)).reshape(-1, self.width)
        outputs = features if self.head is None else jax.vmap(self.head)(features)
        return outputs.reshape(*images.shape[:-3], -1)


class _Block(eqx.Module):
    kernel: Float[Array, "3 3 channels filters"]
    scale: Float[Array, " filters"] | None
    shift: Float[Array, " filters"]

    def __init__(self, channels: int, filters: int, normalize: bool, key: PRNGKeyArray):
        bound = (9 * channels) ** -0.5
        self.kernel = jax.random.uniform(key, (3, 3, channels, filters), minval=-bound, maxval=bound)
        self.scale = jnp.ones(filters) if normalize else None
        self.shift = jnp.zeros(filters)

    def __call__(self, images: Float[Array, "channels s s *rows"]) -> Float[Array, "filters t t *rows"]:
        images = convolve(images, self.kernel)
        per_channel = (-1, *(1 for _ in images.shape[1:]))
        if self.scale is not None:
            mean = jnp.mean(images, axis=(1, 2, -1), keepdims=True)
            variance = jnp.mean((images - mean) ** 2, axis=(1, 2, -1), keepdims=True)
            images = (images - mean) * jax.lax.rsqrt(variance + _EPSILON) * self.scale.reshape(per_channel)
        images = jax.nn.relu(images + self.shift.reshape(per_channel))
        return max_pool(images) if images.shape[1] > 1 else images


def convolve(
    images: Float[Array, "channels h w *rows"], kernel: Float[Array, "3 3 channels filters"]
) -> Float[Array, "filters h w *rows"]:
    """A 3×3 convolution padded by one zero on each side: the kernel times nine shifted views as one matrix."""
    channels, h, w, *rows = images.shape
    # The barrier keeps the views from recomputing what made the images, nine times in each block of a network: with
    # four blocks XLA then compiles for ten minutes and more.
    padding = ((0, 0), (1, 1), (1, 1), *((0, 0) for _ in rows))
    padded = jnp.pad(jax.lax.optimization_barrier(images), padding)
    patches = jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)])
    product = kernel.reshape(9 * channels, -1).T @ patches.reshape(9 * channels, -1)
    return product.reshape(-1, h, w, *rows)


def max_pool(images: Float[Array, "channels h w *rows"]) -> Float[Array, "channels h//2 w//2 *rows"]:
    """The largest of each 2×2 pixels; the last row or column is left out if their number is odd."""
    channels, h, w, *rows = images.shape
    whole = images[:, : h // 2 * 2, : w // 2 * 2].reshape(channels, h // 2, 2, w // 2, 2, *rows)
    taller = _larger(whole[:, :, 0], whole[:, :, 1])
    return _larger(taller[:, :, :, 0], taller[:, :, :, 1])


def _larger(a: Array, b: Array) -> Array:
    """The larger of two; if they are equal, the first takes the whole gradient, as in XLA's own pooling.

    The gradient of `jnp.max` divides by the number of pixels that equal the maximum. If the compiler recomputes the
    maximum with a different rounding, no pixel equals it, and the gradient is NaN.
    """
    return jnp.where(a >= b, a, b)
