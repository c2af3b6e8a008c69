"""The result of cleaning a table."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bilevel.columns.kinds import Column


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """The result for each row of a table, in the table's order.

    `weights` are in [0, 1], and low for doubtful labels; rank 1 is the most doubtful row; `given` and `proposed`
    index `classes`; `out` is the directory of the `files`. A row without a label is given −1, its weight is NaN, and
    its rank is among the last.
    """

    out: pathlib.Path
    files: Mapping[str, str]
    weights: Float[np.ndarray, " n"]
    ranks: Int[np.ndarray, " n"]
    given: Int[np.ndarray, " n"]
    proposed: Int[np.ndarray, " n"]
    classes: Sequence[Any]
    columns: Sequence[Column]
    notes: Sequence[str]

    @property
    def suspects(self) -> Int[np.ndarray, " k"]:
        """The rows whose proposed label differs from the given one, most doubtful first."""
        rows = np.argsort(self.ranks)
        return rows[(self.proposed[rows] != self.given[rows]) & (self.given[rows] >= 0)]
