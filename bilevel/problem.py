"""The two levels of a bilevel problem: min over x of f(x, y*(x)), where y*(x) minimizes g(x, ·)."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from bilevel import _checks as checks
from bilevel.sampling import Batch, Rows

_LARGE_CONSTANT_BYTES = 1_000_000


class Level(eqx.Module):
    """One objective: the mean of a loss over the rows of a data set.

    **Arguments**

    - `loss(x, y, batch) -> scalar`: the mean loss over a batch. A plain function, an Equinox module or a
      `jax.tree_util.Partial`. Arrays it needs belong in `data` or in a module, not in a closure, where
      they would be compiled into the program. A module whose x acts through some features alone may say so by the
      methods `inputs(x, batch)` and `given(inputs, y, batch)`, its call being `given(inputs(x, batch), y, batch)`:
      loops on y at a fixed x, of a lower level without a `batch_size`, then compute the features once.
    - `data`: a pytree of arrays with one common leading axis of rows, or a source that says how they are
      drawn (`bl.Rows`, the default, or `bl.Blocks`). `None`: a deterministic level; `batch` is `None`.
    - `batch_size`: rows in a batch; `None` is all of them, a deterministic level.
    - `per_row`: `True` when `x` holds one entry per row of this level's data: `loss` then receives only
      the batch's rows of it, and a plain step on it costs O(batch). A pytree of booleans that is a prefix
      of `x` declares single leaves.

    **Raises** `ValueError` or `TypeError`, which name the argument, for a loss that does not take three
    arguments, data of unequal length, without rows or with NaN, and a batch larger than the data.

    Example:

        >>> import bilevel as bl, jax.numpy as jnp
        >>> def loss(x, y, batch):
        ...     return jnp.mean((batch["features"] @ y - batch["target"]) ** 2) + jnp.exp(x) * y @ y
        >>> data = {"features": jnp.ones((100, 3)), "target": jnp.ones(100)}
        >>> bl.Level(loss, data=data, batch_size=10).length
        100
    """

    loss: Callable[[Any, Any, Any], Scalar]
    data: Rows | None
    batch_size: int | None = eqx.field(static=True)
    per_row: PyTree[bool]

    def __init__(
        self,
        loss: Callable[[Any, Any, Any], Scalar],
        data: Any = None,
        batch_size: int | None = None,
        per_row: PyTree[bool] = False,
    ):
        _check_signature(loss)
        self.loss = loss
        self.data = data if data is None or isinstance(data, Rows) else Rows(data)
        self.batch_size = batch_size
        self.per_row = per_row
        if self.data is None:
            if batch_size is not None:
                raise ValueError(f"batch_size: got {batch_size} for a level without data; leave it out or pass data")
            if any(jax.tree.leaves(per_row)):
                raise ValueError("per_row: got True for a level without data; there are no rows for x to belong to")
        elif batch_size is not None:
            checks.count("batch_size", batch_size)
            self.data.check(batch_size)

    @property
    def length(self) -> int:
        """Number of rows of the data; 1 for a level without data."""
        return 1 if self.data is None else self.data.length

    @property
    def size(self) -> int:
        """Rows in a batch."""
        return self.batch_size or self.length

    def draw(self, key: PRNGKeyArray, size: int | None = None) -> Batch:
        """A batch of `size` rows (default `batch_size`); of all rows if the level is deterministic."""
        if self.data is None or self.batch_size is None:
            return self.everything()
        return self.data.draw(key, self.batch_size if size is None else size)

    def take(self, indices: Array | None) -> Batch:
        """The batch of the level's size that `draw` gave at these indices, once more."""
        if indices is None or self.data is None or self.batch_size is None:
            return self.everything()
        return Batch(self.data.take(indices, self.batch_size), indices, self.batch_size)

    def everything(self) -> Batch:
        """All rows, in order."""
        return Batch(None if self.data is None else self.data.arrays, None, self.length)


def _check_signature(loss: Any) -> None:
    if not callable(loss):
        raise TypeError(f"loss: got {loss!r}; pass a function loss(x, y, batch) -> scalar")
    try:
        inspect.signature(loss).bind(None, None, None)
    except TypeError as error:
        raise TypeError(f"loss: it must take three arguments, loss(x, y, batch); {error}") from None
    except ValueError:
        pass  # a builtin without a signature; tracing will tell


class Problem(eqx.Module):
    """min over x in X of f(x, y*(x)), where y*(x) = argmin over y of g(x, y).

    **Arguments**

    - `upper`, `lower`: the levels of f and g.
    - `project(x) -> x`: the Euclidean projection onto X, applied after each step of x. Default: X is the
      whole space.
    - `redraw(key) -> Problem`: the ordinary problem of freshly drawn tasks (few-shot episodes), whose levels have the
      shapes of `upper` and `lower`. Each outer step of `solve` and `advance` then has tasks of its own, and so has each
      call of `hypergradient` and `diagnose`. Make it an Equinox module that holds the data, as below: arrays in a
      closure would be compiled into the program. `project` and `start` are those of this problem.
    - `start(x) -> y`: where y begins with fresh tasks. `MAML` begins each lower loop there and differentiates through
      it. With `redraw`, what belongs to the tasks (y, the adjoint, the momenta and step-rule states of both) starts
      anew from it in each outer step, and what belongs to x goes on; without a `start` all of it goes on, the tasks
      being samples of one lower problem.

    Example:

        >>> import bilevel as bl
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, batch: (y - 1) ** 2),
        ...     lower=bl.Level(lambda x, y, batch: (y - x) ** 2),
        ...     project=lambda x: x.clip(0, 10),
        ... )

    One step of descent from a start x that is learned, each time on 4 of 100 tasks, the lower loss being the sum over
    them and the upper one the mean:

        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> class Tasks(eqx.Module):
        ...     centers: jax.Array
        ...     def __call__(self, key):
        ...         drawn = jax.random.choice(key, self.centers, (4,))
        ...         return bl.Problem(bl.Level(upper_loss, data=drawn), bl.Level(lower_loss, data=drawn))
        >>> def upper_loss(x, y, centers):
        ...     return jnp.mean((y - centers) ** 2)
        >>> def lower_loss(x, y, centers):
        ...     return 0.5 * jnp.sum((y - centers) ** 2)
        >>> redraw = Tasks(jnp.linspace(2.0, 4.0, 100))
        >>> first = redraw(jax.random.key(0))
        >>> problem = bl.Problem(first.upper, first.lower, start=lambda x: jnp.full(4, x), redraw=redraw)
        >>> solver = bl.MAML(upper_step=bl.inverse_power(0.5, 0.5), lower_step=0.5, inner_steps=1)
        >>> solution = bl.solve(problem, solver, 0.0, steps=300, key=jax.random.key(1))
        >>> round(float(solution.x), 1)  # the mean of the centers
        3.0
    """

    upper: Level
    lower: Level
    project: Callable[[Any], Any]
    start: Callable[[Any], Any] | None
    redraw: Callable[[PRNGKeyArray], "Problem"] | None

    def __init__(
        self,
        upper: Level,
        lower: Level,
        project: Callable[[Any], Any] | None = None,
        start: Callable[[Any], Any] | None = None,
        redraw: Callable[[PRNGKeyArray], "Problem"] | None = None,
    ):
        for name, level in (("upper", upper), ("lower", lower)):
            if not isinstance(level, Level):
                raise TypeError(f"{name}: got {type(level).__name__}; pass bl.Level(loss, data=..., batch_size=...)")
        for name, function, meant in (
            ("project", project, "x -> x"),
            ("start", start, "x -> y"),
            ("redraw", redraw, "key -> bl.Problem"),
        ):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: got {function!r}; pass a function {meant}, or None")
        self.upper, self.lower = upper, lower
        self.project = _identity if project is None else project
        self.start, self.redraw = start, redraw

    @property
    def restarts(self) -> bool:
        """Whether what belongs to the tasks starts anew in each outer step."""
        return self.redraw is not None and self.start is not None

    def resample(self, key: PRNGKeyArray) -> "Problem":
        """The ordinary problem of freshly drawn tasks; without `redraw`, the problem itself."""
        if self.redraw is None:
            return self
        tasks = self.redraw(key)
        return Problem(tasks.upper, tasks.lower, self.project, self.start)

    def with_batch_size(self, size: int | None) -> "Problem":
        """The same problem with another batch size (None: all rows) at each level that draws batches."""
        upper, lower = (
            level if level.batch_size is None else Level(level.loss, level.data, size, level.per_row)
            for level in (self.upper, self.lower)
        )
        redraw = None if self.redraw is None else _Rebatched(self.redraw, size)
        return Problem(upper, lower, self.project, self.start, redraw)


def _identity(x: Any) -> Any:
    return x


class _Rebatched(eqx.Module):
    redraw: Callable[[PRNGKeyArray], Problem]
    size: int | None = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Problem:
        return self.redraw(key).with_batch_size(self.size)


class _Combined(eqx.Module):
    """A loss of the array leaves alone: the other leaves of x and y were set aside once."""

    loss: Callable[[Any, Any, Any], Scalar]
    x_static: PyTree
    y_static: PyTree

    def __call__(self, x: PyTree[Array], y: PyTree[Array], batch: Any) -> Scalar:
        return self.loss(eqx.combine(x, self.x_static), eqx.combine(y, self.y_static), batch)


class _CombinedFactored(_Combined):
    """The same of a loss that x enters through `inputs` alone."""

    def inputs(self, x: PyTree[Array], batch: Any) -> PyTree[Array]:
        loss: Any = self.loss
        return loss.inputs(eqx.combine(x, self.x_static), batch)

    def given(self, inputs: PyTree[Array], y: PyTree[Array], batch: Any) -> Scalar:
        loss: Any = self.loss
        return loss.given(inputs, eqx.combine(y, self.y_static), batch)


class _OfX(eqx.Module):
    """`project` or `start`, of the array leaves alone."""

    function: Callable[[Any], Any]
    x_static: PyTree

    def __call__(self, x: PyTree[Array]) -> PyTree[Array]:
        return eqx.filter(self.function(eqx.combine(x, self.x_static)), eqx.is_inexact_array)


class _CombinedRedraw(eqx.Module):
    redraw: Callable[[PRNGKeyArray], Problem]
    x_static: PyTree
    y_static: PyTree

    def __call__(self, key: PRNGKeyArray) -> Problem:
        return _of_arrays(self.redraw(key), self.x_static, self.y_static)


def _combined(loss: Any, x_static: PyTree, y_static: PyTree) -> _Combined:
    return (_CombinedFactored if is_factored(loss) else _Combined)(loss, x_static, y_static)


def is_factored(loss: Any) -> bool:
    """Whether a loss is `given(inputs(x, batch), y, batch)`."""
    return hasattr(loss, "inputs") and hasattr(loss, "given")


def _of_arrays(problem: Problem, x_static: PyTree, y_static: PyTree) -> Problem:
    """The problem as one of the array leaves of x and y."""
    upper, lower = (
        eqx.tree_at(lambda level: level.loss, level, _combined(level.loss, x_static, y_static))
        for level in (problem.upper, problem.lower)
    )
    start = None if problem.start is None else _OfX(problem.start, x_static)
    redraw = None if problem.redraw is None else _CombinedRedraw(problem.redraw, x_static, y_static)
    return Problem(upper, lower, _OfX(problem.project, x_static), start, redraw)


def prepare(problem: Problem, x: Any, y: Any) -> tuple[Problem, Any, Any, Callable[[Any, Any], tuple[Any, Any]]]:
    """Check a problem against its variables and keep only their arrays.

    Returns the problem of the array leaves, these leaves of x and y, and `restore(x, y)` that gives a pair
    back its other leaves.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem: got {type(problem).__name__}; pass bl.Problem(upper=..., lower=...)")
    x, y = checks.tree("x", x), checks.tree("y", y)
    (x, x_static), (y, y_static) = (eqx.partition(tree, eqx.is_inexact_array) for tree in (x, y))
    if jax.tree.leaves((x_static, y_static)):
        problem = _of_arrays(problem, x_static, y_static)
    for name, level in (("upper", problem.upper), ("lower", problem.lower)):
        _check_per_row(name, level, x)
        _check_loss(name, level, x, y)
    _check_point("project", problem.project, x, x, "x")
    if problem.start is not None:
        _check_point("start", problem.start, x, y, "y")
    if problem.redraw is not None:
        _check_redraw(problem, x, y)
    return problem, x, y, lambda x, y: (eqx.combine(x, x_static), eqx.combine(y, y_static))


def _check_per_row(name: str, level: Level, x: Any) -> None:
    for is_per_row, leaf in zip(per_row_flags(level, x), jax.tree.leaves(x), strict=True):
        if is_per_row and (leaf.ndim == 0 or leaf.shape[0] != level.length):
            raise ValueError(
                f"{name}.per_row: x has a leaf of shape {leaf.shape}, but the {name} data have {level.length} rows; "
                "a per-row variable needs one entry per row"
            )


def per_row_flags(level: Level, x: Any) -> list[bool]:
    """Which leaves of x hold one entry per row of the level's data."""
    try:
        flags = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), level.per_row, x)
    except ValueError:
        raise ValueError(f"per_row: {level.per_row} is not a prefix of x's tree {jax.tree.structure(x)}") from None
    return jax.tree.leaves(flags)


def _check_loss(name: str, level: Level, x: Any, y: Any) -> None:
    flags = per_row_flags(level, x)
    size = level.size

    def on_first_rows(loss: Any, x: Any, y: Any, arrays: Any) -> Any:
        leaves = [leaf[:size] if flag else leaf for leaf, flag in zip(jax.tree.leaves(x), flags, strict=True)]
        rows = jax.tree.map(lambda array: array[:size], arrays)
        return loss(jax.tree.unflatten(jax.tree.structure(x), leaves), y, rows)

    out, constants = _shape_and_constants(on_first_rows, level.loss, x, y, level.everything().rows)
    if not (hasattr(out, "shape") and hasattr(out, "dtype")) or out.shape != ():
        got = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
        raise ValueError(f"{name}.loss: returned {got}; it must return a scalar, such as the mean over the batch")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{name}.loss: returned dtype {out.dtype}; it must return a floating-point scalar")
    if constants > _LARGE_CONSTANT_BYTES:
        warnings.warn(
            f"{name}.loss closes over {constants / 1e6:.0f} MB of arrays, which are compiled into the program; "
            "pass them as data, or make the loss an Equinox module or jax.tree_util.Partial that holds them",
            stacklevel=4,
        )


def _shape_and_constants(function: Any, *args: Any) -> tuple[Any, int]:
    """The output's shape and the bytes of arrays that tracing finds in closures; runs nothing."""
    dynamic, static = eqx.partition(args, eqx.is_array)
    output = []

    def call(dynamic: Any) -> Any:
        output.append(function(*eqx.combine(dynamic, static)))
        return [leaf for leaf in jax.tree.leaves(output[0]) if eqx.is_array(leaf)]

    jaxpr = jax.make_jaxpr(call)(dynamic)
    constants = sum(getattr(c, "nbytes", 0) for c in jaxpr.consts if not isinstance(c, Tracer))
    out = output[0]
    return (jax.typeof(out) if eqx.is_array(out) else out), constants


def _check_point(name: str, function: Callable[[Any], Any], x: Any, wanted: Any, like: str) -> None:
    shapes = eqx.filter_eval_shape(function, x)
    expected = eqx.filter_eval_shape(_identity, wanted)
    if jax.tree.structure(shapes) != jax.tree.structure(expected) or any(
        (a.shape, a.dtype) != (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(shapes), jax.tree.leaves(expected), strict=True)
    ):
        raise ValueError(
            f"{name}: its output has another structure, shape or dtype than {like}; return a point like {like}"
        )


def _check_redraw(problem: Problem, x: Any, y: Any) -> None:
    def draw(redraw: Any, x: Any, y: Any) -> None:
        tasks = redraw(jax.random.key(0))
        if not isinstance(tasks, Problem):
            raise TypeError(f"redraw: returned {type(tasks).__name__}; return bl.Problem(upper=..., lower=...)")
        for name in ("upper", "lower"):
            level, first = getattr(tasks, name), getattr(problem, name)
            if (level.length, level.batch_size) != (first.length, first.batch_size):
                raise ValueError(
                    f"redraw: its {name} level has {level.length} rows and batch_size={level.batch_size}, that of the "
                    f"problem {first.length} and {first.batch_size}; every draw must have the same shapes"
                )
            _check_per_row(name, level, x)
            _check_loss(name, level, x, y)

    _, constants = _shape_and_constants(draw, problem.redraw, x, y)
    if constants > _LARGE_CONSTANT_BYTES:
        warnings.warn(
            f"redraw closes over {constants / 1e6:.0f} MB of arrays, which are compiled into the program; make it an "
            "Equinox module or jax.tree_util.Partial that holds them",
            stacklevel=4,
        )


def tasks_of(problem: Problem, key: PRNGKeyArray) -> tuple[Problem, PRNGKeyArray]:
    """The problem of tasks drawn once, and a key for the rest; an ordinary problem and its key are left as they are."""
    if problem.redraw is None:
        return problem, key
    tasks_key, key = jax.random.split(key)
    return problem.resample(tasks_key), key
