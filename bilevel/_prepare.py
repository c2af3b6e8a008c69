"""A problem that is checked against its variables, and reduced to the array leaves of x and y."""

import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bilevel import _checks as checks
from bilevel._accumulated import with_inner
from bilevel._placement import on_device
from bilevel.problem import Episodes, Factored, Level, Problem, Then, identity, per_row_flags
from bilevel.sampling import Batch
from bilevel.trees import Tree

_LARGE_CONSTANT_BYTES = 1_000_000

P = TypeVar("P", bound=Problem | Episodes)


class Prepared(eqx.Module, Generic[P]):
    """A problem in only the array leaves of x and y, these leaves, and the other leaves of x and y (None: no
    others)."""

    problem: P
    x: Tree
    y: Tree
    x_static: Tree
    y_static: Tree

    def restore_x(self, x: Tree) -> Tree:
        """An x, or a tree shaped like x, with the other leaves put back."""
        return x if self.x_static is None else eqx.combine(x, self.x_static)

    def restore_y(self, y: Tree) -> Tree:
        """The same for y."""
        return y if self.y_static is None else eqx.combine(y, self.y_static)


def prepare(problem: P, x: Any, y: Any) -> Prepared[P]:
    """Check a problem against its variables, and keep only their arrays. `y` None means the episodes' start."""
    if not isinstance(problem, Problem | Episodes):
        raise TypeError(
            f"problem: got {type(problem).__name__}; pass bl.Problem(upper=..., lower=...) or "
            "bl.Episodes(redraw, start)"
        )
    x = checks.tree("x", x)
    if y is None and isinstance(problem, Episodes) and problem.start is not None:
        y = problem.start(x)
    y = checks.tree("y", y)
    (x, x_static), (y, y_static) = _divided(x), _divided(y)
    if not (x_static is None and y_static is None):
        problem = _of_arrays(problem, x_static, y_static)
    _check_once(problem, x, y)
    return Prepared(_on_device(problem), x, y, x_static, y_static)


def _on_device(problem: P) -> P:
    """NumPy arrays that the losses hold, on the device once each. JAX would send them with every call, and anew for
    each level."""
    sent: dict[int, jax.Array] = {}

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        if id(leaf) not in sent:
            sent[id(leaf)] = on_device(leaf)
        return sent[id(leaf)]

    return jax.tree.map(place, problem)


# The functions, static settings, shapes and dtypes of problems that were found right, the last ones at the end. To
# trace the losses anew would take most of the time of a small hypergradient.
_right: dict[Any, None] = {}
_KEPT = 100


def _check_once(problem: Any, x: Tree, y: Tree) -> None:
    leaves, structure = jax.tree.flatten((problem, x, y))
    kind = structure, tuple(jax.typeof(leaf) if isinstance(leaf, jax.Array | np.ndarray) else leaf for leaf in leaves)
    try:
        known = _right.pop(kind, False) is None
    except TypeError:  # a static setting that cannot be hashed
        _check(problem, x, y)
        return
    if known or _check(problem, x, y):
        _right[kind] = None
        if len(_right) > _KEPT:
            del _right[next(iter(_right))]


def _check(problem: Any, x: Tree, y: Tree) -> bool:
    """Whether all is right without a warning."""
    if isinstance(problem, Problem):
        quiet = _check_levels(problem, x, y)
    else:
        quiet = _check_redraw(problem, x, y)
        if problem.start is not None:
            _check_point("start", problem.start, x, y, "y")
    _check_point("project", problem.project, x, x, "x")
    return quiet


def _divided(tree: Tree) -> tuple[Tree, Tree]:
    """The array leaves, and the tree of all others, or None if there are none."""
    if all(map(eqx.is_inexact_array, jax.tree.leaves(tree))):
        return tree, None
    return eqx.partition(tree, eqx.is_inexact_array)


class _WithStatic(eqx.Module):
    """Calls a function after putting back the leaves that are not arrays. `fixed` holds them, by position."""

    function: Callable[..., Any]
    fixed: dict[int, Tree]

    def __call__(self, *arguments: Any) -> Any:
        fixed = self.fixed
        whole = [a if fixed.get(i) is None else eqx.combine(a, fixed[i]) for i, a in enumerate(arguments)]
        return self.function(*whole)


class _Arrays(eqx.Module):
    """Keeps the array leaves of what a function returns."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return eqx.filter(self.function(*arguments), eqx.is_inexact_array)


def _of_arrays(problem: Any, x_static: Tree, y_static: Tree) -> Any:
    """The problem as a problem in the array leaves of x and y."""
    project = _Arrays(_WithStatic(problem.project, {0: x_static}))
    if isinstance(problem, Episodes):
        start = None if problem.start is None else _Arrays(_WithStatic(problem.start, {0: x_static}))
        change = eqx.Partial(_of_arrays, x_static=x_static, y_static=y_static)
        return Episodes(Then(problem.redraw, change), start, project)
    of_arrays = eqx.Partial(_loss_of_arrays, x_static=x_static, y_static=y_static)
    upper, lower = (
        eqx.tree_at(lambda level: level.loss, level, with_inner(level.loss, of_arrays))
        for level in (problem.upper, problem.lower)
    )
    return Problem(upper, lower, project)


def _loss_of_arrays(loss: Any, x_static: Tree, y_static: Tree) -> Any:
    if isinstance(loss, Factored):
        return Factored(_WithStatic(loss.inputs, {0: x_static}), _WithStatic(loss.given, {1: y_static}))
    return _WithStatic(loss, {0: x_static, 1: y_static})


def _check_levels(problem: Problem, x: Any, y: Any) -> bool:
    levels = {"upper": problem.upper, "lower": problem.lower}
    for name, level in levels.items():
        _check_per_row(name, level, x)
    quiet = [_check_loss(name, level, x, y) for name, level in levels.items()]
    return all(quiet)


def _check_per_row(name: str, level: Level, x: Any) -> None:
    for is_per_row, leaf in zip(per_row_flags(level, x), jax.tree.leaves(x), strict=True):
        if is_per_row and (leaf.ndim == 0 or leaf.shape[0] != level.length):
            raise ValueError(
                f"{name}.per_row: x has a leaf of shape {leaf.shape}, but the {name} data have {level.length} rows; "
                "a per-row variable needs one entry per row"
            )
        if not is_per_row and level.batch_size == level.length > 1 and leaf.ndim and leaf.shape[0] == level.length:
            # a loss of a smaller batch would have raised an error of shapes
            raise ValueError(
                f"{name}.batch_size: it is the number of rows, {level.length}, and so is the length of a leaf of x. If "
                "the leaf has one entry per row, pass per_row=True: the rows of a batch come in another order. If it "
                "has not, pass batch_size=None, which means all rows"
            )


def _check_loss(name: str, level: Level, x: Any, y: Any) -> bool:
    flags = per_row_flags(level, x)
    size = level.size

    def on_first_rows(level: Level, x: Any, y: Any) -> Any:
        leaves = [leaf[:size] if flag else leaf for leaf, flag in zip(jax.tree.leaves(x), flags, strict=True)]
        first = Batch(None if level.data is None else level.data.first(size), None, size)
        return level.value(jax.tree.unflatten(jax.tree.structure(x), leaves), y, first)

    out, constants = _traced(f"{name}.loss", on_first_rows, level.with_one_key(), x, y)
    if not (hasattr(out, "shape") and hasattr(out, "dtype")) or out.shape != ():
        got = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
        raise ValueError(f"{name}.loss: returned {got}; it must return a scalar, such as the mean over the batch")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{name}.loss: returned dtype {out.dtype}; it must return a floating-point scalar")
    if constants > _LARGE_CONSTANT_BYTES:
        warnings.warn(
            f"{name}.loss closes over {constants / 1e6:.0f} MB of arrays, which are compiled into the program; "
            "pass them as data, or make the loss an Equinox module or jax.tree_util.Partial that holds them",
            stacklevel=8,
        )
    return constants <= _LARGE_CONSTANT_BYTES


def _traced(name: str, function: Any, *args: Any) -> tuple[Any, int]:
    """`_shape_and_constants`. An error of the user's function says in which it arose."""
    try:
        return _shape_and_constants(function, *args)
    except Exception as error:
        error.add_note(
            f"It arose in {name}, which is called with traced arrays: use jax.numpy instead of NumPy and float(), "
            "jnp.where or jax.lax.cond instead of if"
        )
        raise


def _shape_and_constants(function: Any, *args: Any) -> tuple[Any, int]:
    """The output's shape, and the bytes of arrays that tracing finds in closures. It runs nothing."""
    dynamic, static = eqx.partition(args, eqx.is_array)
    others: list[Any] = []  # what the function returns beside arrays; a tracer kept here would be a leak

    def call(dynamic: Any) -> Any:
        arrays, other = eqx.partition(function(*eqx.combine(dynamic, static)), eqx.is_array)
        others.append(other)
        return arrays

    jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(dynamic)
    constants = sum(getattr(c, "nbytes", 0) for c in jaxpr.consts if not isinstance(c, Tracer))
    return eqx.combine(shapes, others[0]), constants


def _check_point(name: str, function: Callable[[Any], Any], x: Any, wanted: Any, like: str) -> None:
    shapes = eqx.filter_eval_shape(lambda x: _numbers_as_arrays(function(x)), x)
    expected = eqx.filter_eval_shape(identity, wanted)
    if jax.tree.structure(shapes) != jax.tree.structure(expected) or any(
        (a.shape, a.dtype) != (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(shapes), jax.tree.leaves(expected), strict=True)
    ):
        raise ValueError(
            f"{name}: its output has another structure, shape or dtype than {like}; return a point like {like}"
        )


def _numbers_as_arrays(tree: Any) -> Any:
    """A tree whose numbers are arrays, as a step makes them."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, bool | int | float | np.generic) else leaf, tree
    )


def _check_redraw(episodes: Episodes, x: Any, y: Any) -> bool:
    def draw(redraw: Any, x: Any, y: Any) -> None:
        tasks = redraw(jax.random.key(0))
        if not isinstance(tasks, Problem):
            raise TypeError(f"redraw: returned {type(tasks).__name__}; return bl.Problem(upper=..., lower=...)")
        _check_levels(tasks, x, y)

    _, constants = _traced("redraw", draw, episodes.redraw, x, y)
    if constants > _LARGE_CONSTANT_BYTES:
        warnings.warn(
            f"redraw closes over {constants / 1e6:.0f} MB of arrays, which are compiled into the program; make it an "
            "Equinox module or jax.tree_util.Partial that holds them",
            stacklevel=6,
        )
    return constants <= _LARGE_CONSTANT_BYTES
