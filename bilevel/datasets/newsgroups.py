"""20 Newsgroups as counts of words, by scikit-learn."""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.datasets.base import Card, DatasetError, SparseDataset
from bilevel.datasets.files import FAILURES, Download, Files, check_splits

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
    missing, scikit-learn downloads it. Scikit-learn counts the words that the training rows contain, and keeps the
    counts next to that file. Both files are pickles: put only files there that scikit-learn itself wrote.
    """
    import scipy.sparse
    from sklearn.datasets import fetch_20newsgroups_vectorized

    (path,) = FILES[name].need()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # scikit-learn prints what is wrong with the file
            features, labels = fetch_20newsgroups_vectorized(
                subset="all", data_home=str(path.parent), download_if_missing=False, return_X_y=True
            )
    except PermissionError as error:
        raise DatasetError(
            f"{path.parent}: scikit-learn cannot keep its counts of words there ({error}); "
            "make the folder writable, or copy its files to another one"
        ) from error
    except FAILURES as error:
        raise DatasetError(f"{path.parent}: damaged ({error}); delete it, and it will be downloaded again") from error
    card = CARDS[name]
    features = scipy.sparse.csr_matrix(features, dtype=np.float32)
    rows, train_rows = len(labels), card.splits["train"]
    check_splits(card, {"train": min(train_rows, rows), "test": rows - train_rows})
    return SparseDataset(features, np.asarray(labels, np.int32), card.classes, train_rows, card)
