"""Step sizes, their schedules, and the rules that turn a direction into a step.

Every rate is an array leaf: another value compiles nothing, and a grid of values runs under `vmap`.
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Real

from bilevel import _checks as checks
from bilevel import trees
from bilevel.trees import Tree

Number = Real[Array | np.ndarray | np.number, ""]


def as_leaf(value: Any) -> Any:
    """An array leaf, in full precision until it is cast to the iterate's dtype."""
    return value if isinstance(value, jax.Array) else np.asarray(value)


class AbstractSchedule(eqx.Module):
    """A number for each iteration t = 0, 1, …; any function of t can be used as a schedule."""

    @abc.abstractmethod
    def __call__(self, t: Any) -> Number: ...


class Constant(AbstractSchedule):
    """The same number throughout."""

    value: Any = eqx.field(converter=as_leaf)

    def __call__(self, t: Any) -> Number:
        return self.value


class InversePower(AbstractSchedule):
    """scale · (offset + t)^(−power): see `inverse_power`."""

    scale: Any = eqx.field(converter=as_leaf)
    power: Any = eqx.field(converter=as_leaf)
    offset: Any = eqx.field(default=1.0, converter=as_leaf)

    def __check_init__(self):
        for name in ("scale", "power", "offset"):
            checks.number(name, getattr(self, name))
        checks.positive("scale", self.scale)
        checks.positive("offset", self.offset)

    def __call__(self, t: Any) -> Number:
        base = 1.0 * self.offset + t  # a float, because integers have no negative powers
        return self.scale * base ** (-self.power)


def inverse_power(scale: Any, power: Any, offset: Any = 1.0) -> InversePower:
    """The schedule t ↦ scale · (offset + t)^(−power), t = 0, 1, ….

    Example:

        >>> import bilevel as bl
        >>> float(bl.inverse_power(0.5, power=0.5, offset=4)(0))
        0.25
    """
    return InversePower(scale, power, offset)


def as_schedule(value: Any) -> Callable[[Any], Any]:
    """A number or a function of t, converted to a schedule."""
    return value if callable(value) else Constant(value)


class From(AbstractSchedule):
    """`first` at t = 0, then another schedule."""

    first: float = eqx.field(static=True)
    then: Callable[[Any], Any]

    def __call__(self, t: Any) -> Number:
        return jnp.where(t == 0, self.first, self.then(t))


class AbstractStep(eqx.Module):
    """Turns a direction d into a step of an iterate z: the update of `upper_step`, `lower_step`, ….

    A solver keeps the rule's state, made by `init(z)`, next to the iterate and calls
    `z, state = rule(z, d, state, t)`.
    """

    @abc.abstractmethod
    def init(self, z: Tree) -> Tree:
        """The state before the first step."""

    @abc.abstractmethod
    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]:
        """The iterate and the state after a step along `direction` in iteration t."""


if TYPE_CHECKING:
    Step = Any  # a number, a schedule or a rule goes in, and an `AbstractStep` comes out
else:
    Step = AbstractStep


class GradientStep(AbstractStep):
    """z − rate(t) · d. Numbers and schedules become this rule if a step rule is expected."""

    rate: Callable[[Any], Any]

    def init(self, z: Tree) -> Tree:
        return ()

    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]:
        return trees.add(z, trees.scale(-jnp.asarray(self.rate(t)), direction)), state


def _settings_of(optimizer: Callable[..., Any]) -> list[str] | None:
    """The arguments of an optimizer except the first, the rate; None if its signature does not list them."""
    try:
        parameters = list(inspect.signature(optimizer).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters[1:]]


class Rule(AbstractStep):
    """A step by an optax optimizer.

    **Arguments**

    - `optimizer`: a function of a learning rate that returns a gradient transformation, e.g. `optax.adam`.
    - `learning_rate`: a number or a schedule (of the iteration t, counted by the driver).
    - further settings are passed to `optimizer`; numbers among them are array leaves too.

    The state of an adaptive rule covers the whole iterate, and a row without a gradient moves by a nonlinear function
    of its own moments and of t. So a step on a per-row variable costs O(rows).

    **Raises** `TypeError` for an optimizer that needs more than a gradient (line searches, L-BFGS, Polyak
    steps): a stochastic step has no value to search along. `ValueError` for a setting it does not have.

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
        self.learning_rate = as_schedule(learning_rate)
        self.settings = {k: np.asarray(v) if type(v) is float else v for k, v in settings.items()}

    def __check_init__(self):
        check_setting("learning_rate", self.learning_rate, checks.positive)

        def trial() -> Any:
            z = jnp.ones(2)
            return self(z, z, self.init(z), 0)

        name = getattr(self.optimizer, "__name__", self.optimizer)
        known = _settings_of(self.optimizer)
        for setting in self.settings:
            if known is not None:
                checks.one_of(f"setting of optax.{name}", setting, known)
        try:
            jax.eval_shape(trial)
        except (TypeError, ValueError, AttributeError) as error:
            raise TypeError(
                f"Rule: optax.{name} cannot take a step from a gradient alone ({error}); a stochastic step has no "
                "value to search along: use optax.sgd, optax.adam or another first-order rule"
            ) from None

    def _transformation(self, t: Any, dtype: Any) -> optax.GradientTransformation:
        # all in the widest dtype: otherwise optax mixes a setting's dtype into narrower moments
        numbers = {k: v.astype(dtype) if eqx.is_inexact_array(v) else v for k, v in self.settings.items()}
        return self.optimizer(jnp.asarray(self.learning_rate(t)).astype(dtype), **numbers)

    def init(self, z: Tree) -> Tree:
        dtype = jnp.result_type(*jax.tree.leaves(z))
        return self._transformation(0, dtype).init(trees.cast(z, dtype))

    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]:
        dtype = jnp.result_type(*jax.tree.leaves(z))
        gradient = trees.cast(trees.dense(direction, z), dtype)
        updates, state = self._transformation(t, dtype).update(gradient, state, trees.cast(z, dtype))
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), z, updates), state


def as_step(value: Any) -> AbstractStep:
    """A number, a schedule or a rule, converted to a rule."""
    return value if isinstance(value, AbstractStep) else GradientStep(as_schedule(value))


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise unless a loop's length is an integer of at least `least`, or a function of t that returns one (traced)."""
    if not callable(value):
        checks.count(name, value, least)
        return
    length: Callable[[Any], Any] = value
    try:
        found = jax.eval_shape(lambda t: jnp.asarray(length(t)), 0)
    except TypeError as error:  # the function needs a Python number and got a tracer
        raise TypeError(
            f"{name}: the function of k cannot take a traced k ({str(error).splitlines()[0]}); use jnp.where for if, "
            "and jnp.ceil(...).astype(int) for math.ceil"
        ) from None
    if found.shape != () or not jnp.issubdtype(found.dtype, jnp.integer):
        raise TypeError(f"{name}: the function of k gave {found}; it must give an integer, .astype(int)")


def count_at(value: Any, t: Any, least: int = 0) -> Any:
    """A loop's length at iteration t; the value of a function is raised to `least`."""
    if not callable(value):
        return value
    length: Callable[[Any], Any] = value
    return jnp.maximum(length(t), least)


def check_setting(name: str, value: Any, check: Callable[[str, Any], None]) -> None:
    """Validate the number inside a step, schedule or weight; a function of t is evaluated at t = 0."""
    wanted = "a number, a function of t or, for a step, bl.Rule(optax.adam, 0.01)"
    if isinstance(value, GradientStep):
        value = value.rate
    if isinstance(value, From):
        value = value.then
    if isinstance(value, Constant):
        checks.number(name, value.value, wanted)
        check(name, value.value)
    elif not isinstance(value, AbstractStep):
        try:
            shape = jax.eval_shape(lambda t: jnp.asarray(value(t)), 0).shape
        except TypeError as error:
            raise TypeError(f"{name}: got {value!r}; pass {wanted} ({error})") from None
        if shape != ():
            raise ValueError(f"{name}: the function of t gave shape {shape}; it must give a scalar")
        try:
            first = value(0)
        except ZeroDivisionError:
            first = np.inf
        if not isinstance(first, Tracer) and not (np.isfinite(first) and first >= 0):
            raise ValueError(f"{name}: the function of t gave {first} at t = 0; it must be finite, zero or more")


# --- the fields of a solver, an adjoint method or a lower method ---


class Settings(eqx.Module):
    """A frozen module of hyperparameters. Its fields are made by the functions below, which check them by name."""

    def __check_init__(self):
        for field in dataclasses.fields(self):
            if "check" in field.metadata:
                field.metadata["check"](field.name, getattr(self, field.name))
        self.check_together()

    def check_together(self) -> None:
        """Raise if settings that are valid one by one do not fit together."""


def _field(check: Callable[[str, Any], None], **options: Any) -> Any:
    return eqx.field(metadata={"check": check}, **options)


def step(**options: Any) -> Any:
    """A step size: a number above zero, a schedule of t or a step rule. The value is an `AbstractStep`."""

    def check(name: str, value: Any) -> None:
        check_setting(name, value, checks.positive)

    return _field(check, converter=as_step, **options)


def schedule(**options: Any) -> Any:
    """A number above zero or a function of t. The value is a function of t."""

    def check(name: str, value: Any) -> None:
        _check_no_rule(name, value)
        check_setting(name, value, checks.positive)

    return _field(check, converter=as_schedule, **options)


def weight(first: float | None = None, **options: Any) -> Any:
    """A number in [0, 1] or a function of t, the weight of a fresh sample; at t = 0 it is `first`, if that is given."""

    def convert(value: Any) -> Callable[[Any], Any]:
        if isinstance(value, From) or first is None:
            return as_schedule(value)
        return From(first, as_schedule(value))

    def check(name: str, value: Any) -> None:
        _check_no_rule(name, value.then if isinstance(value, From) else value)
        check_setting(name, value, checks.fraction)

    return _field(check, converter=convert, **options)


def count(least: int = 1, *, of_t: bool = False, optional: bool = False, **options: Any) -> Any:
    """A static integer of at least `least`: a loop's length or a size.

    With `of_t`, a function of t that returns an integer array is also accepted; with `optional`, None.
    """

    def check(name: str, value: Any) -> None:
        if not (optional and value is None):
            check_count(name, value, least) if of_t else checks.count(name, value, least)

    return _field(check, converter=checks.integers, static=True, **options)


def number(check: Callable[[str, Any], None] = checks.positive, *, optional: bool = False, **options: Any) -> Any:
    """A number as an array leaf; with `optional`, None is also accepted.

    `check(name, value)` raises unless the number is fine; the default wants one above zero.
    """

    def convert(value: Any) -> Any:
        return None if value is None else as_leaf(value)

    def check_number(name: str, value: Any) -> None:
        if not (optional and value is None):
            checks.number(name, value)
            check(name, value)

    return _field(check_number, converter=convert, **options)


def flag(**options: Any) -> Any:
    """True or False, static."""
    return _field(checks.flag, static=True, **options)


def part(kind: type, example: str, *, optional: bool = False, **options: Any) -> Any:
    """A module of a kind, such as an adjoint method. The error shows `example`."""

    def check(name: str, value: Any) -> None:
        if not (isinstance(value, kind) or (optional and value is None)):
            raise TypeError(f"{name}: got {value!r}; pass e.g. {example}")

    return _field(check, **options)


def _check_no_rule(name: str, value: Any) -> None:
    if isinstance(value, AbstractStep):
        raise TypeError(f"{name}: got a step rule; pass a number or a function of t")
