"""The rows of the next steps, read by a thread while the steps before are taken."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.disk import Held, OnDisk, Store
from bilevel.problem import Problem

_AT_ONCE = 2**25  # bytes of rows that are read ahead, if a step does not need more
_MOST = 2**30  # bytes above which rows that must be held together are not
_STEPS = 1024

Planned = Callable[[Any], list[Any]]  # steps -> of each store, the indices that each reads (steps, draws)


class Window(NamedTuple):
    """The steps from `first` to before `end`, and the rows that they read, for each store."""

    first: int
    end: int
    rows: list[tuple[Any, list[Any]]]

    def on_device(self) -> "Window":
        return self._replace(rows=jax.device_put(self.rows))


def holding(problem: Problem, stores: list[Store], window: Window) -> Problem:
    """The problem with the rows of a window in memory."""
    held = {store: Held(store, *rows) for store, rows in zip(stores, window.rows, strict=True)}
    return jax.tree.map(
        lambda node: held[node.store] if isinstance(node, OnDisk) else node,
        problem,
        is_leaf=lambda node: isinstance(node, OnDisk),
    )


class Prefetch:
    """Rows for the steps of a run that ends at `end`, which may be cut anywhere, or only after each `unit` steps.

    `seconds` is the time that the run has waited for rows. A thread reads one window ahead; `close` ends it, within the
    time that one row takes. The thread calls nothing of JAX: precision, mesh and device are settings of a thread.
    """

    def __init__(self, stores: list[Store], planned: Planned, draws: list[int], unit: int, end: int):
        self._stores, self._planned, self._draws, self._unit, self._end = stores, planned, draws, unit, end
        per_step = max(1, sum(n * (store.row_bytes + 4) for n, store in zip(draws, stores, strict=True)))
        self.steps = unit if unit > 1 else max(1, min(_STEPS, _AT_ONCE // per_step))
        self.fits = unit == 1 or per_step * unit <= _MOST
        self._now: Window | None = None
        self._ahead: tuple[int, Future[Window]] | None = None
        self._over, self._pool = threading.Event(), ThreadPoolExecutor(1, "bilevel reads rows")
        self.seconds = 0.0

    def blank(self) -> Window:
        """Zeros in the shapes of a window, to compile with. The plan is compiled, too."""
        jax.block_until_ready(self._planned(np.arange(self.steps, dtype=np.int32)))
        rows = [
            (jnp.zeros(n, jnp.int32), [jnp.zeros((n, *one.shape), one.dtype) for one in store.like])
            for n, store in zip(self._rooms(), self._stores, strict=True)
        ]
        return Window(0, 0, rows)

    def _rooms(self) -> list[int]:
        return [min(self.steps * n, store.length) for n, store in zip(self._draws, self._stores, strict=True)]

    def parts(self, t0: int, n: int) -> Iterator[tuple[Window, int, int]]:
        """Windows for the steps from t0 to before t0 + n, each with the first of its steps and their number."""
        t, end = t0, t0 + n
        while t < end:
            window = self._covering(t, min(self._unit, end - t))
            size = min(window.end, end) - t
            yield window, t, size
            t += size

    def _covering(self, t: int, need: int) -> Window:
        if self._now is None or not self._now.first <= t <= t + need <= self._now.end:
            if self._ahead is None or not self._ahead[0] <= t <= t + need <= self._ahead[0] + self.steps:
                self._start(t)
            assert self._ahead is not None
            clock, self._now = time.perf_counter(), None
            self._now, self._ahead = self._ahead[1].result().on_device(), None
            self.seconds += time.perf_counter() - clock
            # chunks shorter than a unit end before the window does
            following = self._now.end if self._unit == 1 else t + need * ((self._now.end - t) // need)
            if following < self._end:
                self._start(following)
        return self._now

    def _start(self, first: int) -> None:
        if self._ahead is not None:
            self._ahead[1].cancel()
        found = self._planned(np.arange(first, first + self.steps, dtype=np.int32))
        self._ahead = first, self._pool.submit(self._read, first, found)

    def _read(self, first: int, found: list[Any]) -> Window:
        end = max(first + 1, min(first + self.steps, self._end))
        rows = []
        for indices, store, room in zip(found, self._stores, self._rooms(), strict=True):
            wanted = np.sort(np.asarray(indices)[: end - first], axis=None)  # much faster than numpy.unique
            wanted = wanted[np.diff(wanted, prepend=-1) > 0]  # −1 is of branches that are not taken
            numbers = np.full(room, np.iinfo(np.int32).max, np.int32)
            numbers[: len(wanted)] = wanted
            rows.append((numbers, store.read(wanted, room, self._over.is_set)))
        return Window(first, end, rows)

    def close(self) -> None:
        self._over.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
