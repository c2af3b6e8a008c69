"""A task on several devices, each of which computes its part of every batch."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bilevel._accumulated import with_inner
from bilevel._placement import mesh_of
from bilevel.disk import on_disk
from bilevel.problem import Episodes, Factored, Level, Problem
from bilevel.tasks import Task


class _InParts(eqx.Module):
    """A function whose argument number `at` is a batch. Its rows are split over the devices where these divide them."""

    function: Any
    parts: NamedSharding = eqx.field(static=True)
    at: int = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        before, batch, after = arguments[: self.at], arguments[self.at], arguments[self.at + 1 :]
        return self.function(*before, jax.tree.map(self._split, batch), *after)

    def _split(self, rows: Any) -> Any:
        return rows if len(rows) % self.parts.mesh.size else jax.lax.with_sharding_constraint(rows, self.parts)


def split(task: Task, *, must: bool) -> Task:
    """The task on all devices. Every device has all rows, so it draws what one device draws, and makes the same run to
    rounding; each computes with an equal part of a batch.

    A task of which nothing can be split stays as it is, on one device. So does one whose arrays are on several devices.

    **Raises** `ValueError` if it `must` be split and cannot, unless there is only one row.
    """
    count, problem = jax.device_count(), task.problem
    if count == 1 or mesh_of(problem, task.x, task.y) is not None:
        return task
    if isinstance(problem, Episodes):
        if must:
            raise ValueError(f"devices: got {count}, but {task.name} draws a new problem in each step; leave it out")
        return task
    upper, lower = problem.upper, problem.lower
    if on_disk(upper.data) or on_disk(lower.data):
        if must:
            raise ValueError(f"devices: got {count}, but rows of {task.name} are on disk; leave it out")
        return task
    if upper.size % count and lower.size % count:
        if must and max(upper.size, lower.size) > 1:
            raise ValueError(
                f"devices: got {count}, which divides neither the size of {task.name}'s upper batches, {upper.size}, "
                f"nor of its lower ones, {lower.size}; pass a divisor, or set another batch_size"
            )
        return task
    mesh = jax.make_mesh((count,), ("rows",), axis_types=(AxisType.Auto,))
    return dataclasses.replace(task, problem=Problem(_on(upper, mesh), _on(lower, mesh), problem.project))


def _on(level: Level, mesh: Any) -> Level:
    parts, loss = NamedSharding(mesh, PartitionSpec("rows")), level.loss
    if isinstance(loss, Factored):
        loss = Factored(_InParts(loss.inputs, parts, 1), _InParts(loss.given, parts, 2))
    else:
        loss = with_inner(loss, lambda inner: _InParts(inner, parts, 2))
    data = jax.device_put(level.data, NamedSharding(mesh, PartitionSpec()))
    return dataclasses.replace(level, loss=loss, data=data)
