"""Checks of arguments. Each error names the argument, what it got and what to do.

Only concrete values are checked, so that hyperparameters may be traced (a grid of them under `vmap`).
"""

import difflib
import inspect
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bilevel import _processes as processes


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


def positive(name: str, value: Any, *, scalar: bool = True) -> None:
    """A finite number above zero; if not `scalar`, each entry of an array."""
    array = _reals(name, value, "a number above zero", scalar=scalar)
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


def count(name: str, value: Any, least: int = 1, *, most: int | None = 2**31 - 1) -> None:
    """A Python integer from `least` to `most` (default: what 32 bits hold): it fixes shapes or loop lengths."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: got {value!r}; it must be a Python integer, as it fixes a loop length or a shape")
    if value < least:
        raise ValueError(f"{name}: got {value}; it must be at least {least}")
    if most is not None and value > most:
        bits = int(value).bit_length()
        got = f"an integer of {bits} bits" if bits > 64 else value
        raise ValueError(f"{name}: got {got}; it must be at most {most}")


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
        count(name, value)
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
    if is_array and value.dtype == jnp.uint32 and value.ndim == 1 and value.shape == jax.random.PRNGKey(0).shape:
        return value  # a key made by jax.random.PRNGKey, of the generator that is set
    got = f"an array of shape {value.shape} and dtype {value.dtype}" if is_array else repr(value)
    raise TypeError(f"{name}: got {got}; pass a single key, such as jax.random.key(0)")


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """One of the known names. The error lists the nearest ones."""
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"{name}: {value!r} is unknown; {advice}")


def calls(name: str, function: Any, meant: str, *arguments: str) -> None:
    """A function that can be called with so many arguments."""
    if not callable(function):
        raise TypeError(f"{name}: got {function!r}; pass a function {meant}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name}: it cannot be called as {meant}; {error}") from None
    except ValueError:
        pass  # a builtin without a signature


def metrics(value: Any) -> None:
    """A function of x and y, or None."""
    if value is not None:
        calls("metrics", value, "(x, y) -> {name: number}", "x", "y")


def hashable(name: str, function: Any) -> None:
    """A function whose parts that are not arrays can be hashed: compiled programs are found by them."""
    for leaf in jax.tree.leaves(function):
        if isinstance(leaf, jax.Array | np.ndarray | np.generic):
            continue
        try:
            hash(leaf)
        except TypeError:
            raise TypeError(
                f"{name}: {type(leaf).__name__} cannot be hashed; pass a plain function, an Equinox module or a "
                "jax.tree_util.Partial"
            ) from None


def paths_and_leaves(name: str, value: Any) -> tuple[list[Any], Any]:
    """The leaves with their paths, and the structure. A sparse matrix of JAX, an iterator and the state of a layer are
    leaves."""
    try:
        return jax.tree_util.tree_flatten_with_path(
            value, is_leaf=lambda node: is_sparse_matrix(node) or hasattr(node, "__next__") or isinstance(node, _STATE)
        )
    except ValueError as error:
        if "Comparator" not in str(error):
            raise
        raise TypeError(f"{name}: got a dictionary whose keys cannot be sorted; use keys of one type") from None


def is_sparse_matrix(value: Any) -> bool:
    """Whether it is a sparse matrix of SciPy or JAX, without importing either."""
    return any(f"{kind.__module__}.".startswith(_SPARSE) for kind in type(value).__mro__)


_STATE = (eqx.nn.State, eqx.nn.StateIndex)
_SPARSE = ("scipy.sparse.", "jax.experimental.sparse.")


def native(where: str, array: np.ndarray | np.generic) -> np.ndarray:
    """A NumPy array of numbers or booleans that JAX can hold, in the byte order of this machine."""
    dtype = array.dtype
    if isinstance(array, np.ma.MaskedArray) and np.ma.getmaskarray(array).any():
        raise TypeError(f"{where}: got a masked array, whose mask would be lost; fill it, or drop what it masks")
    if dtype.kind in "OSUMmT" or not (dtype.kind == "b" or jnp.issubdtype(dtype, np.number)):
        raise TypeError(f"{where}: got an array of dtype {dtype}; encode it as numbers first")
    if dtype.kind in "fc" and dtype.itemsize > {"f": 8, "c": 16}[dtype.kind]:
        raise TypeError(f"{where}: got an array of dtype {dtype}, which JAX does not have; convert it to float64")
    return np.asarray(array, dtype.newbyteorder("="))


def tree(name: str, value: Any) -> Any:
    """A pytree of floating arrays, with every array on the device.

    Functions and other settings in it (such as the activation of an Equinox model) are left as they are, and so are
    arrays of integers, booleans and keys that are fields of a module.
    """
    found = False
    leaves, structure = paths_and_leaves(name, value)

    def check(path: Any, leaf: Any) -> Any:
        nonlocal found
        where, of_module = f"{name}{jax.tree_util.keystr(path)}", _in_module(value, path)
        if isinstance(leaf, _STATE):
            if any(map(eqx.is_array, jax.tree.leaves(leaf))):
                raise TypeError(
                    f"{where}: got the state of a layer, such as the statistics of a batch normalization, which a loss "
                    "cannot update and a solver would train; normalize without a state (LayerNorm, GroupNorm), or hold "
                    "the state in the loss, with the layer in inference mode"
                )
            return leaf  # a layer's mark, whose state is elsewhere
        if isinstance(leaf, int | float | complex) and path and isinstance(path[-1], jax.tree_util.GetAttrKey):
            return leaf  # a setting of a module, such as a dropout rate
        if isinstance(leaf, np.ndarray | np.generic):
            leaf = jnp.asarray(native(where, leaf))
        elif isinstance(leaf, float):
            leaf = jnp.asarray(np.asarray(leaf))
        if isinstance(leaf, int | complex):
            raise TypeError(f"{where}: got {leaf!r} ({type(leaf).__name__}); pass a floating-point number or array")
        if is_sparse_matrix(leaf):
            raise TypeError(f"{where}: got a sparse matrix ({type(leaf).__name__}); pass a dense array")
        if not isinstance(leaf, jax.Array):
            if hasattr(leaf, "__array__") or hasattr(leaf, "__jax_array__"):
                kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
                raise TypeError(f"{where}: got a {kind}, which would not be trained; pass numpy.asarray of it")
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            if of_module:
                return leaf
            raise TypeError(
                f"{where}: got dtype {leaf.dtype}; pass floating-point arrays here, and what is not to be trained as "
                "data, in the loss, or as a field of an Equinox module"
            )
        if leaf.size == 0:
            raise ValueError(f"{where}: got an empty array of shape {leaf.shape}; remove it or give it entries")
        if not isinstance(leaf, Tracer) and not all_finite(leaf):
            raise ValueError(f"{where}: contains NaN or infinity; start from finite values")
        found = True
        return leaf.astype(leaf.dtype) if leaf.weak_type else leaf  # else its type would change in the first chunk

    checked = jax.tree.unflatten(structure, [check(path, leaf) for path, leaf in leaves])
    if not found:
        raise TypeError(f"{name}: got {type(value).__name__} without any array; pass a pytree of floating arrays")
    return checked


_LOOK = 2**24  # entries that are looked at together


def all_finite(array: jax.Array | np.ndarray) -> bool:
    """Whether all entries are finite. Looks at the parts on each device, one after the other, without a program."""
    if isinstance(array, np.ndarray):
        return all(np.isfinite(part).all() for part in np.split(array.reshape(-1), range(_LOOK, array.size, _LOOK)))
    parts = {str(shard.index): shard.data for shard in array.addressable_shards}  # copies have the same index
    finite = all(all_finite(np.asarray(part)) for part in parts.values())
    return finite if array.is_fully_addressable else bool(processes.gathered(finite).all())


def _in_module(node: Any, path: Any) -> bool:
    """Whether the path leads through a field of a module, which a named tuple is not."""
    for step in path:
        if isinstance(step, jax.tree_util.GetAttrKey):
            if not isinstance(node, tuple):
                return True
            node = getattr(node, step.name)
        elif isinstance(step, jax.tree_util.SequenceKey):
            node = node[step.idx]
        elif isinstance(step, jax.tree_util.DictKey):
            node = node[step.key]
        else:
            return False
    return False
