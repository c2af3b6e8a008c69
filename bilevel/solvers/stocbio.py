"""stocBiO: SGD lower loop, Neumann-series adjoint with growing batches, plain upper step."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import count, schedule, step
from bilevel.hypergradients.adjoint import Neumann
from bilevel.hypergradients.lower import descend
from bilevel.oracles import HessianOperator
from bilevel.problem import Problem
from bilevel.solvers import theory
from bilevel.solvers.base import About, AbstractHypergradientSolver, Tuned
from bilevel.solvers.theorems import Bounds, Prescribed, check_amounts, contraction_steps, steps_for, whole
from bilevel.solvers.theory import Choice, Facts
from bilevel.steps import Step
from bilevel.trees import Tree


class StocBiOState(eqx.Module):
    """x, y, and the state of x's step rule."""

    x: Tree
    y: Tree
    x_rule: Tree


class StocBiO(AbstractHypergradientSolver):
    """Stochastic bilevel optimizer.

        y⁰ = y_{k−1}^D;   y^t = y^{t−1} − α G_y(x_k, y^{t−1}; S_{t−1}),   t = 1..D, a fresh batch each
        draw D_F, D_G and B_1..B_Q, all independent
        r_Q = F_y(x_k, y^D; D_F);   r_{i−1} = r_i − η H(x_k, y^D; B_i)[r_i],   i = Q..1
        v   = η Σ_{i=0}^{Q} r_i
        x_{k+1} = x_k − β (F_x(x_k, y^D; D_F) − J(x_k, y^D; D_G)[v])

    **Arguments**

    - `upper_step` (β), `lower_step` (α): a number, a schedule of k or a `Rule`.
    - `inner_steps` (D), `neumann_order` (Q factors, Q + 1 terms), `neumann_step` (η ≤ 1/L).
    - `hessian_batch_sizes`: the sizes of B_Q, …, B_1 in this order, the order of use. An integer is the size of all
      of them, None means the level's batch size. `neumann_batch_sizes` gives those of Proposition 3.
    - `cross_batch_size`: the size of D_G; None means the level's. (A level with `batch_size=None` uses all its rows.)

    Example:

        >>> import bilevel as bl, jax
        >>> problem = bl.Problem(
        ...     upper=bl.Level(lambda x, y, _: 0.5 * (y - 1.0) ** 2),
        ...     lower=bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
        ... )
        >>> solver = bl.StocBiO(upper_step=0.05, lower_step=0.5, inner_steps=5, neumann_order=10, neumann_step=0.5)
        >>> solution = bl.solve(problem, solver, 1.0, 0.0, steps=100, key=jax.random.key(0))
        >>> round(float(solution.x), 3)
        0.333

    Reference: Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
    Algorithms 2 and 3, eq. (5).

    Differences from the paper: x may be projected; the last iterate is returned, whereas Theorem 3 is about the mean
    over k, thus about one of them at random. The first draft's estimator (its eq. (5)) is not offered. It has the same
    mean but another distribution: batch B_1 is in every term and acts last.
    """

    upper_step: Step = step()
    lower_step: Step = step()
    inner_steps: int = count()
    neumann_order: int = count(least=0)
    neumann_step: Any = schedule()
    hessian_batch_sizes: int | tuple[int, ...] | None = eqx.field(default=None, static=True, converter=checks.integers)
    cross_batch_size: int | None = count(optional=True, default=None)

    def check_together(self) -> None:
        sizes = self.hessian_batch_sizes
        each = sizes if isinstance(sizes, tuple) else () if sizes is None else (sizes,)
        if not all(type(size) is int for size in each):
            raise TypeError(f"hessian_batch_sizes: got {sizes!r}; pass an integer or a tuple of them")
        if isinstance(sizes, tuple) and len(sizes) != self.neumann_order:
            raise ValueError(f"hessian_batch_sizes: got {len(sizes)} sizes for neumann_order={self.neumann_order}")
        for size in each:
            checks.count("hessian_batch_sizes", size)

    @classmethod
    def from_theorem(cls, bounds: Bounds, *, accuracy: float, gap: float, distance: float) -> Prescribed:
        """Theorem 3, in the explicit form of the first draft's Theorem 2, eq. (8): each of its six terms is at most
        ε/6, so that (1/K) Σ_k E‖∇Φ(x_k)‖² ≤ ε = `accuracy`. With C = L + L²/μ + Mτ/μ + LMρ/μ², the terms are

            32 L_Φ (Φ(x_0) − inf Φ + 5/2 ‖y_0 − y*(x_0)‖²)/K,   52 L²M²(1 − ημ)^{2Q}/μ²,   40 C² σ²/(Lμ S),
            22 L²M²/(μ² D_g),   (8μ² + 22L²) M²/(μ² D_f),   44 L²M²/(μ² B).

        β = 1/(4 L_Φ), α = 2/(L + μ), η = 1/(2L), and D is the draft's. `upper_batch` is D_f, `lower_batch` is S, the
        cross batch size D_g, and the Hessian batches follow Proposition 3 from B. A σ of zero leaves S to the user, but
        the theorem has no such case for D_g, D_f and B.

        **Arguments**: `gap` ≥ Φ(x_0) − inf Φ; `distance` ≥ ‖y_0 − y*(x_0)‖². σ is `bounds.sigma_g`, of one sample.
        """
        check_amounts(accuracy=accuracy, gap=gap, distance=distance)
        mu, L, M, C, part = bounds.mu, bounds.L, bounds.M, bounds.bias, accuracy / 6
        beta, eta, scale = 1 / (4 * bounds.smoothness), 1 / (2 * L), (M / mu) ** 2
        Q = contraction_steps(math.sqrt(part / (52 * L**2 * scale)), 1 - eta * mu)
        S, D_g = steps_for(40 * C**2 * bounds.sigma_g**2 / (L * mu), part), steps_for(22 * L**2 * scale, part)
        D_f, B = steps_for((8 * mu**2 + 22 * L**2) * scale, part), steps_for(44 * L**2 * scale, part)
        B = max(B, whole(1 / (Q * (1 - eta * mu) ** (Q - 1))))
        inner, rate = 1, math.log((L + mu) / (L - mu)) if mu < L else math.inf
        for amount in (math.sqrt(12 + 48 * (beta * L / mu) ** 2 * C**2), math.sqrt(beta) * C):
            inner = max(inner, whole(math.log(amount) / rate))
        solver = cls(
            upper_step=beta,
            lower_step=2 / (L + mu),
            inner_steps=inner,
            neumann_order=Q,
            neumann_step=eta,
            hessian_batch_sizes=neumann_batch_sizes(B, Q, eta, mu),
            cross_batch_size=D_g,
        )
        steps = steps_for(32 * bounds.smoothness * (gap + 2.5 * distance), part)
        return Prescribed(solver=solver, steps=steps, bound=accuracy, upper_batch=D_f, lower_batch=S)

    def init(self, problem: Problem, x: Tree, y: Tree, *, key: PRNGKeyArray) -> tuple[StocBiOState, Cost]:
        lower, sizes = problem.lower, self.hessian_batch_sizes or ()
        if lower.data is not None and lower.batch_size is not None:
            for size in sizes if isinstance(sizes, tuple) else (sizes,):
                lower.data.check(size, "hessian_batch_sizes")
            lower.data.check(self.cross_batch_size or lower.batch_size, "cross_batch_size")
        return StocBiOState(x, y, self.upper_step.init(x)), Cost()

    def hypergradient(
        self, problem: Problem, state: StocBiOState, t: Any, *, key: PRNGKeyArray
    ) -> tuple[Tree, StocBiOState, Cost]:
        x, upper, lower = state.x, problem.upper, problem.lower
        S_key, F_key, G_key, B_key = jax.random.split(key, 4)

        y = descend(lower, x, state.y, self.lower_step, self.inner_steps, t, key=S_key)

        D_F, D_G = upper.draw(F_key), lower.draw(G_key, self.cross_batch_size)
        F_x, F_y = oracles.upper_gradients(upper, x, y, D_F)
        neumann = Neumann(self.neumann_order, self.neumann_step, self.hessian_batch_sizes)
        adjoint = neumann.solve(HessianOperator(lower, x, y, D_G), F_y, None, key=B_key, t=t)
        Jv = oracles.cross_product(lower, x, y, adjoint.v, D_G)

        cost = Cost(F=D_F.size, G=self.inner_steps * lower.size, H=adjoint.products, J=D_G.size)
        return trees.sub(F_x, Jv), StocBiOState(x, y, state.x_rule), cost

    of_x = ("x", "x_rule")
    about = About(
        name="stocbio",
        lower="D SGD steps",
        adjoint="Neumann series, fresh batches",
        direction="plain",
        source="Ji, Yang & Liang, ICML 2021, Alg. 2 and 3",
    )
    tuned = {
        "cleaning": Tuned(800, upper_step=10.0, lower_step=0.1, inner_steps=10, neumann_order=50,
            neumann_step=2.0),
        "quadratic": Tuned(400, upper_step=0.3, lower_step=0.1, inner_steps=10, neumann_order=100,
            neumann_step=0.1),
        "cleaning mnist": Tuned(800, upper_step=1000.0, lower_step=0.03, inner_steps=10, neumann_order=20,
            neumann_step=0.05),
        # by no grid: as in `bilevel reproduce stocbio-fig4`, with the steps of digits, and
        # those of Hao et al. (ICLR 2024), appendix F
        "regularization": Tuned(300, upper_step=100.0, lower_step=0.5, inner_steps=10, neumann_order=10,
            neumann_step=0.5),
        "weight-decay": Tuned(200, upper_step=1e-4, lower_step=0.001, inner_steps=5, neumann_order=5,
            neumann_step=0.05),
        "representation": Tuned(100, upper_step=0.05, lower_step=0.05, inner_steps=10, neumann_order=5,
            neumann_step=0.01),
    }  # fmt: skip
    scaling = 0.5

    @classmethod
    def suggested(cls, facts: Facts) -> dict[str, Choice]:
        source = "Ji et al. 2021, Thm 3"
        order = theory.neumann_order(facts, source)
        choices = {
            "lower_step": theory.lower_step(facts, source, "2/(L+μ)"),
            "inner_steps": theory.inner_steps(facts, source, "κ log κ"),
            "neumann_order": order,
            "neumann_step": theory.neumann_step(facts, source),
        }
        if facts.batch < facts.rows and facts.mu < facts.L:
            B = max(1, round(facts.batch / order.value))
            sizes = neumann_batch_sizes(B, order.value, 1 / facts.L, facts.mu)
            mean = facts.strata * math.ceil(sum(sizes) / len(sizes) / facts.strata)
            mean = min(facts.rows, mean)
            reason = (
                f"Prop. 3: B Q (1 − ημ)^(j−1) with B = {B}, {sizes[0]} to {sizes[-1]}; their mean, in one compiled loop"
            )
            choices["hessian_batch_sizes"] = Choice(mean, reason)
        return choices


def neumann_batch_sizes(batch_size: int, order: int, step: float, strong_convexity: float) -> tuple[int, ...]:
    """The sizes |B_{Q+1−j}| = ⌈B Q (1 − ημ)^{j−1}⌉, j = 1..Q, in the order of use: largest first.

    **Arguments**: B, Q, η ≤ 1/L and μ. B ≥ 1/(Q (1 − ημ)^{Q−1}) leaves each at least one sample.

    Example:

        >>> import bilevel as bl
        >>> bl.neumann_batch_sizes(batch_size=10, order=3, step=0.5, strong_convexity=0.2)
        (30, 27, 25)

    Reference: Ji, Yang & Liang (ICML 2021), Proposition 3.
    """
    checks.count("batch_size", batch_size)
    checks.count("order", order)
    checks.positive("step", step)
    checks.positive("strong_convexity", strong_convexity)
    if step * strong_convexity >= 1:
        raise ValueError(f"step: got {step} with strong_convexity {strong_convexity}; their product must be below 1")
    decay = 1 - step * strong_convexity
    # the slack keeps rounding error from adding a sample to a size that is an integer
    return tuple(math.ceil(batch_size * order * decay**j - 1e-9) for j in range(order))
