"""Per-row fields of a state that are brought up to date when a row is read: a step costs O(batch), not O(rows).

With a momentum d, every row of x moves in every step: x ← x − γ d and d ← (1 − η) d, plus what the batch adds to its
own rows. What happens to a row that is not in the batch is the same linear map for all rows, of a few scalars of the
step: z ← M_t z, where z_i = (x_i, d_i, …). So a row that was last written in step s is, in step t, M_{t−1} ⋯ M_s times
what is stored. A table holds this product for each s of the present block of steps; it takes one small matrix product
per entry and step. At the end of a block, and of a chunk, all rows are brought up to date.

A solver's step is run as it is, on `LaggedRows` in place of the arrays: it adds, subtracts, scales and reads rows, and
what comes out says what M_t is and which rows are written. A step that does anything else with them raises
`NotLinearError`, and the arrays are dense.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bilevel import trees
from bilevel.trees import AbstractLazyRows, NotLinearError, SparseRows

BLOCK = 1024  # steps between two times at which all rows are brought up to date
LEAST = 2**15  # entries of an array below which dense steps are as fast


class Rows(eqx.Module):
    """Arrays (rows, …) of one shape, as they were when each row was last written.

    `written[i]` is the number of steps of the block after which row i was written. `table[j][k][s]` is the entry (j, k)
    of the product of the maps since step s; where it is the same for all s, `constant[j][k]` is that number, and not
    None.

    `products[j, k]` is ⟨z_j, z_k⟩ of the values up to date, for steps that need a norm; kept by increments.

    What the last step writes is `pending` until the next: XLA would copy arrays that are read before they are written.
    """

    values: list[Array]
    written: Int[Array, " rows"]
    table: list[list[Array | None]]
    constant: tuple[tuple[float | None, ...], ...] = eqx.field(static=True)
    pending: "Pending | None" = None
    products: Array | None = None

    @staticmethod
    def of(values: list[Array], constant: tuple[tuple[float | None, ...], ...], products: bool) -> "Rows":
        """All rows up to date."""
        table = [
            [jnp.full(BLOCK + 1, float(j == k), values[0].dtype) if c is None else None for k, c in enumerate(row)]
            for j, row in enumerate(constant)
        ]
        found = _products(values, jnp.vdot) if products else None
        return Rows(values, jnp.zeros(len(values[0]), jnp.uint16), table, constant, products=found)

    def waiting(self, shapes: "Pending | None") -> "Rows":
        """The same with a `Pending` of these shapes that changes nothing."""
        if shapes is None:
            return self
        where, size = jnp.zeros(shapes.where.shape, shapes.where.dtype), shapes.written.shape[0]
        if where.ndim == 2:  # the first row of each stratum
            where += len(self.written) // len(where) * jnp.arange(len(where), dtype=where.dtype)[:, None]
        rows = [trees.take_rows(value, where, size) for value in self.values]
        return dataclasses.replace(self, pending=Pending(where, rows, trees.take_rows(self.written, where, size)))

    def settled(self) -> "Rows":
        """The same with what was pending written."""
        if self.pending is None:
            return self
        where = self.pending.where
        values = [
            trees.put_rows(value, where, rows) for value, rows in zip(self.values, self.pending.rows, strict=True)
        ]
        return dataclasses.replace(
            self, values=values, written=trees.put_rows(self.written, where, self.pending.written), pending=None
        )

    def entry(self, j: int, k: int) -> Any:
        """Of the table: an array, or a float."""
        constant = self.constant[j][k]
        return self.table[j][k] if constant is None else constant

    def current(self, rows: list[Array], written: Int[Array, " n"]) -> list[Array]:
        """These rows of the values, up to date."""

        def factor(entry: Any) -> Any:
            if isinstance(entry, float):
                return entry
            return entry.at[written.astype(jnp.int32)].get(mode="promise_in_bounds")

        n = range(len(self.values))
        return [_combined([factor(self.entry(j, k)) for k in n], rows) for j in n]

    def all(self) -> list[Array]:
        """All rows, up to date."""
        settled = self.settled()
        return settled.current(settled.values, settled.written)

    def read(self, indices: Int[Array, "..."], size: int) -> list[Array]:
        rows = [trees.take_rows(value, indices, size) for value in self.values]
        return self.current(rows, trees.take_rows(self.written, indices, size))


class Pending(eqx.Module):
    """Rows of each of the values, where they belong, and their marks."""

    where: Int[Array, "..."]
    rows: list[Array]
    written: Int[Array, " n"]


def _combined(factors: list[Any], rows: list[Array]) -> Array:
    """Σ factor · rows, where a factor is a scalar or one number per row."""
    total = None
    for factor, part in zip(factors, rows, strict=True):
        if isinstance(factor, float):
            if factor == 0:
                continue
            term = part if factor == 1 else factor * part
        else:
            factor = factor.astype(part.dtype)
            term = factor.reshape(factor.shape + (1,) * (part.ndim - factor.ndim)) * part
        total = term if total is None else total + term
    return jnp.zeros_like(rows[0]) if total is None else total


class NeedsProductsError(Exception):
    """A step takes an inner product of per-row arrays."""


class LaggedRows(AbstractLazyRows):
    """Σ_j weights[j] · z_j + sparse rows, where the z_j are the values of `source`, up to date.

    Not a pytree: no transformation may take it for an argument. A weight is a float or a traced scalar.
    """

    def __init__(self, source: Rows, weights: list[Any], parts: tuple[Any, ...] = ()):
        self.source, self.weights, self.parts = source, weights, parts
        self.shape, self.dtype = source.values[0].shape, source.values[0].dtype

    def take(self, indices: Int[Array, "..."], size: int) -> Array:
        if self.parts:
            raise NotLinearError("rows are read after others were added in the same step")
        return _combined(self.weights, self.source.read(indices, size))

    def dot(self, other: Any) -> Array:
        """The inner product with a combination of the same arrays."""
        if not isinstance(other, LaggedRows) or other.source is not self.source:
            raise NotLinearError("its product with another array is taken")
        if self.source.products is None:
            raise NeedsProductsError
        total = jnp.zeros((), self.dtype)
        for j, a in enumerate(self.weights):
            for k, b in enumerate(other.weights):
                if not any(isinstance(factor, float) and factor == 0 for factor in (a, b)):
                    total += a * b * self.source.products[j, k]
        for one, two in ((self, other), (other, self)):
            for where, rows in one.parts:
                total += jnp.vdot(rows, _combined(two.weights, self.source.read(where, len(rows))))
        for where, rows in self.parts:
            for place, others in other.parts:
                total += _overlap(where, rows, place, others)
        return total

    def paired(self, other: Any) -> tuple[list[Array], Any]:
        if not isinstance(other, LaggedRows) or other.source is not self.source or self.parts or other.parts:
            raise NotLinearError("it is taken together with something else than a combination of the same arrays")
        alike = [
            isinstance(a, float) and isinstance(b, float) and a == b
            for a, b in zip(self.weights, other.weights, strict=True)
        ]
        stacked = [
            jnp.stack([jnp.asarray(a, self.dtype), jnp.asarray(b, self.dtype)])
            for a, b, same in zip(self.weights, other.weights, alike, strict=True)
            if not same
        ]

        def one(mapped: list[Array]) -> LaggedRows:
            rest = iter(mapped)
            weights = [a if same else next(rest) for a, same in zip(self.weights, alike, strict=True)]
            return LaggedRows(self.source, weights)

        return stacked, one

    def __neg__(self) -> "LaggedRows":
        return self * -1.0

    def __mul__(self, scale: Any) -> "LaggedRows":
        if not isinstance(scale, float) and jnp.ndim(scale):
            raise NotLinearError("it is multiplied by an array")
        weights = [weight if isinstance(weight, float) and weight == 0 else weight * scale for weight in self.weights]
        return LaggedRows(self.source, weights, tuple((indices, rows * scale) for indices, rows in self.parts))

    __rmul__ = __mul__

    def __add__(self, other: Any) -> "LaggedRows":
        if isinstance(other, SparseRows):
            return LaggedRows(self.source, self.weights, trees.merged(self.parts + other.parts))
        if not isinstance(other, LaggedRows) or other.source is not self.source:
            raise NotLinearError(f"it is added to a {type(other).__name__}")
        weights = [_sum(a, b) for a, b in zip(self.weights, other.weights, strict=True)]
        return LaggedRows(self.source, weights, trees.merged(self.parts + other.parts))

    __radd__ = __add__

    def __sub__(self, other: Any) -> "LaggedRows":
        return self + (-other)

    def __rsub__(self, other: Any) -> "LaggedRows":
        return (-self) + other


def _overlap(where: Array, rows: Array, place: Array, others: Array) -> Array:
    """The inner product of rows at two sets of indices."""
    if where is place and where.ndim == 0:
        return jnp.vdot(rows, others)
    same = trees.each_row(where, len(rows))[:, None] == trees.each_row(place, len(others))[None, :]
    return jnp.vdot(rows, jnp.tensordot(same.astype(rows.dtype), others, 1))


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, float) and a == 0:
        return b
    return a if isinstance(b, float) and b == 0 else a + b


def fields(source: Rows) -> list[LaggedRows]:
    """The values themselves, for a step to take."""
    count = len(source.values)
    return [LaggedRows(source, [float(j == k) for k in range(count)]) for j in range(count)]


def advanced(source: Rows, new: list[Any], step: Any) -> Rows:
    """The rows after a step, the number `step` of the block, that made `new` of the fields."""
    for field in new:
        if not isinstance(field, LaggedRows) or field.source is not source:
            raise NotLinearError(f"a step makes a {type(field).__name__} of it")
    maps = [field.weights for field in new]
    places = {id(indices): (indices, len(rows)) for field in new for indices, rows in field.parts}
    pending = _written(source, new, list(places.values()), step) if places else None
    seen = jnp.arange(BLOCK + 1) <= step

    def moved(j: int, k: int, entry: Array | None) -> Array | None:
        if entry is None:
            return None
        column = [source.entry(m, k) for m in range(len(maps))]
        return jnp.where(seen, _product(maps[j], column, entry.dtype), entry)

    table = [[moved(j, k, entry) for k, entry in enumerate(row)] for j, row in enumerate(source.table)]
    products = None if source.products is None else _products(new, LaggedRows.dot)
    return dataclasses.replace(source, table=table, pending=pending, products=products)


def _at_all(places: list[tuple[Array, int]]) -> tuple[Array, int]:
    """The indices of all places, and the number of their rows."""
    where, rows = trees.joined([(indices, jnp.zeros((count, 0))) for indices, count in places])
    return where, len(rows)


def _shared(where: Array, rows: Array) -> Array:
    """For each of the rows, the sum of all with its index."""
    if where.ndim == 2:  # strata share no rows
        return jax.vmap(_shared)(where, rows.reshape(*where.shape, *rows.shape[1:])).reshape(rows.shape)
    same = where[:, None] == where[None, :]
    return jnp.tensordot(same.astype(rows.dtype), rows, 1)


def _product(weights: list[Any], column: list[Any], dtype: Any) -> Any:
    """Σ_m weight_m · entry_m."""
    total: Any = 0.0
    for weight, entry in zip(weights, column, strict=True):
        if not any(isinstance(a, float) and a == 0 for a in (weight, entry)):
            total = _sum(total, jnp.asarray(weight).astype(dtype) * entry)
    return total


def _products(parts: list[Any], dot: Any) -> Array:
    """The symmetric matrix of all inner products."""
    n = range(len(parts))
    upper = {(j, k): dot(parts[j], parts[k]) for j in n for k in n if j <= k}
    return jnp.array([[upper[min(j, k), max(j, k)] for k in n] for j in n])


def _written(source: Rows, new: list[LaggedRows], places: list[tuple[Array, int]], step: Any) -> Pending:
    """What each field has after the step where any of them got rows: at these indices, so many at each."""
    parts = [{id(indices): rows for indices, rows in field.parts} for field in new]
    where, size = places[0]
    if len(places) == 1 and where.ndim == 0:
        added = [next(iter(found.values()), None) for found in parts]
    else:  # a row may be there several times: each time it gets the sum of its parts
        where, size = _at_all(places)

        def summed(found: dict[int, Array]) -> Array | None:
            if not found:
                return None
            like = next(iter(found.values()))
            parts = [(i, found.get(id(i), jnp.zeros((count, *like.shape[1:]), like.dtype))) for i, count in places]
            return _shared(where, trees.joined(parts)[1])

        added = [summed(found) for found in parts]
    current = source.read(where, size)
    moved = [_combined(field.weights, current) for field in new]
    rows = [z if more is None else z + more.astype(z.dtype) for z, more in zip(moved, added, strict=True)]
    return Pending(where, rows, jnp.full(size, step + 1, jnp.uint16))


def constants_of(maps: list[list[Any]]) -> tuple[tuple[float | None, ...], ...]:
    """Which entries of products of such maps are constant: 0, or 1 on the diagonal; None for the others."""
    n = len(maps)
    constant: list[list[float | None]] = [[float(j == k) for k in range(n)] for j in range(n)]
    while True:
        new = [[_constant(maps, constant, j, k) for k in range(n)] for j in range(n)]
        merged = [
            [c if c == d else None for c, d in zip(a, b, strict=True)] for a, b in zip(constant, new, strict=True)
        ]
        if merged == constant:
            return tuple(map(tuple, constant))
        constant = merged


def _constant(maps: list[list[Any]], products: Any, j: int, k: int) -> float | None:
    """An entry of map · product, if it is constant."""
    total = 0.0
    for m, weight in enumerate(maps[j]):
        first, second = weight if isinstance(weight, float) else None, products[m][k]
        if first == 0 or second == 0:
            continue
        if first is None or second is None:
            return None
        total += first * second
    return total
