"""The (L0, L1) smoothness of Φ along a run."""

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from bilevel import _extras as extras
from bilevel import trees
from bilevel._output.figures import ORANGE
from bilevel._output.tables import short
from bilevel._prepare import prepare
from bilevel.diagnostics.constants import on_all_rows
from bilevel.diagnostics.reference import accurate_solver, hypergradient_at, lower_solution
from bilevel.hypergradients.adjoint import AbstractAdjoint
from bilevel.problem import Problem
from bilevel.run._solution import Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SmoothnessRecorder:
    """A recorder of `solve` that estimates the (L0, L1) constants of Φ along the trajectory.

    Φ is (L0, L1)-smooth if ‖∇Φ(x) − ∇Φ(x')‖ ≤ (L0 + L1 ‖∇Φ(x)‖) ‖x − x'‖ for x' near x. At the end of each chunk,

        ratio = ‖h_k − h_{k−1}‖ / ‖x_k − x_{k−1}‖   against   norm = (‖h_k‖ + ‖h_{k−1}‖) / 2

    are recorded as the columns `smoothness` and `gradient norm`. h_k = ∇Φ(x_k) is taken on all rows at y*(x_k), which
    Newton's method finds from the run's y (whose lag behind x would look like roughness). `fit()` fits L0 + L1 · norm
    to the ratios by least squares, with both constants nonnegative. Choose a small `every`, so that x' is near x. Both
    columns are NaN in the first row, and if Newton's method does not reach y*.

    **Arguments**: `problem`, that of the run; `method`, how linear systems with H are solved: by default `Direct` if y
    has at most 500 entries, else conjugate gradient to rounding.

    Example:

        >>> import bilevel as bl, jax, jax.numpy as jnp
        >>> problem = bl.Problem(  # Φ(x) = eˣ, so that L0 = 0 and L1 = 1
        ...     upper=bl.Level(lambda x, y, _: jnp.exp(y)),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - x) ** 2),
        ... )
        >>> recorder = bl.SmoothnessRecorder(problem)
        >>> solver = bl.AIDBiO(upper_step=0.05, lower_step=1.0, inner_steps=1)
        >>> _ = bl.solve(problem, solver, 2.0, 2.0, steps=30, every=1, key=jax.random.key(0), recorders=[recorder])
        >>> L0, L1 = recorder.fit()
        >>> round(L0, 1), round(L1, 1)
        (0.0, 1.0)

    Reference: BO-REP, Hao, Gong & Liu (ICLR 2024), appendix G; after Zhang, He, Sra & Jadbabaie (ICLR 2020).

    Differences from the paper: Φ instead of f in x and in y; the fit, and the mean of both norms instead of one norm.
    """

    def __init__(self, problem: Problem, *, method: AbstractAdjoint | None = None):
        if method is not None and not isinstance(method, AbstractAdjoint):
            raise TypeError(f"method: got {method!r}; pass e.g. bl.ConjugateGradient(steps=20)")
        self.problem = problem
        self.method = method
        self.ratios: list[float] = []
        self.norms: list[float] = []
        self._last: Any = None
        self._whole: Problem | None = None

    def __call__(self, solution: Solution) -> dict[str, float]:
        prepared = prepare(self.problem, solution.x, solution.y)
        x, y = prepared.x, prepared.y
        if self._whole is None:
            self._whole = on_all_rows(prepared.problem, jax.random.key(0))
        whole = self._whole
        ratio = norm = math.nan
        method = accurate_solver(y) if self.method is None else self.method
        lower = lower_solution(whole.lower, x, y, method)
        if not bool(lower.converged):
            self._last = None
            return {"smoothness": ratio, "gradient norm": norm}
        h = hypergradient_at(whole, x, lower.y, method, jax.random.key(0)).h
        if self._last is not None:
            x_old, h_old = self._last
            moved = float(trees.norm(trees.sub(x, x_old)))
            if moved > 0:
                ratio = float(trees.norm(trees.sub(h, h_old))) / moved
                norm = float(trees.norm(h) + trees.norm(h_old)) / 2
                self.ratios.append(ratio)
                self.norms.append(norm)
        self._last = x, h
        return {"smoothness": ratio, "gradient norm": norm}

    def fit(self) -> tuple[float, float]:
        """(L0, L1), both nonnegative."""
        if len(self.ratios) < 2:
            raise ValueError(
                f"SmoothnessRecorder: it has {len(self.ratios)} ratios; pass it as a recorder to a run of three chunks "
                "or more, whose lower level is strongly convex"
            )
        norms, ratios = np.array(self.norms), np.array(self.ratios)
        return _nonnegative_line(norms, ratios)

    def plot(self) -> "Figure":
        """The ratios against the norms, and the fitted line."""
        extras.require("matplotlib", extra="display")
        from matplotlib.figure import Figure

        L0, L1 = self.fit()
        norms = np.array(self.norms)
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.scatter(norms, self.ratios, s=18, c=np.arange(len(norms)), cmap="viridis", label="chunks, dark to light")
        ends = np.array([0.0, norms.max()])
        axes.plot(ends, L0 + L1 * ends, color=ORANGE, label=f"{short(L0)} + {short(L1)} ‖∇Φ‖")
        axes.set(xlabel="‖∇Φ(x)‖", ylabel="‖Δ∇Φ‖ / ‖Δx‖", title="Smoothness along the run")
        axes.legend(frameon=False)
        return figure


def _nonnegative_line(t: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The a, b ≥ 0 that minimize ‖a + b t − values‖². As values ≥ 0 and t ≥ 0, at most one bound is active."""
    (a, b), *_ = np.linalg.lstsq(np.stack([np.ones_like(t), t], axis=1), values, rcond=None)
    if a < 0:
        return 0.0, float(t @ values / (t @ t))
    return (float(values.mean()), 0.0) if b < 0 else (float(a), float(b))
