"""20 Newsgroups as counts of words, by scikit-learn."""

import contextlib
import shutil
import sys
from pathlib import Path

import numpy as np

from bilevel.datasets import places
from bilevel.datasets.base import Card, DatasetError, SparseDataset

_FILE = "20news-bydate_py3.pkz"

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
FILES = {"newsgroups": places.Files("newsgroups", ((_FILE,),))}


def load_sparse(name: str) -> SparseDataset:
    """`"newsgroups"`: 130,107 counts of words, each row of unit Euclidean norm; training rows first.

    Read from `20news-bydate_py3.pkz`, as `sklearn.datasets.fetch_20newsgroups` keeps it, or else downloaded into the
    cache by scikit-learn, which checks its sum; its vectorizer counts what the training rows hold, and keeps the counts
    beside that file. A pickle: put there only what scikit-learn itself wrote.
    """
    import scipy.sparse
    from sklearn.datasets import fetch_20newsgroups, fetch_20newsgroups_vectorized

    def fetch(scratch: str, path: str) -> None:
        fetch_20newsgroups(data_home=scratch)
        shutil.move(Path(scratch) / _FILE, path)

    files = FILES[name]
    (path,) = files.find() or (files.download(_FILE, "scikit-learn, about 14 MB", fetch),)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # scikit-learn prints what is wrong with a file
            features, labels = fetch_20newsgroups_vectorized(
                subset="all", data_home=str(path.parent), download_if_missing=False, return_X_y=True
            )
    except places.FAILURES as error:
        raise DatasetError(f"{path.parent}: damaged ({error}); delete it, and it will be downloaded again") from error
    card = CARDS[name]
    features = scipy.sparse.csr_matrix(features, dtype=np.float32)
    rows, train_rows = len(labels), card.splits["train"]
    places.check_splits(card, {"train": min(train_rows, rows), "test": rows - train_rows})
    return SparseDataset(features, np.asarray(labels, np.int32), card.classes, train_rows, card)
