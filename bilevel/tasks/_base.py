"""The `Task` class, and what several tasks share."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bilevel import _checks as checks
from bilevel import datasets
from bilevel.datasets import words
from bilevel.problem import Episodes, Problem, identity
from bilevel.sampling import Blocks, Rows, Shuffled, ShuffledBlocks
from bilevel.solvers.base import Tuned
from bilevel.tasks.networks import TextRNN
from bilevel.trees import Tree

SOURCES = {"rows": Rows, "shuffled": Shuffled, "blocks": Blocks, "shuffled blocks": ShuffledBlocks}
SPLITS = ("test", "validation")

# The default settings of each model.
MODELS: dict[str, dict[str, Any]] = {
    "linear": {},
    "cnn": {"filters": 8, "layers": 4, "normalize": True, "pool": 1},
    "rnn": {
        "vocabulary": 1000,
        "length": 20,
        "embedding": 24,
        "hidden": 24,
        "layers": 2,
        "uniform": None,
        "vectors": None,
        "frozen": False,
    },
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """The box of a few numbers that a search without gradients draws from (`bilevel compare --search`).

    **Arguments**: `low` and `high`, the bounds of each number; `x`, the x that an array of these numbers stands for,
    by default the array.

    Example:

        >>> import jax.numpy as jnp
        >>> from bilevel.tasks import Search
        >>> search = Search(low=(-5.0,), high=(5.0,), x=lambda numbers: jnp.full(100, numbers[0]))  # one for all 100
    """

    low: Sequence[float]
    high: Sequence[float]
    x: Callable[[Any], Tree] = identity

    def __post_init__(self):
        low, high = np.asarray(self.low, float), np.asarray(self.high, float)
        if low.ndim != 1 or low.shape != high.shape or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise ValueError(f"low: got {self.low} with high {self.high}; pass finite bounds, low below high, one each")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A problem with starts and metrics, independent of any solver.

    - `problem`, and the starts `x` and `y`.
    - `metrics(x, y) -> {name: number}`: what `solve` evaluates after each chunk.
    - `score`: the name of the main metric; higher is better.
    - `dataset`: the data set and the rows that were read of it, in words, for tables.
    - `data`: anything else that a comparison needs, such as the rows for reference methods.
    - `tuned`: a `Tuned(steps, **settings)` per solver, by the solver's name: its settings in `bilevel compare`. (The
      solvers of the package hold their own for the tasks of the package.)
    - `search`: the numbers that a search without gradients may vary.

    Tasks that differ only in their seed share their compiled programs.

    Example:

        >>> import bilevel as bl, jax
        >>> from bilevel import tasks
        >>> task = tasks.quadratic()
        >>> solver = bl.AIDBiO(upper_step=0.5, lower_step=0.1, inner_steps=10)
        >>> solution = bl.solve(
        ...     task.problem, solver, task.x, task.y, steps=50, key=jax.random.key(0), metrics=task.metrics
        ... )
        >>> bool(solution.history[task.score][-1] > 3)
        True
    """

    name: str
    problem: Problem | Episodes
    x: Tree
    y: Tree
    metrics: Callable[[Any, Any], dict[str, float]]
    score: str
    dataset: str = ""
    data: Any = None
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    search: Search | None = None


# The `dataset` of a task is an instance of one of these classes, or one of these names.
_NAMES: dict[type, tuple[str, ...]] = {
    datasets.Dataset: datasets.NAMES,
    datasets.TextDataset: datasets.TEXT_NAMES,
    datasets.SparseDataset: datasets.SPARSE_NAMES,
    datasets.FewshotDataset: datasets.FEWSHOT_NAMES,
}


def class_of(dataset: Any, *classes: type) -> type:
    """Which of these classes a data set has, given as itself or by name; nothing is loaded."""
    if not isinstance(dataset, str):
        for found in classes:
            if isinstance(dataset, found):
                return found
        wanted = " or ".join(f"a datasets.{known.__name__}" for known in classes)
        raise TypeError(f"dataset: got {type(dataset).__name__}; pass the name of a data set or {wanted}")
    checks.one_of("dataset", dataset, [name for known in classes for name in _NAMES[known]])
    return next(known for known in classes if dataset in _NAMES[known])


def loaded(dataset: Any) -> Any:
    """The data set, which is read if only its name is given."""
    return datasets.read(dataset) if isinstance(dataset, str) else dataset


def described(dataset: Any) -> str:
    """What was read: the name, and how many rows or classes of what.

    Example:

        >>> from bilevel import datasets
        >>> from bilevel.tasks._base import described
        >>> described(datasets.load_fewshot("glyphs"))
        'glyphs: 435 training, 81 validation and 151 test classes of 20 images (20×20×1)'
    """
    name = dataset.card.name
    if isinstance(dataset, datasets.FewshotDataset):
        counts = " and ".join(
            f"{len(images)} {part}" for part, images in (("validation", dataset.validation), ("test", dataset.test))
        )
        _, each, *shape = dataset.train.shape
        return f"{name}: {len(dataset.train)} training, {counts} classes of {each} images ({'×'.join(map(str, shape))})"
    rows = f"{name}: {len(dataset.labels):,} rows in {dataset.classes} classes"
    if not isinstance(dataset, datasets.TextDataset) or len(dataset.domain_names) == 1:
        return rows
    counts = np.bincount(dataset.domains, minlength=len(dataset.domain_names))
    of_domains = (f"{domain} {count:,}" for domain, count in zip(dataset.domain_names, counts, strict=True))
    return f"{rows} ({', '.join(of_domains)})"


def dividing(size: int, rows: int) -> int:
    """The largest divisor of `rows` that is at most `size`: a batch size that `bl.Blocks` takes."""
    return max(divisor for divisor in range(1, min(size, rows) + 1) if rows % divisor == 0)


def settings_of(model: str, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The default settings of a model, updated by these changes, which are checked by name."""
    if changes is not None and not isinstance(changes, Mapping):
        raise TypeError(f"model_settings: got {changes!r}; pass a dictionary")
    known = MODELS[model]
    if changes and not known:
        raise ValueError(f"model_settings: got {dict(changes)}, but the {model} model has none; leave them out")
    for name in changes or {}:
        checks.one_of("model_settings", name, known)
    settings = {**known, **(changes or {})}
    for name in ("filters", "pool", "vocabulary", "length", "embedding", "layers"):
        if name in settings:
            checks.count(f"model_settings[{name!r}]", settings[name])
    if "frozen" in settings:
        checks.flag("model_settings['frozen']", settings["frozen"])
    return settings


def text_network(
    settings: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    texts: Iterable[str],
    outputs: int,
    rng: np.random.Generator,
) -> tuple[TextRNN, Float[Array, "vocabulary embedding"] | None]:
    """A network with these `model_settings` and initial parameters; and its word vectors, if they are frozen.

    `texts`: from which word vectors may be learned.
    """
    size, embedding, vectors = settings["vocabulary"], settings["embedding"], None
    if settings["vectors"] is not None:
        if settings["vectors"] == "corpus":
            found = words.learn_vectors(texts, vocabulary, embedding)
        else:
            found = words.read_vectors(settings["vectors"], vocabulary)
        vectors = jnp.zeros((size, found.shape[1])).at[: len(found)].set(found)  # the texts may hold fewer words
    network = TextRNN(
        size,
        embedding,
        settings["hidden"],
        **{name: settings[name] for name in ("layers", "uniform")},
        outputs=outputs,
        vectors=vectors,
        key=jax.random.key(rng.integers(2**31)),
    )
    return (network.without_vectors(), network.vectors) if settings["frozen"] else (network, None)


def generator(seed: Any) -> np.random.Generator:
    """NumPy's generator for a seed, which is required, so that a task is the same whenever it is built."""
    try:
        return np.random.default_rng(operator.index(seed))
    except (TypeError, ValueError):
        raise ValueError(f"seed: got {seed!r}; pass an integer, zero or more") from None


def by_group(
    groups: Int[np.ndarray, " n"], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Int[np.ndarray, " size"]]:
    """Disjoint random parts of the rows, of these sizes. No two parts have rows of the same group.

    If the last group of a part does not fit, its surplus rows are dropped.
    """
    rank = rng.permutation(groups.max() + 1)[groups]
    order = np.argsort(rank, kind="stable")
    parts, start = {}, 0
    for name, size in sizes.items():
        if start + size > len(order):
            raise ValueError(
                f"{name}: got {size}, but {len(order) - start} of {len(order)} rows are left after the other parts "
                f"({', '.join(f'{other} {n}' for other, n in sizes.items() if other != name)}); pass fewer of them"
            )
        parts[name] = rng.permutation(order[start : start + size])
        start = int(np.searchsorted(rank[order], rank[order[start + size - 1]], side="right"))
    return parts
