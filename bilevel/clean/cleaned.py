"""The result of cleaning a table."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from bilevel.columns.kinds import Column

if TYPE_CHECKING:
    from bilevel.estimators._flags import WrongLabels


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """The result for each row of a table, in the table's order.

    `weights` are in [0, 1], and low for doubtful labels; rank 1 is the most doubtful row; `given` and `proposed`
    index `classes`; `out` is the directory of the `files`. A row without a label is given −1, its weight is NaN, and
    its rank is among the last. `proposed` differs from `given` exactly in flagged rows, and in rows without a label.
    `estimate` is the share of wrong labels among the rows that were judged. The first `decided` ranks are of rows whose
    trusted label is another one.
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
    estimate: "WrongLabels"
    decided: int = 0

    @property
    def suspects(self) -> Int[np.ndarray, " k"]:
        """The flagged rows, most doubtful first."""
        rows = np.argsort(self.ranks)
        return rows[(self.proposed[rows] != self.given[rows]) & (self.given[rows] >= 0)]

    @property
    def to_check(self) -> int:
        """The number of rows to check by hand, from rank `decided` + 1 on: that of labels estimated to be wrong."""
        return round(self.estimate.share * int(self.estimate.classes["rows"].sum()))
