"""20 Newsgroups as counts of words, from the file that scikit-learn keeps."""

import io
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from bilevel.datasets import pickles
from bilevel.datasets.base import Card, DatasetError, SparseDataset
from bilevel.datasets.files import Download, Files, check_splits

_FILE = "20news-bydate_py3.pkz"
_MOST_BYTES = 100_000_000  # the published content has 40 million
_SHUFFLED_BY = 12  # the seed by which scikit-learn's counts are in order

CARDS = {
    "newsgroups": Card(
        "newsgroups",
        rows=18_846,
        classes=20,
        splits={"train": 11_314, "test": 7_532},
        license="none stated; postings to public newsgroups",
        source="Lang (1995), NewsWeeder, ICML; the version by date of J. Rennie",
    )
}


def _from_scikit_learn(source: str, path: str, pooch: Any) -> None:
    """Write the file that scikit-learn makes from the archive, whose checksum it verifies."""
    from sklearn.datasets import fetch_20newsgroups

    with tempfile.TemporaryDirectory() as home:
        fetch_20newsgroups(data_home=home)
        shutil.copyfile(Path(home) / _FILE, path)


FILES = {
    "newsgroups": Files("newsgroups", ((_FILE,),), Download(_FILE, "scikit-learn, about 14 MB", _from_scikit_learn))
}


def load_sparse(name: str) -> SparseDataset:
    """`"newsgroups"`: 130,107 counts of words, each row of unit Euclidean norm; training rows first.

    They are read from `20news-bydate_py3.pkz`, the file that `sklearn.datasets.fetch_20newsgroups` keeps. If it is
    missing, scikit-learn downloads it. Reading the file, a compressed pickle, runs no code in it. The words are those
    that the training rows contain. Counts and rows are those of `sklearn.datasets.fetch_20newsgroups_vectorized`, in
    its order.
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    (path,) = FILES[name].need()
    (train, train_labels), (test, test_labels) = _read(path)
    card = CARDS[name]
    check_splits(card, {"train": len(train), "test": len(test)})
    counter = CountVectorizer()
    counts = scipy.sparse.vstack((counter.fit_transform(train), counter.transform(test)))
    features = scipy.sparse.csr_matrix(normalize(counts.astype(np.float64), copy=False), dtype=np.float32)
    labels = np.concatenate((train_labels, test_labels)).astype(np.int32)
    return SparseDataset(features, labels, card.classes, len(train), card)


def _read(path: Path) -> list[tuple[list[str], np.ndarray]]:
    """The texts and labels of the training and the test part."""
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(path.read_bytes(), _MOST_BYTES)
        if not decompressor.eof:
            raise ValueError(f"cut off, or more than {_MOST_BYTES:,} bytes")
        stored = pickles.read_from(io.BytesIO(content), path)
        return [_shuffled(stored[part]["data"], stored[part]["target"]) for part in ("train", "test")]
    except (zlib.error, KeyError, TypeError, ValueError, IndexError) as error:
        raise DatasetError(f"{path}: damaged ({error}); delete it, and it will be downloaded again") from error


def _shuffled(texts: Any, labels: Any) -> tuple[list[str], np.ndarray]:
    if not (isinstance(texts, list) and isinstance(labels, np.ndarray) and labels.shape == (len(texts),)):
        raise ValueError("not one text and one label per posting")
    if labels.dtype.kind != "i" or not all(isinstance(text, str) for text in texts):
        raise ValueError("texts or labels of another kind")
    order = shuffled_rows(len(texts))
    return [texts[i] for i in order], np.asarray(labels)[order]


def shuffled_rows(rows: int, seed: int = _SHUFFLED_BY) -> Int64[np.ndarray, " n"]:
    """The order in which scikit-learn returns the rows of a part of the file."""
    order = np.arange(rows)
    np.random.RandomState(seed).shuffle(order)
    return order
