"""Representation: a recurrent embedding of sentences, learned across domains, with one linear head per task."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree, Scalar, Shaped

from bilevel import _checks as checks
from bilevel import datasets, trees
from bilevel.datasets import words
from bilevel.hypergradients.lower import ball
from bilevel.problem import Episodes, Factored, Level, Problem
from bilevel.sampling import Rows
from bilevel.tasks._base import SOURCES, SPLITS, Task, class_of, described, generator, loaded, settings_of, text_network
from bilevel.tasks._episodes import Copies, Head, Learner, Network
from bilevel.tasks._representation_rows import (
    FreshTasks,
    RepresentationData,
    SomeTasks,
    draw,
    rows_by_domain,
    sides_of,
)
from bilevel.tasks.networks import TextRNN

ADAPT = ("head", "network")
_REGULARIZATION = {"head": 0.01, "network": 0.0}


class SentenceHead(Head):
    """A `Head` on the last state of a recurrent network, whose word vectors these are if they are frozen."""

    vectors: Float[Array, "vocabulary embedding"] | None = None

    def inputs(self, x: PyTree[Array], rows: Shaped[Array, "n ..."]) -> Float[Array, "n width"]:
        return x["body"](rows, self.vectors)

    def start(self, x: PyTree[Array]) -> PyTree[Array]:
        if "head" in x:
            return x["head"]
        bias = x["body"].cells[-1].bias
        return {"weights": jnp.zeros((self.ways, bias.size), bias.dtype), "bias": jnp.zeros(self.ways, bias.dtype)}


class SentenceNetwork(Network):
    """A whole recurrent network per task; the same for its word vectors."""

    vectors: Float[Array, "vocabulary embedding"] | None = None

    def logits(self, y: Any, inputs: Shaped[Array, "n ..."]) -> Float[Array, "n ways"]:
        return y(inputs, self.vectors)


def features(learner: Learner, x: Any, batch: Any) -> Shaped[Array, "n tasks ..."]:
    """What the y_i act on. The body sees all tasks at once."""
    n, tasks, length = batch["tokens"].shape
    inputs = learner.inputs(x, batch["tokens"].reshape(n * tasks, length))
    return inputs.reshape(n, tasks, *inputs.shape[1:])


def cross_entropies(learner: Learner, inputs: Any, y: Any, batch: Any) -> tuple[Float[Array, "n tasks"], Array]:
    """Each row's cross-entropy in each task, given its features, and whether the prediction is right."""
    logits = jax.vmap(learner.logits, in_axes=(0, 1), out_axes=1)(y, inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return losses, jnp.argmax(logits, axis=-1) == batch["labels"]


class QueryLoss(eqx.Module):
    """Mean over tasks of the mean cross-entropy on the task's rows."""

    learner: Learner

    def __call__(self, x: Any, y: Any, batch: Any) -> Float[Scalar, ""]:
        return jnp.mean(cross_entropies(self.learner, features(self.learner, x, batch), y, batch)[0])


class SupportLoss(eqx.Module):
    """Sum over tasks of the mean cross-entropy on the task's rows, plus `regularization` · ‖y‖².

    With heads, x acts only through the inputs, and `Factored(loss.inputs, loss.given)` is the loss of the level. The
    inputs of whole networks are tokens, which have no derivative.
    """

    learner: Learner
    regularization: Float[Array, ""]

    def __call__(self, x: Any, y: Any, batch: Any) -> Float[Scalar, ""]:
        return self.given(self.inputs(x, batch), y, batch)

    def inputs(self, x: Any, batch: Any) -> Shaped[Array, "n tasks ..."]:
        """What the y_i act on."""
        return features(self.learner, x, batch)

    def given(self, inputs: Any, y: Any, batch: Any) -> Float[Scalar, ""]:
        """The loss as a function of the inputs of the y_i."""
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        losses, _ = cross_entropies(self.learner, inputs, y, batch)
        return jnp.sum(jnp.mean(losses, axis=0)) + self.regularization * penalty


def representation(
    dataset: str | datasets.TextDataset = "made-up",
    *,
    seed: int = 0,
    tasks: int = 8,
    domains_per_task: int = 3,
    held_out: int | tuple[str, ...] = 2,
    support: int = 200,
    query: int = 200,
    test_tasks: int = 10,
    test_steps: int = 20,
    test_step: float = 0.1,
    batch_size: int | None = 10,
    tasks_per_step: int | None = None,
    fresh: bool = False,
    restart: bool | None = None,
    regularization: float | None = None,
    learned_start: bool = False,
    head_start: float = 0.0,
    test_radius: float | None = None,
    adapt: str = "head",
    split: str = "test",
    source: str = "rows",
    model_settings: Mapping[str, Any] | None = None,
) -> Task:
    """Representation: which embedding of a sentence lets a linear head tell praise from blame in any domain?

        upper:  f(x, y) = mean over tasks i of the mean over query rows of CE(head y_i on the embedding x)
        lower:  g(x, y) = sum over tasks i of ( mean over support rows of CE(head y_i on x) + c ‖y_i‖² )

    x = {"body": `bilevel.tasks.networks.TextRNN`}, word vectors included unless they are frozen;
    y = {"weights": (tasks, classes, hidden), "bias": (tasks, classes)} starts at zero. c > 0 makes
    g strongly convex in y, with μ = 2c. g is a sum, so a step of y is the step of each task on its own loss.

    The tasks are a fixed pool, drawn once from `seed`: min over x of (1/m) Σ_i f_i(x, y_i*(x)), as the paper writes it,
    is then an ordinary problem, whose y (and adjoint) single-loop methods track from step to step. With
    `tasks_per_step`, each outer step has some of them; with `fresh`, too, it has new tasks, as in the paper's
    experiment. Each task has `domains_per_task` random training domains, whose numbers of rows differ by at most one.
    Test tasks have held-out domains and a head
    adapted to them from the start by `test_steps` steps of size `test_step` on their support rows.

    The sentences are split once, for all tasks, into one part for support and one for query rows, in the proportion of
    `support` to `query`. The sentences of one group (one review) are in one part, and no support sentence is a query of
    any task. Two tasks may share sentences of one part.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.TEXT_NAMES`, or a `bilevel.datasets.TextDataset` of your own.
    - `held_out`: the names of the held-out domains, or their number if they are the last ones.
    - `tasks`, `test_tasks`: the number of tasks of the pool, and of test tasks. `support`, `query`: the number of rows
      of each.
    - `batch_size`: the number of rows of **every** task, at both levels; the cost counts these rows, not sentences.
      `None`: full batches.
    - `tasks_per_step`: the number of tasks drawn afresh in each outer step (`bl.Episodes`), for which y has slots;
      `None`: all tasks in each step, an ordinary problem.
    - `fresh`: `True` draws the `tasks_per_step` tasks of each outer step from all sentences of the training domains.
      The pool then only serves the metrics. `tasks_per_step=20, support=20, query=20, batch_size=None, fresh=True` is
      the paper's.
    - `restart`: `True` restarts the heads in each outer step, at x's start, as in MAML and ANIL. `False` carries the
      heads (and the adjoint) of the slots over from one batch of tasks to the next. Default: `True` if x holds the
      start, by `learned_start` or `adapt="network"`.
    - `regularization`: c ≥ 0; default 0.01 for heads, 0 for whole networks.
    - `learned_start`: `True` makes x = {"body", "head"}, and the heads start at x["head"]; with `bl.MAML` this is ANIL.
      Other solvers do not change x["head"].
    - `head_start`: each number of the heads in y starts uniformly in ± this, not at zero; in the paper, 1.0. For heads
      that neither restart nor have a learned start.
    - `test_radius`: R. The heads of test tasks then start at those of y, in turn, instead of x's start, and their steps
      stay in a ball around it, as in BO-REP's periodic updates: its radius is R for as many heads as y has, and grows
      with the square root of their number.
    - `adapt`: `"network"` is for MAML: x is a `TextRNN` with its head, and y has one copy of it per task. The levels do
      not read x, which acts only through the start, so only `bl.MAML` learns. g is then not convex.
    - `split`: `"validation"` is for tuning. The held-out domains are dropped, and as many others take their place, in
      the metrics too: nothing then depends on a sentence of a test domain.
    - `source`: how batches are drawn: `"rows"` (`bl.Rows`), `"shuffled"`, `"blocks"` or `"shuffled blocks"`. Blocks
      need `support` and `query` to be multiples of the batch size.
    - `model_settings`: of the network, as in `cleaning`; vocabulary and learned vectors are those of the training
      domains. The paper's: {"embedding": 300, "hidden": (4096, 512), "uniform": 1.0, "frozen": True}; 3 of its 25
      domains are held out.

    Networks start as in `TextRNN`. The paper's start, U(−1, 1) for every parameter, trains small networks here too, but
    takes about three times as many steps.

    **Returns** a `Task` with a `RepresentationData` as its `data`. Metrics: `test accuracy`, the score, and `test loss`
    on the query rows of the test tasks; `upper loss` and `upper accuracy` on those of the training tasks, and `lower
    loss`. These use y, or, with `tasks_per_step`, heads adapted like those of the test tasks.

    **Raises** `ValueError` or `TypeError`, naming the argument, for unknown names and numbers out of range;
    `DatasetError` if the data set is not available.

    Example:

        >>> from bilevel import tasks
        >>> task = tasks.representation("made-up", tasks=4)
        >>> task.x["body"].vectors.shape, task.y["weights"].shape
        ((1000, 24), (4, 2, 24))
        >>> task.problem.lower.data.arrays["tokens"].shape  # support rows of each task, in tokens
        (200, 4, 20)

    Reference: the meta-learning experiment of Hao, Gong & Liu (ICLR 2024), Fig. 1a, on Amazon reviews.
    """
    class_of(dataset, datasets.TextDataset)
    checks.one_of("split", split, SPLITS)
    checks.one_of("source", source, SOURCES)
    checks.one_of("adapt", adapt, ADAPT)
    checks.flag("learned_start", learned_start)
    restart = learned_start or adapt == "network" if restart is None else restart
    checks.flag("restart", restart)
    checks.flag("fresh", fresh)
    if fresh and tasks_per_step is None:
        raise ValueError("fresh: got True without tasks_per_step; pass the number of tasks to draw in each outer step")
    if tasks_per_step is not None:
        checks.count("tasks_per_step", tasks_per_step)
        if tasks_per_step > tasks and not fresh:
            raise ValueError(f"tasks_per_step: got {tasks_per_step} of {tasks} tasks; pass at most that, or fresh=True")
    counts = {"tasks": tasks, "domains_per_task": domains_per_task, "support": support, "query": query}
    counts |= {"test_tasks": test_tasks, "test_steps": test_steps}
    for name, value in counts.items():
        checks.count(name, value)
    checks.positive("test_step", test_step)
    checks.nonnegative("head_start", head_start)
    if head_start and (restart or learned_start or adapt == "network"):
        raise ValueError(f"head_start: got {head_start}, but these heads have another start; leave it out")
    if test_radius is not None:
        checks.positive("test_radius", test_radius)
        if restart or adapt == "network":
            raise ValueError(f"test_radius: got {test_radius}, but y's heads restart in each step; leave it out")
    if learned_start and adapt == "network":
        raise ValueError("learned_start: a whole network's start is x already; leave it out with adapt='network'")
    regularization = _REGULARIZATION[adapt] if regularization is None else regularization
    checks.nonnegative("regularization", regularization)
    settings, rng = settings_of("rnn", model_settings), generator(seed)
    texts: datasets.TextDataset = loaded(dataset)
    rows_of = {"support": support, "query": query}
    sides = sides_of(texts, rows_of, domains_per_task, held_out, split, rng)
    train_rows = np.flatnonzero(np.isin(texts.domains, sides.train))
    sentences = [texts.texts[row] for row in train_rows]
    known = words.vocabulary(sentences, settings["vocabulary"])
    data = draw(texts, sides, {"train": tasks, "test": test_tasks}, rows_of, known, settings["length"], rng)
    whole, vectors = text_network(settings, known, sentences, data.classes, rng)
    learner: Learner = SentenceNetwork(vectors) if adapt == "network" else SentenceHead(data.classes, vectors)
    x = whole if adapt == "network" else _body(whole, learned_start)
    rows: type[Rows] = SOURCES[source]
    lower_loss = SupportLoss(learner, jnp.asarray(regularization, jnp.float32))
    of_level = lower_loss if adapt == "network" else Factored(lower_loss.inputs, lower_loss.given)
    problem = Problem(
        upper=Level(QueryLoss(learner), data=rows(data.query), batch_size=batch_size),
        lower=Level(of_level, data=rows(data.support), batch_size=batch_size),
    )
    start = Copies(learner, tasks_per_step or tasks)
    if tasks_per_step is not None or restart:
        drawn: Any = SomeTasks(problem, tasks_per_step)
        if fresh and tasks_per_step is not None:
            by_domain = rows_by_domain(texts, sides, train_rows, rows_of)
            tokens = jnp.asarray(words.encode(sentences, known, settings["length"]))
            drawn = FreshTasks(
                problem, tokens, jnp.asarray(texts.labels[train_rows]), *by_domain, sides.per_task, tasks_per_step
            )
        problem = Episodes(drawn, start if restart else None)
    y = start(x)
    if head_start:
        y = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-head_start, head_start, leaf.shape), leaf.dtype), y)
    radius = None if test_radius is None else jnp.asarray(test_radius, jnp.float32)
    test = Test(jnp.asarray(test_steps), jnp.asarray(test_step, jnp.float32), radius)
    return Task(
        name="representation",
        problem=problem,
        x=x,
        y=y,
        metrics=functools.partial(_metrics, data, lower_loss, test, tasks_per_step is None),
        score="test accuracy",
        dataset=described(texts),
        data=data,
    )


def _body(network: TextRNN, learned_start: bool) -> dict[str, PyTree[Array]]:
    """The network without its head, and the head if its start is learned."""
    head = network.head
    body = eqx.tree_at(lambda network: network.head, network, None)
    return {"body": body} | ({"head": {"weights": head.weight, "bias": head.bias}} if learned_start and head else {})


class Test(eqx.Module):
    """How the heads of test tasks adapt: so many steps of a size, in a ball of a radius if there is one."""

    steps: Array
    step: Array
    radius: Array | None


@eqx.filter_jit
def _evaluate(loss: SupportLoss, data: Any, x: Any, y: Any, test: Test, tracks: bool) -> tuple[Array, ...]:
    """A function of the module that takes the data as arguments, so that all seeds share one program."""
    support, query, test_support, test_query = data

    def adapted(rows: Any) -> Any:
        inputs, count, project = loss.inputs(x, rows), rows["labels"].shape[1], lambda y: y
        start = Copies(loss.learner, count)(x)
        if test.radius is not None:
            slots = len(jax.tree.leaves(y)[0])
            start = jax.tree.map(lambda leaf: leaf[jnp.arange(count) % slots], y)
            project = ball(start, test.radius * math.sqrt(count / slots))

        def descend(_: Any, y: Any) -> Any:
            return project(trees.axpy(-test.step, jax.grad(loss.given, 1)(inputs, y, rows), y))

        return jax.lax.fori_loop(0, test.steps, descend, start)

    def measured(y: Any, rows: Any) -> tuple[Array, Array]:
        return cross_entropies(loss.learner, loss.inputs(x, rows), y, rows)

    heads = y if tracks else adapted(support)
    test_losses, test_right = measured(adapted(test_support), test_query)
    losses, right = measured(heads, query)
    return jnp.mean(test_right), jnp.mean(test_losses), jnp.mean(losses), jnp.mean(right), loss(x, heads, support)


def _metrics(data: RepresentationData, loss: SupportLoss, test: Test, tracks: bool, x: Any, y: Any) -> dict[str, float]:
    """`tracks`: whether y has a slot for each task of the pool, in their order."""
    rows = data.support, data.query, data.test_support, data.test_query
    found = map(float, _evaluate(loss, rows, x, y, test, tracks))
    names = "test accuracy", "test loss", "upper loss", "upper accuracy", "lower loss"
    return dict(zip(names, found, strict=True))
