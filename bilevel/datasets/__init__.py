"""Data sets by name. Only a loader that runs imports what it needs."""

from bilevel import checks
from bilevel.datasets import digits, images
from bilevel.datasets.base import Dataset, DatasetError

__all__ = ["NAMES", "Dataset", "DatasetError", "load"]

_LOADERS = {"digits": digits.load, "mnist": images.load, "fashion-mnist": images.load}

NAMES = tuple(_LOADERS)


def load(name: str) -> Dataset:
    """The data set of that name: one of `NAMES`.

    - `"digits"`: 1,797 images of 8×8 pixels; comes with scikit-learn.
    - `"mnist"`, `"fashion-mnist"`: 70,000 images of 28×28 pixels. They are looked for in
      `$BILEVEL_DATA/<name>/` (the four published `idx-ubyte.gz` files), then in the user's cache, and else
      downloaded into it. Their sums are checked.

    **Raises** `ValueError` for an unknown name; `DatasetError` for a damaged file, or where there is no
    network, with what to put where.

    Example:
        >>> from bilevel import datasets
        >>> digits = datasets.load("digits")
        >>> digits.features.shape, digits.classes
        ((1797, 64), 10)
    """
    checks.one_of("dataset", name, NAMES)
    return _LOADERS[name](name)
