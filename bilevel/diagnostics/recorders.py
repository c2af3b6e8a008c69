"""Recorders of `solve`: columns of the history that watch a run."""

import math
import warnings

import equinox as eqx
import jax
from jaxtyping import Array, Float, Scalar

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel._lanczos import Hessian, lanczos
from bilevel._prepare import prepare
from bilevel.diagnostics.constants import on_all_rows
from bilevel.problem import Level, Problem
from bilevel.run._signs import DiagnosisWarning
from bilevel.run._solution import Solution
from bilevel.trees import Tree

_COLUMNS = ("lower residual", "adjoint residual", "least curvature", "largest curvature")
_LANCZOS_STEPS = 10
_GROWTH = 10.0


class Watch:
    """A recorder of residuals and of a rough curvature of the lower level: `solve(..., recorders=[Watch(problem)])`.

    - `lower residual`: ‖G_y(x, y)‖.
    - `adjoint residual`: ‖H v − F_y‖ / ‖F_y‖ if the solver keeps an adjoint v, else NaN.
    - `least curvature`, `largest curvature` of the lower level: Ritz values after 10 Lanczos steps. The least one is
      an overestimate, so a negative value is certain.

    All are measured on all rows, or on one random set of 50,000 rows of a larger level. The run does not change, and
    its `seconds` do not include the measurements. A `DiagnosisWarning` is given, once per kind, if a curvature is
    negative or the lower residual exceeds ten times its initial value.

    **Arguments**: `problem`, that of the run. `every`: the steps between measurements; rows between them hold NaN.
    Default: every row.

    **Raises** `ValueError` for `Episodes`, whose tasks change in each step: use `bl.diagnose`, which draws once.

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)
        >>> solution = bl.solve(
        ...     problem, solver, 1.0, 0.0, steps=50, every=25, key=jax.random.key(0), recorders=[bl.Watch(problem)]
        ... )
        >>> [round(float(residual), 1) for residual in solution.history["lower residual"]]
        [3.0, 0.0, 0.0]
    """

    def __init__(self, problem: Problem, *, every: int = 1):
        if not isinstance(problem, Problem):
            raise ValueError(
                f"problem: got {type(problem).__name__}, whose tasks change in each step; use bl.diagnose, which "
                "draws once"
            )
        checks.count("every", every)
        self.every = every
        self._problem = problem
        self._whole: Problem | None = None
        self._warned: set[str] = set()

    def __call__(self, solution: Solution) -> dict[str, float]:
        step, rows = solution.stats["steps"], solution.history.rows
        before = rows[-1]["step"] if rows else -1
        if step // self.every == before // self.every:
            return dict.fromkeys(_COLUMNS, math.nan)
        if self._whole is None:
            self._whole = on_all_rows(prepare(self._problem, solution.x, solution.y).problem, jax.random.key(0))
        upper, lower, state = self._whole.upper, self._whole.lower, solution.state
        x, y, v = trees.at_least_single((state.x, state.y, getattr(state, "v", None)))
        residual = float(_lower_residual(lower, x, y))
        adjoint = math.nan if v is None else float(_adjoint_residual(upper, lower, x, y, v))
        curvature = lanczos(Hessian.at(lower, x, y), key=jax.random.key(0), most=_LANCZOS_STEPS)
        self._warn_of_curvature(step, curvature.least, curvature.rounding)
        self._warn_of_growth(step, residual, [row.get(_COLUMNS[0], math.nan) for row in rows])
        return dict(zip(_COLUMNS, (residual, adjoint, curvature.least, curvature.largest), strict=True))

    def _warn_of_curvature(self, step: int, least: float, rounding: float) -> None:
        if least < -rounding:
            self._once(
                "not strongly convex",
                f"the lower level has a curvature of {least:.3g} at step {step}; add a regularizer (c/2)‖y‖² of more "
                f"than c = {-least:.3g} to it",
            )

    def _warn_of_growth(self, step: int, residual: float, before: list[float]) -> None:
        """`before` are the residuals of the history, which a run that resumes still has."""
        before = [found for found in before if not math.isnan(found)]
        start = max(before[:2], default=math.inf)  # the first may be zero after a good start; the second has noise
        if len(before) > 1 and residual > _GROWTH * start:
            self._once(
                "lower residual grows",
                f"‖G_y‖ is {residual:.3g} at step {step} and was {start:.3g} at first; take more or smaller lower "
                "steps, or smaller upper steps",
            )

    def _once(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name}: {text} (bl.diagnose says more)", DiagnosisWarning, stacklevel=8)


@eqx.filter_jit
def _lower_residual(level: Level, x: Tree, y: Tree) -> Float[Scalar, ""]:
    return trees.norm(oracles.gradient_y(level, x, y, level.all_rows()))


@eqx.filter_jit
def _adjoint_residual(upper: Level, lower: Level, x: Tree, y: Tree, v: Tree) -> Float[Array, ""]:
    F_y = oracles.gradient_y(upper, x, y, upper.all_rows())
    Hv = oracles.hessian_product(lower, x, y, v, lower.all_rows())
    return trees.norm(trees.sub(Hv, F_y)) / trees.norm(F_y)
