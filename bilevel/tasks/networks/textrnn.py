"""The recurrent network of the experiments on text."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from bilevel import _checks as checks


class TextRNN(eqx.Module):
    """Word vectors, a plain recurrent network of one or more layers, and a linear layer on its last state.

        h_t = tanh(A e_t + B h_{t-1} + b),  t = 1..length,  h_0 = 0

    In the first layer e_t is the vector of word t; in the others it is the state of the layer below. Token 0 is padding
    and does not change the states, so the last state is the one after the last word (h = 0 for a row of padding only).

    The word vectors are trained with the rest. Their gradient is dense, (vocabulary, embedding) at every step: keep
    the vocabulary small (a few thousand words). Or keep them out of the network, with `without_vectors`, and pass them
    to each call.

    **Arguments**

    - `vocabulary`: the number of tokens, padding included. `embedding`: the length of a word's vector.
    - `hidden`: the size of each layer's state, or a tuple with one size per layer. `layers`: their number.
      `outputs`: of the linear layer; `None` leaves it out.
    - `vectors`: (vocabulary, embedding), the initial word vectors (see `bilevel.datasets.words.read_vectors`).
    - `uniform`: a number u > 0; each initial parameter but the word vectors is then uniform in ± u. Default: in
      ± 1/√(inputs of a unit), and the layers' biases are zero.
    - `key`: for the initial parameters; word vectors are standard normal.

    **Raises** `ValueError` or `TypeError`, naming the argument, for counts below one, vectors of the wrong shape, and
    a call without any vectors.

    Example:

        >>> import jax, jax.numpy as jnp
        >>> from bilevel.tasks.networks import TextRNN
        >>> model = TextRNN(100, 8, 16, outputs=2, key=jax.random.key(0))
        >>> tokens = jnp.array([[5, 7, 0, 0], [3, 9, 2, 4]])
        >>> model(tokens).shape
        (2, 2)
        >>> bool(jnp.allclose(model(tokens)[0], model(tokens[:1, :2])[0], atol=1e-6))  # padding changes nothing
        True

    Reference: the 2-layer recurrent network of Hao, Gong & Liu (ICLR 2024), section 5.
    """

    vectors: Float[Array, "vocabulary embedding"] | None
    cells: tuple["_Cell", ...]
    head: eqx.nn.Linear | None

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        hidden: int | Sequence[int],
        *,
        layers: int = 2,
        outputs: int | None = None,
        vectors: Float[Array | np.ndarray, "_ _"] | None = None,
        uniform: float | None = None,
        key: PRNGKeyArray,
    ):
        for name, value in {"vocabulary": vocabulary, "embedding": embedding, "layers": layers}.items():
            checks.count(name, value)
        sizes = list(hidden) if isinstance(hidden, Sequence) else [hidden] * layers
        for size in sizes:
            checks.count("hidden", size)
        if len(sizes) != layers:
            raise ValueError(f"hidden: got {len(sizes)} sizes for {layers} layers; pass one per layer, or one for all")
        vectors_key, head_key, *keys = jax.random.split(checks.key("key", key), layers + 2)
        if vectors is None:
            vectors = jax.random.normal(vectors_key, (vocabulary, embedding))
        self.vectors = jnp.asarray(vectors)
        if self.vectors.shape != (vocabulary, embedding):
            raise ValueError(
                f"vectors: got shape {self.vectors.shape}; it must be (vocabulary, embedding) = "
                f"({vocabulary}, {embedding})"
            )
        inputs = [embedding, *sizes[:-1]]
        self.cells = tuple(_Cell(n, size, key) for n, size, key in zip(inputs, sizes, keys, strict=True))
        if outputs is not None:
            checks.count("outputs", outputs)
        self.head = None if outputs is None else eqx.nn.Linear(sizes[-1], outputs, key=head_key)
        if uniform is not None:
            checks.positive("uniform", uniform)
            rest, structure = jax.tree.flatten((self.cells, self.head))
            drawn = [
                jax.random.uniform(key, leaf.shape, leaf.dtype, -uniform, uniform)
                for key, leaf in zip(jax.random.split(head_key, len(rest)), rest, strict=True)
            ]
            self.cells, self.head = jax.tree.unflatten(structure, drawn)

    def without_vectors(self) -> "TextRNN":
        """The same network, which needs word vectors in each call."""
        return eqx.tree_at(lambda network: network.vectors, self, None)

    def __call__(
        self, tokens: Int[Array, "n length"], vectors: Float[Array, "vocabulary embedding"] | None = None
    ) -> Float[Array, "n outputs"]:
        """The outputs of each row, or its last state if there is no linear layer.

        `vectors`: word vectors to use instead of the network's own.
        """
        vectors = self.vectors if vectors is None else vectors
        if vectors is None:
            raise ValueError("vectors: got None, but the network has no word vectors of its own; pass them")
        words = tokens.T  # a scan needs the time axis first
        states = vectors[words]
        for cell in self.cells:
            states = cell(states, words != 0)
        return states[-1] if self.head is None else jax.vmap(self.head)(states[-1])


class _Cell(eqx.Module):
    forward: Float[Array, "inputs hidden"]
    recurrent: Float[Array, "hidden hidden"]
    bias: Float[Array, " hidden"]

    def __init__(self, inputs: int, hidden: int, key: PRNGKeyArray):
        keys, bound = jax.random.split(key), hidden**-0.5
        self.forward = jax.random.uniform(keys[0], (inputs, hidden), minval=-(inputs**-0.5), maxval=inputs**-0.5)
        self.recurrent = jax.random.uniform(keys[1], (hidden, hidden), minval=-bound, maxval=bound)
        self.bias = jnp.zeros(hidden)

    def __call__(
        self, inputs: Float[Array, "length n inputs"], valid: Bool[Array, "length n"]
    ) -> Float[Array, "length n hidden"]:
        """The states after each word. The part that depends only on the words is one product, outside the scan."""
        driven = inputs @ self.forward + self.bias[None, None, :]

        def advance(h: Array, at_t: tuple[Array, Array]) -> tuple[Array, Array]:
            driven, valid = at_t
            h = jnp.where(valid[:, None], jnp.tanh(driven + h @ self.recurrent), h)
            return h, h

        start = jnp.zeros(driven.shape[1:], driven.dtype)
        return jax.lax.scan(advance, start, (driven, valid))[1]
