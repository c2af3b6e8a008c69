"""Few-shot episodes: how tasks are drawn from the images of many classes, what each one learns, and the losses."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar, Shaped, UInt8

from bilevel.problem import Factored, Level, Problem


class Head(eqx.Module):
    """One linear head y_i per task, on the features of a body that all tasks share.

    x = {"body": network without outputs} or, with a learned start, {"body": …, "head": {"weights", "bias"}};
    y_i = {"weights": (ways, width), "bias": (ways,)} starts at x["head"], or at zero.
    """

    ways: int = eqx.field(static=True)

    def start(self, x: PyTree[Array]) -> PyTree[Array]:
        """Where y_i starts."""
        if "head" in x:
            return x["head"]
        dtype = jnp.result_type(*jax.tree.leaves(x))
        return {"weights": jnp.zeros((self.ways, x["body"].width), dtype), "bias": jnp.zeros(self.ways, dtype)}

    def inputs(self, x: PyTree[Array], rows: Shaped[Array, "..."]) -> Float[Array, "... n width"]:
        """What y_i acts on, of one task or of many: all effects of x, so a lower loop at a fixed x computes it once."""
        return x["body"](rows)

    def logits(self, y: PyTree[Array], inputs: Float[Array, "n width"]) -> Float[Array, "n ways"]:
        """The logits of y_i on these inputs."""
        return inputs @ y["weights"].T + y["bias"][None, :]


class Network(eqx.Module):
    """One whole network per task: x is a network, and y_i starts as a copy of it."""

    def start(self, x: PyTree[Array]) -> PyTree[Array]:
        """Where y_i starts."""
        return x

    def inputs(self, x: PyTree[Array], rows: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """What y_i acts on: the rows themselves, images or tokens."""
        return rows

    def logits(self, y: Callable[[Array], Array], inputs: Shaped[Array, "n ..."]) -> Float[Array, "n ways"]:
        """The logits of y_i on these inputs."""
        return y(inputs)


Learner = Head | Network


class Copies(eqx.Module):
    """x ↦ y: each task's own copy of the learner's start, on a leading axis."""

    learner: Learner
    tasks: int = eqx.field(static=True)

    def __call__(self, x: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (self.tasks, *leaf.shape)), self.learner.start(x))


class SupportLoss(eqx.Module):
    """Sum over tasks of g_i = mean cross-entropy on the task's support images + `regularization` · ‖y_i‖².

    `Factored(loss.inputs, loss.given)` is the loss of a level: x acts only through the inputs.
    """

    learner: Learner
    regularization: Float[Array, ""]

    def inputs(self, x: PyTree[Array], batch: dict[str, Array]) -> Shaped[Array, "tasks n ..."]:
        """What the y_i act on."""
        return self.learner.inputs(x, batch["images"])

    def given(
        self, inputs: Shaped[Array, "tasks n ..."], y: PyTree[Array], batch: dict[str, Array]
    ) -> Float[Scalar, ""]:
        """The loss as a function of the inputs of the y_i."""
        return jnp.sum(jax.vmap(self.of_task)(inputs, y, batch["labels"]))

    def of_task(self, inputs: Shaped[Array, "n ..."], y: PyTree[Array], labels: Int[Array, " n"]) -> Float[Scalar, ""]:
        """g_i as a function of the inputs of y_i."""
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return cross_entropy(self.learner.logits(y, inputs), labels) + self.regularization * penalty


class QueryLoss(eqx.Module):
    """Mean over tasks of the mean cross-entropy on the task's query images."""

    learner: Learner

    def __call__(self, x: PyTree[Array], y: PyTree[Array], batch: dict[str, Array]) -> Float[Scalar, ""]:
        inputs = self.learner.inputs(x, batch["images"])
        return jnp.mean(jax.vmap(cross_entropy)(jax.vmap(self.learner.logits)(y, inputs), batch["labels"]))


def cross_entropy(logits: Float[Array, "n ways"], labels: Int[Array, " n"]) -> Float[Scalar, ""]:
    """Mean cross-entropy."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


class FewshotTasks(eqx.Module):
    """N-way K-shot tasks drawn from the images of many classes: the `redraw` of few-shot episodes.

    A task has `ways` different classes, with `shots` support and `queries` query images of each, all different. The
    labels 0, …, ways − 1 follow the order in which the classes were drawn. The images stay on the device with one byte
    per value, and only those that are drawn become floats in [0, 1].

    **Arguments**

    - `images`: `per_class` images of each class. `learner`: a `Head` or a `Network`.
    - `regularization`: of the lower loss. `tasks`: the number of tasks that `episodes(key)` draws.

    Example:

        >>> import jax, jax.numpy as jnp
        >>> from bilevel.tasks._episodes import FewshotTasks, Network
        >>> images = jnp.zeros((9, 7, 8, 8, 1), jnp.uint8)
        >>> episodes = FewshotTasks(images, Network(), jnp.zeros(()), ways=5, shots=1, queries=3, tasks=4)
        >>> problem = episodes(jax.random.key(0))
        >>> problem.lower.data.arrays["images"].shape, problem.upper.data.arrays["labels"].shape
        ((4, 5, 8, 8, 1), (4, 15))
    """

    images: UInt8[Array, "classes per_class h w c"]
    learner: Learner
    regularization: Float[Array, ""]
    ways: int = eqx.field(static=True)
    shots: int = eqx.field(static=True)
    queries: int = eqx.field(static=True)
    tasks: int = eqx.field(static=True)

    def draw(self, key: PRNGKeyArray) -> tuple[dict[str, Array], dict[str, Array]]:
        """The support and the query rows of one task: {"images": (n, h, w, c), "labels": (n,)} each."""
        classes, per_class, *shape = self.images.shape
        class_key, image_key = jax.random.split(key)
        chosen = distinct(class_key, classes, self.ways)
        image_keys = jax.random.split(image_key, self.ways)
        images = jax.vmap(lambda key: distinct(key, per_class, self.shots + self.queries))(image_keys)
        drawn = self.images[chosen[:, None], images].astype(jnp.float32) / 255

        def rows(images: Float[Array, "ways each h w c"]) -> dict[str, Array]:
            each = images.shape[1]
            labels = jnp.repeat(jnp.arange(self.ways, dtype=jnp.int32), each)
            return {"images": images.reshape(self.ways * each, *shape), "labels": labels}

        return rows(drawn[:, : self.shots]), rows(drawn[:, self.shots :])

    @jax.jit  # a task makes one draw outside a solver's program
    def _draws(self, key: PRNGKeyArray) -> tuple[dict[str, Array], dict[str, Array]]:
        return jax.vmap(self.draw)(jax.random.split(key, self.tasks))

    def __call__(self, key: PRNGKeyArray) -> Problem:
        """The ordinary problem of `tasks` fresh tasks; each row of a level's data is one task."""
        support, query = self._draws(key)
        loss = SupportLoss(self.learner, self.regularization)
        return Problem(
            upper=Level(QueryLoss(self.learner), data=query),
            lower=Level(Factored(loss.inputs, loss.given), data=support),
        )


def distinct(key: PRNGKeyArray, n: int, count: int) -> Int[Array, " count"]:
    """`count` different numbers from 0, …, n − 1, in random order: the indices of the largest of n uniform draws."""
    return jax.lax.top_k(jax.random.uniform(key, (n,)), count)[1]
