"""The two levels of a bilevel problem: min over x of f(x, y*(x)), where y*(x) minimizes g(x, ·)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from bilevel import _checks as checks
from bilevel._accumulated import Accumulated, inner, with_inner
from bilevel.disk import Store, on_disk
from bilevel.sampling import Batch, Rows


class Level(eqx.Module):
    """One objective: the mean of a loss over the rows of a data set.

    **Arguments**

    - `loss(x, y, batch) -> scalar`: the mean loss over a batch. A plain function, an Equinox module or a
      `jax.tree_util.Partial`. The arrays that it needs belong in `data` or in a module; in a closure they
      would be compiled into the program. A `bl.Factored` loss states that x acts only through some features, and a
      `bl.accumulated` loss goes through a batch in parts.
    - `data`: a pytree of arrays with one common leading axis of rows, or a source that says how they are
      drawn (`bl.Rows`, the default, `bl.Blocks`, `bl.Shuffled` or `bl.ShuffledBlocks`), or `bl.OnDisk(…)`, rows that
      are not in memory. `None`: a deterministic level; `batch` is `None`.
    - `batch_size`: the number of rows in a batch; `None` means all rows, a deterministic level.
    - `per_row`: `True` if `x` holds one entry per row of this level's data. `loss` then receives only the
      batch's rows of `x`, and a step on `x` costs O(batch). To declare single leaves, pass a pytree of
      booleans that is a prefix of `x`.
    - `random`: `True` for a loss that wants randomness, such as dropout: `loss(x, y, batch, key) -> scalar`. Each draw
      of a batch has one key, made from the run's key. All that a solver computes on the batch (G_y, H[v] and J[v], or
      gradients at two points) uses this key, so it belongs to one function. Needs a `batch_size`. Solvers that read
      all rows refuse such a loss; measurements on all rows (`bl.diagnose`, the signs of `bl.solve`) use one fixed key.

    **Raises** `ValueError` or `TypeError`, naming the argument, for a loss that does not take three (or four)
    arguments, data of unequal lengths, without rows or with NaN, and a batch larger than the data.

    Example:

        >>> import bilevel as bl, jax.numpy as jnp
        >>> def loss(x, y, batch):
        ...     return jnp.mean((batch["features"] @ y - batch["target"]) ** 2) + jnp.exp(x) * y @ y
        >>> data = {"features": jnp.ones((100, 3)), "target": jnp.ones(100)}
        >>> bl.Level(loss, data=data, batch_size=10).length
        100
    """

    loss: Callable[..., Scalar]
    data: Rows | None
    batch_size: int | None = eqx.field(static=True)
    per_row: PyTree[bool]
    random: bool = eqx.field(static=True)

    def __init__(
        self,
        loss: Callable[..., Scalar],
        data: Any = None,
        batch_size: int | None = None,
        per_row: PyTree[bool] = False,
        random: bool = False,
    ):
        checks.flag("random", random)
        names = ("x", "y", "batch", *(["key"] if random else []))
        checks.calls("loss", inner(loss), f"loss({', '.join(names)}) -> scalar", *names)
        checks.hashable("loss", loss)
        self.loss, self.random = loss, random
        self.data = data if data is None or isinstance(data, Rows) else Rows(data)
        self.batch_size = checks.integers(batch_size)
        self.per_row = jax.tree.map(_as_flag, per_row, is_leaf=lambda flag: flag is per_row is None)
        if self.data is None:
            if batch_size is not None:
                raise ValueError(f"batch_size: got {batch_size} for a level without data; leave it out or pass data")
            if any(jax.tree.leaves(self.per_row)):
                raise ValueError("per_row: got True for a level without data; there are no rows for x to belong to")
            if isinstance(loss, Accumulated):
                raise ValueError("loss: got bl.accumulated for a level without data; there are no rows to divide")
        elif batch_size is not None:
            checks.count("batch_size", batch_size)
            self.data.check(self.size)
        elif on_disk(self.data):
            raise ValueError(
                "batch_size: got None, which means all rows in each step, but they are on disk; pass the number of "
                "rows in a batch, and a solver whose steps draw batches"
            )
        if random and batch_size is None:
            raise ValueError(
                "random: a loss that wants a key has one per batch, and this level reads all rows; pass a batch_size "
                "(and a solver that draws batches)"
            )
        if isinstance(loss, Accumulated):
            self.loss = loss.for_batches(self.size, batch_size is not None)

    def value(self, x: Any, y: Any, batch: Batch) -> Scalar:
        """The loss on a batch, on containers of its own: a loss may change a dictionary that it is given.

        Of a per-row variable, x holds the batch's rows.
        """
        if isinstance(self.loss, Accumulated):
            return self.loss.over(x, y, batch.rows, batch.key, per_row_flags(self, x))
        keys = (batch.key,) if self.random else ()
        return self.loss(*jax.tree.map(lambda leaf: leaf, (x, y, batch.rows)), *keys)

    @property
    def length(self) -> int:
        """The number of rows of the data; 1 for a level without data."""
        return 1 if self.data is None else self.data.length

    @property
    def size(self) -> int:
        """The number of rows in a batch."""
        return self.batch_size or self.length

    def draw(self, key: PRNGKeyArray, size: int | None = None) -> Batch:
        """A batch of `size` rows (default `batch_size`), or of all rows if the level is deterministic."""
        if self.data is None or self.batch_size is None:
            return self.all_rows()
        return self.draw_rows(key, self.batch_size if size is None else size)

    def draw_rows(self, key: PRNGKeyArray, size: int) -> Batch:
        """A batch of `size` rows, also of a deterministic level."""
        assert self.data is not None
        batch = self.data.draw(key, size)
        return dataclasses.replace(batch, key=jax.random.fold_in(key, _OF_THE_LOSS)) if self.random else batch

    def take(self, indices: Array | None, key: PRNGKeyArray | None = None) -> Batch:
        """The batch of the level's size that `draw` gave at these indices, with this key."""
        if indices is None or self.data is None or self.batch_size is None:
            return self.all_rows()
        if self.random and key is None:
            raise _without_key()
        return Batch(self.data.take(indices, self.batch_size), indices, self.batch_size, key)

    def all_rows(self) -> Batch:
        """All rows, in order."""
        if self.random:
            raise _without_key()
        return Batch(None, None, 1) if self.data is None else self.data.all_rows()

    def with_one_key(self) -> "Level":
        """The same level with one fixed key in place of those of batches, so that it has a value on all rows."""
        if not self.random:
            return self
        return dataclasses.replace(self, loss=with_inner(self.loss, OneKey), random=False)

    def loaded(self) -> "Level":
        """The same level with all its rows in memory."""
        return self if self.data is None else dataclasses.replace(self, data=self.data.loaded())

    def with_batch_size(self, size: int | None) -> "Level":
        """The same level with another batch size (None: all rows), if it draws batches."""
        if size is None and on_disk(self.data):
            self.all_rows()  # raises
        return self if self.batch_size is None else dataclasses.replace(self, batch_size=size)


_OF_THE_LOSS = 2**31 + 1  # no source folds in this number


def _without_key() -> ValueError:
    return ValueError(
        "random: this solver or method reads all rows, or a batch for a second time, without a key for the loss; use "
        "one that only draws batches, such as bl.SOBA, bl.StocBiO or bl.F2SA, or a loss without randomness"
    )


class OneKey(eqx.Module):
    """A loss that wants a key, as one that wants none."""

    loss: Callable[[Any, Any, Any, PRNGKeyArray], Scalar]

    def __call__(self, x: Any, y: Any, batch: Any) -> Scalar:
        return self.loss(x, y, batch, jax.random.key(0))


class Factored(eqx.Module):
    """A loss `given(inputs(x, batch), y, batch)`, in which x acts only through the features `inputs`.

    If the lower level has no `batch_size`, loops on y at a fixed x then compute the features only once.

    **Arguments**: `inputs(x, batch)`, which returns a pytree of arrays, and `given(inputs, y, batch) -> scalar`. Both
    are functions, or Equinox modules if they hold arrays.

    Example:

        >>> import bilevel as bl, jax.numpy as jnp
        >>> loss = bl.Factored(
        ...     inputs=lambda x, batch: jnp.tanh(batch["features"] @ x),
        ...     given=lambda inputs, y, batch: jnp.mean((inputs @ y - batch["target"]) ** 2),
        ... )
        >>> data = {"features": jnp.ones((10, 3)), "target": jnp.ones(10)}
        >>> round(float(loss(jnp.ones((3, 2)), jnp.zeros(2), data)), 1)
        1.0
    """

    inputs: Callable[[Any, Any], Any]
    given: Callable[[Any, Any, Any], Scalar]

    def __call__(self, x: Any, y: Any, batch: Any) -> Scalar:
        return self.given(self.inputs(x, batch), y, batch)


def _as_flag(flag: Any) -> bool:
    """True or False, also as NumPy's."""
    flag = bool(flag) if isinstance(flag, np.bool_) else flag
    checks.flag("per_row", flag)
    return flag


class Problem(eqx.Module):
    """min over x in X of f(x, y*(x)), where y*(x) = argmin over y of g(x, y).

    **Arguments**

    - `upper`, `lower`: the levels of f and g.
    - `project(x) -> x`: the Euclidean projection onto X, applied to the start of a run and after each step of x.
      Default: X is the whole space.

    Example:

        >>> import bilevel as bl
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, batch: (y - 1) ** 2),
        ...     lower=bl.Level(lambda x, y, batch: (y - x) ** 2),
        ...     project=lambda x: x.clip(0, 10),
        ... )
    """

    upper: Level
    lower: Level
    project: Callable[[Any], Any]

    def __init__(self, upper: Level, lower: Level, project: Callable[[Any], Any] | None = None):
        for name, level in (("upper", upper), ("lower", lower)):
            if not isinstance(level, Level):
                raise TypeError(f"{name}: got {type(level).__name__}; pass bl.Level(loss, data=..., batch_size=...)")
        _check_function("project", project, "x -> x")
        self.upper, self.lower = upper, lower
        self.project = identity if project is None else project

    def draw(self, key: PRNGKeyArray) -> "Problem":
        """The problem itself, because it draws no tasks."""
        return self

    def with_batch_size(self, size: int | None) -> "Problem":
        """The same problem with another batch size (None: all rows) at each level that draws batches."""
        return Problem(self.upper.with_batch_size(size), self.lower.with_batch_size(size), self.project)


class Episode(Problem):
    """One drawn problem of `Episodes`, with the initial y of its tasks."""

    start: Callable[[Any], Any] | None

    def __init__(self, problem: Problem, project: Callable[[Any], Any], start: Callable[[Any], Any] | None):
        super().__init__(problem.upper, problem.lower, project)
        self.start = start


class Episodes(eqx.Module):
    """A distribution over problems: each outer step draws its own tasks, as in few-shot learning.

        min over x in X of E[f_τ(x, y_τ*(x))],   y_τ*(x) = argmin over y of g_τ(x, y),   τ the tasks of a draw

    **Arguments**

    - `redraw(key) -> Problem`: the problem of freshly drawn tasks; every draw has the same shapes. Each outer step of
      `solve` draws once, and so does each call of `hypergradient` and `diagnose`. Make it an Equinox module that holds
      the data, as below: arrays in a closure would be compiled into the program.
    - `start(x) -> y`: the initial y on fresh tasks. All that belongs to the tasks (y, the adjoint, the states of their
      step rules) restarts in each outer step, and all that belongs to x is kept. `MAML` differentiates through it.
      Solvers whose direction depends on a y or an adjoint from earlier steps do not work then, and `solve` refuses
      them by name. `None`: the tasks are samples of one lower problem, or y holds exchangeable slots for them. Then
      the whole state is kept, and every solver but `MAML` may be used.
    - `project(x) -> x`: as in `Problem`; the projections of the drawn problems are not used.

    Example: one gradient step from a learned initial value x, each time on 4 of 100 tasks. The lower loss is the sum
    over these tasks, and the upper loss is the mean.

        >>> import bilevel as bl, equinox as eqx, jax, jax.numpy as jnp
        >>> class Tasks(eqx.Module):
        ...     centers: jax.Array
        ...     def __call__(self, key):
        ...         drawn = jax.random.choice(key, self.centers, (4,))
        ...         return bl.Problem(bl.Level(upper_loss, data=drawn), bl.Level(lower_loss, data=drawn))
        >>> def upper_loss(x, y, centers):
        ...     return jnp.mean((y - centers) ** 2)
        >>> def lower_loss(x, y, centers):
        ...     return 0.5 * jnp.sum((y - centers) ** 2)
        >>> episodes = bl.Episodes(Tasks(jnp.linspace(2.0, 4.0, 100)), start=lambda x: jnp.full(4, x))
        >>> solver = bl.MAML(upper_step=bl.inverse_power(0.5, 0.5), lower_step=0.5, inner_steps=1)
        >>> solution = bl.solve(episodes, solver, 0.0, steps=300, key=jax.random.key(1))
        >>> round(float(solution.x), 1)  # the mean of the centers
        3.0
    """

    redraw: Callable[[PRNGKeyArray], Problem]
    start: Callable[[Any], Any] | None
    project: Callable[[Any], Any]

    def __init__(
        self,
        redraw: Callable[[PRNGKeyArray], Problem],
        start: Callable[[Any], Any] | None = None,
        project: Callable[[Any], Any] | None = None,
    ):
        if redraw is None:
            raise TypeError("redraw: got None; pass a function key -> bl.Problem")
        for name, function, meant in (
            ("redraw", redraw, "key -> bl.Problem"),
            ("start", start, "x -> y"),
            ("project", project, "x -> x"),
        ):
            _check_function(name, function, meant)
        self.redraw, self.start = redraw, start
        self.project = identity if project is None else project

    def draw(self, key: PRNGKeyArray) -> Episode:
        """The problem of freshly drawn tasks."""
        return Episode(self.redraw(key), self.project, self.start)

    def with_batch_size(self, size: int | None) -> "Episodes":
        """The same with another batch size (None: all rows) at each level that draws batches."""
        return Episodes(Then(self.redraw, eqx.Partial(_rebatched, size)), self.start, self.project)


class Then(eqx.Module):
    """`redraw`, followed by a change of the drawn problem."""

    redraw: Callable[[PRNGKeyArray], Problem]
    change: Callable[[Problem], Problem]

    def __call__(self, key: PRNGKeyArray) -> Problem:
        return self.change(self.redraw(key))


def _rebatched(size: int | None, problem: Problem) -> Problem:
    return problem.with_batch_size(size)


def start_of(problem: Any, x: Any) -> Any:
    """The initial y on fresh tasks, in arrays whose dtype is not weak."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.result_type(leaf)), problem.start(x))


def stores_of(problem: Problem | Episodes) -> list[Store]:
    """Where the rows on disk of a problem are; two levels may share them."""
    if isinstance(problem, Episodes):
        return []
    found = [on_disk(level.data) for level in (problem.upper, problem.lower)]
    return list(dict.fromkeys(stored.store for stored in found if stored is not None))


def drawn_once(problem: Problem | Episodes, key: PRNGKeyArray) -> tuple[Problem, PRNGKeyArray]:
    """The problem of tasks drawn once, and a key for the rest. A `Problem` and its key are returned as they are."""
    if isinstance(problem, Problem):
        return problem, key
    tasks_key, key = jax.random.split(key)
    return problem.draw(tasks_key), key


def _check_function(name: str, function: Any, meant: str) -> None:
    if function is not None:
        checks.calls(name, function, meant, "x")
        checks.hashable(name, function)


def identity(x: Any) -> Any:
    return x


def per_row_flags(level: Level, x: Any) -> list[bool]:
    """Which leaves of x hold one entry per row of the level's data."""
    try:
        flags = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), level.per_row, x)
    except ValueError:
        raise ValueError(f"per_row: {level.per_row} is not a prefix of x's tree {jax.tree.structure(x)}") from None
    return jax.tree.leaves(flags)
