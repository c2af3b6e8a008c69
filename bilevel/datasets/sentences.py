"""Rated sentences of three domains: as texts, and as sparse TF-IDF features."""

from pathlib import Path

import numpy as np

from bilevel.datasets.base import Card, DatasetError, SparseDataset, TextDataset, text_dataset
from bilevel.datasets.files import Files, check_splits

_FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
}
_ALL = Files("sentences", (tuple(_FILES.values()),))
_DOMAINS = {"sentences": ("tweets", "amazon", "films"), "tweets": ("tweets",)}
_LEAST_RATING, _MOST_RATING = 0.5, 4.0
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
    """`"sentences"` or `"tweets"`: each line has an id, a mean rating from −4 to 4 and a sentence, separated by tabs.

    The label is 1 for a rating ≥ 0.5 and 0 for a rating ≤ −0.5; other sentences are left out. For both names the
    published files are in a folder `sentences`. Sentences of one Amazon review (id `<review>_<sentence>`) are one
    group. No checksums are published; the numbers of rows are checked.
    """
    domains = _DOMAINS[name]
    paths = FILES[name].need()
    parts = [_read(path) for path in paths]
    check_splits(CARDS[name], {domain: len(part) for domain, part in zip(domains, parts, strict=True)})
    rows = [(i, (i, group), int(rating > 0), text) for i, part in enumerate(parts) for group, rating, text in part]
    return text_dataset(rows, domains, CARDS[name])


def _read(path: Path) -> list[tuple[str, float, str]]:
    """Group, rating and sentence of each line whose rating is at least ±0.5."""
    rows = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 at byte {error.start}; get the published file again") from error
    for number, line in enumerate(lines, 1):
        try:
            identity, rating, text = line.split("\t", 2)
            if not abs(float(rating)) <= _MOST_RATING:
                raise ValueError
            if abs(float(rating)) >= _LEAST_RATING:
                rows.append((identity.partition("_")[0], float(rating), text.strip()))
        except ValueError:
            raise DatasetError(
                f"{path}, line {number}: {line[:60]!r} is not an id, a rating (-4 to 4) and a sentence, separated "
                "by tabs"
            ) from None
    return rows


def load_sparse(name: str) -> SparseDataset:
    """`"sentences-tfidf"`: one TF-IDF weight per word; the classes are 2 · domain + sign.

    The split is fixed: in the order of the files, every fifth group is for testing. The vocabulary and the document
    frequencies come only from the training rows: words of two or more letters, in lower case, that at least two
    training rows contain.
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
