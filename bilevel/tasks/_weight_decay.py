"""Weight decay: one penalty for a whole recurrent network, learned from validation rows."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Scalar

from bilevel import _checks as checks
from bilevel import datasets, trees
from bilevel.datasets import words
from bilevel.problem import Level, Problem
from bilevel.sampling import Rows
from bilevel.tasks._base import (
    SOURCES,
    SPLITS,
    Task,
    by_group,
    class_of,
    described,
    generator,
    loaded,
    settings_of,
    text_network,
)
from bilevel.tasks.networks import TextRNN


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightDecayData:
    """The rows of a weight-decay task. Each part is {"tokens": (n, length), "labels": (n,)}.

    - `train`, `validation`: the lower and the upper level's rows. `test`: only the final metrics use these rows. For a
      task with `split="validation"` they are other rows that are not test rows, and the test rows are not kept.
    - `vocabulary`: the token of each word, from the training rows.
    """

    train: dict[str, Array]
    validation: dict[str, Array]
    test: dict[str, Array]
    vocabulary: Mapping[str, int]
    classes: int


class CrossEntropy(eqx.Module):
    """Mean cross-entropy of the network y, whose word vectors these are if they are frozen."""

    vectors: Float[Array, "vocabulary embedding"] | None = None

    def __call__(self, x: Any, y: TextRNN, batch: Any) -> Float[Scalar, ""]:
        return _mean_cross_entropy(y(batch["tokens"], self.vectors), batch["labels"])


def _mean_cross_entropy(logits: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Scalar, ""]:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


class DecayedLoss(CrossEntropy):
    """Mean cross-entropy, plus x/2 · ‖y‖² over all parameters of y."""

    def __call__(self, x: Float[Array, ""], y: TextRNN, batch: Any) -> Float[Scalar, ""]:
        return super().__call__(x, y, batch) + x / 2 * trees.dot(y, y)


def weight_decay(
    dataset: str | datasets.TextDataset = "made-up",
    validation: int = 500,
    *,
    seed: int = 0,
    train: int = 1000,
    test: int = 500,
    batch_size: int | None = 64,
    split: str = "test",
    source: str = "rows",
    nonnegative: bool = False,
    model_settings: Mapping[str, Any] | None = None,
) -> Task:
    """Weight decay: how strongly should the weights of a recurrent network for sentiment be penalized?

        upper:  f(x, y) = mean over validation rows of CE_i(y)
        lower:  g(x, y) = mean over training rows of CE_i(y) + x/2 · ‖y‖²

    y is a whole network, `bilevel.tasks.networks.TextRNN`, word vectors included unless they are frozen; x is one
    number that starts at zero.

    **g is not strongly convex in y**, whatever x is: the network's loss is not convex, and at x = 0 there is no
    penalty. The paper states no projection, so x may become negative; then g has no minimum at all, and a long run can
    end in NaN. `nonnegative` keeps x at zero or above. The methods' theorems do not apply here, and `diagnose` reports
    the negative curvature. An iterated adjoint grows along it, so its steps and those of x must be small.

    `seed` determines the rows and the start of y. Rows of one group (the sentences of one review) are in one part.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.TEXT_NAMES`, or a `bilevel.datasets.TextDataset` of your own.
    - `train`, `validation`, `test`: the numbers of rows.
    - `batch_size`: of both levels; `None`: full batches.
    - `split`: `"validation"` is for tuning. The test rows are dropped, and as many others take their place, in the
      metrics too: nothing then depends on a test row.
    - `source`: how batches are drawn: `"rows"` (`bl.Rows`), `"shuffled"`, `"blocks"` or `"shuffled blocks"`. Blocks
      need `train` and `validation` to be multiples of the batch size.
    - `nonnegative`: whether x is projected on x ≥ 0, which the paper does not do.
    - `model_settings`: of the network, as in `cleaning`. The paper's network has an `embedding` of 300, two layers of
      4096 units, and parameters that start in U(−1, 1): {"embedding": 300, "hidden": 4096, "uniform": 1.0}. Its y holds
      no word vectors: {"frozen": True}.

    **Returns** a `Task` with a `WeightDecayData` as its `data`. Metrics: `test accuracy`, the score; `test loss`, the
    mean cross-entropy of the test rows; `upper loss` on all validation rows; `lower loss` on all training rows.

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range;
    `DatasetError` if the data set is not available.

    Example:

        >>> from bilevel import tasks
        >>> task = tasks.weight_decay("made-up", train=100)
        >>> task.x.shape, task.y.vectors.shape
        ((), (1000, 24))

    On texts of your own:

        >>> import numpy as np
        >>> from bilevel import datasets
        >>> rows = np.arange(200, dtype=np.int32)
        >>> own = datasets.TextDataset(
        ...     texts=tuple("what a fine day" if row % 2 else "what a sad day" for row in rows),
        ...     labels=rows % 2, domains=0 * rows, domain_names=("days",), groups=rows, classes=2,
        ... )
        >>> tasks.weight_decay(own, validation=50, train=100, test=50, batch_size=25).data.vocabulary["fine"]
        6

    Reference: the hyperparameter experiment of Hao, Gong & Liu (ICLR 2024), Fig. 1b, on Amazon reviews, with 20,000
    training rows and 2,000 others.
    """
    class_of(dataset, datasets.TextDataset)
    checks.one_of("split", split, SPLITS)
    checks.one_of("source", source, SOURCES)
    checks.flag("nonnegative", nonnegative)
    for name, value in {"validation": validation, "train": train, "test": test}.items():
        checks.count(name, value)
    settings, rng = settings_of("rnn", model_settings), generator(seed)
    texts: datasets.TextDataset = loaded(dataset)
    sizes = {"test": test, "validation": validation, "train": train}
    held_back = {} if split == "test" else {"held back": test}
    parts = by_group(texts.groups, held_back | sizes, rng)
    training = [texts.texts[row] for row in parts["train"]]
    known = words.vocabulary(training, settings["vocabulary"])

    def take(name: str) -> dict[str, Array]:
        tokens = words.encode([texts.texts[row] for row in parts[name]], known, settings["length"])
        return {"tokens": jnp.asarray(tokens), "labels": jnp.asarray(texts.labels[parts[name]])}

    data = WeightDecayData(vocabulary=known, classes=texts.classes, **{name: take(name) for name in sizes})
    rows: type[Rows] = SOURCES[source]
    y, vectors = text_network(settings, known, training, texts.classes, rng)
    lower_loss = DecayedLoss(vectors)
    return Task(
        name="weight-decay",
        problem=Problem(
            upper=Level(CrossEntropy(vectors), data=rows(data.validation), batch_size=batch_size),
            lower=Level(lower_loss, data=rows(data.train), batch_size=batch_size),
            project=_positive_part if nonnegative else None,
        ),
        x=jnp.zeros(()),
        y=y,
        metrics=functools.partial(_metrics, data, lower_loss),
        score="test accuracy",
        dataset=described(texts),
        data=data,
    )


def _positive_part(x: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.maximum(x, 0.0)


@jax.jit
def _evaluate(
    lower_loss: DecayedLoss, x: Array, y: TextRNN, train: Any, validation: Any, test: Any
) -> tuple[Array, ...]:
    """A function of the module that takes the data as arguments, so that all seeds share one program."""
    logits = y(test["tokens"], lower_loss.vectors)
    return (
        jnp.mean(jnp.argmax(logits, axis=-1) == test["labels"]),
        _mean_cross_entropy(logits, test["labels"]),
        CrossEntropy(lower_loss.vectors)(x, y, validation),
        lower_loss(x, y, train),
    )


def _metrics(data: WeightDecayData, lower_loss: DecayedLoss, x: Array, y: TextRNN) -> dict[str, float]:
    found = _evaluate(lower_loss, x, y, data.train, data.validation, data.test)
    return dict(zip(("test accuracy", "test loss", "upper loss", "lower loss"), map(float, found), strict=True))
