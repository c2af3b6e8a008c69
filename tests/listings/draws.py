"""The samples that a listing consumes: recorded ones, or every row each time."""

import numpy as np


class Draws:
    """Recorded draws: a list of steps, each a list of (level, indices).

    Step 0 is the solver's `init`, step k + 1 is iteration k. Within a step, each level is first
    in, first out.
    """

    def __init__(self, steps):
        self.steps = steps
        self.step = None
        self.queues = {}

    def begin(self, step):
        assert self.step is None, f"step {self.step} was never ended"
        assert 0 <= step < len(self.steps), f"step {step} is not among {len(self.steps)} recorded"
        self.step = step
        self.queues = {"lower": [], "upper": [], "directions": []}
        for level, indices in self.steps[step]:
            assert level in self.queues, f"unknown level {level!r} in step {step}"
            self.queues[level].append(np.asarray(indices))

    def lower(self):
        return self._next("lower")

    def upper(self):
        return self._next("upper")

    def directions(self):
        """PZOBO's random vectors, which are no rows of a level."""
        return self._next("directions")

    def _next(self, level):
        assert self.step is not None, "no step has begun"
        assert self.queues[level], f"step {self.step}: the listing needs one more {level} draw"
        return self.queues[level].pop(0)

    def left(self, level):
        assert self.step is not None, "no step has begun"
        return len(self.queues[level])

    def end(self):
        for level, queue in self.queues.items():
            assert not queue, f"step {self.step}: {len(queue)} {level} draws were never used"
        self.step = None


class Everything:
    """The same interface for deterministic runs: each draw is every row."""

    def __init__(self, n, m):
        self.n, self.m = n, m

    def begin(self, step):
        pass

    def lower(self):
        return np.arange(self.n)

    def upper(self):
        return np.arange(self.m)

    def left(self, level):
        raise AssertionError(f"the number of {level} draws is not recorded in a deterministic run")

    def end(self):
        pass
