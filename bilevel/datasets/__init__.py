"""Data sets by name. A loader imports what it needs when it runs."""

import importlib
from pathlib import Path
from typing import Any

from bilevel import _checks as checks
from bilevel import _extras as extras
from bilevel.datasets.base import (
    Card,
    Dataset,
    DatasetError,
    DoubtfulDataset,
    FewshotDataset,
    SparseDataset,
    TextDataset,
)

__all__ = [
    "BUILT_IN",
    "DOUBTFUL_NAMES",
    "FEWSHOT_NAMES",
    "KINDS",
    "NAMES",
    "SPARSE_NAMES",
    "TEXT_NAMES",
    "Card",
    "Dataset",
    "DatasetError",
    "DoubtfulDataset",
    "FewshotDataset",
    "SparseDataset",
    "TextDataset",
    "card",
    "find",
    "load",
    "load_doubtful",
    "load_fewshot",
    "load_sparse",
    "load_text",
    "read",
]

# The only list of data sets: for each kind, the name of its loader and the module of each set. A module has `CARDS`,
# `FILES` if the set needs files, and the loader.
_SETS = {
    "images": (
        "load",
        {"digits": "digits", "mnist": "images", "fashion-mnist": "images", "qmnist": "qmnist", "cifar-10": "cifar10"},
    ),
    "text": (
        "load_text",
        {
            "made-up": "made_up",
            "sentences": "sentences",
            "tweets": "sentences",
            "sentiment140": "sentiment140",
            "sentiment140-part": "sentiment140",
            "amazon-reviews": "reviews",
        },
    ),
    "sparse": (
        "load_sparse",
        {
            "newsgroups": "newsgroups",
            "sentences-tfidf": "sentences",
            **dict.fromkeys(("a9a", "w8a", "ijcnn1", "covtype"), "libsvm"),
        },
    ),
    "few-shot": ("load_fewshot", {"glyphs": "glyphs", "fc100": "fewshot", "mini-imagenet": "fewshot"}),
    "doubtful": (
        "load_doubtful",
        {
            "cifar-10n": "cifar10",
            "crowd-sentiment": "crowd",
            **dict.fromkeys(("mnist-errors", "news-errors", "cifar-10-errors"), "label_errors"),
        },
    ),
}

NAMES, TEXT_NAMES, SPARSE_NAMES, FEWSHOT_NAMES, DOUBTFUL_NAMES = (tuple(sets) for _, sets in _SETS.values())
# Name ↦ kind.
KINDS = {name: kind for kind, (_, sets) in _SETS.items() for name in sets}
# These need no file and no network.
BUILT_IN = ("digits", "made-up", "glyphs")
# These need no other package, either.
_PACKAGED = ("made-up", "glyphs")


def load(name: str) -> Dataset:
    """Images as rows, one image per row. The name is one of `NAMES`.

    - `"digits"`: 1,797 images of 8×8 pixels, which scikit-learn contains.
    - `"mnist"`, `"fashion-mnist"`: 70,000 images of 28×28 pixels. They are read from `$BILEVEL_DATA/<name>/` (the four
      published `idx-ubyte.gz` files), else from the user's cache, else downloaded into that cache. Their checksums are
      verified.
    - `"qmnist"`: 120,000 images of that size, half of them for testing, from the four published files.
    - `"cifar-10"`: 60,000 color images of 32×32 pixels from the published pickles. Reading a pickle runs no code in it.

    **Raises** `ValueError` for an unknown name. `DatasetError` for a damaged file, and if files are missing and
    cannot be downloaded; the message says which files to put where.

    Example:

        >>> from bilevel import datasets
        >>> digits = datasets.load("digits")
        >>> digits.features.shape, digits.classes, digits.card.license
        ((1797, 64), 10, 'CC BY 4.0')
    """
    return _module(name, "images").load(name)


def load_text(name: str) -> TextDataset:
    """Labeled texts. The name is one of `TEXT_NAMES`. All sets have two classes: blame (0) and praise (1).

    - `"made-up"`: 4,800 sentences of 8 domains from a small grammar. It needs no file and teaches nothing about
      language.
    - `"sentences"`: 16,489 sentences of 3 domains, rated by people.
    - `"tweets"`: the 3,432 tweets of `"sentences"`.
    - `"sentiment140"`: 1,600,359 tweets labeled by their emoticons (the last 359 by hand).
    - `"sentiment140-part"`: 100,359 of them: the first 50,000 negative and the last 50,000 positive ones, and those
      labeled by hand. It never stands in for the whole set.
    - `"amazon-reviews"`: reviews of up to 25 kinds of products.

    Files are read from `$BILEVEL_DATA/<name>/` (for `"tweets"`, from the folder `sentences`; for
    `"sentiment140-part"`, from `tweets`), else from the user's
    cache.

    **Raises** `ValueError` for an unknown name. `DatasetError` for damaged or missing files; the message says which
    files to put where.

    Example:

        >>> from bilevel import datasets
        >>> made_up = datasets.load_text("made-up")
        >>> made_up.texts[1], int(made_up.labels[1]), made_up.domain_names[made_up.domains[1]]
        ('i must say this page seems rather brilliant ; also moving novel .', 1, 'books')
    """
    return _module(name, "text").load(name)


def load_sparse(name: str) -> SparseDataset:
    """Sparse rows. The name is one of `SPARSE_NAMES`.

    - `"newsgroups"`: 20 Newsgroups, 18,846 rows of 130,107 features. Scikit-learn downloads it if the file is missing.
      Reading that file, a pickle, runs no code in it.
    - `"sentences-tfidf"`: the rated sentences of 3 domains; 6 classes, one per domain and sign.
    - `"a9a"`, `"w8a"`, `"ijcnn1"`: 48,842 rows of 123, 49,749 of 300 and 141,691 of 22 features in 2 classes, and
      `"covtype"`: 581,012 of 54 in 7. They are LIBSVM's files, `a9a.bz2` and `a9a.t.bz2`, `w8a.bz2`, `ijcnn1.bz2` and
      `ijcnn1.t.bz2`, `covtype.scale01.bz2`, in the folder `libsvm`, and are not downloaded.

    **Raises** `ValueError` for an unknown name. `DatasetError` for a damaged file, and if files are missing and
    cannot be downloaded; the message says which files to put where.
    """
    return _module(name, "sparse").load_sparse(name)


def load_fewshot(name: str) -> FewshotDataset:
    """Images for few-shot learning. The name is one of `FEWSHOT_NAMES`.

    - `"glyphs"`: letters of many scripts in many typefaces, which the package contains.
    - `"fc100"`, `"mini-imagenet"`: 100 classes of 600 color images of 32×32 and 84×84 pixels, from the usual three
      pickles in `$BILEVEL_DATA/<name>/` or in the user's cache. Reading a pickle runs no code in it.

    **Raises** `ValueError` for an unknown name. `DatasetError` for damaged or missing files; the message says which
    files to put where.
    """
    return _module(name, "few-shot").load(name)


def load_doubtful(name: str) -> DoubtfulDataset:
    """Rows with labels that people gave, some of them wrong, and the right ones. The name is one of `DOUBTFUL_NAMES`.

    - `"cifar-10n"`: the training images of CIFAR-10 with the labels of three people, of which 9 to 40 % are wrong. They
      are in the published file `CIFAR-10_human.pt`.
    - `"crowd-sentiment"`: 4,999 sentences judged by 203 people, and 3,999 that the crowd did not see.
    - `"mnist-errors"`, `"news-errors"`, `"cifar-10-errors"`: the test rows of these sets, some of which five
      people checked, from the published `mnist_mturk.json`, `20news_mturk.json` and `cifar10_mturk.json`.

    Files are read from `$BILEVEL_DATA/<name>/` (the last three from the folder `label-errors`), else from the user's
    cache. The images of CIFAR-10, and MNIST and 20 Newsgroups, are those of the sets of these names.

    **Raises** `ValueError` for an unknown name. `DatasetError` for damaged or missing files; the message says which
    files to put where.
    """
    return _module(name, "doubtful").load_doubtful(name)


def read(name: str) -> Dataset | TextDataset | SparseDataset | FewshotDataset | DoubtfulDataset:
    """Any data set, by the loader of its kind."""
    checks.one_of("dataset", name, KINDS)
    return globals()[_SETS[KINDS[name]][0]](name)


def card(name: str) -> Card:
    """What is known about a data set without reading the user's files.

    If the number of rows depends on the user's files, this card has 0 rows and no splits. The card of a loaded data
    set has both.

    Example:

        >>> from bilevel import datasets
        >>> dict(datasets.card("newsgroups").splits)
        {'train': 11314, 'test': 7532}
    """
    module = _module(name)
    return module.CARDS[name] if hasattr(module, "CARDS") else module.load(name).card


def find(name: str) -> Path | None:
    """The folder that contains a set's files, in `$BILEVEL_DATA` or in the user's cache, or None if neither has them.

    It is also None for the sets of `BUILT_IN`, which need no file.
    """
    if name in BUILT_IN:
        return None
    extras.require("pooch", extra="datasets")
    try:
        found = _module(name).FILES[name].find()
    except DatasetError:  # only some of the files: the loader says which
        return None
    return found[0].parent if found else None


def _module(name: str, kind: str | None = None) -> Any:
    """The module that loads this data set. If a kind is given, the set must be of that kind."""
    known = _SETS[kind][1] if kind else KINDS
    if name in KINDS and name not in known:
        actual = KINDS[name]
        raise ValueError(f"dataset: {name!r} is of another kind ({actual}); load it by datasets.{_SETS[actual][0]}")
    checks.one_of("dataset", name, known)
    if kind and name not in _PACKAGED:
        extras.require("pooch", "sklearn", extra="datasets")
    return importlib.import_module(f"bilevel.datasets.{_SETS[KINDS[name]][1][name]}")
