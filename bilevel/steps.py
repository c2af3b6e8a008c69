"""Step sizes, their schedules, and the rules that turn a direction into a step.

Every rate is an array leaf: another value compiles nothing, and a grid of values runs under `vmap`.
"""

import abc
import inspect
from collections.abc import Callable, Iterable
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


def as_float(t: Any) -> Any:
    """The iteration as a floating-point number, which arithmetic with a rate needs under strict promotion of dtypes."""
    return t.astype(jnp.result_type(float)) if isinstance(t, jax.Array) else float(t)


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
        base = 1.0 * self.offset + as_float(t)  # integers have no negative powers
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


class AbstractOptaxStep(AbstractStep):
    """A step by a gradient transformation of optax."""

    @abc.abstractmethod
    def at(self, t: Any, dtype: Any) -> optax.GradientTransformation:
        """The transformation of iteration t."""

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    def init(self, z: Tree) -> Tree:
        dtype = jnp.result_type(*jax.tree.leaves(z))
        z = trees.cast(z, dtype)
        try:
            state = self.at(0, dtype).init(z)
            jax.eval_shape(lambda: self.at(0, dtype).update(z, state, z))
        except Exception as error:
            _refuse_line_search(self.name, error)
            raise TypeError(
                f"{self.name} cannot step a variable of the structure {jax.tree.structure(z)}: {error}"
            ) from error
        return state

    def __call__(self, z: Tree, direction: Tree, state: Tree, t: Any) -> tuple[Tree, Tree]:
        dtype = jnp.result_type(*jax.tree.leaves(z))
        gradient = trees.cast(trees.dense(direction, z), dtype)
        z_wide = trees.cast(z, dtype)
        transformation = self.at(t, dtype)
        state = _with_rates(state, transformation, z_wide)
        updates, state = transformation.update(gradient, state, z_wide)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), z, updates), state


def _refuse_line_search(name: str, error: Exception) -> None:
    """Raise if the error says that an update needs more than a gradient."""
    if isinstance(error, TypeError) and "required keyword-only argument" in str(error):
        raise TypeError(
            f"{name} cannot take a step from a gradient alone ({error}); a stochastic step has no value to search "
            "along: use optax.sgd, optax.adam or another first-order rule"
        ) from None


def _injects(node: Any) -> bool:
    """Whether it is a state of `optax.inject_hyperparams`, which keeps the settings of the first iteration."""
    return isinstance(node, tuple) and hasattr(node, "hyperparams")


def _with_rates(state: Tree, transformation: optax.GradientTransformation, z: Tree) -> Tree:
    """The state with the settings that the transformation has now."""
    if not any(map(_injects, jax.tree.leaves(state, is_leaf=_injects))):
        return state

    def renewed(old: Any, new: Any) -> Any:
        if not _injects(old):
            return old
        inner = _map_injected(renewed, old.inner_state, new.inner_state)
        return old._replace(hyperparams=new.hyperparams, inner_state=inner)

    return _map_injected(renewed, state, transformation.init(z))


def _map_injected(function: Callable[[Any, Any], Any], state: Tree, fresh: Tree) -> Tree:
    return jax.tree.map(function, state, fresh, is_leaf=_injects)


class Transformation(AbstractOptaxStep):
    """A gradient transformation of optax as a step: `upper_step=optax.adam(1e-2)` becomes this.

    Its schedules follow optax's own count of its calls. Its numbers are compiled in, so that another
    transformation compiles anew: with `bl.Rule(optax.adam, 1e-2)` other numbers do not.
    """

    transformation: optax.GradientTransformation = eqx.field(static=True)

    def at(self, t: Any, dtype: Any) -> optax.GradientTransformation:
        return self.transformation

    @property
    def name(self) -> str:
        return "the optax transformation"


class Rule(AbstractOptaxStep):
    """A step by an optax optimizer.

    **Arguments**

    - `optimizer`: a function of a learning rate that returns a gradient transformation, e.g. `optax.adam`.
    - `learning_rate`: a number or a schedule (of the iteration t, counted by the driver).
    - further settings are passed to `optimizer`; numbers among them are array leaves too.

    The state of an adaptive rule covers the whole iterate, and a row without a gradient moves by a nonlinear function
    of its own moments and of t. So a step on a per-row variable costs O(rows).

    An optimizer that names parameters (`optax.multi_transform`, `optax.masked`) is tried on the variable itself when a
    run starts. Where its state holds the rate (`optax.inject_hyperparams`), it holds the rate of each iteration.

    **Raises** `TypeError` for an optimizer that needs more than a gradient (line searches, L-BFGS, Polyak
    steps): a stochastic step has no value to search along. `ValueError` for a setting it does not have, and for a
    schedule if the state holds the rate in another way than `optax.inject_hyperparams`.

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

        known = _settings_of(self.optimizer)
        for setting in self.settings:
            if known is not None:
                checks.one_of(f"setting of {self.name.removeprefix('Rule: ')}", setting, known)
        jax.eval_shape(self._try_to_make)
        self._try_on_a_vector()

    def _try_to_make(self) -> None:
        try:
            made = self.at(0, jnp.float32)
        except (TypeError, ValueError, AttributeError) as error:
            raise TypeError(f"{self.name} cannot be made of these settings ({error})") from None
        if not isinstance(made, optax.GradientTransformation):
            raise TypeError(f"{self.name} returned {type(made).__name__}, which is no gradient transformation")

    def _try_on_a_vector(self) -> None:
        """Raise what can be said before the variable is known: an optimizer may know another structure."""
        z = jax.ShapeDtypeStruct((2,), jnp.float32)
        try:
            jax.eval_shape(lambda z: self.at(0, z.dtype).update(z, self.at(0, z.dtype).init(z), z), z)
        except Exception as error:
            _refuse_line_search(self.name, error)
            return
        if not isinstance(self.learning_rate, Constant) and _holds_rate(self, z):
            raise ValueError(
                f"{self.name} keeps its rate in its state, where a schedule does not reach it; pass a number, or wrap "
                "the optimizer in optax.inject_hyperparams"
            )

    @property
    def name(self) -> str:
        return f"Rule: optax.{getattr(self.optimizer, '__name__', self.optimizer)}"

    def at(self, t: Any, dtype: Any) -> optax.GradientTransformation:
        # all in the widest dtype: otherwise optax mixes a setting's dtype into narrower moments
        numbers = {k: v.astype(dtype) if eqx.is_inexact_array(v) else v for k, v in self.settings.items()}
        return self.optimizer(jnp.asarray(self.learning_rate(t)).astype(dtype), **numbers)


def _holds_rate(rule: Rule, z: jax.ShapeDtypeStruct) -> bool:
    """Whether a new state depends on the rate elsewhere than in what `_with_rates` renews."""

    def state(rate: Any, z: Array) -> list[Any]:
        fixed = eqx.tree_at(lambda rule: rule.learning_rate, rule, Constant(rate))
        new = fixed.at(0, z.dtype).init(z)
        # what is renewed is left out
        return jax.tree.leaves(jax.tree.map(lambda n: None if _injects(n) else n, new, is_leaf=_injects))

    jaxpr = jax.make_jaxpr(state)(jax.ShapeDtypeStruct((), z.dtype), z).jaxpr
    reached = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(variable in reached for variable in equation.invars if not hasattr(variable, "val")):
            reached |= set(equation.outvars)
    return any(variable in reached for variable in jaxpr.outvars if not hasattr(variable, "val"))


def as_step(value: Any) -> AbstractStep:
    """A number, a schedule, a rule or a gradient transformation of optax, converted to a rule."""
    if isinstance(value, optax.GradientTransformation):
        return Transformation(value)
    return value if isinstance(value, AbstractStep) else GradientStep(as_schedule(value))


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
            out = jax.eval_shape(lambda t: jnp.asarray(value(t)), jax.ShapeDtypeStruct((), jnp.int32))
        except Exception as error:
            raise TypeError(f"{name}: got {value!r}; pass {wanted} ({error})") from error
        if out.shape != ():
            raise ValueError(f"{name}: the function of t gave shape {out.shape}; it must give a scalar")
        if not jnp.issubdtype(out.dtype, jnp.floating) and not jnp.issubdtype(out.dtype, jnp.integer):
            raise TypeError(f"{name}: the function of t gave dtype {out.dtype}; it must give a real number")
        check_values(name, value, [0])


def check_values(name: str, schedule: Callable[[Any], Any], times: Iterable[int]) -> None:
    """Raise if a function of t is not finite, zero or more at one of the times. A traced value passes."""
    for t in times:
        try:
            found = schedule(t)
        except ZeroDivisionError:
            found = np.inf
        if not isinstance(found, Tracer) and not (np.isfinite(found) and found >= 0):
            raise ValueError(f"{name}: the function of t gave {found} at t = {t}; it must be finite, zero or more")
