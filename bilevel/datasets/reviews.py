"""Amazon reviews of Blitzer, Dredze & Pereira: stars and texts of up to 25 kinds of products."""

import dataclasses
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from bilevel.datasets.base import Card, DatasetError, TextDataset
from bilevel.datasets.files import Files

_PARTS = ("positive.review", "negative.review", "unlabeled.review")
_NEUTRAL = 3.0

CARDS = {
    "amazon-reviews": Card(
        "amazon-reviews",
        rows=0,
        classes=2,
        splits={},  # known once read: the release has one form with 4 domains and one with 25
        license="none stated; the texts are their authors'",
        source="Blitzer, Dredze & Pereira (2007), Biographies, Bollywood, boom-boxes and blenders, ACL",
    )
}
FILES = {
    "amazon-reviews": Files(
        "amazon-reviews",
        (("sorted_data",), ("unprocessed.tar.gz",), ("sorted_data_acl",), ("domain_sentiment_data.tar.gz",)),
    )
}


def load(name: str) -> TextDataset:
    """`"amazon-reviews"`: the unprocessed form, as folders or as the archive; a domain is a kind of product.

    A domain's folder holds `positive.review`, `negative.review` and, it may be, `unlabeled.review` (an `all.review`
    beside them repeats theirs and is not read): reviews between `<review>` tags, not quite XML, in Latin-1 or UTF-8.
    All of them have stars: the label is 1 for more than 3 and 0 for fewer; those with 3 are left out. The text is that
    of `review_text`; what has the same (first) `unique_id` is one group. No sums or numbers of rows are published; the
    card counts what was read, domain by domain.
    """
    (path,) = FILES[name].need()
    parts = {}
    for domain, part, content in _archived(path) if path.is_file() else _unpacked(path):
        parts[domain, part] = list(_parse(f"{path}: {domain}/{part}", content))
    domains = sorted({domain for domain, _ in parts})
    by_domain = {domain: [row for part in _PARTS for row in parts.get((domain, part), ())] for domain in domains}
    rows = [(i, *row) for i, domain in enumerate(domains) for row in by_domain[domain]]
    if not rows:
        raise DatasetError(f"{path}: no reviews in it; it needs folders, one a domain, with {', '.join(_PARTS)}")
    groups: dict[str, int] = {}
    splits = {domain: len(by_domain[domain]) for domain in domains}
    return TextDataset(
        texts=tuple(text for *_, text in rows),
        labels=np.array([stars > _NEUTRAL for _, _, stars, _ in rows], np.int32),
        domains=np.array([i for i, *_ in rows], np.int32),
        domain_names=tuple(domains),
        groups=np.array([groups.setdefault(group, len(groups)) for _, group, _, _ in rows], np.int32),
        classes=2,
        card=dataclasses.replace(CARDS[name], rows=len(rows), splits=splits),
    )


def _unpacked(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Domain, file and content of each part."""
    for domain in sorted(folder.iterdir()):
        for part in _PARTS:
            if (domain / part).exists():
                yield domain.name, part, (domain / part).read_bytes()


def _archived(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """The same from an archive; nothing is unpacked to the disk."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if place.name in _PARTS and (file := archive.extractfile(member)):
                    yield place.parent.name, place.name, file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: not a whole archive ({error}); fetch it again") from error


def _parse(where: str, content: bytes) -> Iterator[tuple[str, float, str]]:
    """Id, stars and text of each review that does not have three stars."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for number, review in enumerate(re.findall(r"<review>(.*?)</review>", text, re.DOTALL), 1):
        found = [
            re.search(rf"<{tag}>(.*?)</{tag}>", review, re.DOTALL) for tag in ("unique_id", "rating", "review_text")
        ]
        try:
            group, stars, text = (match[1].strip() for match in found if match)
            if float(stars) != _NEUTRAL:
                yield group, float(stars), text
        except ValueError:
            raise DatasetError(f"{where}, review {number}: needs unique_id, rating and review_text") from None
