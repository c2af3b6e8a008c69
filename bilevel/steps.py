"""Step sizes, their schedules, and the rules that turn a direction into a step.

Every rate is an array leaf: another value compiles nothing, and a grid of them runs under `vmap`.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from bilevel import checks, trees

Tree = PyTree[Any]


class AbstractSchedule(eqx.Module):
    """A number for each iteration t = 0, 1, …; any function of t may stand where a schedule is asked for."""

    @abc.abstractmethod
    def __call__(self, t: Any) -> Float[Array, ""]: ...


class Constant(AbstractSchedule):
    """The same number throughout."""

    value: Float[Array, ""]

    def __init__(self, value: Any):
        self.value = _number("value", value)

    def __call__(self, t: Any) -> Float[Array, ""]:
        return self.value


class InversePower(AbstractSchedule):
    """scale · (offset + t)^(−power): see `inverse_power`."""

    scale: Float[Array, ""]
    power: Float[Array, ""]
    offset: Float[Array, ""]

    def __init__(self, scale: Any, power: Any, offset: Any = 1.0):
        self.scale, self.power = _number("scale", scale), _number("power", power)
        self.offset = _number("offset", offset)
        checks.positive("scale", scale)
        checks.positive("offset", offset)

    def __call__(self, t: Any) -> Float[Array, ""]:
        return self.scale * (self.offset + t) ** (-self.power)


def inverse_power(scale: Any, power: Any, offset: Any = 1.0) -> InversePower:
    """The schedule t ↦ scale · (offset + t)^(−power), t = 0, 1, ….

    Example:
        >>> import bilevel as bl
        >>> float(bl.inverse_power(0.5, power=0.5, offset=4)(0))
        0.25
    """
    return InversePower(scale, power, offset)


def _number(name: str, value: Any) -> Any:
    """A floating scalar as an array leaf, in full precision until it meets the iterate's dtype."""
    if isinstance(value, jax.Array):
        return value
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {value!r}; pass a number") from None


def schedule(name: str, value: Any, check: Callable[[str, Any], None] = checks.positive) -> Callable[[Any], Any]:
    """A number or a function of t, as a schedule; a number is checked."""
    if isinstance(value, Constant):
        value = value.value
    if callable(value):
        return value
    number = _number(name, value)
    check(name, number)
    return Constant(number)


class AbstractStep(eqx.Module):
    """Turns a direction d into a step of an iterate z: the update of `upper_step`, `lower_step`, ….

    A solver keeps the rule's state beside the iterate, from `init(z)`, and calls
    `z, state = rule(z, d, state, t)`.
    """

    @abc.abstractmethod
    def init(self, z: Tree) -> Tree: ...

    @abc.abstractmethod
    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]: ...


class GradientStep(AbstractStep):
    """z − rate(t) · d. What a number or a schedule becomes where a step rule is asked for."""

    rate: Callable[[Any], Any]

    def init(self, z: Tree) -> Tree:
        return ()

    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]:
        return trees.add(z, trees.scale(-jnp.asarray(self.rate(t)), direction)), state


class Rule(AbstractStep):
    """A step by an optax optimiser.

    **Arguments**

    - `optimizer`: a function of a learning rate that returns a gradient transformation, e.g. `optax.adam`.
    - `learning_rate`: a number or a schedule (of the iteration t, counted by the driver).
    - further settings are passed to `optimizer`; numbers among them are array leaves too.

    The state of an adaptive rule spans all of its iterate: on a per-row variable its step costs O(rows).

    **Raises** `TypeError` for an optimiser that needs more than a gradient (line searches, L-BFGS, Polyak
    steps): in a stochastic step there is no value to search along.

    Example:
        >>> import bilevel as bl, optax
        >>> step = bl.Rule(optax.adam, learning_rate=0.01, b1=0.8)
    """

    optimizer: Callable[..., optax.GradientTransformation] = eqx.field(static=True)
    learning_rate: Callable[[Any], Any]
    settings: dict[str, Any]

    def __init__(self, optimizer: Callable[..., optax.GradientTransformation], learning_rate: Any, **settings: Any):
        if not callable(optimizer):
            raise TypeError(f"Rule: got {optimizer!r}; pass an optax function such as optax.adam, not its result")
        self.optimizer = optimizer
        self.learning_rate = schedule("learning_rate", learning_rate)
        self.settings = {k: _number(k, v) if type(v) is float else v for k, v in settings.items()}
        self._check()

    def _check(self) -> None:
        def trial() -> Any:
            z = jnp.ones(2)
            return self(z, z, self.init(z), 0)

        name = getattr(self.optimizer, "__name__", self.optimizer)
        try:
            jax.eval_shape(trial)
        except (TypeError, ValueError, AttributeError) as error:
            raise TypeError(
                f"Rule: optax.{name} cannot take a step from a gradient alone ({error}); a stochastic step has no "
                "value to search along: use optax.sgd, optax.adam or another first-order rule"
            ) from None

    def _transformation(self, t: Any, dtype: Any) -> optax.GradientTransformation:
        numbers = {k: v.astype(dtype) if eqx.is_inexact_array(v) else v for k, v in self.settings.items()}
        return self.optimizer(jnp.asarray(self.learning_rate(t)).astype(dtype), **numbers)

    def init(self, z: Tree) -> Tree:
        return self._transformation(0, jnp.result_type(*jax.tree.leaves(z))).init(z)

    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]:
        rule = self._transformation(t, jnp.result_type(*jax.tree.leaves(z)))
        updates, state = rule.update(trees.dense(direction, z), state, z)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), z, updates), state


def step_rule(name: str, value: Any) -> AbstractStep:
    """A number, a schedule or a rule, as a rule."""
    if isinstance(value, AbstractStep):
        return value
    if isinstance(value, optax.GradientTransformation):
        raise TypeError(f"{name}: got an optax transformation; pass bl.Rule(optax.adam, learning_rate), say")
    return GradientStep(schedule(name, value))


def step_field(name: str) -> Any:
    """The field of a solver that takes a number, a schedule or a `Rule`."""
    return eqx.field(converter=lambda value: step_rule(name, value))


def positive_field(name: str, **options: Any) -> Any:
    """The field of a solver that takes a positive number (an array leaf) or a function of t."""
    return eqx.field(converter=lambda value: schedule(name, value), **options)


def weight_field(name: str, **options: Any) -> Any:
    """The field of a solver that takes a weight in [0, 1], or a function of t."""
    return eqx.field(converter=lambda value: schedule(name, value, checks.fraction), **options)
