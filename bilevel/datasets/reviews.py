"""Amazon reviews, collected by Blitzer, Dredze & Pereira: stars and texts for up to 25 kinds of products."""

import dataclasses
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bilevel.datasets.base import Card, DatasetError, TextDataset, text_dataset
from bilevel.datasets.files import Files

_PARTS = ("positive.review", "negative.review", "unlabeled.review")
_NEUTRAL = 3.0
_RATIO, _ALLOWANCE = 50, 1_000_000  # texts become 3 to 10 times shorter; an archive that holds more is not one of them

CARDS = {
    "amazon-reviews": Card(
        "amazon-reviews",
        rows=0,
        classes=2,
        splits={},  # known after reading: the release has one form with 4 domains and one with 25
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

    The folder of a domain contains `positive.review`, `negative.review` and sometimes `unlabeled.review`. If there is
    an `all.review`, it repeats their reviews and is not read. Reviews are between `<review>` tags, in Latin-1 or UTF-8;
    the files are not valid XML. Each review has stars, in all three files: the label is 1 for more than 3 and 0 for
    fewer; reviews with 3 are left out. The text is that of `review_text`. Reviews with the same (first) `unique_id`
    are one group. No checksums or numbers of rows are published; the card has the number of rows read per domain.
    """
    (path,) = FILES[name].need()
    parts = {}
    for domain, part, content in _archived(path) if path.is_file() else _unpacked(path):
        parts[domain, part] = list(_parse(f"{path}: {domain}/{part}", content))
    domains = sorted({domain for domain, _ in parts})
    by_domain = {domain: [row for part in _PARTS for row in parts.get((domain, part), ())] for domain in domains}
    rows = [(i, *row) for i, domain in enumerate(domains) for row in by_domain[domain]]
    if not rows:
        raise DatasetError(f"{path}: has no reviews; it needs one folder per domain, with {', '.join(_PARTS)}")
    splits = {domain: len(by_domain[domain]) for domain in domains}
    return text_dataset(rows, domains, dataclasses.replace(CARDS[name], rows=len(rows), splits=splits))


def _unpacked(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Domain, file name and content of each part of each domain."""
    for domain in sorted(folder.iterdir()):
        for part in _PARTS:
            if (domain / part).is_file():
                yield domain.name, part, (domain / part).read_bytes()


def _archived(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """The same from an archive, without writing anything to the disk. Links in it are not followed."""
    total, most = 0, _RATIO * path.stat().st_size + _ALLOWANCE
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                total += member.size
                if total > most:
                    raise DatasetError(
                        f"{path}: holds more than {_RATIO} times its size, which texts do not; get the published file "
                        "again"
                    )
                place = PurePosixPath(member.name)
                if place.name in _PARTS and member.isreg() and (file := archive.extractfile(member)):
                    yield place.parent.name, place.name, file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError) as error:
        raise DatasetError(f"{path}: not a whole archive ({error}); get the published file again") from error


def _parse(where: str, content: bytes) -> Iterator[tuple[str, int, str]]:
    """Id, label and text of each review that does not have three stars."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for number, review in enumerate(_elements(text, "review"), 1):
        first = [next(_elements(review, tag), None) for tag in ("unique_id", "rating", "review_text")]
        try:
            group, stars, content_of = (found.strip() for found in first if found is not None)
            if not 1 <= float(stars) <= 5:
                raise ValueError
        except ValueError:
            raise DatasetError(
                f"{where}, review {number}: needs unique_id, rating and review_text, and 1 to 5 stars"
            ) from None
        if float(stars) != _NEUTRAL:
            yield group, int(float(stars) > _NEUTRAL), content_of


def _elements(text: str, tag: str) -> Iterator[str]:
    """What stands between a tag and its next end, again and again. The time is linear in the text."""
    opening, closing, end = f"<{tag}>", f"</{tag}>", 0
    while (start := text.find(opening, end)) >= 0 and (end := text.find(closing, start)) >= 0:
        yield text[start + len(opening) : end]
