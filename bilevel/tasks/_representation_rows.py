"""The rows of a representation task: its domains, its tasks, and tasks drawn afresh."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import datasets
from bilevel.datasets import words
from bilevel.problem import Level, Problem
from bilevel.tasks._episodes import distinct


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


@dataclass(frozen=True)
class Sides:
    """The training and the test domains, how many of them a task has, and which rows are for support."""

    train: list[int]
    test: list[int]
    per_task: int
    is_support: Bool[np.ndarray, " n"]

    def rows(self, texts: datasets.TextDataset, domain: int, side: str, size: int) -> Int[np.ndarray, " m"]:
        """All rows of a domain for a side, of which a task takes `size`."""
        found = np.flatnonzero((texts.domains == domain) & (self.is_support == (side == "support")))
        if size > len(found):
            raise ValueError(
                f"{side}: a task takes {size} rows of domain {texts.domain_names[domain]!r}, which has {len(found)} "
                "for it; pass fewer"
            )
        return found


def sides_of(
    texts: datasets.TextDataset,
    rows: Mapping[str, int],
    domains_per_task: int,
    held_out: int | Sequence[str],
    split: str,
    rng: np.random.Generator,
) -> Sides:
    train, test = _domains(texts, held_out, split)
    if domains_per_task > len(train):
        raise ValueError(
            f"domains_per_task: got {domains_per_task}, but {len(train)} domains are left to train on; pass at most "
            "that, or another held_out"
        )
    share = rows["support"] / sum(rows.values())
    is_support = (rng.random(texts.groups.max() + 1) < share)[texts.groups]  # constant on each group
    return Sides(train, test, domains_per_task, is_support)


def draw(
    texts: datasets.TextDataset,
    sides: Sides,
    counts: Mapping[str, int],
    rows: Mapping[str, int],
    known: Mapping[str, int],
    length: int,
    rng: np.random.Generator,
) -> RepresentationData:
    """`counts`: training and test tasks; `rows`: support and query rows of each."""

    def encoded(numbers: Int[np.ndarray, "tasks n"]) -> dict[str, Array]:
        tokens = words.encode([texts.texts[row] for row in numbers.T.ravel()], known, length)
        return {
            "tokens": jnp.asarray(tokens.reshape(*numbers.T.shape, length)),
            "labels": jnp.asarray(texts.labels[numbers.T]),
        }

    drawn, names = {}, {}
    for part, those in {"train": sides.train, "test": sides.test}.items():
        each = min(sides.per_task, len(those))
        chosen = [rng.choice(those, each, replace=False) for _ in range(counts[part])]
        names[part] = tuple(tuple(texts.domain_names[domain] for domain in sorted(task)) for task in chosen)
        for side, size in rows.items():
            numbers = [_rows_of_task(texts, sides, task, side, size, rng) for task in chosen]
            drawn[f"test_{side}" if part == "test" else side] = encoded(np.stack(numbers))
    return RepresentationData(
        **drawn, task_domains=names["train"], test_domains=names["test"], vocabulary=known, classes=texts.classes
    )


def rows_by_domain(
    texts: datasets.TextDataset, sides: Sides, train_rows: Int[np.ndarray, " n"], rows: Mapping[str, int]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """`FreshTasks.numbers` and `FreshTasks.sizes`: places in `train_rows`, which are ascending.

    They are padded to the size of the largest domain, so that all seeds share one program."""
    numbers, sizes = {}, {}
    most = int(np.bincount(texts.domains)[sides.train].max())
    for side, size in rows.items():
        found = [sides.rows(texts, domain, side, -(-size // sides.per_task)) for domain in sides.train]
        padded = np.zeros((len(found), most), np.int32)
        for row, those in zip(padded, found, strict=True):
            row[: len(those)] = np.searchsorted(train_rows, those)
        numbers[side], sizes[side] = jnp.asarray(padded), jnp.asarray([len(those) for those in found], jnp.int32)
    return numbers, sizes


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
    texts: datasets.TextDataset, sides: Sides, domains: Any, side: str, size: int, rng: np.random.Generator
) -> Int[np.ndarray, " size"]:
    """`size` rows, equally many from each domain, in random order."""
    parts = zip(domains, np.array_split(np.arange(size), len(domains)), strict=True)
    rows = [
        rng.choice(sides.rows(texts, int(domain), side, len(part)), len(part), replace=False) for domain, part in parts
    ]
    return rng.permutation(np.concatenate(rows))


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


class FreshTasks(eqx.Module):
    """The problem of `count` new tasks, drawn from all sentences.

    `numbers[side][domain]` are the sentences of a domain for the side "support" or "query", padded; `sizes[side]` tells
    how many there are. `pool`: a problem of the same losses, batch sizes and numbers of rows.
    """

    pool: Problem
    tokens: Int[Array, "sentences length"]
    labels: Int[Array, " sentences"]
    numbers: dict[str, Int[Array, "domains most"]]
    sizes: dict[str, Int[Array, " domains"]]
    per_task: int = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Problem:
        domains_key, *keys = jax.random.split(key, 3)
        domains = len(self.sizes["support"])
        chosen = jax.vmap(lambda key: distinct(key, domains, self.per_task))(jax.random.split(domains_key, self.count))

        def fresh(level: Level, side: str, key: PRNGKeyArray) -> Level:
            rows = len(_arrays(level)["labels"])
            draw = functools.partial(self._rows, side, rows)
            numbers = jax.vmap(draw, out_axes=1)(chosen, jax.random.split(key, self.count))
            arrays = {"tokens": self.tokens[numbers], "labels": self.labels[numbers]}
            return eqx.tree_at(_arrays, level, arrays)

        return Problem(fresh(self.pool.upper, "query", keys[0]), fresh(self.pool.lower, "support", keys[1]))

    def _rows(self, side: str, rows: int, domains: Int[Array, " per_task"], key: PRNGKeyArray) -> Int[Array, " rows"]:
        """Different sentences of these domains, in random order."""
        order_key, *keys = jax.random.split(key, 1 + self.per_task)
        found = []
        for part, key, domain in zip(np.array_split(np.arange(rows), self.per_task), keys, domains, strict=True):
            numbers = self.numbers[side][domain]
            drawn = jax.random.uniform(key, numbers.shape)
            there = jnp.arange(len(numbers)) < self.sizes[side][domain]
            found.append(numbers[jax.lax.top_k(jnp.where(there, drawn, -1.0), len(part))[1]])
        return jax.random.permutation(order_key, jnp.concatenate(found))
