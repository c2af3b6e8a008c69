"""The computations of `LabelCleaner`: a start that models how labels are confused, then bilevel weights.

Rows are dictionaries: {"features"} or, sparse, {"columns", "values"}; "labels", 0, …, k − 1; and "keep", which is zero
for padding and (all rows)/(true rows) for true rows, so that a mean over all rows is one over the true rows. True rows
come first. What is learned does not depend on the number of padding rows, except by rounding.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from bilevel import _random, trees
from bilevel.sampling import Batch
from bilevel.sampling import Rows as Source
from bilevel.tasks.networks.linear import all_logits
from bilevel.tasks.networks.losses import MeanLoss

Model = PyTree[Array]
Rows = dict[str, Array]

PASSES = 300  # full gradients of a fit
# A step on y for rows of mean square 1 and a bias: the curvature of cross-entropies is at most ½ in the scores, thus 1
# in a linear model's weights. It also suits networks (a third of it and three times it were tried).
STEP = 1.0
_FIRST = 2.0  # the spread of a network's initial weights: tanh units start in their nonlinear range, without saturating
_CHUNK = 2000  # sparse rows at a time: their gathered weights take entries · classes numbers per row


def new_model(width: int, columns: int, classes: int, hidden: int | None, key: PRNGKeyArray) -> Model:
    """Multinomial logistic regression at zero, or a network of one hidden layer at a random start.

    The weights of the padding, from the column `columns` on, are zero.
    """
    inner = width if hidden is None else hidden
    last = {"weights": on_device(np.zeros((inner, classes))), "bias": on_device(np.zeros(classes))}
    if hidden is None:
        return last
    first = np.array(jax.random.normal(key, (width, hidden)))
    first[columns:] = 0.0
    return last | {"first": on_device(_FIRST * first), "first_bias": on_device(np.zeros(hidden))}


@jax.jit
def log_probabilities(y: Model, rows: Rows) -> Float[Array, "n k"]:
    """log p(class | features) of the model y."""
    if "first" in y:
        inner = jnp.tanh(all_logits(y["first"], rows, _CHUNK) + y["first_bias"][None, :])
        inner = inner / jnp.sqrt(len(y["first_bias"]))
        scores = inner @ y["weights"]
    else:
        scores = all_logits(y["weights"], rows, _CHUNK)
    return jax.nn.log_softmax(scores + y["bias"][None, :])


def _joint(y: Model, channel: Float[Array, "k k"], rows: Rows) -> Float[Array, "n k"]:
    """log p(true class, given label | features)."""
    return log_probabilities(y, rows) + channel.T[rows["labels"]]


def losses(y: Model, rows: Rows) -> Float[Array, " n"]:
    """The cross-entropy of each row, times its weight in `keep`."""
    scores = log_probabilities(y, rows)
    return rows["keep"] * optax.softmax_cross_entropy_with_integer_labels(scores, rows["labels"])


trusted_loss = MeanLoss(losses)


class TrueRows(Source):
    """Uniform draws of true rows, with replacement; all of them, in order, if a batch can hold them.

    Their number is an array, so that tables of many sizes share a program.
    """

    count: Int[Array, ""]

    def __init__(self, rows: Rows):
        super().__init__(rows)
        self.count = jax.device_put(np.int32(np.count_nonzero(rows["keep"])))

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, " size"]:
        drawn = _random.below(key, self.count, (size,), most=self.length)
        return jnp.where(self.count <= size, jnp.arange(size, dtype=drawn.dtype), drawn)

    def draw(self, key: PRNGKeyArray, size: int) -> Batch:
        """A batch in whose mean each draw has the weight 1/(number of draws of true rows)."""
        batch = super().draw(key, size)
        true = jnp.where(self.count <= size, size / self.count, 1.0)
        keep = jnp.where(batch.rows["keep"] > 0, true, 0.0).astype(batch.rows["keep"].dtype)
        return Batch(batch.rows | {"keep": keep}, batch.indices, size)


def on_device(value: Any) -> Array:
    """A number or array as float32 or int32. `jnp.asarray` would compile a program for each shape."""
    array = np.asarray(value)
    return jax.device_put(array.astype(np.int32 if array.dtype.kind == "i" else np.float32))


class Start(eqx.Module):
    """The loss for the start: of trusted rows and, through a channel, of doubtful ones, weighted by their shares."""

    trusted: Rows
    trusted_share: Float[Array, ""]
    doubtful: Rows | None
    channel: Float[Array, "k k"] | None
    penalty: Float[Array, ""]

    def __call__(self, y: Model) -> Float[Scalar, ""]:
        loss = trusted_loss(None, y, self.trusted)
        if self.doubtful is not None and self.channel is not None:
            given = -jax.nn.logsumexp(_joint(y, self.channel, self.doubtful), axis=1)
            loss = self.trusted_share * loss + (1 - self.trusted_share) * jnp.mean(self.doubtful["keep"] * given)
        return loss + self.penalty * trees.dot(y, y)


@jax.jit
def fit(loss: Start, y: Model) -> Model:
    """Nesterov's method, whose momentum restarts when it leads uphill (O'Donoghue & Candès, 2015)."""

    def body(_: Any, carry: Any) -> Any:
        y, ahead, momentum = carry
        gradient = jax.grad(loss)(ahead)
        new = trees.axpy(-STEP, gradient, ahead)
        move = trees.sub(new, y)
        momentum = jnp.where(trees.dot(gradient, move) > 0, 1.0, momentum)
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return new, trees.axpy((momentum - 1) / following, move, new), following

    return jax.lax.fori_loop(0, PASSES, body, (y, y, jnp.ones(())))[0]


@jax.jit
def log_odds(y: Model, channel: Float[Array, "k k"], rows: Rows) -> Float[Array, " n"]:
    """log P(right)/P(wrong) of each given label, given it and the features."""
    joint = _joint(y, channel, rows)
    given = jax.nn.one_hot(rows["labels"], joint.shape[1], dtype=bool)
    right = jnp.sum(jnp.where(given, joint, 0.0), axis=1)
    return right - jax.nn.logsumexp(jnp.where(given, -jnp.inf, joint), axis=1)


@functools.partial(jax.jit, static_argnames="count")
def first_rows(rows: Rows, count: int) -> Rows:
    """Only the first rows. Means with `keep` stay means over them."""
    part = {name: array[:count] for name, array in rows.items()}
    return part | {"keep": part["keep"] / jnp.mean(part["keep"])}


@jax.jit
def measure(x: Float[Array, " n"], y: Model, trusted: Rows, keep: Float[Array, " n"]) -> tuple[Array, Array]:
    """The upper loss, and the mean weight."""
    return trusted_loss(x, y, trusted), jnp.mean(keep * jax.nn.sigmoid(x))
