"""Regularization: one penalty per feature, learned from validation rows."""

import functools
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Scalar

from bilevel import _checks as checks
from bilevel import datasets
from bilevel.problem import Level, Problem
from bilevel.sampling import Rows
from bilevel.tasks._base import SOURCES, SPLITS, Search, Task, class_of, described, generator, loaded
from bilevel.tasks.networks.linear import ENTRIES, all_logits, logits, padded

_CHUNK = 500  # rows that a metric evaluates at once: their gathered weights take entries · classes numbers per row


@dataclass(frozen=True, kw_only=True, eq=False)
class RegularizationData:
    """The parts of a regularization task, dictionaries of arrays with one entry per row.

    - `train`, `validation`: the lower and the upper level's rows. For a dense set they are {"features", "labels"}, with
      the features in [0, 1] and a last column of ones. For a sparse set they are {"columns", "values", "labels"} as
      `padded` makes them, with one more column of ones.
    - `test`: only the final metrics use these rows. For a task with `split="validation"` they are other rows that are
      not test rows, and the test rows are not kept.
    - `dropped`: the share of the sum of |values| that the limit on a sparse row's entries left out.
    """

    train: dict[str, Array]
    validation: dict[str, Array]
    test: dict[str, Array]
    classes: int
    dropped: float = 0.0


def cross_entropy(x: Any, y: Float[Array, "d columns"], batch: Any) -> Float[Scalar, ""]:
    """Mean cross-entropy of the linear model y."""
    return _mean_cross_entropy(logits(y, batch), batch["labels"])


def _mean_cross_entropy(scores: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Scalar, ""]:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def penalty(x: Float[Array, " d"], y: Float[Array, "d columns"]) -> Float[Scalar, ""]:
    """The mean over j, c of exp(x_j) y_jc². As one contraction, its products take a third of the time on a CPU."""
    return jnp.einsum("j,jc,jc->", jnp.exp(x), y, y) / y.size


def penalized_loss(x: Float[Array, " d"], y: Float[Array, "d columns"], batch: Any) -> Float[Scalar, ""]:
    """Mean cross-entropy, plus the mean over j, c of exp(x_j) y_jc²."""
    return cross_entropy(x, y, batch) + penalty(x, y)


class Box(eqx.Module):
    """The projection onto |x_j| ≤ bound."""

    bound: Float[Array, ""]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.clip(x, -self.bound, self.bound)


def regularization(
    dataset: str | datasets.Dataset | datasets.SparseDataset = "digits",
    validation: int = 200,
    *,
    seed: int = 0,
    train: int = 200,
    test_fraction: float = 0.3,
    batch_size: int | None = 50,
    split: str = "test",
    source: str = "rows",
    bound: float | None = 5.0,
    entries: int = ENTRIES,
) -> Task:
    """Regularization: how strongly should the weights of each feature be penalized?

        upper:  f(x, y) = mean over validation rows of CE_i(y)
        lower:  g(x, y) = mean over training rows of CE_i(y) + mean over j, c of exp(x_j) y_jc²

    CE is the cross-entropy of the linear model y of shape (d, classes), where d counts the features and a constant one.
    With two classes, y has one column c, the logit of class 1 (logistic regression). x has one entry per feature and is
    kept in the box |x_j| ≤ `bound`. x and y start at zero. g is strongly convex in y, with μ at least
    2 min_j exp(x_j)/(d · classes), or 2 min_j exp(x_j)/d with two classes.

    Rows are drawn at random, by `seed`. For a dense set these are the test, validation and training rows. For a sparse
    set with published test rows the test rows are those, and the others are drawn from the published training rows.

    The rows of a sparse set are never made dense: a batch of b rows gathers the b · m rows of y that it names, where m
    is the length of the fullest row. With 130,107 features and 20 classes, y and each gradient in it take 10.4 MB.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.NAMES` or, with sparse rows, of `bilevel.datasets.SPARSE_NAMES`; or a
      `bilevel.datasets.Dataset` or `SparseDataset` of your own.
    - `validation`, `train`: the numbers of rows. Few training rows leave something to regularize.
    - `test_fraction`: the share of the rows that are kept for the test if no test rows are published.
    - `batch_size`: of both levels; `None`: full batches, which take rows · m · classes numbers for sparse rows.
    - `split`: `"validation"` is for tuning. The test rows are dropped, and the share `test_fraction` of the rest takes
      their place, in the metrics too: nothing then depends on a test row.
    - `bound`: of the box; `None`: no box. Without it, the noise of small batches drives up the x_j of a feature that
      hardly matters, and with it the curvature of g, which is at most that of CE plus 2 exp(x_j)/(d · classes).
    - `source`: how batches are drawn: `"rows"` (`bl.Rows`), `"shuffled"`, `"blocks"` or `"shuffled blocks"`. Blocks
      need `train` and `validation` to be multiples of the batch size.
    - `entries`: how many of the largest entries of a sparse row are kept; `data.dropped` says what was left out.

    **Returns** a `Task` with a `RegularizationData` as its `data`. Metrics: `test accuracy`, the score; `test loss`,
    the mean cross-entropy of the test rows; `upper loss` on all validation rows; `lower loss` on all training rows.

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range.

    Example:

        >>> from bilevel import tasks
        >>> task = tasks.regularization("digits", validation=300)
        >>> task.x.shape, task.y.shape
        ((65,), (65, 10))
        >>> round(task.metrics(task.x, task.y)["upper loss"], 3)  # ln 10: it knows nothing yet
        2.303

    Reference: the hyperparameter experiment of Ji, Yang & Liang (ICML 2021) on 20 Newsgroups, after Grazzi et al. (ICML
    2020), whose released code has this form of the penalty. The box is HOAG's (Pedregosa, ICML 2016).
    """
    is_sparse = class_of(dataset, datasets.Dataset, datasets.SparseDataset) is datasets.SparseDataset
    checks.one_of("split", split, SPLITS)
    checks.one_of("source", source, SOURCES)
    checks.fraction("test_fraction", test_fraction)
    for name, value in (("validation", validation), ("train", train), ("batch_size", batch_size), ("entries", entries)):
        if value is not None:
            checks.count(name, value)
    if bound is not None:
        checks.positive("bound", bound)
    given = loaded(dataset)
    published = is_sparse and given.train_rows < len(given.labels)
    parts = _draw(given, published, train, validation, test_fraction, split, generator(seed))
    data = _sparse_rows(given, parts, entries) if is_sparse else _dense_rows(given, parts)
    rows: type[Rows] = SOURCES[source]
    width, dtype = given.features.shape[1] + 1, jnp.float32
    return Task(
        name="regularization",
        problem=Problem(
            upper=Level(cross_entropy, data=rows(data.validation), batch_size=batch_size),
            lower=Level(penalized_loss, data=rows(data.train), batch_size=batch_size),
            project=None if bound is None else Box(jnp.asarray(bound, dtype)),
        ),
        x=jnp.zeros(width, dtype),
        y=jnp.zeros((width, 1 if data.classes == 2 else data.classes), dtype),
        metrics=functools.partial(_metrics, data),
        score="test accuracy",
        dataset=described(given),
        data=data,
        search=None if bound is None else _search(bound, width),
    )


def _search(bound: float, width: int) -> Search:
    """One penalty for all features."""
    return Search(low=(-bound,), high=(bound,), x=lambda one: jnp.full(width, one[0], jnp.float32))


def _draw(
    dataset: Any,
    published: bool,
    train: int,
    validation: int,
    test_fraction: float,
    split: str,
    rng: np.random.Generator,
) -> dict[str, Int[np.ndarray, " n"]]:
    """The indices of the test, validation and training rows; `published`: the data set has its own test rows."""
    n = len(dataset.labels)
    test, rest = np.arange(dataset.train_rows, n), rng.permutation(dataset.train_rows if published else n)
    for _ in range((not published) + (split == "validation")):
        size = round(test_fraction * len(rest))
        if not 0 < size < len(rest):
            raise ValueError(f"test_fraction: got {test_fraction}, which makes {size} of {len(rest)} rows the test set")
        test, rest = rest[:size], rest[size:]
    if train + validation > len(rest):
        raise ValueError(
            f"train: got {train} with {validation} validation rows, but {len(rest)} rows are not test rows; "
            "pass fewer of either"
        )
    return {"test": test, "validation": rest[:validation], "train": rest[validation : validation + train]}


def _dense_rows(dataset: datasets.Dataset, parts: dict[str, np.ndarray]) -> RegularizationData:
    def take(chosen: Int[np.ndarray, " n"]) -> dict[str, Array]:
        features = dataset.features[chosen]
        ones = np.ones((len(chosen), 1), features.dtype)
        return {"features": jnp.asarray(np.hstack([features, ones])), "labels": jnp.asarray(dataset.labels[chosen])}

    taken: Any = {name: take(rows) for name, rows in parts.items()}
    return RegularizationData(classes=dataset.classes, **taken)


def _sparse_rows(dataset: datasets.SparseDataset, parts: dict[str, np.ndarray], entries: int) -> RegularizationData:
    """All parts have the same padding, so that seeds share their programs."""
    features: Any = dataset.features  # SciPy's types say that a shape may be None
    columns, values, dropped = padded(features, entries)
    columns = np.pad(columns, ((0, 0), (0, 1)), constant_values=features.shape[1])
    values = np.pad(values, ((0, 0), (0, 1)), constant_values=1)
    arrays = {"columns": columns, "values": values, "labels": dataset.labels}

    def take(chosen: Int[np.ndarray, " n"]) -> dict[str, Array]:
        return {name: jnp.asarray(array[chosen]) for name, array in arrays.items()}

    taken: Any = {name: take(rows) for name, rows in parts.items()}
    return RegularizationData(classes=dataset.classes, dropped=dropped, **taken)


@jax.jit
def _evaluate(x: Array, y: Array, train: Any, validation: Any, test: Any) -> tuple[Array, ...]:
    """A function of the module that takes the data as arguments, so that all seeds share one program."""
    scores = all_logits(y, test, _CHUNK)
    return (
        jnp.mean(jnp.argmax(scores, axis=-1) == test["labels"]),
        _mean_cross_entropy(scores, test["labels"]),
        _mean_cross_entropy(all_logits(y, validation, _CHUNK), validation["labels"]),
        _mean_cross_entropy(all_logits(y, train, _CHUNK), train["labels"]) + penalty(x, y),
    )


def _metrics(data: RegularizationData, x: Array, y: Array) -> dict[str, float]:
    found = _evaluate(x, y, data.train, data.validation, data.test)
    return dict(zip(("test accuracy", "test loss", "upper loss", "lower loss"), map(float, found), strict=True))
