"""Known methods that are solvers of this package with certain settings: reverse mode, AID-FP and AID-CG."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec

from bilevel import _checks as checks
from bilevel.hypergradients.adjoint import ConjugateGradient, FixedPoint
from bilevel.solvers import theory
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.base import About, AbstractSolver, Tuned
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import GradientStep, as_step, check_setting

P = ParamSpec("P")


@dataclasses.dataclass(eq=False)
class Preset(Generic[P]):
    """A function that makes a solver with some settings fixed; the other fields are those of `AbstractSolver`."""

    make: Callable[P, AbstractSolver]
    solver: type[AbstractSolver]
    about: About
    suggested: Callable[[Facts], dict[str, Choice]]
    tuned: dict[str, Tuned]
    scaling: float = 1.0
    power: float = 0.0
    normalized: bool = False
    __name__: str = ""

    def __post_init__(self):
        functools.update_wrapper(self, self.make)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AbstractSolver:
        return self.make(*args, **kwargs)


def preset(**known: Any) -> Callable[[Callable[P, AbstractSolver]], Preset[P]]:
    """A decorator that turns a function into a `Preset`."""
    return lambda make: Preset(make, **known)


def _aid_fp_theory(facts: Facts) -> dict[str, Choice]:
    source = "Grazzi et al. 2020, AID-FP"
    return {
        "lower_step": theory.lower_step(facts, source),
        "inner_steps": theory.inner_steps(facts, source, "κ log κ"),
        "adjoint_steps": theory.neumann_order(facts, source),
    }


def _aid_cg_theory(facts: Facts) -> dict[str, Choice]:
    source = "Grazzi et al. 2020, AID-CG"
    return {
        "lower_step": theory.lower_step(facts, source),
        "inner_steps": theory.inner_steps(facts, source, "κ log κ"),
        "adjoint_steps": theory.cg_steps(facts, source, "√κ log κ"),
    }


@preset(
    about=About(
        name="reverse",
        lower="D gradient steps",
        adjoint="back-propagation, truncated or whole",
        direction="plain",
        source="Franceschi et al., ICML 2017, Alg. 1",
    ),
    solver=ITDBiO,
    suggested=ITDBiO.suggested,
    tuned={
        # without truncation it is ITD under another name, so its steps are other than ITD's
        "cleaning": Tuned(300, upper_step=300.0, lower_step=0.3, inner_steps=100),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, inner_steps=100),
    },
    scaling=1.5,
)
def reverse(upper_step: Any, lower_step: Any, inner_steps: int, truncation: int | None = None) -> ITDBiO:
    """Reverse-HG: D gradient steps from the last y, and back-propagation through the last K of them.

        y^t = y^{t−1} − α G_y(x, y^{t−1}),   t = 1..D
        p = F_y(x, y^D);   g = F_x(x, y^D);   for t = D−1, …, D−K:  g ← g − α J(x, y^t)[p],   p ← p − α H(x, y^t)[p]
        x ← x − β g

    **Arguments**: `upper_step` (β), `lower_step` (α), `inner_steps` (D), `truncation` (K; default D, exact).

    Example:

        >>> import bilevel as bl
        >>> solver = bl.reverse(upper_step=0.1, lower_step=0.5, inner_steps=200, truncation=3)

    Reference: Franceschi, Donini, Frasconi & Pontil, "Forward and Reverse Gradient-Based Hyperparameter
    Optimization", ICML 2017 (arXiv 1703.01785), Algorithm 1 (Reverse-HG).

    Differences from the paper: y is warm started, as in later experiments; and those of `ITDBiO`.
    """
    return ITDBiO(upper_step, lower_step, inner_steps, truncation)


@preset(
    about=About(
        name="aid-fp",
        lower="D gradient steps",
        adjoint="fixed point",
        direction="plain",
        source="Grazzi et al., ICML 2020",
    ),
    solver=AIDBiO,
    suggested=_aid_fp_theory,
    tuned={
        "cleaning": Tuned(1000, upper_step=10.0, lower_step=1.0, inner_steps=10, adjoint_steps=50),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, inner_steps=10, adjoint_steps=100),
    },
)
def aid_fp(upper_step: Any, lower_step: Any, inner_steps: int, adjoint_steps: int) -> AIDBiO:
    """AID-FP: D gradient steps from the last y, then K fixed-point steps on the adjoint from zero.

        u = 0;   K times:  u ← u − α H(x, y^D)[u] + F_y(x, y^D);   x ← x − β (F_x − α J(x, y^D)[u])

    v = α u is η Σ_{i<K} (I − ηH)^i F_y with η = α.

    **Arguments**: `upper_step` (β), `lower_step` (α, a number or a schedule), `inner_steps` (D), `adjoint_steps` (K).

    Example:

        >>> import bilevel as bl
        >>> solver = bl.aid_fp(upper_step=0.1, lower_step=0.5, inner_steps=10, adjoint_steps=10)

    Reference: Grazzi, Franceschi, Pontil & Salzo, "On the Iteration Complexity of Hypergradient Computation", ICML 2020
    (arXiv 2006.16218), the AID listing with the fixed-point method.

    Differences from the paper: there is no early stop; and those of `AIDBiO`.
    """
    step = as_step(lower_step)
    check_setting("lower_step", step, checks.positive)
    checks.count("adjoint_steps", adjoint_steps)
    if not isinstance(step, GradientStep):
        raise TypeError(
            f"lower_step: got a {type(step).__name__}; AID-FP iterates its map, so pass a number or a schedule"
        )
    return AIDBiO(upper_step, step, inner_steps, FixedPoint(adjoint_steps, step.rate), adjoint_warm_start=False)


@preset(
    about=About(
        name="aid-cg",
        lower="D gradient steps",
        adjoint="conjugate gradient",
        direction="plain",
        source="Grazzi et al., ICML 2020",
    ),
    solver=AIDBiO,
    suggested=_aid_cg_theory,
    tuned={
        "cleaning": Tuned(800, upper_step=3.0, lower_step=0.1, inner_steps=10, adjoint_steps=10),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, inner_steps=10, adjoint_steps=10),
        # by no grid: as in `bilevel reproduce stocbio-fig4`, with the steps of digits
        "regularization": Tuned(300, upper_step=100.0, lower_step=0.5, inner_steps=10, adjoint_steps=10),
    },
)
def aid_cg(upper_step: Any, lower_step: Any, inner_steps: int, adjoint_steps: int) -> AIDBiO:
    """AID-CG: D gradient steps from the last y, then K conjugate-gradient steps on the adjoint from zero.

        u = CG(H(x, y^D), F_y(x, y^D); K steps from 0);   x ← x − β (F_x − J(x, y^D)[u])

    **Arguments**: `upper_step` (β), `lower_step` (α), `inner_steps` (D), `adjoint_steps` (K).

    Example:

        >>> import bilevel as bl
        >>> solver = bl.aid_cg(upper_step=0.1, lower_step=0.5, inner_steps=10, adjoint_steps=10)

    Reference: Grazzi, Franceschi, Pontil & Salzo, "On the Iteration Complexity of Hypergradient Computation", ICML 2020
    (arXiv 2006.16218), the AID listing with conjugate gradient.

    Differences from the paper: conjugate gradient stops early only at rounding error; and those of `AIDBiO`.
    """
    checks.count("adjoint_steps", adjoint_steps)
    return AIDBiO(upper_step, lower_step, inner_steps, ConjugateGradient(adjoint_steps), adjoint_warm_start=False)
