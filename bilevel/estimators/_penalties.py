"""Penalties of a linear model, tuned by hypergradients on the rows that each fold holds out, in one program.

    upper:  f(x, y) = mean over splits k and held-out rows i of loss_i(y_k) + prior(x)/(rows that any split holds out)
    lower:  g(x, y) = Σ_k (Σ of loss_i(y_k) over the training rows i of split k + ½ Σ_jc λ_jc w_kjc²)/rows,  λ = exp(x)

y_k = (w_k, b_k) is the model of split k. g is a sum over the splits, so that one lower problem trains them all and one
adjoint system gives the hypergradient of f.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Scalar

from bilevel import oracles, trees
from bilevel.cost import Total
from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.hypergradients.lower import Newton
from bilevel.problem import Problem
from bilevel.steps import AbstractStep

FREEDOM = 3.0  # degrees of freedom of the prior: features that clearly matter may leave the others far behind
_LARGEST = 60.0  # |log λ|: its exponential is finite in single precision, and so is its square root's inverse


class Dense(eqx.Module):
    """W ↦ X W and R ↦ Xᵀ R. With X and Xᵀ stored, thin products in a loop take a tenth of the time on a CPU."""

    matrix: Float[Array, "n d"]
    transposed: Float[Array, "d n"]

    def times(self, W: Float[Array, "d m"]) -> Float[Array, "n m"]:
        return self.matrix @ W

    def transposed_times(self, R: Float[Array, "n m"]) -> Float[Array, "d m"]:
        return self.transposed @ R


class Entries(eqx.Module):
    """The entries of a sparse matrix, in the order of `to`: entry i adds values_i · W[source_i] to row to_i."""

    values: Float[Array, " entries"]
    source: Int[Array, " entries"]
    to: Int[Array, " entries"]
    size: int = eqx.field(static=True)

    def times(self, W: Float[Array, "_ m"]) -> Float[Array, "size m"]:
        terms = self.values[:, None] * W.at[self.source].get(mode="promise_in_bounds")
        return jax.ops.segment_sum(terms, self.to, self.size, indices_are_sorted=True)


class Sparse(eqx.Module):
    """The same for a sparse X, stored as entries by row and by column, less `offset` in every row.

    It is never made dense.
    """

    by_row: Entries
    by_column: Entries
    offset: Float[Array, " d"]

    def times(self, W: Float[Array, "d m"]) -> Float[Array, "n m"]:
        return self.by_row.times(W) - (self.offset @ W)[None, :]

    def transposed_times(self, R: Float[Array, "n m"]) -> Float[Array, "d m"]:
        return self.by_column.times(R) - self.offset[:, None] * jnp.sum(R, axis=0)[None, :]


@jax.custom_vjp
def product(X: Dense | Sparse, W: Float[Array, "d m"]) -> Float[Array, "n m"]:
    """X W. Its gradient is XᵀR as written above; JAX's own transpose takes about twice as long on a CPU."""
    return X.times(W)


def _forward(X: Dense | Sparse, W: Float[Array, "d m"]) -> tuple[Array, Dense | Sparse]:
    return X.times(W), X


def _backward(X: Dense | Sparse, R: Float[Array, "n m"]) -> tuple[None, Array]:
    return None, X.transposed_times(R)


product.defvjp(_forward, _backward)


class Loss(NamedTuple):
    """The loss of each row under each of k models, (n, k), from scores (n, k · c), model by model, and targets (n, c).

    `curvature`: the approximate second derivative in one score.
    """

    value: Callable[[Array, Array], Array]
    curvature: float


def _squared(scores: Float[Array, "n kc"], targets: Float[Array, "n c"]) -> Float[Array, "n k"]:
    if targets.shape[1] == 1:  # on a CPU, loops over a last axis of one entry take up to ten times as long
        return (scores - targets) ** 2 / 2
    return jnp.sum((_by_model(scores, targets) - targets[:, None, :]) ** 2, axis=-1) / 2


def _binary(scores: Float[Array, "n k"], targets: Float[Array, "n 1"]) -> Float[Array, "n k"]:
    return jax.nn.softplus(-scores * targets)


def _multinomial(scores: Float[Array, "n kc"], targets: Float[Array, "n c"]) -> Float[Array, "n k"]:
    by_model = _by_model(scores, targets)
    return jax.nn.logsumexp(by_model, axis=-1) - jnp.sum(by_model * targets[:, None, :], axis=-1)


def _by_model(scores: Float[Array, "n kc"], targets: Float[Array, "n c"]) -> Float[Array, "n k c"]:
    return scores.reshape(len(scores), -1, targets.shape[1])


SQUARED = Loss(_squared, 1.0)  # ½ ‖score − target‖²
BINARY = Loss(_binary, 0.25)  # log(1 + exp(−target · score)), target = ±1
MULTINOMIAL = Loss(_multinomial, 0.1)  # cross-entropy, the target a row of the unit matrix


class Model(eqx.Module):
    """The rows, and the linear models of all splits side by side, with scores X w + ones bᵀ.

    Their parameters y are in units in which g has curvature one along each of them, w = u · scale(x). Conjugate
    gradient needs this, and y is then a good start after x has moved. `groups`, (d, 1) or (1, k · c), holds for each
    weight the index in x of its log λ, to which `unit`, −2 log of the unit of column j of X, is added.
    """

    X: Dense | Sparse
    ones: Float[Array, " n"]
    targets: Float[Array, "n c"]
    groups: Int[Array, "_ _"]
    unit: Float[Array, "d 1"]
    curvature: Float[Array, ""]
    loss: Loss = eqx.field(static=True)

    def penalties(self, x: Float[Array, " p"]) -> Float[Array, "d _"]:
        """λ_jc, for a w in the units of X."""
        return jnp.exp(jnp.clip(x[self.groups] + self.unit, -_LARGEST, _LARGEST))

    def weights(self, x: Float[Array, " p"], y: PyTree[Array]) -> Float[Array, "d kc"]:
        """w."""
        return jax.lax.rsqrt(self.curvature + self.penalties(x)) * y["weights"]

    def intercepts(self, y: PyTree[Array]) -> Float[Array, " kc"]:
        """b."""
        return jax.lax.rsqrt(self.curvature) * y["intercepts"]

    def losses(self, x: Float[Array, " p"], y: PyTree[Array]) -> Float[Array, "n k"]:
        """The loss of each row under each split's model."""
        scores = product(self.X, self.weights(x, y)) + self.ones[:, None] * self.intercepts(y)[None, :]
        return self.loss.value(scores, self.targets)


class TrainingLoss(eqx.Module):
    """g. `weights` is zero where a split does not train on a row, and `total` is the sum of all rows' weights."""

    model: Model
    weights: Float[Array, "n k"]
    total: Float[Array, ""]

    def __call__(self, x: Float[Array, " p"], y: PyTree[Array], batch: None) -> Float[Scalar, ""]:
        penalties, w = self.model.penalties(x), self.model.weights(x, y)
        return (jnp.sum(self.weights * self.model.losses(x, y)) + jnp.sum(penalties * w**2) / 2) / self.total


class HeldOutLoss(eqx.Module):
    """f, in nats per row: the mean loss or, for a squared loss with c outputs, (c/2) log of the mean of ½ ‖error‖².

    The latter is, up to a constant, the negative log-likelihood of a Gaussian with the best variance.

    `total` is the sum of `weights`. `judges` counts a row once that several splits hold out.

    The prior is Student's t for the entries of x around their mean, with scale `spread`. Entries where `real` is zero
    are padding.
    """

    model: Model
    weights: Float[Array, "n k"]
    total: Float[Array, ""]
    judges: Float[Array, ""]
    spread: Float[Array, ""]
    real: Float[Array, " p"]

    def mean(self, x: Float[Array, " p"], y: PyTree[Array]) -> Float[Scalar, ""]:
        """The mean loss of the held-out rows."""
        return jnp.sum(self.weights * self.model.losses(x, y)) / self.total

    def __call__(self, x: Float[Array, " p"], y: PyTree[Array], batch: None) -> Float[Scalar, ""]:
        mean = self.mean(x, y)
        if self.model.loss is SQUARED:
            mean = self.model.targets.shape[1] / 2 * jnp.log(mean + jnp.finfo(mean.dtype).eps)
        away = (x - jnp.sum(self.real * x) / jnp.sum(self.real)) / self.spread
        return mean + (FREEDOM + 1) / 2 * jnp.sum(self.real * jnp.log1p(away**2 / FREEDOM)) / self.judges


class State(eqx.Module):
    """x, y, the adjoint v and the state of x's rule; the objective f and the mean held-out loss at the previous x; and
    the cost."""

    x: Float[Array, " p"]
    y: PyTree[Array]
    v: PyTree[Array]
    rule: PyTree[Array]
    objective: Float[Array, ""]
    held_out: Float[Array, ""]
    cost: Total


class Tuner(eqx.Module):
    """The method: at most `newton_steps` Newton steps on y, to a decrement of `tolerance`, and a step of `rule` on x.

    Newton steps and adjoints take at most `products` steps of conjugate gradient, to a residual of `precision`.
    """

    rule: AbstractStep
    tolerance: Any
    newton_steps: Any
    products: int = eqx.field(static=True, default=10)
    precision: Any = 0.1

    @property
    def linear(self) -> ConjugateGradient:
        return ConjugateGradient(self.products, self.precision)

    @property
    def lower(self) -> Newton:
        return Newton(self.newton_steps, self.linear, self.tolerance, halvings=10)

    def begin(self, problem: Problem, x: Float[Array, " p"], y: PyTree[Array]) -> State:
        unknown = jnp.full((), jnp.inf, x.dtype)
        rule = self.rule.init(x)
        return State(x, y, trees.zeros_like(y), rule, unknown, unknown, Total.zero())


@eqx.filter_jit
def advance(problem: Problem, tuner: Tuner, state: State, t: Int[Array, ""], moves: Any) -> State:
    """Train all splits at x and measure the losses. Then, if `moves`, solve for the adjoint and make a step on x.

    One program serves the search for the start, the tuning and the final fit, as all data are arguments. It is not a
    solver for `solve`: its steps end by Newton's tolerance, and the objective at each x decides which x is kept, so
    that the host has to see each step.
    """
    x, upper = state.x, problem.upper
    below = tuner.lower.solve(problem.lower, x, state.y, key=jax.random.key(0))
    y = below.y
    objective, loss = oracles.loss(upper, x, y, upper.all_rows()), upper.loss
    held_out = loss.mean(x, y) if isinstance(loss, HeldOutLoss) else objective
    cost = state.cost + below.cost
    state = State(x, y, state.v, state.rule, objective, held_out, cost)

    def move(state: State) -> State:
        found = tuner.linear.hypergradient(problem, x, y, state.v, key=jax.random.key(0))
        new, rule = tuner.rule(x, trees.dense(found.h, x), state.rule, t)
        return State(new, y, found.adjoint.v, rule, objective, held_out, state.cost + found.cost)

    return jax.lax.cond(moves, move, lambda state: state, state)
