"""Regularisation: one penalty a feature, learnt from validation rows."""

import functools
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Scalar

from bilevel import checks, datasets
from bilevel.data import Rows
from bilevel.problem import Level, Problem
from bilevel.tasks.base import SOURCES, Task, generator
from bilevel.tasks.cleaning import SPLITS


@dataclass(frozen=True, kw_only=True, eq=False)
class RegularisationData:
    """The rows of a regularisation task: features in [0, 1] and a last column of ones.

    - `train`, `validation`: the lower and the upper level's rows, {"features", "labels"}.
    - `test`: only the final metric touches them. Of a task with `split="validation"` they are further rows that are
      not test rows, and the test rows are nowhere.
    """

    train: dict[str, Array]
    validation: dict[str, Array]
    test: dict[str, Array]
    classes: int


def cross_entropy(x: Any, y: Float[Array, "d classes"], batch: Any) -> Float[Scalar, ""]:
    """Mean cross-entropy of the linear model y."""
    logits = batch["features"] @ y
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]))


def penalised_loss(x: Float[Array, " d"], y: Float[Array, "d classes"], batch: Any) -> Float[Scalar, ""]:
    """Mean cross-entropy, plus the mean over j, c of exp(x_j) y_jc²."""
    return cross_entropy(x, y, batch) + jnp.mean(jnp.exp(x)[:, None] * y**2)


class Box(eqx.Module):
    """The projection onto |x_j| ≤ bound."""

    bound: Float[Array, ""]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.clip(x, -self.bound, self.bound)


def regularisation(
    dataset: str = "digits",
    validation: int = 200,
    *,
    seed: int = 0,
    train: int = 200,
    test_fraction: float = 0.3,
    batch_size: int | None = 50,
    split: str = "test",
    source: str = "rows",
    bound: float = 5.0,
) -> Task:
    """Regularisation: how strongly to penalise the weights of each feature?

        upper:  f(x, y) = mean over validation rows of CE_i(y)
        lower:  g(x, y) = mean over training rows of CE_i(y) + mean over j, c of exp(x_j) y_jc²

    CE is the cross-entropy of the linear model y of shape (d, classes), d the features and a constant one; x has one
    entry a feature and is kept in the box |x_j| ≤ `bound`. x and y start at zero. g is strongly convex in y, with
    μ = 2 min_j exp(x_j)/(d · classes) where the data say nothing.

    Rows are split at random, by `seed`, into test, validation and training rows.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.NAMES`. `validation`, `train`: the numbers of rows. Few training rows leave
      something to regularise.
    - `test_fraction`: the share of the rows that are kept for the test.
    - `batch_size`: of both levels; `None`: full batches.
    - `split`: `"validation"` is for tuning. The test rows are dropped, and the same share of the rest takes
      their place, in the metrics too: nothing then depends on a test row.
    - `bound`: of the box. Without it the noise of small batches drives x_j of a feature that hardly matters up, and the
      curvature of g, at most that of CE plus 2 exp(x_j)/(d · classes), with it.
    - `source`: `"rows"` for independent draws, `"blocks"` for `bl.Blocks`, which needs `train` and `validation` to be
      multiples of the batch size.

    **Returns** a `Task` with a `RegularisationData` as its `data`. Metrics: `test accuracy`, the score; `upper loss` on
    all validation rows; `lower loss` on all training rows.

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range.

    Example:
        >>> from bilevel import tasks
        >>> task = tasks.regularisation("digits", validation=300)
        >>> task.x.shape, task.y.shape
        ((65,), (65, 10))
        >>> round(task.metrics(task.x, task.y)["upper loss"], 3)  # ln 10: it knows nothing yet
        2.303

    Reference: the hyperparameter experiment of Ji, Yang & Liang (ICML 2021) on 20 Newsgroups, after Grazzi et al. (ICML
    2020), whose released code has this form of the penalty; here on dense data. The box is HOAG's (Pedregosa, ICML
    2016).
    """
    checks.one_of("dataset", dataset, datasets.NAMES)
    checks.one_of("split", split, SPLITS)
    checks.one_of("source", source, SOURCES)
    checks.fraction("test_fraction", test_fraction)
    for name, value in (("validation", validation), ("train", train), ("batch_size", batch_size)):
        if value is not None:
            checks.count(name, value)
    checks.positive("bound", bound)
    data = _draw(datasets.load(dataset), train, validation, test_fraction, split, generator(seed))
    rows: type[Rows] = SOURCES[source]
    width, dtype = data.train["features"].shape[1], data.train["features"].dtype
    return Task(
        name="regularisation",
        problem=Problem(
            upper=Level(cross_entropy, data=rows(data.validation), batch_size=batch_size),
            lower=Level(penalised_loss, data=rows(data.train), batch_size=batch_size),
            project=Box(jnp.asarray(bound, dtype)),
        ),
        x=jnp.zeros(width, dtype),
        y=jnp.zeros((width, data.classes), dtype),
        metrics=functools.partial(_metrics, data),
        score="test accuracy",
        data=data,
    )


def _draw(
    dataset: datasets.Dataset,
    train: int,
    validation: int,
    test_fraction: float,
    split: str,
    rng: np.random.Generator,
) -> RegularisationData:
    rest = rng.permutation(len(dataset.labels))
    for _ in range(2 if split == "validation" else 1):
        size = round(test_fraction * len(rest))
        if not 0 < size < len(rest):
            raise ValueError(f"test_fraction: got {test_fraction}, which makes {size} of {len(rest)} rows the test set")
        test, rest = rest[:size], rest[size:]
    if train + validation > len(rest):
        raise ValueError(
            f"train: got {train} with {validation} validation rows, but {len(rest)} rows are not test rows; "
            "pass fewer of either"
        )

    def take(chosen: Int[np.ndarray, " n"]) -> dict[str, Array]:
        features = dataset.features[chosen]
        ones = np.ones((len(chosen), 1), features.dtype)
        return {"features": jnp.asarray(np.hstack([features, ones])), "labels": jnp.asarray(dataset.labels[chosen])}

    return RegularisationData(
        validation=take(rest[:validation]),
        train=take(rest[validation : validation + train]),
        test=take(test),
        classes=dataset.classes,
    )


@jax.jit
def _evaluate(x: Array, y: Array, train: Any, validation: Any, test: Any) -> tuple[Array, Array, Array]:
    """At module level, its data arguments: all seeds share one program."""
    guess = jnp.argmax(test["features"] @ y, axis=-1)
    return jnp.mean(guess == test["labels"]), cross_entropy(x, y, validation), penalised_loss(x, y, train)


def _metrics(data: RegularisationData, x: Array, y: Array) -> dict[str, float]:
    found = _evaluate(x, y, data.train, data.validation, data.test)
    return dict(zip(("test accuracy", "upper loss", "lower loss"), map(float, found), strict=True))
