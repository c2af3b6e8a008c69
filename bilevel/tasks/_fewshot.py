"""Few-shot learning: an embedding that lets a linear head learn new classes from a few images, and MAML's start."""

import functools
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, UInt8

from bilevel import _checks as checks
from bilevel import datasets, trees
from bilevel.problem import Episodes
from bilevel.tasks._base import SPLITS, Task, class_of, described, generator, loaded
from bilevel.tasks._episodes import Copies, FewshotTasks, Head, Network, SupportLoss, cross_entropy
from bilevel.tasks.networks import ConvNet

ADAPT = ("head", "network")
_REGULARIZATION = {"head": 0.01, "network": 0.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class FewshotData:
    """The sources of the tasks of a few-shot problem and of its metrics.

    - `training`: the episodes of the training classes; `test`: those of the test classes, or of the validation
      classes for a task with `split="validation"`. `episodes.draw(key)` gives one task's support and query rows.
    - `training_keys`, `test_keys`: the keys of the fixed tasks that the metrics use.
    """

    training: FewshotTasks
    test: FewshotTasks
    training_keys: Array
    test_keys: Array


def fewshot(
    dataset: str | datasets.FewshotDataset = "glyphs",
    ways: int = 5,
    shots: int = 5,
    *,
    seed: int = 0,
    queries: int = 5,
    tasks: int = 4,
    adapt: str = "head",
    learned_start: bool = False,
    filters: int = 8,
    layers: int = 4,
    regularization: float | None = None,
    split: str = "test",
    test_tasks: int = 100,
    test_steps: int = 10,
    test_step: float = 0.1,
) -> Task:
    """Few-shot classification: N = `ways` new classes from K = `shots` images of each.

        upper:  f(x, y) = (1/m) Σ_i mean cross-entropy of task i's query images
        lower:  g(x, y) = Σ_i g_i,   g_i = mean cross-entropy of task i's support images + c ‖y_i‖²

    over a batch of m = `tasks` tasks, drawn afresh from the training classes in each outer step (`bl.Episodes`).
    The lower level is the SUM over tasks, which share only x. So a step on it is each task's own step, as in the
    papers, and g is strongly convex with the μ of one task. The upper level is the mean. A level's data have one
    row per task: {"images": (m, n, h, w, channels), in [0, 1], "labels": (m, n)}, n = ways · shots or ways · queries.

    | `adapt` | x | y_i | starts at |
    |---|---|---|---|
    | `"head"` | {"body"}: a `ConvNet` without outputs | {"weights": (ways, width), "bias": (ways,)} | zero |
    | `"head"`, `learned_start` | {"body", "head"} | the same | x["head"]; with `bl.MAML`: ANIL |
    | `"network"` | a `ConvNet` with one output per way | a network | x; with `bl.MAML`: MAML |

    A head's lower level is strongly convex in y, with μ at least 2c. A whole network's lower level is not convex and
    does not depend on x: there, only a solver that differentiates through the start (`bl.MAML`) learns.

    Batch statistics are those of one task's images at one level: the support images of a task are normalized together,
    and so are its query images, separately from the support. Training and test do the same. The lower level thus sees
    no query image, but the prediction for one depends on the other query images of its task, as in MAML's own code.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.FEWSHOT_NAMES`, or a `bilevel.datasets.FewshotDataset` of your own.
    - `queries`: the number of query images of each class of a task.
    - `filters`, `layers`: of the network. The papers use 4 layers, 32 filters on miniImageNet and 64 on FC100, and 32
      tasks per batch. stocBiO's appendix prints stride 2 for FC100's convolutions, which with four poolings of 2 would
      leave an empty third pooling on 32×32 pixels; the stride here is 1.
    - `regularization`: c ≥ 0; default 0.01 for a head, 0 for a network.
    - `split`: `"validation"` is for tuning: the validation classes replace the test classes in the metrics.
    - `test_tasks`, `test_steps`, `test_step`: the metrics adapt to `test_tasks` fixed tasks, drawn once from `seed`, by
      `test_steps` gradient steps of size `test_step` on g_i from the start.

    **Returns** a `Task` with a `FewshotData` as its `data`. Metrics, after the adaptation: `test accuracy`, the score,
    and `test loss` (cross-entropy) on the query images of tasks of classes never seen in training; `training accuracy`
    on the same number of fixed tasks of training classes. They depend only on x: y belongs to the tasks of its step.

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range, and if
    the data have too few classes or too few images per class.

    Example:

        >>> from bilevel import tasks
        >>> task = tasks.fewshot("glyphs", ways=5, shots=1, tasks=2, layers=2, test_tasks=4)
        >>> task.y["weights"].shape
        (2, 5, 200)
        >>> sorted(task.metrics(task.x, task.y))
        ['test accuracy', 'test loss', 'training accuracy']

    Reference: the meta-learning experiments of Ji, Yang & Liang (ICML 2021) and Khanduri et al. (NeurIPS 2021); MAML,
    Finn, Abbeel & Levine (ICML 2017); ANIL, Raghu et al. (ICLR 2020).
    """
    class_of(dataset, datasets.FewshotDataset)
    checks.one_of("adapt", adapt, ADAPT)
    checks.one_of("split", split, SPLITS)
    checks.count("ways", ways, least=2)
    for name, value in (("shots", shots), ("queries", queries), ("tasks", tasks), ("test_tasks", test_tasks)):
        checks.count(name, value)
    checks.count("test_steps", test_steps, least=0)
    checks.positive("test_step", test_step)
    checks.flag("learned_start", learned_start)
    if learned_start and adapt == "network":
        raise ValueError("learned_start: a whole network's start is x already; leave it out with adapt='network'")
    regularization = _REGULARIZATION[adapt] if regularization is None else regularization
    checks.nonnegative("regularization", regularization)
    generator(seed)
    data: datasets.FewshotDataset = loaded(dataset)
    learner = Head(ways) if adapt == "head" else Network()

    def episodes(name: str, images: UInt8[np.ndarray, "classes per_class h w c"]) -> FewshotTasks:
        _check_images(name, images, ways, shots + queries)
        c = jnp.asarray(regularization, jnp.float32)
        return FewshotTasks(jnp.asarray(images), learner, c, ways=ways, shots=shots, queries=queries, tasks=tasks)

    training = episodes("training", data.train)
    test = episodes(split, data.test if split == "test" else data.validation)
    network_key, _, training_key, test_key = jax.random.split(jax.random.key(seed), 4)
    x = _start(training, learned_start, filters, layers, network_key)
    start = Copies(learner, tasks)
    keys = (jax.random.split(key, test_tasks) for key in (training_key, test_key))
    fixed = FewshotData(training=training, test=test, **dict(zip(("training_keys", "test_keys"), keys, strict=True)))
    return Task(
        name="fewshot",
        problem=Episodes(training, start),
        x=x,
        y=start(x),
        metrics=functools.partial(_metrics, fixed, test_steps, test_step),
        score="test accuracy",
        dataset=described(data),
        data=fixed,
    )


def _check_images(name: str, images: UInt8[np.ndarray, "classes per_class h w c"], ways: int, per_class: int) -> None:
    classes, available, height, width, _ = images.shape
    if ways > classes:
        raise ValueError(f"ways: got {ways}, but there are {classes} {name} classes; pass at most that")
    if per_class > available:
        raise ValueError(
            f"shots: got {per_class} with the queries, but a {name} class has {available} images; pass fewer of either"
        )
    if height != width:
        raise ValueError(f"dataset: its images have {height}×{width} pixels; the network takes square ones")


def _start(
    episodes: FewshotTasks, learned_start: bool, filters: int, layers: int, key: PRNGKeyArray
) -> PyTree[Float[Array, "..."]]:
    """x_0: a new network and, if the head's start is learned, a new linear layer."""
    size, channels = episodes.images.shape[-2:]
    if isinstance(episodes.learner, Network):
        return ConvNet(channels, filters, size, layers=layers, outputs=episodes.ways, key=key)
    body_key, head_key = jax.random.split(key)
    body = ConvNet(channels, filters, size, layers=layers, key=body_key)
    if not learned_start:
        return {"body": body}
    head = eqx.nn.Linear(body.width, episodes.ways, key=head_key)
    return {"body": body, "head": {"weights": head.weight, "bias": head.bias}}


@jax.jit
def _evaluate(
    episodes: FewshotTasks, x: PyTree[Array], keys: Array, steps: Array, step: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Accuracy and loss on the query images. The data are arguments, so that all seeds share one program."""
    learner, loss = episodes.learner, SupportLoss(episodes.learner, episodes.regularization)

    def of_task(key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, ""]]:
        support, query = episodes.draw(key)
        inputs = learner.inputs(x, support["images"])

        def descend(_: Any, y: PyTree[Array]) -> PyTree[Array]:
            return trees.axpy(-step, jax.grad(loss.of_task, argnums=1)(inputs, y, support["labels"]), y)

        y = jax.lax.fori_loop(0, steps, descend, learner.start(x))
        logits = learner.logits(y, learner.inputs(x, query["images"]))
        return jnp.mean(jnp.argmax(logits, axis=-1) == query["labels"]), cross_entropy(logits, query["labels"])

    # a GPU waits for its next kernel if it has one task at a time; a CPU is six times faster with one, which fits its
    # caches (20 tasks of FC100 in 0.2 s, and in 1.1 s at once)
    at_once = None if jax.default_backend() == "cpu" else 20
    accuracies, losses = jax.lax.map(of_task, keys, batch_size=at_once)
    return jnp.mean(accuracies), jnp.mean(losses)


def _metrics(data: FewshotData, steps: int, step: float, x: PyTree[Array], y: PyTree[Array]) -> dict[str, float]:
    descent = jnp.asarray(steps), jnp.asarray(step, jnp.float32)
    accuracy, loss = _evaluate(data.test, x, data.test_keys, *descent)
    training_accuracy, _ = _evaluate(data.training, x, data.training_keys, *descent)
    return {
        "test accuracy": float(accuracy),
        "test loss": float(loss),
        "training accuracy": float(training_accuracy),
    }
