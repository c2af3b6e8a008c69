"""The cost of a step in oracle calls, and the total of a run."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Scalar, UInt32

KINDS = ("F", "G", "H", "J")


class Calls(eqx.Module):
    """`calls` oracle calls, which may be traced, of `samples` samples each."""

    calls: Any
    samples: int = eqx.field(static=True)


def _as_calls(value: Any) -> tuple[Calls, ...]:
    if isinstance(value, tuple) and all(isinstance(part, Calls) for part in value):
        return value
    if isinstance(value, tuple):
        return (Calls(*value),)
    return (Calls(1, int(value)),) if value else ()


class Cost(eqx.Module):
    """Oracle calls in samples: F-gradients, G-gradients, H-products and J-products.

    Each is an integer, or a pair (calls, samples per call) where the calls may be traced. `a + b` is the cost of both,
    and `n * a` is n times the cost a.

    Example:

        >>> from bilevel import Cost
        >>> (Cost(F=10, G=20) + 2 * Cost(H=(3, 20))).total().to_dict()
        {'F': 10, 'G': 20, 'H': 120, 'J': 0}
    """

    F: tuple[Calls, ...] = eqx.field(default=(), converter=_as_calls)
    G: tuple[Calls, ...] = eqx.field(default=(), converter=_as_calls)
    H: tuple[Calls, ...] = eqx.field(default=(), converter=_as_calls)
    J: tuple[Calls, ...] = eqx.field(default=(), converter=_as_calls)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))

    def __rmul__(self, n: int) -> "Cost":
        times = (tuple(Calls(part.calls, n * part.samples) for part in getattr(self, kind)) for kind in KINDS)
        return Cost(*times)

    def total(self) -> "Total":
        """The cost as a total."""
        return Total.zero() + self


class Total(eqx.Module):
    """A count of oracle calls in samples, which the driver converts to Python integers after every chunk.

    Within a chunk a count may exceed what 32 bits hold (10⁷ rows, hundreds of inner steps), so it is kept as three
    digits in base 2¹⁵.
    """

    digits: UInt32[Array | np.ndarray, "*runs 4 3"]

    @staticmethod
    def zero() -> "Total":
        return Total(jnp.zeros((4, 3), jnp.uint32))

    def __add__(self, cost: "Cost | Total") -> "Total":
        if isinstance(cost, Total):
            return Total(_carry(self.digits + cost.digits))
        added = [sum((_digits(part) for part in getattr(cost, kind)), _NONE) for kind in KINDS]
        return Total(_carry(self.digits + _carry(jnp.stack(added))))

    def samples(self) -> Scalar:
        """The sum of all kinds as a floating-point number, for comparisons with a budget."""
        return jnp.sum(self.digits * jnp.array([1.0, 2.0**15, 2.0**30])[None, :])

    def to_dict(self) -> dict[str, int]:
        digits = np.asarray(self.digits).astype(object)
        return {kind: int(d[0] + (d[1] << 15) + (d[2] << 30)) for kind, d in zip(KINDS, digits, strict=True)}


_NONE = np.zeros(3, np.uint32)


def _digits(part: Calls) -> Any:
    """calls · samples in base 2¹⁵, for `calls` below 2³¹ and a product below 2⁶⁰."""
    calls, samples = part.calls, part.samples
    if isinstance(calls, int):
        n = calls * samples
        return np.array([n & 0x7FFF, (n >> 15) & 0x7FFF, n >> 30], np.uint32)
    a = jnp.asarray(calls).astype(jnp.uint32)
    a0, a1, a2 = a & 0x7FFF, (a >> 15) & 0x7FFF, a >> 30
    b0, b1, b2 = (np.uint32(digit) for digit in (samples & 0x7FFF, (samples >> 15) & 0x7FFF, samples >> 30))
    high = a0 * b2 + a1 * b1 + a2 * b0 + ((a1 * b2 + a2 * b1) << 15) + ((a2 * b2) << 30)
    return _carry(jnp.stack([a0 * b0, a0 * b1 + a1 * b0, high]))


def _carry(digits: UInt32[Array | np.ndarray, "*kinds 3"]) -> UInt32[Array, "*kinds 3"]:
    low, middle, high = digits[..., 0], digits[..., 1], digits[..., 2]
    middle = middle + (low >> 15)
    return jnp.stack([low & 0x7FFF, middle & 0x7FFF, high + (middle >> 15)], axis=-1)
