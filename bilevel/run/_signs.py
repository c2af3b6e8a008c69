"""What one look at the end of a run shows: signs that its answer is not one, each with what to do."""

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bilevel import _random, oracles, trees
from bilevel._lanczos import Basis, Hessian, extended, first_basis, ritz_values
from bilevel._placement import automatic
from bilevel.disk import on_disk
from bilevel.problem import Episodes, Problem, start_of
from bilevel.run._advance import key_of_tasks
from bilevel.solvers.maml import MAML
from bilevel.steps import AbstractStep, GradientStep
from bilevel.trees import Tree

_SHARE = 0.02  # of the samples of the run that the look may cost
_SMALL = 2**18  # entries of x, and rows times entries of y: below it the look takes milliseconds
_LANCZOS_STEPS = 12
_READ = 2**28  # bytes that may be read from a disk for it, if the run has read as many rows
_FLAT = 1e-6  # a curvature below this part of the largest is none in single precision
_SEEN = 1e-3  # the least part of F_y along a flat direction that makes y* matter there
_GROWTH = 10.0
_EXPLOSION = 100.0

# (a, b, c) stands for the point (x + a Δx, y + b Δy + c n): Δ is the run's move, n irregular. 1 and 2 in the place of a
# and b stand for two far distances.
_END, _NEAR, _START, _FAR_X, _FAR_Y, _FAR, _FARTHER_X, _FARTHER = range(8)
_POINTS = np.array(
    [(0, 0, 0), (0, 0, 1), (-1, -1, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (2, 0, 0), (2, 2, 0)], np.float32
)
_DISTANCES = (1e4, 1e7)  # relative to the larger of 1 and ‖(x, y)‖


class DiagnosisWarning(UserWarning):
    """A sign that a run's answer is not one, from the look at its end or from `Watch`. `bl.diagnose` says more."""


class _Seen(eqx.Module):
    """At each of the points: both losses, the largest entries of F_x, F_y, G_y and Jᵀu, and ⟨n, G_y⟩/‖n‖². Then how
    far x has moved, the sizes of x and its start, and what Lanczos' iteration found, with F_y at the near point in its
    basis."""

    f: Float[Array, " points"]
    g: Float[Array, " points"]
    F_x: Float[Array, ""]
    F_y: Float[Array, " points"]
    G_y: Float[Array, " points"]
    J: Float[Array, " points"]
    slope: Float[Array, " points"]
    move: Array
    size: Array
    size_before: Array
    basis: Basis | None
    F_y_in_basis: Array | None


def _largest(tree: Tree) -> Array:
    """The largest absolute entry, NaN if there is one."""
    return jnp.stack([jnp.max(jnp.abs(leaf)).astype(jnp.float32) for leaf in jax.tree.leaves(tree)]).max()


def _along(scale: Array, direction: Tree, point: Tree) -> Tree:
    return jax.tree.map(lambda d, p: p + jnp.where(scale == 0, 0, scale.astype(p.dtype) * d), direction, point)


def _irregular(tree: Tree, phase: float) -> Tree:
    """A tree of the shapes of `tree` with entries in [−1, 1] that stand in for random ones, in a smaller program."""
    leaves, structure = jax.tree.flatten(tree)
    golden = 2.399963
    entries = [
        jnp.cos(golden * jax.lax.iota(leaf.dtype, leaf.size) + phase * (i + 1)).reshape(leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, entries)


def _look(
    problem: Problem | Episodes, last: tuple[Array, Any] | None, x0: Tree, y0: Tree, x: Tree, y: Tree, steps: int
) -> _Seen:
    """One body, mapped over the points, and one Lanczos iteration of `steps` steps on all rows (0: none)."""
    x0 = problem.project(x0)
    if isinstance(problem, Episodes):
        assert last is not None
        problem = problem.draw(key_of_tasks(*last))
        y0 = y0 if problem.start is None else start_of(problem, x0)
    key = _random.light(jax.random.key(0))
    xi, zeta = problem.upper.draw(key), problem.lower.draw(jax.random.fold_in(key, 1))
    dx, dy, u, n = trees.sub(x, x0), trees.sub(y, y0), _irregular(x, 1.0), _irregular(y, 2.0)
    size, move = jnp.maximum(jnp.maximum(_largest(x), _largest(y)), 1), jnp.maximum(_largest(dx), _largest(dy))
    scales = jnp.stack([jnp.ones(()), *(d * size / move for d in _DISTANCES)])

    def at(point: Array) -> Any:
        far = jnp.abs(point).astype(int)
        # ±1 at the start is once the move; elsewhere 1 and 2 are distances
        a, b = (jnp.where(point[i] < 0, -1.0, jnp.where(far[i] > 0, scales[far[i]], 0.0)) for i in (0, 1))
        x_at, y_at = problem.project(_along(a, dx, x)), _along(point[2], n, _along(b, dy, y))
        f, F_y = oracles.loss_and_gradient_y(problem.upper, x_at, y_at, xi)
        g, G_y = oracles.loss_and_gradient_y(problem.lower, x_at, y_at, zeta)
        JTu = oracles.transposed_cross_product(problem.lower, x_at, y_at, u, zeta)
        slope = trees.dot(n, G_y) / trees.dot(n, n)
        return (*(v.astype(jnp.float32) for v in (f, g, slope)), *map(_largest, (F_y, G_y, JTu)))

    f, g, slope, F_y, G_y, J = jax.lax.map(at, jnp.asarray(_POINTS))
    F_x = _largest(trees.dense(oracles.gradient_x(problem.upper, x, y, xi), x))
    basis = inside = None
    if steps:
        basis = extended(Hessian.at(problem.lower, x, y), first_basis(ravel_pytree(n)[0], steps), 0, steps)
        near = oracles.gradient_y(problem.upper, x, trees.add(y, n), xi)
        flat, _ = ravel_pytree(near)
        inside = basis.vectors[:-1] @ (flat / jnp.linalg.norm(flat))
    return _Seen(f, g, F_x, F_y, G_y, J, slope, trees.norm(dx), _largest(x), _largest(x0), basis, inside)


@functools.cache
def _program(backend: str) -> Any:
    """`_look`, compiled fast: without optimization it takes a third of the time, and it runs for milliseconds."""
    fast: dict[str, Any] = {"xla_backend_optimization_level": 0}
    if jax.__version_info__ < (0, 11):  # later releases do without it
        fast["xla_cpu_use_fusion_emitters"] = False
    options: Any = {"compiler_options": fast if backend == "cpu" else None}
    return eqx.filter_jit(_look, **options)


class Look:
    """The look at the end of a run, on the host. `known` says whether it was cheap enough to be taken, and succeeded.

    It takes some copies of y more than a step, and may read rows that the run has not read. Of `Episodes` it sees the
    tasks of the last step, to which y belongs: `last` is the run's key and this step, and None for a `Problem`.
    """

    def __init__(
        self,
        problem: Problem | Episodes,
        start: tuple[Tree, Tree],
        end: tuple[Tree, Tree],
        samples: int,
        last: tuple[Array, Any] | None,
    ):
        (x0, y0), (x, y) = trees.at_least_single((start, end))
        tasks: Any = problem  # or the shapes of some
        if last is not None:
            tasks = eqx.filter_eval_shape(lambda: problem.draw(key_of_tasks(*last)))
        dim, levels = trees.size(y), (tasks.upper, tasks.lower)
        small = max(trees.size(x), *(dim * level.size for level in levels)) <= _SMALL
        cost = len(_POINTS) * (sum(level.size for level in levels) + trees.size(x) / dim)  # a sample reads y once
        self.known = small or cost <= _SHARE * samples
        if not self.known:
            return
        steps = min(_LANCZOS_STEPS, dim)
        rows = tasks.lower.length
        if not (dim * rows <= _SMALL or steps * rows <= _SHARE * samples) or steps * dim > 2**25:
            steps = 0
        stored = on_disk(tasks.lower.data)
        if steps and stored is not None and (rows > samples or rows * stored.store.row_bytes > _READ):
            steps = 0  # its iteration goes over all rows
        with jax.debug_nans(False), jax.debug_infs(False):  # far points may overflow
            try:
                if steps and stored is not None and isinstance(problem, Problem):
                    problem = Problem(problem.upper, problem.lower.loaded(), problem.project)
                with automatic((problem, last, x0, y0, x, y)) as arrays:
                    self.seen = jax.tree.map(np.asarray, _program(jax.default_backend())(*arrays, steps))
            except Exception as error:  # a run that has ended is not lost
                self.known = False
                if "RESOURCE_EXHAUSTED" not in str(error):
                    warnings.warn(
                        f"solve: the look at the end failed, so that nothing is known of the answer ({error})",
                        DiagnosisWarning,
                        stacklevel=3,
                    )

    def not_finite(self) -> str | None:
        """The first of the losses and gradients that is not finite at the last point."""
        if not self.known:
            return None
        seen, names = self.seen, ("upper loss", "lower loss", "F_x", "F_y", "G_y")
        values = (seen.f[_END], seen.g[_END], seen.F_x, seen.F_y[_END], seen.G_y[_END])
        wrong = (f"{name} is {value}" for name, value in zip(names, values, strict=True) if not np.isfinite(value))
        return next(wrong, None)


def signs(look: Look, solver: Any, state: Any, first: int, t: int) -> Iterator[str]:
    """Each sign as "name: what was seen and what to do". `first` and `t` are the first and the last iteration."""
    seen = look.seen
    wrong = look.not_finite()
    if wrong is not None:
        yield f"not finite: {wrong} at the end, although the iterates are finite; check the losses there"
        return
    depends = [bool((part[[_END, _NEAR, _START]] > 0).any()) for part in (seen.F_y, seen.J)]
    depends[1] |= _differentiates_the_start(solver)
    if not depends[0]:
        yield (
            "no dependence on y: F_y is zero at the start, at the end and at a y near it, so that x moves along F_x "
            "alone; use y in the upper loss, where it is not constant piece by piece"
        )
    if not depends[1]:
        yield (
            "no dependence on x: ∇²_xy g is zero at the start, at the end and at a y near it, so that y* does not "
            "depend on x there and x moves along F_x alone; use x in the lower loss, where it acts on y"
        )
    if all(depends) and seen.move == 0 and first == 0 and t >= 3:  # a run that is continued may have converged
        yield (
            f"x stands still: no entry has changed in {t + 1} steps; the hypergradient is zero here, or the upper step "
            "is lost in rounding"
        )
    for name, rate in _rate("upper_step", solver.upper_step, t) if solver.normalized else ():
        if rate > 0.1 * max(1.0, seen.size, seen.move):
            yield (
                f"{name}: each step of {type(solver).__name__} moves x by {rate:.3g}, so that x is no nearer to a "
                "minimum than that; let the step decay"
            )
    yield from of_lower_level(look, solver, t)
    if getattr(state, "capped", False) and seen.G_y[_END] > 0.1 * seen.G_y[_NEAR]:
        yield (
            f"capped: the last lower loop or adjoint solve of {type(solver).__name__} ended at its largest number of "
            "steps, before its tolerance; raise inner_steps or adjoint_steps, or the lower step"
        )
    yield from _of_growth(seen)


def of_lower_level(look: Look, solver: Any, t: int) -> Iterator[str]:
    """The signs from the curvature of the lower level."""
    curvature = _curvature(look.seen) if look.known else None
    if curvature is not None and not _differentiates_the_start(solver):
        yield from _of_curvature(*curvature, solver, t)


def _differentiates_the_start(solver: Any) -> bool:
    """Whether x may act through the start of y alone, and y is what a short loop makes of it, and no minimizer."""
    return isinstance(getattr(solver, "solver", solver), MAML)


def _curvature(seen: _Seen) -> tuple[float, float, float] | None:
    """The least and the largest Ritz value, and the part of F_y along the least one's direction."""
    if seen.basis is None:
        return None
    diagonal, beside = (np.asarray(part, np.float64) for part in (seen.basis.diagonal, seen.basis.beside))
    if not (np.isfinite(diagonal).all() and np.isfinite(beside).all()):
        return None
    ritz, weights, used = ritz_values(diagonal, beside, len(diagonal))
    part = float(np.abs(weights[:, 0] @ np.asarray(seen.F_y_in_basis, np.float64)[:used]))
    return float(ritz[0]), float(ritz[-1]), part


def _of_curvature(least: float, largest: float, part: float, solver: Any, t: int) -> Iterator[str]:
    scale = max(abs(least), abs(largest))
    if least < -_FLAT * scale:
        yield (
            f"not strongly convex: the lower level has the curvature {least:.3g} at the end (the largest is "
            f"{largest:.3g}), so that y is no minimizer and the hypergradient means little; add a regularizer "
            f"(c/2)‖y‖² with c above {-least:.3g} to the lower loss, or take more lower steps"
        )
    elif least <= _FLAT * scale and not part < _SEEN:
        yield (
            f"flat: the least curvature of the lower level is {least:.3g} and the largest {largest:.3g} at the end, so "
            "that y* and the adjoint are not determined; add a regularizer (c/2)‖y‖² with c ≥ "
            f"{scale / 1e3 or 1e-3:.1g} to the lower loss"
        )
    for name, rate in _rates(solver, t):
        if rate * largest > 2.02:
            yield (
                f"{name}: {rate:.3g} is above 2/L = {2 / largest:.3g} at the end, where steps and series diverge; use "
                f"at most 1/L = {1 / largest:.3g}"
            )


def _rates(solver: Any, t: int) -> Iterator[tuple[str, float]]:
    """The step sizes at iteration t that act on the lower level's curvature."""
    solver = getattr(solver, "solver", solver)
    for name in ("lower_step", "adjoint_step", "neumann_step"):
        yield from _rate(name, getattr(solver, name, None), t)
    yield from _rate("adjoint.step", getattr(getattr(solver, "adjoint", None), "step", None), t)


def _rate(name: str, value: Any, t: int) -> Iterator[tuple[str, float]]:
    if isinstance(value, GradientStep):
        value = value.rate
    if callable(value) and not isinstance(value, AbstractStep):
        rate: Any = value(t)
        yield name, float(rate)


def _of_growth(seen: _Seen) -> Iterator[str]:
    G, f = seen.G_y, seen.f
    if G[_END] > _GROWTH * G[_START] and G[_END] > 0.5 * G[_NEAR]:
        yield (
            f"lower residual grows: ‖G_y‖ is {G[_END]:.3g} at the end and was {G[_START]:.3g} at the start, so that y "
            "is far from y*; take more or smaller lower steps, or smaller upper steps"
        )
    if seen.size > _EXPLOSION * max(1.0, seen.size_before) and f[_END] > _EXPLOSION * abs(f[_START]):
        yield (
            f"x grows: its largest entry is {seen.size:.3g} and was {seen.size_before:.3g}, and the upper loss is "
            f"{f[_END]:.3g} and was {f[_START]:.3g}; reduce the upper step"
        )
    if seen.move > 0 and _unbounded(seen):
        yield (
            f"unbounded: the upper loss, {f[_END]:.3g} at the end, falls for ever along the run's direction, so that "
            "there may be no minimum; bound the loss, add a regularizer in x, or pass Problem(project=...)"
        )


def _unbounded(seen: _Seen) -> bool:
    """Whether f still falls far away along the run's move, where y moves with x if that keeps it nearer to y*."""
    f, G = seen.f, seen.G_y
    together = G[_FAR] < G[_FAR_X]
    near, far, farther = (G[_FAR], _FAR, _FARTHER) if together else (G[_FAR_X], _FAR_X, _FARTHER_X)
    if not near <= 0.5 * max(G[_FAR_X], G[_FAR_Y]) + 2 * G[_END]:
        return False
    scale = abs(f[_END]) + abs(f[_START] - f[_END])
    return bool(f[far] < f[_END] and f[farther] < f[far] - 1e-2 * scale)


def warn_of_signs(look: Look, solver: Any, state: Any, first: int, t: int) -> None:
    """A `DiagnosisWarning` for each sign, on the line that called `solve`."""
    if look.known:
        for sign in signs(look, solver, state, first, t):
            warnings.warn(f"{sign} (bl.diagnose says more)", DiagnosisWarning, stacklevel=3)
