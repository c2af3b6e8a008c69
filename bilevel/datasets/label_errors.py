"""Test labels of MNIST, 20 Newsgroups and CIFAR-10 that looked wrong, and what people said of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.datasets import cifar10, images, newsgroups
from bilevel.datasets.base import Card, DatasetError, DoubtfulDataset
from bilevel.datasets.files import Files

_MAJORITY = 3  # of five people; a few images were shown to more
_FILES = {
    "mnist-errors": "mnist_mturk.json",
    "news-errors": "20news_mturk.json",
    "cifar-10-errors": "cifar10_mturk.json",
}
_NEWSGROUPS_SEED = 42  # the numbers of rows are those of `fetch_20newsgroups`, which shuffles by this seed
_BASES: dict[str, tuple[str, Any]] = {
    "mnist-errors": ("mnist", images.load),
    "news-errors": ("newsgroups", newsgroups.load_sparse),
    "cifar-10-errors": ("cifar-10", cifar10.load),
}
_ROWS = {"mnist-errors": (10_000, 60_000), "news-errors": (7_532, 11_314), "cifar-10-errors": (10_000, 50_000)}

CARDS = {
    name: Card(
        name,
        rows=doubtful + others,
        classes=20 if name == "news-errors" else 10,
        splits={"doubtful": doubtful, "right": others},
        license="Apache-2.0 (the answers)",
        source="Northcutt, Athalye & Mueller (2021), Pervasive label errors in test sets, NeurIPS Datasets",
    )
    for name, (doubtful, others) in _ROWS.items()
}
FILES = {name: Files("label-errors", ((file,),)) for name, file in _FILES.items()}


def load_doubtful(name: str) -> DoubtfulDataset:
    """The test rows come first, then the training rows. `given` has the published test labels (`published`).

    Confident learning named candidates, and five people said of each whether it shows the given class. A given label is
    taken as wrong if fewer than three said so. The right one is then the class that the method guessed, if three said
    that; otherwise it is −1. The published labels of rows that are not `checked` are taken as right.

    The set itself must be there too. Its labels must be those in the file.
    """
    (path,) = FILES[name].need()
    base, load_base = _BASES[name]
    dataset = load_base(base)
    train = dataset.train_rows
    given = dataset.labels[train:]
    labels, checked, places = given.copy(), np.zeros(len(given), bool), np.arange(len(given))
    if base == "newsgroups":
        ours = newsgroups.shuffled_rows(len(given))
        places = np.argsort(ours)[newsgroups.shuffled_rows(len(given), _NEWSGROUPS_SEED)]
    for number, published, guessed, votes in _read(path, len(given), dataset.classes):
        row = places[number]
        if published != given[row]:
            raise DatasetError(f"{path}: row {number} has the label {published}, but that of {base} has {given[row]}")
        checked[row] = True
        if votes["given"] < _MAJORITY:
            labels[row] = guessed if votes["guessed"] >= _MAJORITY else -1
    rows = np.concatenate([np.arange(train, len(dataset.labels)), np.arange(train)])
    return DoubtfulDataset(
        features=dataset.features[rows],
        given={"published": given},
        labels=np.concatenate([labels, dataset.labels[:train]]),
        checked=checked,
        classes=dataset.classes,
        card=dataclasses.replace(CARDS[name], rows=len(rows), splits={"doubtful": len(given), "right": train}),
    )


def _read(path: Path, rows: int, classes: int) -> list[tuple[int, int, int, dict[str, int]]]:
    """For each row that was checked: its number, the published label, the guess, and the numbers of answers."""
    found = []
    try:
        for entry in json.loads(path.read_text("utf-8")):
            row, published, guessed = (entry[key] for key in ("id", "given_original_label", "our_guessed_label"))
            votes = {key: entry["mturk"][key] for key in ("given", "guessed")}
            if not all(type(number) is int for number in (row, published, guessed, *votes.values())):
                raise ValueError(f"the entry {str(entry)[:60]} has something else than whole numbers")
            if not (0 <= row < rows and 0 <= published < classes and 0 <= guessed < classes):
                raise ValueError(f"the row {row} with the labels {published} and {guessed} does not exist")
            found.append((row, published, guessed, votes))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not as published ({error!r}); get the published file again") from error
    return found
