"""Representation: a recurrent embedding of sentences, learned across domains, with one linear head per task."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from bilevel import _checks as checks
from bilevel import datasets, trees
from bilevel.datasets import words
from bilevel.problem import Episodes, Level, Problem
from bilevel.sampling import Rows
from bilevel.tasks._base import SOURCES, SPLITS, Task, class_of, generator, loaded, settings_of, text_network
from bilevel.tasks._episodes import Copies, Head, Learner, Network
from bilevel.tasks.networks import TextRNN

ADAPT = ("head", "network")
_REGULARIZATION = {"head": 0.01, "network": 0.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class RepresentationData:
    """The rows of the tasks. Each part is {"tokens": (rows, tasks, length), "labels": (rows, tasks)}.

    - `support`, `query`: the rows of the training tasks, for the lower and the upper level.
    - `test_support`, `test_query`: the rows of the test tasks, whose domains no training task has. With
      `split="validation"` they come from other domains, and the test domains are not kept.
    - `task_domains`, `test_domains`: the domains of each training and test task, by name.
    - `vocabulary`: the token of each word, from the sentences of the training domains.
    """

    support: dict[str, Array]
    query: dict[str, Array]
    test_support: dict[str, Array]
    test_query: dict[str, Array]
    task_domains: tuple[tuple[str, ...], ...]
    test_domains: tuple[tuple[str, ...], ...]
    vocabulary: Mapping[str, int]
    classes: int


class SentenceHead(Head):
    """A `Head` on the last state of a recurrent network."""

    def start(self, x: PyTree[Array]) -> PyTree[Array]:
        if "head" in x:
            return x["head"]
        bias = x["body"].cells[-1].bias
        return {"weights": jnp.zeros((self.ways, bias.size), bias.dtype), "bias": jnp.zeros(self.ways, bias.dtype)}


def cross_entropies(learner: Learner, x: Any, y: Any, batch: Any) -> tuple[Float[Array, "n tasks"], Array]:
    """Each row's cross-entropy in each task, and whether the prediction is right. The body sees all tasks at once."""
    n, tasks, length = batch["tokens"].shape
    inputs = learner.inputs(x, batch["tokens"].reshape(n * tasks, length))
    inputs = inputs.reshape(n, tasks, *inputs.shape[1:])
    logits = jax.vmap(learner.logits, in_axes=(0, 1), out_axes=1)(y, inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return losses, jnp.argmax(logits, axis=-1) == batch["labels"]


class QueryLoss(eqx.Module):
    """Mean over tasks of the mean cross-entropy on the task's rows."""

    learner: Learner

    def __call__(self, x: Any, y: Any, batch: Any) -> Float[Scalar, ""]:
        return jnp.mean(cross_entropies(self.learner, x, y, batch)[0])


class SupportLoss(eqx.Module):
    """Sum over tasks of the mean cross-entropy on the task's rows, plus `regularization` · ‖y‖²."""

    learner: Learner
    regularization: Float[Array, ""]

    def __call__(self, x: Any, y: Any, batch: Any) -> Float[Scalar, ""]:
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        losses, _ = cross_entropies(self.learner, x, y, batch)
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
    restart: bool | None = None,
    regularization: float | None = None,
    learned_start: bool = False,
    adapt: str = "head",
    split: str = "test",
    source: str = "rows",
    model_settings: Mapping[str, Any] | None = None,
) -> Task:
    """Representation: which embedding of a sentence lets a linear head tell praise from blame in any domain?

        upper:  f(x, y) = mean over tasks i of the mean over query rows of CE(head y_i on the embedding x)
        lower:  g(x, y) = sum over tasks i of ( mean over support rows of CE(head y_i on x) + c ‖y_i‖² )

    x = {"body": `bilevel.tasks.networks.TextRNN`}, word vectors included;
    y = {"weights": (tasks, classes, hidden), "bias": (tasks, classes)} starts at zero. c > 0 makes
    g strongly convex in y, with μ = 2c. g is a sum, so a step of y is the step of each task on its own loss.

    The tasks are a fixed pool, drawn once from `seed`: min over x of (1/m) Σ_i f_i(x, y_i*(x)), as the paper writes it,
    is then an ordinary problem, whose y (and adjoint) single-loop methods track from step to step. With
    `tasks_per_step`, each outer step has some of them, as in the paper's experiment. Each task has `domains_per_task`
    random training domains, whose numbers of rows differ by at most one. Test tasks have held-out domains and a head
    adapted to them from the start by `test_steps` steps of size `test_step` on their support rows.

    The sentences are split once, for all tasks, into one part for support and one for query rows, in the proportion of
    `support` to `query`. The sentences of one group (one review) are in one part, and no support sentence is a query of
    any task. Two tasks may share sentences of one part.

    **Arguments**

    - `dataset`: one of `bilevel.datasets.TEXT_NAMES`, or a `bilevel.datasets.TextDataset` of your own.
    - `held_out`: the names of the held-out domains, or their number if they are the last ones.
    - `tasks`, `test_tasks`: the number of tasks. `support`, `query`: the number of rows of each.
    - `batch_size`: the number of rows of **every** task, at both levels; the cost counts these rows, not sentences.
      `None`: full batches.
    - `tasks_per_step`: the number of tasks drawn afresh in each outer step (`bl.Episodes`), for which y has slots;
      `None`: all tasks in each step, an ordinary problem.
    - `restart`: `True` restarts the heads in each outer step, at x's start, as in MAML and ANIL. `False` carries the
      heads (and the adjoint) of the slots over from one batch of tasks to the next. Default: `True` if x holds the
      start, by `learned_start` or `adapt="network"`.
    - `regularization`: c ≥ 0; default 0.01 for heads, 0 for whole networks.
    - `learned_start`: `True` makes x = {"body", "head"}, and the heads start at x["head"]; with `bl.MAML` this is ANIL.
      Other solvers do not change x["head"].
    - `adapt`: `"network"` is for MAML: x is a `TextRNN` with its head, and y has one copy of it per task. The levels do
      not read x, which acts only through the start, so only `bl.MAML` learns. g is then not convex.
    - `split`: `"validation"` is for tuning. The held-out domains are dropped, and as many others take their place, in
      the metrics too: nothing then depends on a sentence of a test domain.
    - `source`: how batches are drawn: `"rows"` (`bl.Rows`), `"shuffled"`, `"blocks"` or `"shuffled blocks"`. Blocks
      need `support` and `query` to be multiples of the batch size.
    - `model_settings`: of the network, as in `cleaning`; the vocabulary is that of the training domains. The paper's
      network has an `embedding` of 300 and two layers of 4096 and 512 units; 3 of its 25 domains are held out.

    Networks start as in `TextRNN`. The paper's start, U(−1, 1) for every parameter, trains here too, but takes about
    three times as many steps.

    **Returns** a `Task` with a `RepresentationData` as its `data`. Metrics: `test accuracy`, the score, and `test loss`
    on the query rows of the test tasks; `upper loss` and `upper accuracy` on those of the training tasks, and `lower
    loss`. These use y, or heads adapted like those of the test tasks if y has slots for only some of the tasks.

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
    if tasks_per_step is not None:
        checks.count("tasks_per_step", tasks_per_step)
        if tasks_per_step > tasks:
            raise ValueError(f"tasks_per_step: got {tasks_per_step} of {tasks} tasks; pass at most that")
    counts = {"tasks": tasks, "domains_per_task": domains_per_task, "support": support, "query": query}
    counts |= {"test_tasks": test_tasks, "test_steps": test_steps}
    for name, value in counts.items():
        checks.count(name, value)
    checks.positive("test_step", test_step)
    if learned_start and adapt == "network":
        raise ValueError("learned_start: a whole network's start is x already; leave it out with adapt='network'")
    regularization = _REGULARIZATION[adapt] if regularization is None else regularization
    checks.nonnegative("regularization", regularization)
    settings, rng = settings_of("rnn", model_settings), generator(seed)
    data = _draw(
        loaded(dataset),
        {"train": tasks, "test": test_tasks},
        {"support": support, "query": query},
        domains_per_task,
        held_out,
        split,
        (settings["vocabulary"], settings["length"]),
        rng,
    )
    whole = text_network(settings, data.vocabulary, data.classes, rng)
    learner: Learner = Network() if adapt == "network" else SentenceHead(data.classes)
    x = whole if adapt == "network" else _body(whole, learned_start)
    rows: type[Rows] = SOURCES[source]
    lower_loss = SupportLoss(learner, jnp.asarray(regularization, jnp.float32))
    problem = Problem(
        upper=Level(QueryLoss(learner), data=rows(data.query), batch_size=batch_size),
        lower=Level(lower_loss, data=rows(data.support), batch_size=batch_size),
    )
    start = Copies(learner, tasks_per_step or tasks)
    if tasks_per_step is not None or restart:
        problem = Episodes(SomeTasks(problem, tasks_per_step), start if restart else None)
    return Task(
        name="representation",
        problem=problem,
        x=x,
        y=start(x),
        metrics=functools.partial(_metrics, data, lower_loss, test_steps, test_step),
        score="test accuracy",
        data=data,
    )


class SomeTasks(eqx.Module):
    """The problem of `count` different tasks of a pool, drawn afresh; None means all of them.

    A row of a level's data has one sentence of every task.
    """

    pool: Problem
    count: int | None = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Problem:
        if self.count is None:
            return self.pool
        tasks = jax.tree.leaves(self.pool.lower.all_rows().rows)[0].shape[1]
        chosen = jax.random.choice(key, tasks, (self.count,), replace=False)

        def some(level: Level) -> Level:
            return eqx.tree_at(_arrays, level, jax.tree.map(lambda leaf: leaf[:, chosen], _arrays(level)))

        return Problem(some(self.pool.upper), some(self.pool.lower))


def _arrays(level: Any) -> Any:
    return level.data.arrays


def _body(network: TextRNN, learned_start: bool) -> dict[str, PyTree[Array]]:
    """The network without its head, and the head if its start is learned."""
    head = network.head
    body = eqx.tree_at(lambda network: network.head, network, None)
    return {"body": body} | ({"head": {"weights": head.weight, "bias": head.bias}} if learned_start and head else {})


def _draw(
    texts: datasets.TextDataset,
    counts: Mapping[str, int],
    rows: Mapping[str, int],
    domains_per_task: int,
    held_out: int | Sequence[str],
    split: str,
    coding: tuple[int, int],
    rng: np.random.Generator,
) -> RepresentationData:
    """`counts`: training and test tasks; `rows`: support and query rows of each; `coding`: (vocabulary, length)."""
    domains = dict(zip(("train", "test"), _domains(texts, held_out, split), strict=True))
    if domains_per_task > len(domains["train"]):
        raise ValueError(
            f"domains_per_task: got {domains_per_task}, but {len(domains['train'])} domains are left to train on; "
            "pass at most that, or another held_out"
        )
    share = rows["support"] / sum(rows.values())
    supports = (rng.random(texts.groups.max() + 1) < share)[texts.groups]  # per row, but constant on each group
    train_rows = np.flatnonzero(np.isin(texts.domains, domains["train"]))
    known = words.vocabulary([texts.texts[row] for row in train_rows], coding[0])

    def encoded(numbers: Int[np.ndarray, "tasks n"]) -> dict[str, Array]:
        tokens = words.encode([texts.texts[row] for row in numbers.T.ravel()], known, coding[1])
        tokens = tokens.reshape(*numbers.T.shape, coding[1])
        return {"tokens": jnp.asarray(tokens), "labels": jnp.asarray(texts.labels[numbers.T])}

    drawn, names = {}, {}
    for part, those in domains.items():
        each = min(domains_per_task, len(those))
        chosen = [rng.choice(those, each, replace=False) for _ in range(counts[part])]
        names[part] = tuple(tuple(texts.domain_names[domain] for domain in sorted(task)) for task in chosen)
        for side, on_side in (("support", supports), ("query", ~supports)):
            numbers = [_rows_of_task(texts, task, on_side, side, rows[side], rng) for task in chosen]
            drawn[f"test_{side}" if part == "test" else side] = encoded(np.stack(numbers))
    return RepresentationData(
        **drawn, task_domains=names["train"], test_domains=names["test"], vocabulary=known, classes=texts.classes
    )


def _domains(texts: datasets.TextDataset, held_out: Any, split: str) -> tuple[list[int], list[int]]:
    """The training and the test domains."""
    names = list(texts.domain_names)
    if isinstance(held_out, tuple | list):
        for name in held_out:
            checks.one_of("held_out", name, names)
        last = [name for name in names if name in held_out]
    else:
        checks.count("held_out", held_out)
        last = names[-held_out:]
    rest = [name for name in names if name not in last]
    if split == "validation":
        last, rest = rest[-len(last) :], rest[: -len(last)]
    if not last or not rest:
        raise ValueError(
            f"held_out: got {held_out!r} with split={split!r}; at least one domain of {', '.join(names)} must be held "
            "out, and at least one must be left to train on"
        )
    return [names.index(name) for name in rest], [names.index(name) for name in last]


def _rows_of_task(
    texts: datasets.TextDataset, domains: Any, on_side: Any, side: str, size: int, rng: np.random.Generator
) -> Int[np.ndarray, " size"]:
    """`size` rows, equally many from each domain, in random order."""
    rows = []
    for domain, part in zip(domains, np.array_split(np.arange(size), len(domains)), strict=True):
        pool = np.flatnonzero((texts.domains == domain) & on_side)
        if len(part) > len(pool):
            raise ValueError(
                f"{side}: got {size}, but domain {texts.domain_names[domain]!r} has {len(pool)} rows for it; pass fewer"
            )
        rows.append(rng.choice(pool, len(part), replace=False))
    return rng.permutation(np.concatenate(rows))


@jax.jit
def _evaluate(loss: SupportLoss, data: Any, x: Any, y: Any, steps: Array, step: Array) -> tuple[Array, ...]:
    """A function of the module that takes the data as arguments, so that all seeds share one program."""
    support, query, test_support, test_query = data

    def adapted(rows: Any) -> Any:
        def descend(_: Any, y: Any) -> Any:
            return trees.axpy(-step, jax.grad(loss, 1)(x, y, rows), y)

        return jax.lax.fori_loop(0, steps, descend, Copies(loss.learner, rows["labels"].shape[1])(x))

    if jax.tree.leaves(y)[0].shape[0] != query["labels"].shape[1]:  # y has slots for only some of the tasks
        y = adapted(support)
    test_losses, test_right = cross_entropies(loss.learner, x, adapted(test_support), test_query)
    losses, right = cross_entropies(loss.learner, x, y, query)
    return jnp.mean(test_right), jnp.mean(test_losses), jnp.mean(losses), jnp.mean(right), loss(x, y, support)


def _metrics(data: RepresentationData, loss: SupportLoss, steps: int, step: float, x: Any, y: Any) -> dict[str, float]:
    rows = data.support, data.query, data.test_support, data.test_query
    found = map(float, _evaluate(loss, rows, x, y, jnp.asarray(steps), jnp.asarray(step, jnp.float32)))
    names = "test accuracy", "test loss", "upper loss", "upper accuracy", "lower loss"
    return dict(zip(names, found, strict=True))
