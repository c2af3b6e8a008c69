"""Binary and multiclass sets of the LIBSVM collection, from its files."""

from typing import Any

import numpy as np

from bilevel.datasets.base import Card, DatasetError, SparseDataset
from bilevel.datasets.files import FAILURES, Files, check_splits

# For each set its files, training rows first, and the number of its features. LIBSVM publishes some of them plain.
_PARTS = {
    "a9a": (("a9a", "a9a.t"), 123),
    "w8a": (("w8a",), 300),
    "ijcnn1": (("ijcnn1", "ijcnn1.t"), 22),
    "covtype": (("covtype.scale01",), 54),
}
_SPLITS = {
    "a9a": {"train": 32_561, "test": 16_281},
    "w8a": {"all": 49_749},
    "ijcnn1": {"train": 49_990, "test": 91_701},
    "covtype": {"all": 581_012},
}
_SOURCES = {
    "a9a": "Platt (1998), from Adult, UCI",
    "w8a": "Platt (1998), web pages: its training file",
    "ijcnn1": "Prokhorov (2001), IJCNN 2001 neural network competition",
    "covtype": "Blackard & Dean (1999), Covertype, UCI: scaled to [0, 1]",
}
CARDS = {
    name: Card(
        name,
        rows=sum(splits.values()),
        classes=7 if name == "covtype" else 2,
        splits=splits,
        license="none stated",
        source=f"{_SOURCES[name]}; the version of Chang & Lin, LIBSVM data",
    )
    for name, splits in _SPLITS.items()
}
FILES = {name: Files("libsvm", (tuple(f"{file}.bz2" for file in files), files)) for name, (files, _) in _PARTS.items()}


def load_sparse(name: str) -> SparseDataset:
    """`"a9a"`, `"w8a"`, `"ijcnn1"` or `"covtype"`: training rows, then test rows, from the files of that name in the
    folder `libsvm`, plain or compressed by bzip2. The classes are in the order of the file's labels."""
    import scipy.sparse
    from sklearn.datasets import load_svmlight_files

    paths = FILES[name].need()
    options: Any = {"n_features": _PARTS[name][1], "dtype": np.float32, "zero_based": False}  # types are too narrow
    try:
        read = load_svmlight_files([str(path) for path in paths], **options)
    except FAILURES as error:
        files = ", ".join(path.name for path in paths)
        raise DatasetError(f"{paths[0].parent}: {files}: damaged ({error}); get the published file again") from error
    card, lengths = CARDS[name], [len(labels) for labels in read[1::2]]
    check_splits(card, dict(zip(card.splits, lengths, strict=True)))
    found, labels = np.unique(np.concatenate(read[1::2]), return_inverse=True)
    if len(found) != card.classes:
        raise DatasetError(
            f"{name}: its files have the labels {found.tolist()}, where the published ones have {card.classes} "
            "different ones; get the published files again"
        )
    features: Any = scipy.sparse.vstack(read[::2], format="csr")
    return SparseDataset(features, labels.astype(np.int32), card.classes, lengths[0], card)
