"""Checks of arguments. Each error names the argument, what it got and what to do.

Only concrete values are checked, so that hyperparameters may be traced (a grid of them under `vmap`).
"""

import difflib
import inspect
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def _reals(name: str, value: Any, wanted: str, *, scalar: bool = True) -> np.ndarray | None:
    """A real number, or real numbers, as an array; None if traced."""
    if isinstance(value, Tracer):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # a ragged list, a random key
        array = np.asarray(None)
    real = array.dtype.kind in "iu" or jnp.issubdtype(array.dtype, jnp.floating)  # bfloat16 has its own kind
    if not real or (scalar and array.ndim):
        got = value.item() if isinstance(value, np.ndarray) and not value.ndim else value
        raise TypeError(f"{name}: got {got!r}; pass {wanted}")
    return array


def number(name: str, value: Any, wanted: str = "a number") -> None:
    """A finite real scalar."""
    array = _reals(name, value, wanted)
    if array is not None and not np.isfinite(array):
        raise ValueError(f"{name}: got {value}; it must be finite")


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}; pass True or False")


def positive(name: str, value: Any) -> None:
    """A finite number above zero (each entry of an array)."""
    array = _reals(name, value, "a number above zero", scalar=False)
    if array is not None and not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name}: got {value}; it must be a finite number above zero")


def above(name: str, value: Any, bound: float) -> None:
    """A finite number above a bound."""
    array = _reals(name, value, f"a number above {bound:g}")
    if array is not None and not (np.isfinite(array) and array > bound):
        raise ValueError(f"{name}: got {value}; it must be a finite number above {bound:g}")


def nonnegative(name: str, value: Any) -> None:
    """A finite number, zero or more."""
    array = _reals(name, value, "a number, zero or more")
    if array is not None and not (np.isfinite(array) and array >= 0):
        raise ValueError(f"{name}: got {value}; it must be a finite number, zero or more")


def fraction(name: str, value: Any) -> None:
    """A number in [0, 1]."""
    array = _reals(name, value, "a number between 0 and 1")
    if array is not None and not 0 <= array <= 1:
        raise ValueError(f"{name}: got {value}; it must lie between 0 and 1")


def count(name: str, value: Any, least: int = 1) -> None:
    """A Python integer of at least `least`: it fixes shapes or loop lengths."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: got {value!r}; it must be a Python integer, as it fixes a loop length or a shape")
    if value < least:
        raise ValueError(f"{name}: got {value}; it must be at least {least}")


def seed(name: str, value: Any) -> int:
    """An integer from 0 to 2³² − 1: of a larger one, JAX would take the last 32 bits."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}; pass an integer, zero or more")
    if not 0 <= found < 2**32:
        raise ValueError(f"{name}: got {value}; it must be zero or more, and below 2**32")
    return found


def seeds(name: str, value: Any) -> list[int]:
    """So many seeds, from 0 on; or the seeds themselves."""
    if isinstance(value, int | np.integer):
        steps(name, value)
        return list(range(value))
    try:
        given = None if isinstance(value, str | bytes | Mapping) else list(value)
    except TypeError:  # an array without axes, among others
        given = None
    if given is None:
        raise TypeError(f"{name}: got {value!r}; pass their number, or a list of integers")
    found = [seed(name, one) for one in given]
    if not found:
        raise ValueError(f"{name}: got none; pass at least 1")
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: got {found}; pass each seed once")
    return found


def steps(name: str, value: Any) -> None:
    """A number of steps, which programs count in 32 bits."""
    count(name, value)
    if value >= 2**31:
        raise ValueError(f"{name}: got {value}; it must be below 2**31")


def metrics(value: Any) -> None:
    """A function of x and y, or None."""
    if value is None:
        return
    try:
        inspect.signature(value).bind(None, None)
    except ValueError:  # its signature is not known
        pass
    except TypeError:
        raise TypeError(f"metrics: got {value!r}; pass a function (x, y) -> {{name: number}}") from None


def integers(value: Any) -> Any:
    """A converter: lists and arrays to tuples, NumPy integers to Python's. It leaves all else to the check."""
    if isinstance(value, np.ndarray | np.integer):
        value = value.tolist()
    return tuple(map(integers, value)) if isinstance(value, list | tuple) else value


def key(name: str, value: Any) -> Any:
    """A single JAX random key."""
    if value is None:
        raise ValueError(f"{name}: missing; pass {name}=jax.random.key(0), or another seed")
    is_array = isinstance(value, jax.Array)
    if is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
        return value
    if is_array and value.dtype == jnp.uint32 and value.shape == (2,):
        return value  # a key made by jax.random.PRNGKey
    got = f"an array of shape {value.shape} and dtype {value.dtype}" if is_array else repr(value)
    raise TypeError(f"{name}: got {got}; pass a single key, such as jax.random.key(0)")


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """One of the known names. The error lists the nearest ones."""
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"{name}: {value!r} is unknown; {advice}")


def tree(name: str, value: Any) -> Any:
    """A pytree of floating arrays, with every array on the device.

    Functions and other settings in it (such as the activation of an Equinox model) are left as they are.
    """
    found = False

    def where(path: Any) -> str:
        return f"{name}{jax.tree_util.keystr(path)}"

    def check(path: Any, leaf: Any) -> Any:
        nonlocal found
        if isinstance(leaf, int | float | complex) and path and isinstance(path[-1], jax.tree_util.GetAttrKey):
            return leaf  # a setting of a module, such as a dropout rate
        if isinstance(leaf, float | np.ndarray | np.generic):
            if np.asarray(leaf).dtype.kind in "OUSMm":
                raise TypeError(
                    f"{where(path)}: got an array of dtype {np.asarray(leaf).dtype}; pass floating-point numbers"
                )
            leaf = jnp.asarray(np.asarray(leaf))
        if isinstance(leaf, int | complex):
            raise TypeError(
                f"{where(path)}: got {leaf!r} ({type(leaf).__name__}); pass a floating-point number or array"
            )
        if not isinstance(leaf, jax.Array):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{where(path)}: got dtype {leaf.dtype}; pass floating-point arrays, e.g. .astype('float32')"
            )
        if leaf.size == 0:
            raise ValueError(f"{where(path)}: got an empty array of shape {leaf.shape}; remove it or give it entries")
        if not isinstance(leaf, Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{where(path)}: contains NaN or infinity; start from finite values")
        found = True
        return leaf.astype(leaf.dtype) if leaf.weak_type else leaf  # else its type would change in the first chunk

    checked = jax.tree_util.tree_map_with_path(check, value)
    if not found:
        raise TypeError(f"{name}: got {type(value).__name__} without any array; pass a pytree of floating arrays")
    return checked
