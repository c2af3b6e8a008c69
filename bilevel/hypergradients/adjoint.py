"""Solvers of the adjoint system H v = b, where H = ∇²_yy g and b = F_y, from products with H alone.

Each is a module of settings, called as `method(level, x, y, rhs, start, batch=batch, key=key)`, and gives an
`Adjoint`; a `start` of None is zero. Methods that need one and the same H throughout take it on `batch`; the Neumann
series draw a fresh batch for each factor, from `key`. A step that is a schedule sees `t`.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from bilevel import _checks as checks
from bilevel import oracles, trees
from bilevel.problem import Level
from bilevel.sampling import Batch
from bilevel.steps import Settings, as_leaf, as_schedule, check_count, count_at

Tree = PyTree[Any]


class Adjoint(eqx.Module):
    """An approximate solution of H v = b.

    `products` counts the H-products in samples, as `Tally.add` takes it; `convex` is False when a direction
    of curvature that is not positive was met, where v means nothing.
    """

    v: Tree
    products: Any
    convex: Bool[Array, ""] | bool = True


class AbstractAdjoint(Settings):
    """A method for H v = b."""

    @abc.abstractmethod
    def __call__(
        self, level: Level, x: Tree, y: Tree, rhs: Tree, start: Tree, *, batch: Batch, key: PRNGKeyArray, t: Any = 0
    ) -> Adjoint: ...

    def cross_product(self, level: Level, x: Tree, y: Tree, v: Tree, batch: Batch) -> Tree:
        """J[v], by which v enters the hypergradient."""
        return oracles.cross_product(level, x, y, v, batch)

    def cross_cost(self, size: int) -> dict[str, int]:
        """What that costs on a batch of `size`, as `Tally.add` takes it."""
        return {"J": size}


class ConjugateGradient(AbstractAdjoint):
    """At most `steps` conjugate-gradient steps from `start`, all on one batch.

    Stops when ‖b − H v‖ ≤ `tolerance` · ‖b‖ (never below the rounding of the dtype) or ≤ `absolute_tolerance`, and
    where pᵀH p ≤ 0 for a direction p: the lower level is then not strongly convex, and `Adjoint.convex` says so.

    Reference: Hestenes & Stiefel (1952); in AID-BiO, Ji, Yang & Liang (ICML 2021), Algorithm 1.

    Example:

        >>> import bilevel as bl
        >>> method = bl.ConjugateGradient(steps=20, tolerance=1e-6)
    """

    steps: int = eqx.field(static=True)
    tolerance: Any = eqx.field(default=0.0, converter=as_leaf)
    absolute_tolerance: Any = eqx.field(default=0.0, converter=as_leaf)

    def __check_init__(self):
        checks.count("steps", self.steps)
        checks.fraction("tolerance", self.tolerance)
        checks.nonnegative("absolute_tolerance", self.absolute_tolerance)

    def __call__(
        self, level: Level, x: Tree, y: Tree, rhs: Tree, start: Tree, *, batch: Batch, key: PRNGKeyArray, t: Any = 0
    ) -> Adjoint:
        def hessian(u: Tree) -> Tree:
            return oracles.hessian_product(level, x, y, u, batch)

        # for the correction of `start`, in units of the largest entry of its residual: a small one's squares underflow
        residual = rhs if start is None else trees.sub(rhs, hessian(start))
        size = trees.largest(residual)
        size = jnp.where(size > 0, size, 1)
        residual, scaled = trees.divide(residual, size), trees.divide(rhs, size)
        rr, bb = trees.dot(residual, residual), trees.dot(scaled, scaled)
        relative = jnp.maximum(jnp.asarray(self.tolerance).astype(bb.dtype), jnp.finfo(bb.dtype).eps)
        least = jnp.maximum(relative**2 * bb, (jnp.asarray(self.absolute_tolerance).astype(bb.dtype) / size) ** 2)

        def going_on(carry: Any) -> Bool[Array, ""]:
            i, _, _, _, rr, convex = carry
            return (i < self.steps) & ~(rr <= least) & convex  # NaN goes on, to be noticed as non-finite

        def step(carry: Any) -> Any:
            i, v, r, p, rr, _ = carry
            Hp = hessian(p)
            curvature = trees.dot(p, Hp)
            convex = ~(curvature <= 0)
            length = jnp.where(convex, rr / curvature, 0.0)
            v, r = trees.axpy(length, p, v), trees.axpy(-length, Hp, r)
            new = trees.dot(r, r)
            return i + 1, v, r, trees.axpy(new / rr, p, r), new, convex

        carry = (0, trees.zeros_like(rhs), residual, residual, rr, jnp.array(True))
        i, v, _, _, _, convex = jax.lax.while_loop(going_on, step, carry)
        if start is None:
            return Adjoint(trees.scale(size, v), (i, batch.size), convex)
        return Adjoint(trees.axpy(size, v, start), (i + 1, batch.size), convex)


class Neumann(AbstractAdjoint):
    """The truncated series v = η Σ_{q=0}^{Q} Π (I − η H(B_i)) b: Q factors, Q + 1 terms.

    `order` is Q and `step` is η ≤ 1/L. Each factor draws its own batch, independent of the others: of the
    level's size, or of `batch_sizes`: one for all, or one each in the order of use. Its bias is at most
    (1 − ημ)^{Q+1} ‖b‖/μ.

    Reference: Ji, Yang & Liang (ICML 2021), eq. (5) and Algorithm 3.

    Example:

        >>> import bilevel as bl
        >>> method = bl.Neumann(order=10, step=0.5)
    """

    order: int = eqx.field(static=True)
    step: Any = eqx.field(converter=as_schedule)
    batch_sizes: int | tuple[int, ...] | None = eqx.field(default=None, static=True, converter=checks.integers)

    def __check_init__(self):
        checks.count("order", self.order, least=0)
        sizes = self.batch_sizes
        if isinstance(sizes, tuple) and len(sizes) != self.order:
            raise ValueError(f"batch_sizes: got {len(sizes)} sizes for {self.order} factors")
        for size in sizes if isinstance(sizes, tuple) else () if sizes is None else (sizes,):
            checks.count("batch_sizes", size)

    def __call__(
        self, level: Level, x: Tree, y: Tree, rhs: Tree, start: Tree, *, batch: Batch, key: PRNGKeyArray, t: Any = 0
    ) -> Adjoint:
        eta = self.step(t)

        def factor(i: Any, carry: tuple[Tree, Tree], size: int | None = None) -> tuple[Tree, Tree]:
            r, total = carry
            fresh = level.draw(jax.random.fold_in(key, i), size)
            r = trees.axpy(-eta, oracles.hessian_product(level, x, y, r, fresh), r)
            return r, trees.add(total, r)

        carry, sizes = (rhs, rhs), self.batch_sizes if level.batch_size else None
        if isinstance(sizes, tuple):
            for i, size in enumerate(sizes):  # shapes differ, so the loop is unrolled
                carry = factor(i, carry, size)
            products = sum(sizes)
        else:
            carry = jax.lax.fori_loop(0, self.order, lambda i, carry: factor(i, carry, sizes), carry)
            products = self.order * (sizes or level.size)
        return Adjoint(trees.scale(eta, carry[1]), products)


class RandomNeumann(AbstractAdjoint):
    """One random term of the Neumann series, unbiased for its first K terms:

        v = K η Π_{i=1}^{k} (I − η H(ζ_i)) b,   k uniform on {0, …, K − 1}, independent ζ_i,

    whose mean is η Σ_{n<K} (I − ηH)ⁿ b. `order` is K, an integer or a function of t that gives one (traced), `step`
    is η = 1/L. ζ_1 acts first.

    Reference: Ghadimi & Wang (arXiv 1802.02246); SUSTAIN, Khanduri et al. (NeurIPS 2021), eq. (7).

    Example:

        >>> import bilevel as bl
        >>> method = bl.RandomNeumann(order=10, step=0.5)
    """

    order: int | Callable[[Any], Any] = eqx.field(static=True)
    step: Any = eqx.field(converter=as_schedule)

    def __check_init__(self):
        check_count("order", self.order)

    def __call__(
        self, level: Level, x: Tree, y: Tree, rhs: Tree, start: Tree, *, batch: Batch, key: PRNGKeyArray, t: Any = 0
    ) -> Adjoint:
        eta, order = self.step(t), count_at(self.order, t, least=1)
        length_key, factor_key = jax.random.split(key)
        k = jax.random.randint(length_key, (), 0, order)

        def factor(i: Any, r: Tree) -> Tree:
            fresh = level.draw(jax.random.fold_in(factor_key, i))
            return trees.axpy(-eta, oracles.hessian_product(level, x, y, r, fresh), r)

        r = jax.lax.fori_loop(0, k, factor, rhs)
        return Adjoint(trees.scale(order * eta, r), (k, level.size))


class FixedPoint(AbstractAdjoint):
    """`steps` steps of v ← v − η (H v − b) from `start`, all on one batch: Richardson's iteration.

    From zero this is η Σ_{i<steps} (I − ηH)^i b. `step` is η ≤ 1/L.

    Reference: AID-FP, Grazzi, Franceschi, Pontil & Salzo (ICML 2020).

    Example:

        >>> import bilevel as bl
        >>> method = bl.FixedPoint(steps=100, step=0.1)
    """

    steps: int = eqx.field(static=True)
    step: Any = eqx.field(converter=as_schedule)

    def __check_init__(self):
        checks.count("steps", self.steps)

    def __call__(
        self, level: Level, x: Tree, y: Tree, rhs: Tree, start: Tree, *, batch: Batch, key: PRNGKeyArray, t: Any = 0
    ) -> Adjoint:
        eta = self.step(t)

        def step(_: Any, v: Tree) -> Tree:
            Hv = oracles.hessian_product(level, x, y, v, batch)
            return trees.axpy(-eta, trees.sub(Hv, rhs), v)

        start = trees.zeros_like(rhs) if start is None else start
        return Adjoint(jax.lax.fori_loop(0, self.steps, step, start), self.steps * batch.size)


class Direct(AbstractAdjoint):
    """The exact solution by a dense Cholesky factorization: O((dim y)²) memory, O((dim y)³) time.

    Counted as dim y Hessian products, which is what forming the matrix costs. Where the matrix is not positive,
    `Adjoint.convex` says so.

    **Raises** `ValueError` when the matrix would not fit in `max_bytes` (default 2 GB).

    Example:

        >>> import bilevel as bl
        >>> method = bl.Direct()
    """

    max_bytes: int = eqx.field(default=2 * 10**9, static=True)

    def __check_init__(self):
        checks.number("max_bytes", self.max_bytes)
        checks.positive("max_bytes", self.max_bytes)

    def __call__(
        self, level: Level, x: Tree, y: Tree, rhs: Tree, start: Tree, *, batch: Batch, key: PRNGKeyArray, t: Any = 0
    ) -> Adjoint:
        dim = sum(leaf.size for leaf in jax.tree.leaves(y))
        needed = dim**2 * jnp.result_type(*jax.tree.leaves(y)).itemsize
        if needed > self.max_bytes:
            raise ValueError(
                f"Direct: y has {dim} entries, so its Hessian takes {needed / 1e9:.1f} GB; "
                "use bl.ConjugateGradient, or raise max_bytes"
            )
        matrix, unravel = oracles.dense_hessian(level, x, y, batch)
        flat, _ = ravel_pytree(rhs)
        factor = jnp.linalg.cholesky(matrix)
        v = jax.scipy.linalg.cho_solve((factor, True), flat)
        return Adjoint(unravel(v), dim * batch.size, ~jnp.isnan(factor[-1, -1]) | jnp.isnan(matrix).any())
