"""A first pass over a table: the number of rows, the labels, and a sample of the rows."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int

from bilevel.clean.labels import Labels

SAMPLE_ROWS = 20_000
SAMPLE_CELLS = 2_000_000  # fewer rows are drawn from a wide table
_LEAST_ROWS = 1_000


@dataclasses.dataclass(frozen=True)
class Survey:
    """`sample` is a data frame of rows drawn at random, or of all of them, in the table's order."""

    rows: int
    codes: Int[np.ndarray, " n"]
    classes: list[Any]
    sample: Any


def survey(chunks: Iterable[Any], columns: int, label: str, argument: str, label_argument: str, seed: int) -> Survey:
    """One pass over the chunks.

    **Raises** `ValueError` for a table without rows and for rows without a label.
    """
    import pandas as pd

    size = max(_LEAST_ROWS, min(SAMPLE_ROWS, SAMPLE_CELLS // columns))
    rng, labels, rows = np.random.default_rng(seed), Labels(label_argument), 0
    tickets, highest = np.empty(0), 1.0
    sample: list[Any] = []
    for chunk in chunks:
        labels.add(chunk[label], rows)
        rows += len(chunk)
        drawn = rng.random(len(chunk))
        sample.append(chunk[drawn < highest].copy())
        tickets = np.append(tickets, drawn[drawn < highest])
        if len(tickets) > size:  # keep the lowest tickets
            highest = np.partition(tickets, size)[size]
            sample = [pd.concat(sample)[tickets < highest]]
            tickets = tickets[tickets < highest]
    if not rows:
        raise ValueError(f"{argument}: the table has a header but no rows")
    codes, classes = labels.finish()
    return Survey(rows, codes, classes, pd.concat(sample))
