"""Methods for the adjoint system H v = b, where H = ∇²_yy g and b = F_y, which use only products with H; and the
hypergradient F_x − J[v] that each of them gives."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PRNGKeyArray

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.cost import Cost
from bilevel.fields import Settings, count, count_at, flag, number, schedule
from bilevel.oracles import HessianOperator
from bilevel.problem import Problem
from bilevel.trees import Tree

_ROUNDINGS = 1000  # a residual of so many roundings of b counts as rounding where H is flat


class Adjoint(eqx.Module):
    """An approximate solution of H v = b.

    `products` counts the H-products in samples, in the form that `Cost` takes. `convex` is False if a direction
    whose curvature is not positive was met. `grew` is True if a series in I − ηH grew on all rows: then η > 2/L, or a
    curvature is negative. In both cases v means nothing.
    """

    v: Tree
    products: Any
    convex: Bool[Array, ""] | bool = True
    grew: Bool[Array, ""] | bool = False


class Implicit(eqx.Module):
    """A hypergradient h, its adjoint, and the cost of both."""

    h: Tree
    adjoint: Adjoint
    cost: Cost


class AbstractAdjoint(Settings):
    """A method for H v = b."""

    random: ClassVar[bool] = False  # whether it draws from its key even if every level is deterministic

    @abc.abstractmethod
    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        """Solve H v = b from `v0` (None: zero).

        Methods that need the same H throughout use the operator's batch. The Neumann series draw a fresh batch for each
        factor, from `key`. Step sizes that are schedules receive `t`.
        """

    def hypergradient(
        self, problem: Problem, x: Tree, y: Tree, v0: Tree | None = None, t: Any = 0, *, key: PRNGKeyArray
    ) -> Implicit:
        """h = F_x(x, y; ξ) − J(x, y; ζ_0)[v], where H(x, y) v = F_y(x, y; ξ) is solved from `v0`.

        ξ and ζ_0 are independent batches, and ζ_0 is the operator's. The leaves of h may be `SparseRows`.
        """
        upper_key, lower_key, adjoint_key = jax.random.split(key, 3)
        xi, zeta_0 = problem.upper.draw(upper_key), problem.lower.draw(lower_key)
        F_x, F_y = oracles.upper_gradients(problem.upper, x, y, xi)
        lower, z, pull = oracles.hoist_features(problem.lower, x)
        adjoint = self.solve(HessianOperator(lower, z, y, zeta_0), F_y, v0, key=adjoint_key, t=t)
        Jv = pull(oracles.cross_product(lower, z, y, adjoint.v, zeta_0))
        return Implicit(trees.sub(F_x, Jv), adjoint, Cost(F=xi.size, H=adjoint.products, J=zeta_0.size))


class ConjugateGradient(AbstractAdjoint):
    """At most `steps` conjugate-gradient steps from `v0`, all on one batch; their number may grow with t.

    Stops when ‖b − H v‖ ≤ `tolerance` · ‖b‖ (never below the rounding of the dtype) or ≤ `absolute_tolerance`, or at a
    direction p that is flat: pᵀH p / ‖p‖² is at most ε times the largest one met, where ε is the rounding of the dtype.
    Then the lower level is not strongly convex, and `Adjoint.convex` is False. It stays True if what is left of b is
    rounding as well: where H is singular but H v = b has solutions, v is the one nearest to `v0`.

    **Arguments**

    - `steps`: an integer or a traced function of t.
    - `preconditioner`: a function (x, y, v) ↦ M v with a symmetric positive definite M ≈ H⁻¹. The steps are then those
      of the preconditioned method, and ‖p‖² is pᵀM⁻¹p. With a `bl.Factored` loss on all rows, its x is what `given`
      receives.
    - `indefinite`: go on where pᵀH p < 0, by the same formulas. After k steps v is then the stationary point of
      ½ vᵀH v − bᵀv on v0 plus the k-th Krylov space, which is a saddle point there and no minimizer: ‖b − H v‖ may grow
      from step to step, though it is zero once the space holds a solution. It is no hypergradient of the theory, for
      y is then no strict minimizer either. Only a p with |pᵀH p| / ‖p‖² ≤ ε times the largest one met, along which no
      step exists, ends the solve with `Adjoint.convex` False.

    Reference: Hestenes & Stiefel (1952); in AID-BiO, Ji, Yang & Liang (ICML 2021), Algorithm 1.

    Example:

        >>> import bilevel as bl
        >>> method = bl.ConjugateGradient(steps=20, tolerance=1e-6)
    """

    steps: int | Callable[[Any], Any] = count(of_t=True)
    tolerance: Any = number(checks.fraction, default=0.0)
    absolute_tolerance: Any = number(checks.nonnegative, default=0.0)
    preconditioner: Callable[[Tree, Tree, Tree], Tree] | None = None
    indefinite: bool = flag(default=False)

    def check_together(self) -> None:
        if not (self.preconditioner is None or callable(self.preconditioner)):
            raise TypeError(f"preconditioner: got {self.preconditioner!r}; pass a function (x, y, v) -> M v")

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        most = count_at(self.steps, t)
        # solves for the correction of `v0`, scaled by the largest entry of its residual: small squares would underflow
        residual = b if v0 is None else trees.sub(b, H(v0))
        size = trees.largest(residual)
        size = jnp.where(size > 0, size, 1)
        residual, scaled = trees.divide(residual, size), trees.divide(b, size)
        rr, bb = trees.dot(residual, residual), trees.dot(scaled, scaled)
        epsilon = jnp.finfo(bb.dtype).eps
        relative = jnp.maximum(jnp.asarray(self.tolerance).astype(bb.dtype), epsilon)
        least = jnp.maximum(relative**2 * bb, (jnp.asarray(self.absolute_tolerance).astype(bb.dtype) / size) ** 2)

        def conditioned(r: Tree, rr: Array) -> tuple[Tree, Array]:
            """M r and rᵀM r."""
            if self.preconditioner is None:
                return r, rr
            z = self.preconditioner(H.x, H.y, r)
            return z, trees.dot(r, z)

        def going_on(carry: Any) -> Bool[Array, ""]:
            i, _, _, _, rr, _, _, _, flat = carry
            return (i < most) & ~(rr <= least) & ~flat  # NaN continues, to be noticed as non-finite

        def step(carry: Any) -> Any:
            i, v, r, p, rr, rz, pp, steepest, _ = carry
            Hp = H(p)
            curvature = trees.dot(p, Hp)
            bend = jnp.abs(curvature) if self.indefinite else curvature
            steepest = jnp.maximum(steepest, bend / pp)
            flat = (bend <= epsilon * steepest * pp) & jnp.isfinite(curvature)
            length = jnp.where(flat, 0.0, rz / curvature)
            v, r = trees.axpy(length, p, v), trees.axpy(-length, Hp, r)
            rr = trees.dot(r, r)
            z, new = conditioned(r, rr)
            beta = new / rz
            return i + 1, v, r, trees.axpy(beta, p, z), rr, new, new + beta**2 * pp, steepest, flat

        p, rz = conditioned(residual, rr)
        carry = (0, trees.zeros_like(b), residual, p, rr, rz, rz, jnp.zeros_like(rr), jnp.array(False))
        i, v, _, _, rr, *_, flat = jax.lax.while_loop(going_on, step, carry)
        convex = ~flat | (rr <= (_ROUNDINGS * epsilon) ** 2 * bb)
        if v0 is None:
            return Adjoint(trees.scale(size, v), (i, H.size), convex)
        return Adjoint(trees.axpy(size, v, v0), (i + 1, H.size), convex)


def _grew(H: HessianOperator, r: Tree, new: Tree) -> Bool[Array, ""]:
    """Whether new = (I − ηH) r is longer than r on all rows, which a positive H with η ≤ 2/L forbids."""
    if H.level.batch_size is not None:  # the Hessians of single batches need not be positive
        return jnp.array(False)
    before, after = trees.norm(r), trees.norm(new)
    return after > (1 + jnp.sqrt(jnp.finfo(after.dtype).eps)) * before


class Neumann(AbstractAdjoint):
    """The truncated series v = η Σ_{q=0}^{Q} Π (I − η H(B_i)) b: Q factors, Q + 1 terms.

    `order` is Q and `step` is η ≤ 1/L. Each factor draws its own batch, independent of the others.
    The batch has the level's size, or `batch_sizes`: one size for all, or one per factor in the order of use. The
    bias of v is at most (1 − ημ)^{Q+1} ‖b‖/μ.

    Reference: Ji, Yang & Liang (ICML 2021), eq. (5) and Algorithm 3.

    Example:

        >>> import bilevel as bl
        >>> method = bl.Neumann(order=10, step=0.5)
    """

    order: int = count(least=0)
    step: Any = schedule()
    batch_sizes: int | tuple[int, ...] | None = eqx.field(default=None, static=True, converter=checks.integers)

    def check_together(self) -> None:
        sizes = self.batch_sizes
        if isinstance(sizes, tuple) and len(sizes) != self.order:
            raise ValueError(f"batch_sizes: got {len(sizes)} sizes for {self.order} factors")
        for size in sizes if isinstance(sizes, tuple) else () if sizes is None else (sizes,):
            checks.count("batch_sizes", size)

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        eta = self.step(t)

        def factor(i: Any, carry: tuple[Tree, Tree, Any], size: int | None = None) -> tuple[Tree, Tree, Any]:
            r, total, grew = carry
            new = trees.axpy(-eta, H.fresh(r, key=jax.random.fold_in(key, i), size=size), r)
            return new, trees.add(total, new), grew | _grew(H, r, new)

        carry, sizes = (b, b, jnp.array(False)), self.batch_sizes if H.level.batch_size else None
        if isinstance(sizes, tuple):
            for i, size in enumerate(sizes):  # shapes differ, so the loop is unrolled
                carry = factor(i, carry, size)
            products = sum(sizes)
        else:
            carry = jax.lax.fori_loop(0, self.order, lambda i, carry: factor(i, carry, sizes), carry)
            products = self.order * (sizes or H.level.size)
        return Adjoint(trees.scale(eta, carry[1]), products, grew=carry[2])


class RandomNeumann(AbstractAdjoint):
    """One random term of the Neumann series, unbiased for its first K terms:

        v = K η Π_{i=1}^{k} (I − η H(ζ_i)) b,   k uniform on {0, …, K − 1}, independent ζ_i,

    whose mean is η Σ_{n<K} (I − ηH)ⁿ b. `order` is K, an integer or a function of t that returns a traced integer,
    and `step` is η = 1/L. ζ_1 acts first.

    Reference: Ghadimi & Wang (arXiv 1802.02246); SUSTAIN, Khanduri et al. (NeurIPS 2021), eq. (7).

    Example:

        >>> import bilevel as bl
        >>> method = bl.RandomNeumann(order=10, step=0.5)
    """

    order: int | Callable[[Any], Any] = count(of_t=True)
    step: Any = schedule()
    random = True

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        eta, order = self.step(t), count_at(self.order, t, least=1)
        length_key, factor_key = jax.random.split(key)
        k = jax.random.randint(length_key, (), 0, order)

        def factor(i: Any, carry: tuple[Tree, Any]) -> tuple[Tree, Any]:
            r, grew = carry
            new = trees.axpy(-eta, H.fresh(r, key=jax.random.fold_in(factor_key, i)), r)
            return new, grew | _grew(H, r, new)

        r, grew = jax.lax.fori_loop(0, k, factor, (b, jnp.array(False)))
        return Adjoint(trees.scale(order * eta, r), (k, H.level.size), grew=grew)


class FixedPoint(AbstractAdjoint):
    """`steps` steps of v ← v − η (H v − b) from `v0`, all on one batch: Richardson's iteration.

    From zero this is η Σ_{i<steps} (I − ηH)^i b. `step` is η ≤ 1/L.

    Reference: AID-FP, Grazzi, Franceschi, Pontil & Salzo (ICML 2020).

    Example:

        >>> import bilevel as bl
        >>> method = bl.FixedPoint(steps=100, step=0.1)
    """

    steps: int = count()
    step: Any = schedule()

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        eta = self.step(t)

        def step(_: Any, carry: tuple[Tree, Tree, Any]) -> tuple[Tree, Tree, Any]:
            v, r, grew = carry
            new = trees.sub(b, H(v))
            return trees.axpy(eta, new, v), new, grew | _grew(H, r, new)

        v0 = trees.zeros_like(b) if v0 is None else v0
        far = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), b)  # the first residual has none to grow from
        v, _, grew = jax.lax.fori_loop(0, self.steps, step, (v0, far, jnp.array(False)))
        return Adjoint(v, self.steps * H.size, grew=grew)


class Direct(AbstractAdjoint):
    """The exact solution by a dense Cholesky factorization: O((dim y)²) memory, O((dim y)³) time.

    It counts as dim y Hessian products, the cost of forming the matrix. If the matrix is not positive definite,
    `Adjoint.convex` is False.

    **Raises** `ValueError` if the matrix would not fit in `max_bytes` (default 2 GB).

    Example:

        >>> import bilevel as bl
        >>> method = bl.Direct()
    """

    max_bytes: int = count(most=None, default=2 * 10**9)

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        flat, _ = ravel_pytree(b)
        dim, needed = flat.size, flat.size**2 * jnp.result_type(*jax.tree.leaves(H.y)).itemsize
        if needed > self.max_bytes:
            raise ValueError(
                f"Direct: y has {dim} entries, so its Hessian takes {needed / 1e9:.1f} GB; "
                "use bl.ConjugateGradient, or raise max_bytes"
            )
        matrix, unravel = H.dense()
        factor = jnp.linalg.cholesky(matrix)
        v = jax.scipy.linalg.cho_solve((factor, True), flat)
        return Adjoint(unravel(v), dim * H.size, ~jnp.isnan(factor[-1, -1]) | jnp.isnan(matrix).any())
