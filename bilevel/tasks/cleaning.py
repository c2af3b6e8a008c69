"""Hyper-cleaning: weights for training rows, learnt from a few rows whose labels can be trusted."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from bilevel import checks, datasets
from bilevel.problem import Level, Problem
from bilevel.tasks.base import SOURCES, Task, dividing, generator

MODELS = ("linear",)
SPLITS = ("test", "validation")


@dataclass(frozen=True, kw_only=True, eq=False)
class CleaningData:
    """The rows of a cleaning task, features in [0, 1].

    - `features`, `noisy_labels`: the training rows as a solver sees them; `true_labels`: what they were.
    - `trusted_features`, `trusted_labels`: the upper level's rows.
    - `test_features`, `test_labels`: only the final metric touches them. Of a task with `split="validation"`
      they are the validation rows, and the test rows are nowhere.
    """

    features: Float[Array, "train d"]
    noisy_labels: Int[Array, " train"]
    true_labels: Int[Array, " train"]
    trusted_features: Float[Array, "trusted d"]
    trusted_labels: Int[Array, " trusted"]
    test_features: Float[Array, "test d"]
    test_labels: Int[Array, " test"]
    classes: int

    @property
    def wrong(self) -> Bool[np.ndarray, " train"]:
        """Which training labels are not the true ones."""
        return np.asarray(self.noisy_labels != self.true_labels)


def logits(y: PyTree[Array], features: Float[Array, "n d"]) -> Float[Array, "n classes"]:
    """The linear model. A row of weights a class: on a CPU its gradient takes half the time of a column a class."""
    return features @ y["weights"].T + y["bias"][None, :]


def _cross_entropies(y: PyTree[Array], batch: Any) -> Float[Array, " n"]:
    return optax.softmax_cross_entropy_with_integer_labels(logits(y, batch["features"]), batch["labels"])


def trusted_loss(x: Any, y: PyTree[Array], batch: Any) -> Float[Scalar, ""]:
    """Mean cross-entropy."""
    return jnp.mean(_cross_entropies(y, batch))


class WeightedLoss(eqx.Module):
    """Mean of σ(x_i) · CE_i, plus `regularisation` · ‖y‖²; x holds the entries of the batch's rows."""

    regularisation: Float[Array, ""]

    def __call__(self, x: Float[Array, " n"], y: PyTree[Array], batch: Any) -> Float[Scalar, ""]:
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return jnp.mean(jax.nn.sigmoid(x) * _cross_entropies(y, batch)) + self.regularisation * penalty


def cleaning(
    dataset: str = "digits",
    corruption: float = 0.6,
    trusted: int = 100,
    model: str = "linear",
    *,
    seed: int = 0,
    test_fraction: float = 0.3,
    batch_size: int | None = 64,
    regularisation: float = 1e-3,
    train: int | None = None,
    split: str = "test",
    source: str = "rows",
) -> Task:
    """Hyper-cleaning: which of the training labels are wrong?

        upper:  f(x, y) = mean over trusted rows of CE_j(y)
        lower:  g(x, y) = mean over training rows of σ(x_i) · CE_i(y) + c ‖y‖²

    CE is the cross-entropy of the linear model y = {"weights": (classes, d), "bias": (classes,)}; x has one
    entry per training row (`per_row`). x and y start at zero, all weights at ½. ‖y‖² is over weights and
    bias, which makes g strongly convex with μ = 2c. Features are scaled to [0, 1] and nothing more.

    Rows are split at random into test, trusted and training rows. Then each training label is, with
    probability `corruption`, redrawn uniformly from all classes, by chance perhaps the same one. All of
    this is drawn once, from `seed`.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.NAMES`. `model`: `"linear"`.
    - `corruption`: a probability. `trusted`: the number of trusted rows.
    - `test_fraction`: the share of the rows that are kept for the test.
    - `batch_size`: of both levels, the upper one's at most `trusted`; `None`: full batches.
    - `regularisation`: c ≥ 0. `train`: use so many training rows; default all that remain.
    - `split`: `"validation"` is for tuning. The test rows are dropped, and the same share of the rest takes
      their place, in the metrics too: nothing then depends on a test row.
    - `source`: `"rows"` for independent draws, `"blocks"` for `bl.Blocks`: then the training rows beyond the
      largest multiple of the batch size are left out (no other row or label changes), and the upper level's
      batch size is the largest divisor of `trusted` that is at most `batch_size`.

    **Returns** a `Task` with a `CleaningData` as its `data`. Metrics: `test accuracy`, the score; `upper loss`
    on all trusted rows; `AUROC` of −x for finding the wrong labels (NaN where none is wrong, or all are).

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range.

    Example:
        >>> from bilevel import tasks
        >>> task = tasks.cleaning("digits", corruption=0.6, trusted=100)
        >>> task.x.shape, task.y["weights"].shape
        ((1158,), (10, 64))
        >>> round(task.metrics(task.x, task.y)["upper loss"], 3)  # ln 10: it knows nothing yet
        2.303

    Reference: the data hyper-cleaning experiment of Ji, Yang & Liang (ICML 2021), whose released code also
    regularises weights and bias; after Franceschi et al. (ICML 2017).
    """
    checks.one_of("dataset", dataset, datasets.NAMES)
    checks.one_of("model", model, MODELS)
    checks.one_of("split", split, SPLITS)
    checks.one_of("source", source, SOURCES)
    checks.fraction("corruption", corruption)
    checks.fraction("test_fraction", test_fraction)
    checks.count("trusted", trusted)
    for name, value in (("batch_size", batch_size), ("train", train)):
        if value is not None:
            checks.count(name, value)
    checks.nonnegative("regularisation", regularisation)
    rng = generator(seed)
    data = _draw(datasets.load(dataset), corruption, trusted, test_fraction, train, split, rng)
    rows, upper_size = SOURCES[source], None if batch_size is None else min(batch_size, trusted)
    if source == "blocks" and batch_size is not None:
        data, upper_size = _whole_batches(data, batch_size), dividing(batch_size, trusted)
    upper = Level(
        trusted_loss,
        data=rows({"features": data.trusted_features, "labels": data.trusted_labels}),
        batch_size=upper_size,
    )
    lower = Level(
        WeightedLoss(jnp.asarray(regularisation, jnp.float32)),
        data=rows({"features": data.features, "labels": data.noisy_labels}),
        batch_size=batch_size,
        per_row=True,
    )
    width, dtype = data.features.shape[1], data.features.dtype
    return Task(
        name="cleaning",
        problem=Problem(upper, lower),
        x=jnp.zeros(len(data.features), dtype),
        y={"weights": jnp.zeros((data.classes, width), dtype), "bias": jnp.zeros(data.classes, dtype)},
        metrics=functools.partial(_metrics, data),
        score="test accuracy",
        data=data,
    )


def _draw(
    dataset: datasets.Dataset,
    corruption: float,
    trusted: int,
    test_fraction: float,
    train: int | None,
    split: str,
    rng: np.random.Generator,
) -> CleaningData:
    order = rng.permutation(len(dataset.labels))
    test, rest = _cut(order, test_fraction)
    if split == "validation":
        test, rest = _cut(rest, test_fraction)
    available = len(rest) - trusted
    if available < 1:
        raise ValueError(f"trusted: got {trusted}, but only {len(rest)} rows are not test rows; leave some to train on")
    if train is not None and train > available:
        raise ValueError(f"train: got {train}, but {available} rows are neither test nor trusted; pass at most that")
    chosen, training = rest[:trusted], rest[trusted:][:train]

    true_labels = dataset.labels[training]
    redrawn = rng.random(len(training)) < corruption
    noisy_labels = np.where(redrawn, rng.integers(dataset.classes, size=len(training)), true_labels)
    return CleaningData(
        features=jnp.asarray(dataset.features[training]),
        noisy_labels=jnp.asarray(noisy_labels, jnp.int32),
        true_labels=jnp.asarray(true_labels),
        trusted_features=jnp.asarray(dataset.features[chosen]),
        trusted_labels=jnp.asarray(dataset.labels[chosen]),
        test_features=jnp.asarray(dataset.features[test]),
        test_labels=jnp.asarray(dataset.labels[test]),
        classes=dataset.classes,
    )


def _whole_batches(data: CleaningData, size: int) -> CleaningData:
    """Without the last few training rows where `size` does not divide their number."""
    kept = len(data.features) // size * size or None  # fewer rows than a batch: the level says so
    names = ("features", "noisy_labels", "true_labels")
    return dataclasses.replace(data, **{name: getattr(data, name)[:kept] for name in names})


def _cut(rows: Int[np.ndarray, " n"], share: float) -> tuple[np.ndarray, np.ndarray]:
    """The first `share` of the rows, and the others."""
    size = round(share * len(rows))
    if not 0 < size < len(rows):
        raise ValueError(f"test_fraction: got {share}, which makes {size} of {len(rows)} rows the test set")
    return rows[:size], rows[size:]


@jax.jit
def _evaluate(y: PyTree[Array], trusted: Any, test: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Test accuracy and upper loss. At module level, its data arguments: all seeds share one program."""
    guess = jnp.argmax(logits(y, test["features"]), axis=-1)
    return jnp.mean(guess == test["labels"]), trusted_loss(None, y, trusted)


def _metrics(data: CleaningData, x: Float[Array, " train"], y: PyTree[Array]) -> dict[str, float]:
    accuracy, loss = _evaluate(
        y,
        {"features": data.trusted_features, "labels": data.trusted_labels},
        {"features": data.test_features, "labels": data.test_labels},
    )
    return {"test accuracy": float(accuracy), "upper loss": float(loss), "AUROC": _auroc(data.wrong, -np.asarray(x))}


def _auroc(positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score)) if 0 < positive.sum() < len(positive) else math.nan
