"""Every derivative of a level's loss, at one point on one batch.

In the notation of the solvers, `F_x, F_y` are the gradients of f, `G_y` is the gradient of g, `H[v] = ∇²_yy g · v`, and
`J[v] = ∇_x∇_y g · v`, which lives in the space of x. One forward-over-reverse pass gives G_y, H[v] and
J[v] together. The compiler drops the parts of a pass that are not used.

A gradient in x holds only the batch's rows of a per-row variable (`trees.SparseRows`), and nothing for a
leaf that the loss does not use.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from bilevel import trees
from bilevel.problem import Factored, Level, per_row_flags
from bilevel.sampling import Batch
from bilevel.trees import AbstractLazyRows, NotLinearError, SparseRows, Tree


def loss(level: Level, x: Tree, y: Tree, batch: Batch) -> Float[Scalar, ""]:
    """The level's mean loss over the batch."""
    return level.value(_rows_of_x(level, x, y, batch), y, batch)


def gradient_y(level: Level, x: Tree, y: Tree, batch: Batch) -> Tree:
    """The gradient of the level's loss in y."""
    return jax.grad(level.value, argnums=1)(_rows_of_x(level, x, y, batch), y, batch)


def loss_and_gradient_y(level: Level, x: Tree, y: Tree, batch: Batch) -> tuple[Float[Scalar, ""], Tree]:
    """The level's mean loss over the batch, and its gradient in y."""
    return jax.value_and_grad(level.value, argnums=1)(_rows_of_x(level, x, y, batch), y, batch)


def gradient_x(level: Level, x: Tree, y: Tree, batch: Batch) -> Tree:
    """The gradient of the level's loss in x."""
    x_batch = _rows_of_x(level, x, y, batch)
    gradient = jax.grad(level.value, argnums=0)(x_batch, y, batch)
    return _in_x_space(level, x, x_batch, y, batch, gradient)


def upper_gradients(level: Level, x: Tree, y: Tree, batch: Batch) -> tuple[Tree, Tree]:
    """(F_x, F_y) in one pass."""
    x_batch = _rows_of_x(level, x, y, batch)
    F_x, F_y = jax.grad(level.value, argnums=(0, 1))(x_batch, y, batch)
    return _in_x_space(level, x, x_batch, y, batch, F_x), F_y


def lower_products(level: Level, x: Tree, y: Tree, v: Tree, batch: Batch) -> tuple[Tree, Tree, Tree]:
    """(G_y, H[v], J[v]) in one pass: the tangent of y ↦ (∇_x g, ∇_y g) along v, and its primal."""
    x_batch = _rows_of_x(level, x, y, batch)

    def gradients(y: Tree) -> tuple[Tree, Tree]:
        return jax.grad(level.value, argnums=(0, 1))(x_batch, y, batch)

    (_, G_y), (Jv, Hv) = jax.jvp(gradients, (y,), (v,))
    return G_y, Hv, _in_x_space(level, x, x_batch, y, batch, Jv)


def hessian_product(level: Level, x: Tree, y: Tree, v: Tree, batch: Batch) -> Tree:
    """H[v]."""
    return jax.jvp(lambda y: gradient_y(level, x, y, batch), (y,), (v,))[1]


def cross_product(level: Level, x: Tree, y: Tree, v: Tree, batch: Batch) -> Tree:
    """J[v]."""
    return lower_products(level, x, y, v, batch)[2]


def transposed_cross_product(level: Level, x: Tree, y: Tree, u: Tree, batch: Batch) -> Tree:
    """Jᵀ[u], for u like x; it lives in the space of y."""
    return jax.jvp(lambda x: gradient_y(level, x, y, batch), (x,), (u,))[1]


def hoist_features(level: Level, x: Tree) -> tuple[Level, Tree, Callable[[Tree], Tree]]:
    """Compute once, before a loop on y, what the loop needs from x. Returns (level, z, pull).

    For a `bl.Factored` loss on all rows, z holds the features of all rows. The returned level takes z in place of x,
    and `pull` maps a vector in the space of z, such as J[v], to the space of x. For other losses z is x, and the level
    is unchanged.
    """
    loss = level.loss
    if level.batch_size is not None or not isinstance(loss, Factored):
        return level, x, lambda h: h
    rows = level.all_rows().rows
    z, pull = jax.vjp(lambda x: loss.inputs(x, rows), x)
    return eqx.tree_at(lambda level: level.loss, level, loss.given), z, lambda h: pull(h)[0]


class HessianOperator(eqx.Module):
    """H = ∇²_yy g at a point, as products v ↦ H[v] on `batch` or on a fresh batch, or as a matrix.

    `size` is the cost of a product in samples.
    """

    level: Level
    x: Tree
    y: Tree
    batch: Batch

    @property
    def size(self) -> int:
        return self.batch.size

    def __call__(self, v: Tree) -> Tree:
        """H[v] on `batch`."""
        return hessian_product(self.level, self.x, self.y, v, self.batch)

    def fresh(self, v: Tree, *, key: PRNGKeyArray, size: int | None = None) -> Tree:
        """H[v] on a fresh batch, of the level's size or of `size`."""
        return hessian_product(self.level, self.x, self.y, v, self.level.draw(key, size))

    def dense(self) -> tuple[Float[Array, "y y"], Callable[[Array], Tree]]:
        """The matrix over the raveled y, and the function that unravels a vector of that length."""
        return dense_hessian(self.level, self.x, self.y, self.batch)


def dense_hessian(level: Level, x: Tree, y: Tree, batch: Batch) -> tuple[Float[Array, "y y"], Callable[[Array], Tree]]:
    """The matrix ∇²_yy g over the raveled y, and the function that unravels a vector of that length."""
    flat, unravel = ravel_pytree(y)
    x_batch = _rows_of_x(level, x, y, batch)
    matrix = jax.hessian(lambda flat: level.value(x_batch, unravel(flat), batch))(flat)
    return matrix, unravel


def dense_products(
    level: Level, x: Tree, y: Tree, batch: Batch
) -> tuple[Tree, Float[Array, "y y"], Float[Array, "x y"]]:
    """G_y and the matrices ∇²_yy g and ∇²_xy g over the raveled x and y, by dim y products in one batched pass."""
    flat, unravel = ravel_pytree(y)

    def column(unit: Array) -> tuple[Tree, Array, Array]:
        G_y, Hv, Jv = lower_products(level, x, y, unravel(unit), batch)
        return G_y, ravel_pytree(Hv)[0], ravel_pytree(trees.dense(Jv, x))[0]

    return jax.vmap(column, out_axes=(None, 1, 1))(jnp.eye(flat.size, dtype=flat.dtype))


def _rows_of_x(level: Level, x: Tree, y: Tree, batch: Batch) -> Tree:
    leaves, structure = jax.tree.flatten(x)
    if batch.indices is not None:
        flags = per_row_flags(level, x)
        leaves = [batch.of(leaf) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
    unread = [isinstance(leaf, AbstractLazyRows) for leaf in leaves]
    if any(unread):  # rows that are not up to date: zeros stand for them, if the loss does not use them
        leaves = [
            jnp.zeros(leaf.shape, leaf.dtype) if lazy else leaf for leaf, lazy in zip(leaves, unread, strict=True)
        ]
        used = _used_leaves(level, jax.tree.unflatten(structure, leaves), y, batch)
        if any(lazy and is_used for lazy, is_used in zip(unread, used, strict=True)):
            raise NotLinearError("a loss uses all rows of it")
    return jax.tree.unflatten(structure, leaves)


def _in_x_space(level: Level, x: Tree, x_batch: Tree, y: Tree, batch: Batch, gradient: Tree) -> Tree:
    """A gradient with respect to the batch's rows of x, as a vector in the space of x."""
    leaves, structure = jax.tree.flatten(x)
    flags = per_row_flags(level, x)
    used = _used_leaves(level, x_batch, y, batch)
    placed = []
    for leaf, part, flag, is_used in zip(leaves, jax.tree.leaves(gradient), flags, used, strict=True):
        if not is_used and leaf.ndim > 0:
            placed.append(SparseRows((), leaf.shape))
        elif flag and batch.indices is not None:
            placed.append(SparseRows(((batch.indices, part),), leaf.shape))
        else:
            placed.append(part)
    return jax.tree.unflatten(structure, placed)


def _used_leaves(level: Level, x_batch: Tree, y: Tree, batch: Batch) -> list[bool]:
    """For each leaf of x, whether the loss depends on it (an upper loss often ignores x).

    A leaf that is only passed on to an inner function counts as used, which is slower but never wrong.
    """
    jaxpr = jax.make_jaxpr(lambda x: level.value(x, y, batch))(x_batch).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars} | {id(v) for v in jaxpr.outvars}
    return [id(variable) in read for variable in jaxpr.invars]
