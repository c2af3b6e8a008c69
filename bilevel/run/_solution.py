"""What a run returns: the iterates, how it ended, and its history."""

from collections.abc import Collection, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from bilevel.cost import KINDS
from bilevel.trees import Tree


class RESULTS(eqx.Enumeration):
    """How a run ended. Each value says what to do about it."""

    successful = "All steps were taken."
    target_reached = "The target metric was reached."
    stopped = "A callback asked to stop."
    nonfinite = (
        "An iterate became NaN or infinite; the solution holds the last finite one. Reduce the step sizes (the "
        "lower step and the Neumann or adjoint step below 1/L first), or check the losses there."
    )
    not_convex = (
        "The adjoint method found that the lower level's curvature is not positive everywhere; the solution holds "
        "the point before it. Add a regularizer to the lower loss, or take more lower steps."
    )
    interrupted = "Interrupted after the last finished chunk. Continue with solve(problem, solver, solution)."


NAMES = ("successful", "target_reached", "stopped", "nonfinite", "not_convex", "interrupted")


def name_of(result: RESULTS) -> str:
    """The name of a member of `RESULTS`."""
    return next(name for name in NAMES if getattr(RESULTS, name) == result)


FAILURES = (RESULTS.nonfinite, RESULTS.not_convex)

# The history's own columns; a metric must have another name
RESERVED = ("step", "seconds", *KINDS)


def numbers(values: Any, of: str = "metrics", taken: Collection[str] = RESERVED) -> dict[str, float]:
    """What `metrics` or a recorder returned, checked to be numbers under names that are not taken."""
    if not isinstance(values, dict):
        raise TypeError(f"{of}: returned {type(values).__name__}; return a dict from names to numbers")
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"{of}: got the name {name!r}; name each number by a string")
        if name in taken:
            raise ValueError(f"{of}: {name!r} is a column of the history already; give it another name")
        if np.ndim(value) or np.asarray(value).dtype.kind not in "biufV":
            raise TypeError(f"{of}: {name!r} is {value!r}; return a number")
    return {name: float(value) for name, value in values.items()}


class SolveError(RuntimeError):
    """A run could not continue. `.solution` is the last sound state that it reached."""

    def __init__(self, message: str, solution: "Solution"):
        super().__init__(message)
        self.solution = solution


class History:
    """A table with one row for the start and one for each chunk.

    Columns: `step`, `seconds` (stepping only: no compilation, metrics or callbacks), the oracle counts `F`, `G`,
    `H`, `J` in samples, and those that recorders and metrics add. `history["step"]` is a column.

    Example:

        >>> import bilevel as bl
        >>> history = bl.History([{"step": 0, "loss": 2.0}, {"step": 10, "loss": 1.0}])
        >>> history["loss"].tolist()
        [2.0, 1.0]
    """

    def __init__(self, rows: Sequence[dict[str, Any]] = ()):
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        return np.array([row[column] for row in self.rows])

    @property
    def columns(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`."""
        import pandas

        return pandas.DataFrame(self.rows)

    def __repr__(self) -> str:
        return f"History({len(self)} rows: {', '.join(self.columns)})"


class Solution(eqx.Module):
    """What `solve` returns.

    - `x`, `y`: the last iterates, like the starts.
    - `result`: a member of `RESULTS`; `RESULTS[solution.result]` is its advice.
    - `history`: see `History`.
    - `stats`: `steps`, `compile_seconds`, `run_seconds`, and the oracle counts `F`, `G`, `H`, `J` in samples. With rows
      on disk that are read ahead, also the `wait_seconds` for them, a part of `run_seconds`.
    - `state`, `key`: what `solve(problem, solver, solution, steps=…)` needs to continue.
    """

    x: Tree
    y: Tree
    result: RESULTS
    history: History
    state: Any
    stats: dict[str, Any]
    key: PRNGKeyArray
