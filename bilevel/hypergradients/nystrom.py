"""Nyström's low-rank approximation of H, inverted in closed form, without iterations or step sizes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray

from bilevel.fields import count, number
from bilevel.hypergradients.adjoint import AbstractAdjoint, Adjoint
from bilevel.oracles import HessianOperator
from bilevel.trees import Tree


class Nystrom(AbstractAdjoint):
    """The solution of (H_k + ρI) v = b, where H_k is a rank-k approximation of H from k Hessian products, on one batch:

        Ω: n × k, random with orthonormal columns;   C = HΩ,   W = ΩᵀC;   H_k = C W⁺ Cᵀ = U Λ Uᵀ
        v = U (Λ + ρI)⁻¹ Uᵀb + (b − U Uᵀb) / ρ

    ρ biases v toward zero, most where H is flat. If H is positive semidefinite, 0 ⪯ H_k ⪯ H, and H_k = H for k ≥ n
    or k ≥ rank H; else ‖v − (H + ρI)⁻¹b‖ ≤ ‖b‖ e / (ρ (e + ρ)) with e = ‖H − H_k‖. The method suits a network's
    Hessian, which has a few large eigenvalues and many that are nearly zero.

    **Arguments**: `rank` (k), `damping` (ρ > 0). The key chooses Ω; `hypergradient` without a key always has the same.

    A negative curvature within ρ counts as zero. If ΩᵀHΩ + ρI is not positive definite, `Adjoint.convex` is False.
    The method costs min(k, n) Hessian products, and also O(nk) memory and O(nk²) time; `v0` is not used.

    Example:

        >>> import bilevel as bl
        >>> method = bl.Nystrom(rank=10, damping=0.01)

    Reference: Hataya & Yamada, "Nyström Method for Accurate and Scalable Implicit Differentiation", AISTATS 2023
    (arXiv 2302.09726); the factored form: Frangella, Tropp & Udell, "Randomized Nyström Preconditioning" (SIMAX 2023).

    Differences from the paper: its Ω is k random columns of the identity, which miss large eigenvalues that belong to
    few entries of y. It inverts by b/ρ − C (W + CᵀC/ρ)⁻¹ Cᵀb / ρ², which is equal in exact arithmetic but too
    inaccurate in float32 for a small ρ.
    """

    rank: int = count()
    damping: Any = number()
    random = True

    def solve(self, H: HessianOperator, b: Tree, v0: Tree | None, *, key: PRNGKeyArray, t: Any = 0) -> Adjoint:
        flat, unravel = ravel_pytree(b)
        b = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))  # half precision has no factorizations
        k, rho = min(self.rank, b.size), jnp.asarray(self.damping).astype(b.dtype)

        def hessian(u: Any) -> Any:
            return ravel_pytree(H(unravel(u.astype(flat.dtype))))[0].astype(b.dtype)

        omega, _ = jnp.linalg.qr(jax.random.normal(key, (b.size, k), b.dtype))
        C = jax.lax.map(hessian, omega.T).T  # one by one: faster for networks on a CPU, with the memory of one product
        w, V = jnp.linalg.eigh(omega.T @ C)
        kept = w > k * jnp.finfo(flat.dtype).eps * jnp.abs(w).max()  # for others, 1/w is rounding or not convex
        root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, w, 1)), 0)
        U, sigma, _ = jnp.linalg.svd(C @ (V * root[None, :]), full_matrices=False)  # Λ = σ²

        inside = U.T @ b
        outside = b - U @ inside
        outside = outside - U @ (U.T @ outside)  # again: 1/ρ magnifies the rounding along U
        v = U @ (inside / (sigma**2 + rho)) + outside / rho
        return Adjoint(unravel(v.astype(flat.dtype)), k * H.size, ~(w[0] + rho <= 0))
