"""Sentences of film reviews whose polarity a crowd judged."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.datasets.base import Card, DatasetError, DoubtfulDataset
from bilevel.datasets.files import Files, check_splits

_PARTS = ("train", "test")

CARDS = {
    "crowd-sentiment": Card(
        "crowd-sentiment",
        rows=8_998,
        classes=2,
        splits={"doubtful": 4_999, "right": 3_999},
        license="none stated; the sentences are their authors'",
        source="Rodrigues, Pereira & Ribeiro (2013), Learning from multiple annotators; Pang & Lee (2005), ACL",
    )
}
FILES = {"crowd-sentiment": Files("crowd-sentiment", (("sentiment_polarity_mturk.npz",),))}


def load_doubtful(name: str) -> DoubtfulDataset:
    """`"crowd-sentiment"`: sentences with labels, 0 (blame) or 1 (praise). Those that the crowd judged come first.

    `given["crowd"]` is a masked array (4999, 203): the label of each of 203 people, masked where a person gave none.
    They are in a file of NumPy arrays: `texts_train` and `texts_test`, the bytes of UTF-8 lines; `labels_train` and
    `labels_test`; and `answers`, with −1 for none. No checksums are published; the numbers of rows are checked.
    """
    (path,) = FILES[name].need()
    stored = _read(path)
    check_splits(CARDS[name], {"doubtful": len(stored["labels_train"]), "right": len(stored["labels_test"])})
    return DoubtfulDataset(
        features=tuple(text for part in _PARTS for text in stored[f"texts_{part}"]),
        given={"crowd": np.ma.masked_less(stored["answers"].astype(np.int32), 0)},
        labels=np.concatenate([stored[f"labels_{part}"] for part in _PARTS]).astype(np.int32),
        checked=np.ones(len(stored["labels_train"]), bool),
        classes=2,
        card=CARDS[name],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {f"{kind}_{part}": archive[f"{kind}_{part}"] for kind in ("texts", "labels") for part in _PARTS}
            answers = archive["answers"]
        for part in _PARTS:
            labels = found[f"labels_{part}"]
            texts = found[f"texts_{part}"].tobytes().decode("utf-8").split("\n")
            if labels.shape != (len(texts),) or not np.isin(labels, (0, 1)).all():
                raise ValueError(f"{len(texts)} texts of the part {part!r}, and not one label, 0 or 1, for each")
            found[f"texts_{part}"] = texts
        if answers.ndim != 2 or len(answers) != len(found["labels_train"]) or not np.isin(answers, (-1, 0, 1)).all():
            raise ValueError(f"answers of shape {answers.shape}, which must be −1, 0 or 1 for each text")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not as described ({error}); get the file again") from error
    return found | {"answers": answers}
