"""The cheap part of a diagnosis, along a run: residuals, and a rough curvature of the lower level."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree, Scalar

from bilevel import oracles, trees
from bilevel.diagnostics.constants import at_least_single, on_all_rows
from bilevel.diagnostics.lanczos import Hessian, lanczos
from bilevel.problem import Level, Problem
from bilevel.run._solution import DIAGNOSED

Tree = PyTree[Any]

_LANCZOS_STEPS = 10
_GROWTH = 10.0


class DiagnosisWarning(UserWarning):
    """Something that `solve(..., diagnose_every=n)` noticed; `bl.diagnose` at that point says more."""


class Watch:
    """Columns for the history at every `every` steps, and a warning the first time that each thing is wrong.

    - `lower residual`: ‖G_y(x, y)‖.
    - `adjoint residual`: ‖H v − F_y‖ / ‖F_y‖ of a solver that keeps an adjoint, `v` or `z`; else NaN.
    - `least curvature`, `largest curvature` of the lower level: Ritz values of 10 Lanczos steps, so that the least is
      an overestimate and a negative one is certain.

    All on all rows, or a random 50,000 of a larger level, the same ones throughout.
    """

    def __init__(self, problem: Problem, every: int):
        self.every = every
        self._problem = on_all_rows(problem, jax.random.key(0))
        self._residuals: list[float] = []
        self._warned: set[str] = set()

    def __call__(self, step: int, state: Any) -> dict[str, float]:
        if step % self.every:
            return dict.fromkeys(DIAGNOSED, math.nan)
        upper, lower = self._problem.upper, self._problem.lower
        x, y, v = at_least_single((state.x, state.y, _adjoint(state)))
        residual = float(_lower_residual(lower, x, y))
        adjoint = math.nan if v is None else float(_adjoint_residual(upper, lower, x, y, v))
        hessian = Hessian(lower, x, y, lower.everything())
        curvature = lanczos(hessian, key=jax.random.key(0), most=_LANCZOS_STEPS)
        self._warn(step, residual, curvature.least, curvature.rounding)
        return dict(zip(DIAGNOSED, (residual, adjoint, curvature.least, curvature.largest), strict=True))

    def _warn(self, step: int, residual: float, least: float, rounding: float) -> None:
        if least < -rounding:
            self._once(
                "not strongly convex",
                f"the lower level has a curvature of {least:.3g} at step {step}; add a regularizer (c/2)‖y‖² of more "
                f"than c = {-least:.3g} to it",
            )
        self._residuals.append(residual)
        start = max(self._residuals[:2])  # the first may be zero by a good start, the second has noise
        if len(self._residuals) > 2 and residual > _GROWTH * start:
            self._once(
                "lower residual grows",
                f"‖G_y‖ is {residual:.3g} at step {step} and was {start:.3g} at first; take more or smaller lower "
                "steps, or smaller upper steps",
            )

    def _once(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name}: {text} (bl.diagnose says more)", DiagnosisWarning, stacklevel=6)


def _adjoint(state: Any) -> Tree | None:
    """The state's `v` or `z`, if it is shaped like y."""
    for name in ("v", "z"):
        found = getattr(state, name, None)
        if found is not None and eqx.tree_equal(*(jax.eval_shape(lambda tree: tree, t) for t in (found, state.y))):
            return found
    return None


@eqx.filter_jit
def _lower_residual(level: Level, x: Tree, y: Tree) -> Float[Scalar, ""]:
    return trees.norm(oracles.lower_gradient(level, x, y, level.everything()))


@eqx.filter_jit
def _adjoint_residual(upper: Level, lower: Level, x: Tree, y: Tree, v: Tree) -> Float[Array, ""]:
    F_y = oracles.gradient_y(upper, x, y, upper.everything())
    Hv = oracles.hessian_product(lower, x, y, v, lower.everything())
    return trees.norm(trees.sub(Hv, F_y)) / trees.norm(F_y)
