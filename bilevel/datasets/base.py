"""What a loader gives back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


class DatasetError(RuntimeError):
    """A data set that is damaged, or that cannot be had; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification.

    - `features`: float32 in [0, 1]; `labels`: 0, …, `classes` − 1.
    - `train_rows`: so many rows, the first ones, are the published training set; all of them where none is.
    - `source`, `licence`: whose it is, and on what terms.
    """

    name: str
    features: Float32[np.ndarray, "n d"]
    labels: Int32[np.ndarray, " n"]
    classes: int
    train_rows: int
    source: str
    licence: str
