"""A first pass over a table: the number of rows, the labels, and a sample of the rows."""

import dataclasses
from collections.abc import Iterable, Set
from typing import Any

import numpy as np
from jaxtyping import Bool

from bilevel.clean.labels import Found, Labels, checked
from bilevel.columns.cells import MISSING
from bilevel.columns.kinds import SAMPLE_ROWS

SAMPLE_CELLS = 2_000_000  # fewer rows are drawn from a wide table
_LEAST_ROWS = 1_000


@dataclasses.dataclass(frozen=True)
class Survey:
    """`sample` is a data frame of rows drawn at random, or of all of them, in the table's order; `trusted` says which
    rows the table itself calls checked."""

    rows: int
    labels: Found
    sample: Any
    trusted: Bool[np.ndarray, " n"]


def survey(
    chunks: Iterable[Any],
    columns: int,
    label: str,
    argument: str,
    label_argument: str,
    seed: int,
    *,
    missing: Set[str] | None = None,
    trusted_column: str | None = None,
) -> Survey:
    """One pass over the chunks.

    **Raises** `ValueError` for a table without rows or labels.
    """
    import pandas as pd

    size = max(_LEAST_ROWS, min(SAMPLE_ROWS, SAMPLE_CELLS // columns))
    rng, labels, rows = np.random.default_rng(seed), Labels(label_argument, missing), 0
    tickets, highest = np.empty(0), 1.0
    sample: list[Any] = []
    trusted = [np.empty(0, bool)]
    for chunk in chunks:
        labels.add(chunk[label])
        rows += len(chunk)
        if trusted_column is not None:
            words = (MISSING if missing is None else missing) | {""}
            trusted.append(checked(chunk[trusted_column], words, "trusted_column", trusted_column))
        drawn = rng.random(len(chunk))
        sample.append(chunk[drawn < highest].copy())
        tickets = np.append(tickets, drawn[drawn < highest])
        if len(tickets) > size:  # keep the lowest tickets
            highest = np.partition(tickets, size)[size]
            sample = [pd.concat(sample)[tickets < highest]]
            tickets = tickets[tickets < highest]
    if not rows:
        raise ValueError(f"{argument}: the table has a header but no rows")
    said = np.concatenate(trusted) if trusted_column is not None else np.zeros(rows, bool)
    return Survey(rows, labels.finish(), pd.concat(sample), said)
