"""Hyper-cleaning: weights for training rows, learned from a few rows whose labels can be trusted."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from bilevel import _checks as checks
from bilevel import datasets
from bilevel.problem import Level, Problem
from bilevel.sampling import Blocks
from bilevel.tasks._base import (
    MODELS,
    SOURCES,
    SPLITS,
    Task,
    class_of,
    described,
    dividing,
    generator,
    loaded,
    settings_of,
    text_network,
)
from bilevel.tasks._cleaning_rows import NOISES, CleaningData, Sizes, draw, whole_batches
from bilevel.tasks.networks import ConvNet, TextRNN
from bilevel.tasks.networks.losses import MeanLoss, WeightedLoss

_MEASURED_ROWS = 5000  # training rows in the metric `lower loss`
_CHUNK = 250  # rows that a metric evaluates at once: a convolutional network needs much memory for them


class CrossEntropies(eqx.Module):
    """The cross-entropy of each row. `vectors`: the frozen word vectors of a recurrent network, if it has some."""

    vectors: Float[Array, "vocabulary embedding"] | None = None

    def logits(self, y: PyTree[Array], features: Shaped[Array, "n d"]) -> Float[Array, "n classes"]:
        """The model y. The linear one has one row of weights per class: on a CPU, its gradient takes half the time that
        it takes with one column per class."""
        if isinstance(y, ConvNet):
            return y(features.reshape(len(features), y.size, y.size, y.channels))
        if isinstance(y, TextRNN):
            return y(features, self.vectors)
        return features @ y["weights"].T + y["bias"][None, :]

    def __call__(self, y: PyTree[Array], batch: Any) -> Float[Array, " n"]:
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(y, batch["features"]), batch["labels"])


def cleaning(
    dataset: str | datasets.Dataset | datasets.TextDataset = "digits",
    corruption: float = 0.6,
    trusted: int = 100,
    model: str = "linear",
    *,
    seed: int = 0,
    test_fraction: float = 0.3,
    batch_size: int | None = 64,
    regularization: float = 1e-3,
    train: int | None = None,
    split: str = "test",
    source: str = "rows",
    noise: str = "redrawn",
    test: int | None = None,
    start_weight: float = 0.0,
    standardize: bool = False,
    model_settings: Mapping[str, Any] | None = None,
) -> Task:
    """Hyper-cleaning: which of the training labels are wrong?

        upper:  f(x, y) = mean over trusted rows of CE_j(y)
        lower:  g(x, y) = mean over training rows of σ(x_i) · CE_i(y) + c ‖y‖²

    CE is the cross-entropy of a model with parameters y, x has one entry per training row (`per_row`), and ‖y‖² is over
    all parameters. Pixels are scaled to [0, 1]. The choices of `model` are:

    - `"linear"`, for images: y = {"weights": (classes, d), "bias": (classes,)} starts at zero. g is strongly convex,
      with μ = 2c.
    - `"cnn"`, for images: y is a whole `bilevel.tasks.networks.ConvNet`. `"rnn"`, for texts: y is a whole
      `bilevel.tasks.networks.TextRNN`, word vectors included unless they are frozen.
      **g is then not strongly convex in y**, as in the papers that use these networks: c = 0 leaves flat directions and
      negative curvature, and a small c leaves negative curvature. The theorems about this package's methods do not
      apply. `bl.diagnose` reports "not strongly convex", with what it measured. y starts at a random initialization of
      the network, drawn from `seed`. A convolutional network that normalizes uses the statistics of the batch it is
      given; in the metrics, a batch has up to 250 rows.

    Rows are split at random into test, trusted and training rows; rows of one group of texts stay in one part. Each
    training label is then corrupted with probability `corruption`. All of this is drawn once, from `seed`.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.NAMES` or, for `"rnn"`, of `bilevel.datasets.TEXT_NAMES`; or a
      `bilevel.datasets.Dataset` or `TextDataset` of your own. The features of a `Dataset` need to be images only for
      `"cnn"`.
    - `corruption`: a probability. `noise`: with `"redrawn"`, a label is drawn from all classes and may stay the same;
      with `"flipped"`, it is drawn from the other classes.
    - `trusted`: the number of trusted rows. `train`: the number of training rows; default all that remain.
    - `test_fraction`: the share of the rows that are kept for the test. `test`: the number of them to measure on;
      default all.
    - `batch_size`: for both levels, but at most `trusted` for the upper one; `None`: full batches.
    - `regularization`: c ≥ 0. `start_weight`: the start of each x_i; the default, zero, gives all rows the weight ½.
    - `standardize`: subtracts from each feature its mean over the training rows, and divides it by its deviation
      there, unless it is constant.
    - `split`: `"validation"` is for tuning. The test rows are dropped, and the same share of the rest takes
      their place, in the metrics too: nothing then depends on a test row.
    - `source`: how batches are drawn: `"rows"` (`bl.Rows`), `"shuffled"`, `"blocks"` or `"shuffled blocks"`. With
      blocks, the training rows beyond the largest multiple of the batch size are left out (no other row or label
      changes), and the upper level's batch size is the largest divisor of `trusted` that is at most `batch_size`.
    - `model_settings`: a dictionary. For `"cnn"`: `filters` (8; the papers have 32 or 64), `layers` (4), `normalize`
      (True), and `pool` (1; 2 first averages 2×2 pixels of the images). For `"rnn"`: `vocabulary` (1000 tokens:
      padding, unknown and the most frequent words of the training rows; the gradient is dense in them), `length` (20
      tokens per row), `embedding` (24), `hidden` (24, or a tuple with one size per layer), `layers` (2), `uniform`
      (None; with 1.0, each initial parameter but the word vectors is drawn from U(−1, 1), as in BO-REP's paper),
      `vectors`, the initial word vectors (None: random; "corpus": learned from the words around each word in the
      training rows, `bilevel.datasets.words.learn_vectors`; or a file in GloVe's text format), and `frozen` (False;
      with True the word vectors stay as they are, and are no part of the network, nor of ‖y‖²).

    **Sums.** Some papers sum over rows, whereas both levels average here. A sum over b rows plus c ‖y‖² is b times
    their mean plus (c/b) ‖y‖². If a paper's lower oracles sum b rows and its upper ones b', divide its c by b, multiply
    its lower, adjoint and Neumann steps by b, and multiply its upper step by b': the hypergradient is linear in f, and
    multiplying g by a number does not change it. (A scale-free upper rule, such as Adam or BO-REP's normalized step,
    stays the same.) If a paper sums over the batch, b is the batch size, so nothing changes for one sample per step; if
    its oracle estimates the sum over all rows, b is their number.

    **The papers' splits**: for MNIST, `train=20_000, trusted=5_000, test_fraction=1/7` leaves 10,000 test rows; for
    Fashion-MNIST, `train=50_000, trusted=10_000, test_fraction=1/7`. The published test rows are not kept apart.

    **Returns** a `Task` with a `CleaningData` as its `data`. Metrics: `test accuracy`, the score; `test loss`, the mean
    cross-entropy of the test rows; `upper loss` on all trusted rows; `lower loss` on at most the first 5,000 training
    rows; `AUROC` of −x for finding the wrong labels (NaN if no label or every label is wrong).

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range;
    `DatasetError` if the data set is not available.

    Example:

        >>> from bilevel import tasks
        >>> task = tasks.cleaning("digits", corruption=0.6, trusted=100)
        >>> task.x.shape, task.y["weights"].shape
        ((1158,), (10, 64))
        >>> round(task.metrics(task.x, task.y)["upper loss"], 3)  # ln 10: it knows nothing yet
        2.303
        >>> task = tasks.cleaning("made-up", model="rnn", noise="flipped", model_settings={"hidden": 16})
        >>> task.y.head.weight.shape
        (2, 16)

    On rows of your own:

        >>> import numpy as np
        >>> from bilevel import datasets
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(0, 3, 500).astype(np.int32)
        >>> features = (labels[:, None] + rng.normal(size=(500, 4))).astype(np.float32)
        >>> own = datasets.Dataset(features, labels, classes=3, train_rows=500)
        >>> tasks.cleaning(own, trusted=30).x.shape
        (320,)

    Reference: the data hyper-cleaning experiments of Ji, Yang & Liang (ICML 2021), whose released code also
    regularizes weights and bias; Khanduri et al. (NeurIPS 2021), with sums; Li, Gu & Huang (AAAI 2022), with the
    convolutional network and c = 0; Hao, Gong & Liu (ICLR 2024), recurrent. After Franceschi et al. (ICML 2017).
    """
    _check_dataset(dataset, model)
    for name, value, known in (("split", split, SPLITS), ("source", source, SOURCES), ("noise", noise, NOISES)):
        checks.one_of(name, value, known)
    checks.fraction("corruption", corruption)
    checks.flag("standardize", standardize)
    if standardize and model == "rnn":
        raise ValueError("standardize: got True, but the rows of a text are tokens; leave it out")
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    checks.nonnegative("regularization", regularization)
    checks.number("start_weight", start_weight)
    sizes, given = Sizes(train, trusted, test, test_fraction), settings_of(model, model_settings)
    rng = generator(seed)
    form = {name: given[name] for name in ("pool", "vocabulary", "length") if name in given}
    given_rows = loaded(dataset)
    if model == "cnn":
        _check_images(given_rows.features.shape[1])
    data, texts = draw(given_rows, sizes, corruption, noise, split, rng, standardize=standardize, **form)
    rows, upper_size = SOURCES[source], None if batch_size is None else min(batch_size, trusted)
    if issubclass(SOURCES[source], Blocks) and batch_size is not None:
        data, upper_size = whole_batches(data, batch_size), dividing(batch_size, trusted)
    y, vectors = _start(model, data, texts, given, rng)
    losses = CrossEntropies(vectors)
    upper = Level(
        MeanLoss(losses),
        data=rows({"features": data.trusted_features, "labels": data.trusted_labels}),
        batch_size=upper_size,
    )
    lower = Level(
        WeightedLoss(losses, jnp.asarray(regularization, jnp.float32)),
        data=rows({"features": data.features, "labels": data.noisy_labels}),
        batch_size=batch_size,
        per_row=True,
    )
    return Task(
        name="cleaning",
        problem=Problem(upper, lower),
        x=jnp.full(len(data.features), start_weight, jnp.float32),
        y=y,
        metrics=functools.partial(_metrics, data, lower.loss),
        score="test accuracy",
        dataset=described(given_rows),
        data=data,
    )


def _check_dataset(dataset: Any, model: str) -> None:
    checks.one_of("model", model, MODELS)
    is_text = class_of(dataset, datasets.Dataset, datasets.TextDataset) is datasets.TextDataset
    if is_text != (model == "rnn"):
        wanted = "model='rnn'" if is_text else "'linear' or 'cnn', or a data set of texts"
        given = repr(dataset) if isinstance(dataset, str) else f"a {type(dataset).__name__}"
        raise ValueError(f"model: got {model!r} for {given}; it needs {wanted}")


def _check_images(width: int) -> None:
    if math.isqrt(width) ** 2 != width:
        raise ValueError(f"dataset: its rows have {width} features; the convolutional network takes square images")


def _start(
    model: str, data: CleaningData, texts: Iterable[str], settings: Mapping[str, Any], rng: np.random.Generator
) -> tuple[PyTree[Array], Float[Array, "vocabulary embedding"] | None]:
    """The model's initial parameters, and frozen word vectors. `texts`: the training rows of texts."""
    width, classes = data.features.shape[1], data.classes
    if model == "linear":
        dtype = data.features.dtype
        return {"weights": jnp.zeros((classes, width), dtype), "bias": jnp.zeros(classes, dtype)}, None
    if model == "cnn":
        key = jax.random.key(rng.integers(2**31))
        form = {name: settings[name] for name in ("layers", "normalize")}
        return ConvNet(1, settings["filters"], math.isqrt(width), **form, outputs=classes, key=key), None
    return text_network(settings, data.vocabulary or {}, texts, classes, rng)


def _per_row(model: CrossEntropies, y: PyTree[Array], rows: Any) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """The cross-entropy of each row, and whether the prediction is right; networks get chunks of nearly equal size."""

    def measure(rows: Any) -> tuple[Array, Array]:
        scores = model.logits(y, rows["features"])
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, rows["labels"])
        return losses, jnp.argmax(scores, axis=-1) == rows["labels"]

    n = len(rows["labels"])
    chunks = 1 if isinstance(y, dict) else math.ceil(n / _CHUNK)
    size, longer = divmod(n, chunks)
    parts, start = [], 0
    for count, length in ((longer, size + 1), (chunks - longer, size)):
        if count:
            stop = start + count * length
            part = jax.tree.map(lambda a, i=start, j=stop, n=count: a[i:j].reshape(n, -1, *a.shape[1:]), rows)
            parts.append(jax.tree.map(jnp.ravel, jax.lax.map(measure, part)))
            start = stop
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@jax.jit
def _evaluate(
    x: Float[Array, " n"], y: PyTree[Array], lower_loss: WeightedLoss, train: Any, trusted: Any, test: Any
) -> tuple[Float[Array, ""], ...]:
    """A function of the module that takes the data as arguments, so that all seeds share one program."""
    model: Any = lower_loss.losses
    per_row: Any = functools.partial(_per_row, model, y)
    losses, right = per_row(test)
    lower = lower_loss.of(x, y, per_row(train)[0])
    return jnp.mean(right), jnp.mean(losses), jnp.mean(per_row(trusted)[0]), lower


def _metrics(data: CleaningData, lower_loss: Any, x: Float[Array, " train"], y: PyTree[Array]) -> dict[str, float]:
    found = _evaluate(
        x[:_MEASURED_ROWS],
        y,
        lower_loss,
        {"features": data.features[:_MEASURED_ROWS], "labels": data.noisy_labels[:_MEASURED_ROWS]},
        {"features": data.trusted_features, "labels": data.trusted_labels},
        {"features": data.test_features, "labels": data.test_labels},
    )
    measured = dict(zip(("test accuracy", "test loss", "upper loss", "lower loss"), map(float, found), strict=True))
    return measured | {"AUROC": _auroc(data.wrong, -np.asarray(x))}


def _auroc(positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score)) if 0 < positive.sum() < len(positive) else math.nan
