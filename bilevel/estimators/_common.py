"""Functions that the estimators share."""

import numpy as np
from jaxtyping import Int


def rounded(size: int, least: int) -> int:
    """A length that many sizes, and so their programs, share: `least`, or up to a sixteenth more than `size`."""
    unit = max(least, 2 ** max(0, (size - 1).bit_length() - 4))
    return -(-size // unit) * unit


def by_class(order: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The rows in this order, sorted by class. Dealt out to folds in turn, each class is spread evenly."""
    return order[np.argsort(labels[order], kind="stable")]
