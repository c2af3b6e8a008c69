"""Rated sentences of three domains: as texts, and as sparse TF-IDF features."""

from pathlib import Path

import numpy as np

from bilevel.datasets.base import Card, DatasetError, SparseDataset, TextDataset
from bilevel.datasets.files import Files, check_splits

_FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
}
_ALL = Files("sentences", (tuple(_FILES.values()),))
_DOMAINS = {"sentences": ("tweets", "amazon", "films"), "tweets": ("tweets",)}
_LEAST_RATING = 0.5
_TEST_EVERY = 5
_ROWS = {"tweets": 3_432, "amazon": 2_985, "films": 10_072}  # with a rating of at least ±0.5
_LICENSE = "MIT; the texts are third parties'"
_SOURCE = "Hutto & Gilbert (2014), VADER, ICWSM: the sentences it was rated on"

CARDS = {
    "sentences": Card("sentences", sum(_ROWS.values()), 2, _ROWS, _LICENSE, _SOURCE),
    "tweets": Card("tweets", _ROWS["tweets"], 2, {"tweets": _ROWS["tweets"]}, _LICENSE, _SOURCE),
    "sentences-tfidf": Card(
        "sentences-tfidf", sum(_ROWS.values()), 6, {"train": 13_214, "test": 3_275}, _LICENSE, _SOURCE
    ),
}
FILES = {
    "sentences": _ALL,
    "tweets": Files("sentences", ((_FILES["tweets"],),)),
    "sentences-tfidf": _ALL,
}


def load(name: str) -> TextDataset:
    """`"sentences"` or `"tweets"`: lines of an id, a mean rating from −4 to 4 and the sentence, between tabs.

    The label is 1 for a rating ≥ 0.5 and 0 for one ≤ −0.5; the others are left out. The published files are in a
    folder `sentences`, for both names. Sentences of one Amazon review (`<review>_<sentence>`) are one group.
    No sums are published; the numbers of rows are checked.
    """
    domains = _DOMAINS[name]
    paths = FILES[name].need()
    parts = [_read(path) for path in paths]
    check_splits(CARDS[name], {domain: len(part) for domain, part in zip(domains, parts, strict=True)})
    rows = [(i, *row) for i, part in enumerate(parts) for row in part]
    groups = {(i, group): None for i, group, _, _ in rows}
    numbers = {group: number for number, group in enumerate(groups)}
    return TextDataset(
        texts=tuple(text for *_, text in rows),
        labels=np.array([rating > 0 for _, _, rating, _ in rows], np.int32),
        domains=np.array([i for i, *_ in rows], np.int32),
        domain_names=domains,
        groups=np.array([numbers[i, group] for i, group, _, _ in rows], np.int32),
        classes=2,
        card=CARDS[name],
    )


def _read(path: Path) -> list[tuple[str, float, str]]:
    """Group, rating and sentence of each clearly rated line."""
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            identity, rating, text = line.split("\t", 2)
            if abs(float(rating)) >= _LEAST_RATING:
                rows.append((identity.partition("_")[0], float(rating), text.strip()))
        except ValueError:
            raise DatasetError(
                f"{path}, line {number}: {line[:60]!r} is not an id, a rating and a sentence between tabs"
            ) from None
    return rows


def load_sparse(name: str) -> SparseDataset:
    """`"sentences-tfidf"`: words with their TF-IDF weights; the classes are 2 · domain + sign.

    The split is fixed: in the order of the files, every fifth group is for testing. Vocabulary and document
    frequencies come from the training rows alone: words (two letters or more, in lower case) that two of them hold.
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = load("sentences")
    train = texts.groups % _TEST_EVERY != _TEST_EVERY - 1
    order = np.argsort(~train, kind="stable")
    train_rows = int(train.sum())
    check_splits(CARDS[name], {"train": train_rows, "test": len(train) - train_rows})
    ordered = [texts.texts[row] for row in order]
    vectorizer = TfidfVectorizer(min_df=2).fit(ordered[:train_rows])
    return SparseDataset(
        features=scipy.sparse.csr_matrix(vectorizer.transform(ordered), dtype=np.float32),
        labels=(2 * texts.domains + texts.labels)[order],
        classes=6,
        train_rows=train_rows,
        card=CARDS[name],
    )
