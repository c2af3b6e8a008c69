"""The fields of a solver, an adjoint method or a lower method: hyperparameters that are checked by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bilevel import _checks as checks
from bilevel.steps import (
    AbstractStep,
    Constant,
    From,
    GradientStep,
    InversePower,
    Rule,
    as_leaf,
    as_schedule,
    as_step,
    check_setting,
    check_values,
)
from bilevel.trees import Tree


class Settings(eqx.Module):
    """A frozen module of hyperparameters. Its fields are made by the functions below, which check them by name."""

    def __check_init__(self):
        for field in dataclasses.fields(self):
            if "check" in field.metadata:
                field.metadata["check"](field.name, getattr(self, field.name))
        self.check_together()

    def check_together(self) -> None:
        """Raise if settings that are valid one by one do not fit together."""


def check_over(settings: Settings, times: range, x: Tree, y: Tree) -> None:
    """Raise if a rate is 0 in the dtype of its variable, or a schedule is negative or not finite at some of the times.

    A schedule of an inner iteration is left out.
    """
    some = sorted({times[0], times[-1], *(t for t in (2**i for i in range(31)) if t in times)})
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if isinstance(value, Settings):
            check_over(value, times, x, y)
            continue
        if not field.metadata.get("rate") or field.metadata["inner"]:
            continue
        value = value.rate if isinstance(value, GradientStep) else value
        value = value.learning_rate if isinstance(value, Rule) else value
        value = value.then if isinstance(value, From) else value
        if isinstance(value, Constant):
            dtype = jnp.result_type(*jax.tree.leaves(x if name == "upper_step" else y))
            rate = value.value
            if not isinstance(rate, Tracer) and rate != 0 and np.asarray(rate).astype(dtype) == 0:
                raise ValueError(f"{name}: got {rate}, which is 0 in {dtype}; rescale the losses, or use float64")
        elif not isinstance(value, AbstractStep | InversePower):
            check_values(name, value, some)


def _field(check: Callable[[str, Any], None], *, rate: bool = False, inner: bool = False, **options: Any) -> Any:
    return eqx.field(metadata={"check": check, "rate": rate, "inner": inner}, **options)


def step(**options: Any) -> Any:
    """A step size: a number above zero, a schedule of t or a step rule. The value is an `AbstractStep`.

    `inner`: a schedule is one of an inner iteration.
    """

    def check(name: str, value: Any) -> None:
        check_setting(name, value, checks.positive)

    return _field(check, rate=True, converter=as_step, **options)


def schedule(**options: Any) -> Any:
    """A number above zero or a function of t. The value is a function of t."""

    def check(name: str, value: Any) -> None:
        _check_no_rule(name, value)
        check_setting(name, value, checks.positive)

    return _field(check, rate=True, converter=as_schedule, **options)


def weight(first: float | None = None, **options: Any) -> Any:
    """A number in [0, 1] or a function of t, the weight of a fresh sample; at t = 0 it is `first`, if that is given."""

    def convert(value: Any) -> Callable[[Any], Any]:
        if isinstance(value, From) or first is None:
            return as_schedule(value)
        return From(first, as_schedule(value))

    def check(name: str, value: Any) -> None:
        _check_no_rule(name, value.then if isinstance(value, From) else value)
        check_setting(name, value, checks.fraction)

    return _field(check, rate=True, converter=convert, **options)


def count(
    least: int = 1, *, most: int | None = 2**31 - 1, of_t: bool = False, optional: bool = False, **options: Any
) -> Any:
    """A static integer from `least` to `most`: a loop's length or a size.

    With `of_t`, a function of t that returns an integer array is also accepted; with `optional`, None.
    """

    def check(name: str, value: Any) -> None:
        if not (optional and value is None):
            check_count(name, value, least) if of_t else checks.count(name, value, least, most=most)

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
