"""What identifies a run: texts and hashes that are the same in every process."""

import hashlib
import re
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from bilevel._output.files import environment
from bilevel.run._sums import array_sum


def versions() -> dict[str, str | None]:
    """The versions that a run's numbers depend on. Python's releases differ in the second number."""
    found = environment()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {name: found[name] for name in ("bilevel", "jax", "jaxlib")} | {"python": python}


def fingerprint(*parts: Any) -> str:
    """A hash of the arrays of pytrees, their shapes and their structure. Functions enter only by name."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(parts):
        if eqx.is_array(leaf) or isinstance(leaf, np.ndarray):
            add_array(digest, leaf)
    digest.update(described(parts, short_arrays=True).encode())
    return digest.hexdigest()[:16]


def described(tree: Any, *, short_arrays: bool = False) -> str:
    """A pytree as text."""
    return _without_addresses(eqx.tree_pformat(tree, short_arrays=short_arrays))


def computation(function: Any, *arguments: Any) -> str:
    """A hash of what a function computes: its jaxpr, with all constants, as JAX traces it for these arguments.

    Names of functions do not count, and neither do the values of the arguments.
    """
    jaxpr, _, _ = eqx.filter_make_jaxpr(function)(*arguments)
    return _of_jaxpr(jaxpr, {})[:16]


def words(leaf: Any) -> Any:
    """An array; of a random key, the integers that it is made of."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def data(leaf: Any) -> np.ndarray:
    """The same on the host."""
    return np.asarray(words(leaf))


def add_array(digest: Any, leaf: Any) -> None:
    """Add an array to a hash: its shape, dtype and entries, the same wherever its parts are."""
    leaf = words(leaf)
    digest.update(f"{leaf.shape}{leaf.dtype}".encode())
    digest.update(array_sum(leaf).tobytes())


def opened(jaxpr: Any) -> tuple[Any, Any]:
    """The jaxpr without its constants, and the constants: JAX 0.12 has one class for both kinds of jaxprs."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _of_jaxpr(jaxpr: Jaxpr | ClosedJaxpr, known: dict[int, str]) -> str:
    """The hash of a jaxpr. `known` are those of the jaxprs inside it, by identity: one may stand in many places."""
    if id(jaxpr) in known:
        return known[id(jaxpr)]
    digest = hashlib.sha256()
    body, constants = opened(jaxpr)
    _add(digest, list(constants), known)
    names: dict[Any, int] = {}  # variables are numbered as they appear

    def variables(found: Any) -> list[Any]:
        return [v.val if isinstance(v, Literal) else names.setdefault(v, len(names)) for v in found]

    _add(digest, [str(v.aval) for v in (*body.constvars, *body.invars)], known)
    variables((*body.constvars, *body.invars))
    for equation in body.eqns:
        parameters = {name: value for name, value in equation.params.items() if name != "name"}
        arguments, results = variables(equation.invars), variables(equation.outvars)
        types = [str(v.aval) for v in (*equation.invars, *equation.outvars)]
        _add(digest, [equation.primitive.name, arguments, results, types, parameters], known)
    _add(digest, variables(body.outvars), known)
    known[id(jaxpr)] = digest.hexdigest()
    return known[id(jaxpr)]


def _add(digest: Any, value: Any, known: dict[int, str]) -> None:
    """Add a constant, or a parameter of an operation, to a hash."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        digest.update(_of_jaxpr(value, known).encode())
    elif isinstance(value, jax.Array | np.ndarray):
        add_array(digest, value)
    elif type(value) in (list, tuple):
        digest.update(f"{len(value)}(".encode())
        for part in value:
            _add(digest, part, known)
    elif type(value) is dict:
        _add(digest, [(name, value[name]) for name in sorted(value, key=str)], known)
    elif isinstance(value, set | frozenset):
        _add(digest, sorted(_without_addresses(repr(part)) for part in value), known)
    else:
        digest.update(f"{_without_addresses(repr(value))};".encode())


def _without_addresses(text: str) -> str:
    return re.sub(r"( at)? 0x[0-9a-f]+", "", text)
