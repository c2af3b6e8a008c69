"""The cleaning problem's oracles, written by hand on jax alone: what a step is measured against.

min over x of CE(W; trusted), W minimizing mean σ(x_i) CE_i(W; noisy) + c‖W‖². Each function below is the body
of a loop: it reads its batch, whose indices were drawn beforehand, evaluates one oracle and uses the result, so that
nothing is dropped.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

REGULARIZATION = 1e-3


def cross_entropy(W, features, labels):
    """W has a row a class: the gradient's product is then twice as fast on a CPU as with a column a class."""
    logits = features @ W.T
    picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - picked


def lower_loss(x, W, batch):
    weighted = jax.nn.sigmoid(x) * cross_entropy(W, batch["features"], batch["labels"])
    return jnp.mean(weighted) + REGULARIZATION * jnp.sum(W**2)


def upper_loss(x, W, batch):
    return jnp.mean(cross_entropy(W, batch["features"], batch["labels"]))


def draw(indices, data, size, blocks):
    """The rows at these indices, the block from this start, or (size None) all rows: the indices and the batch."""
    if size is None:
        return None, data
    if blocks:
        return indices, jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, indices, size), data)
    return indices, jax.tree.map(lambda array: array.at[indices].get(mode="promise_in_bounds"), data)


def rows_of(x, indices, size):
    if indices is None:
        return x
    if indices.ndim == 0:
        return jax.lax.dynamic_slice_in_dim(x, indices, size)
    return x.at[indices].get(mode="promise_in_bounds")


def add_rows(x, indices, rows):
    if indices is None:
        return x + rows
    if indices.ndim == 0:
        old = jax.lax.dynamic_slice_in_dim(x, indices, rows.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(x, old + rows, indices, 0)
    return x.at[indices].add(rows, mode="promise_in_bounds")


def products(x_rows, W, v, batch):
    """(G_y, H[v], J[v]) in one pass."""
    gradients = jax.grad(lower_loss, argnums=(0, 1))
    (_, G), (J, H) = jax.jvp(lambda W: gradients(x_rows, W, batch), (W,), (v,))
    return G, H, J


# Each body maps (x, W, v) to the next, so that a loop over it does nothing but this oracle.


def lower_gradient(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    G = jax.grad(lower_loss, argnums=1)(rows_of(x, indices, size), W, batch)
    return x, W - 1e-3 * G, v


def lower_gradient_of_columns(carry, drawn, upper, lower, size, blocks):
    """`lower_gradient` with a column of W a class, kept as a measure of what the layout gains."""
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    columns = W.reshape(W.shape[::-1])
    G = jax.grad(lambda W: lower_loss(rows_of(x, indices, size), W.T, batch))(columns)
    return x, W - 1e-3 * G.reshape(W.shape), v


def upper_gradient(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    _, batch = draw(drawn[0], upper, size, blocks)
    return x, W, v - 1e-3 * jax.grad(upper_loss, argnums=1)(x, W, batch)


def hessian_product(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    _, H, _ = products(rows_of(x, indices, size), W, v, batch)
    return x, W, v - 1e-3 * H


def cross_product(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    _, _, J = products(rows_of(x, indices, size), W, v, batch)
    return add_rows(x, indices, 1e-3 * J), W, v


def hessian_and_cross_product(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    _, H, J = products(rows_of(x, indices, size), W, v, batch)
    return add_rows(x, indices, 1e-3 * J), W, v - 1e-3 * H


def lower_products(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    G, H, J = products(rows_of(x, indices, size), W, v, batch)
    return add_rows(x, indices, 1e-3 * J), W - 1e-3 * G, v - 1e-3 * H


def lower_gradient_x(carry, drawn, upper, lower, size, blocks):
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    G_x = jax.grad(lower_loss)(rows_of(x, indices, size), W, batch)
    return add_rows(x, indices, 1e-3 * G_x), W, v


def second_derivatives(carry, drawn, upper, lower, size, blocks):
    """∇²_yy g and ∇²_xy g as matrices, by one product for each unit vector, together."""
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    x_rows = rows_of(x, indices, size)

    def columns(unit):
        _, H, J = products(x_rows, W, unit.reshape(W.shape), batch)
        return H.ravel(), add_rows(jnp.zeros_like(x), indices, J)

    H, J = jax.vmap(columns, out_axes=1)(jnp.eye(W.size))
    return x + 1e-3 * J.sum(axis=1), W + 1e-3 * H.sum(axis=1).reshape(W.shape), v


def hessian_solve(carry, drawn, upper, lower, size, blocks):
    """∇²_yy g as a matrix, and one system solved with it."""
    x, W, v = carry
    indices, batch = draw(drawn[1], lower, size, blocks)
    x_rows = rows_of(x, indices, size)
    H = jax.hessian(lambda flat: lower_loss(x_rows, flat.reshape(W.shape), batch))(W.ravel())
    return x, W, v - 1e-3 * jnp.linalg.solve(H, v.ravel()).reshape(W.shape)


def eigendecomposition(carry, drawn, upper, lower, size, blocks):
    """Of a symmetric matrix over y, and the matrix put together again."""
    x, W, v = carry
    positions = jnp.arange(W.size, dtype=W.dtype)
    values, vectors = jnp.linalg.eigh(jnp.sin(jnp.outer(positions, positions)) + W[0, 0])
    return x, W + 1e-6 * ((vectors * values[None]) @ vectors.T)[0].reshape(W.shape), v


def both_gradients(carry, drawn, upper, lower, size, blocks):
    """One plain gradient of each level: the yardstick of a single-loop step."""
    carry = lower_gradient(carry, drawn, upper, lower, size, blocks)
    return upper_gradient(carry, drawn, upper, lower, size, blocks)


ORACLES = {
    "G": lower_gradient,
    "F": upper_gradient,
    "H": hessian_product,
    "J": cross_product,
    "HJ": hessian_and_cross_product,
    "GHJ": lower_products,
    "G+F": both_gradients,
    "Gx": lower_gradient_x,
    "G, W of columns": lower_gradient_of_columns,
}
DENSE = {"HH, HJ": second_derivatives, "HH solved": hessian_solve, "eigh": eigendecomposition}  # on a small W


TABLE = 4096


def tables(upper, lower, size, blocks):
    """Indices of the upper and the lower level's batches, drawn beforehand: the oracles are timed without a draw."""
    generator = np.random.default_rng(0)

    def table(rows):
        if size is None:
            return jnp.zeros(TABLE)
        drawn = (
            size * generator.integers(0, rows // size, TABLE) if blocks else generator.integers(0, rows, (TABLE, size))
        )
        return jnp.asarray(drawn, jnp.int32)

    return table(len(upper["labels"])), table(len(lower["labels"]))


@functools.partial(jax.jit, static_argnames=("name", "size", "blocks", "n"))
def repeat(name, carry, tables, upper, lower, size, blocks, n):
    """`n` evaluations of one oracle inside a loop."""

    def body(t, carry):
        drawn = tuple(table[t % TABLE] for table in tables)
        return (ORACLES | DENSE)[name](carry, drawn, upper, lower, size, blocks)

    return jax.lax.fori_loop(0, n, body, carry)
