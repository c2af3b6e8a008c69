"""The Amazon reviews, on small folders and archives in their format."""

import io
import os
import tarfile
import time

import numpy as np
import pytest

from bilevel import datasets


def review(number, stars, text):
    """One review as in the release: not quite XML, each value on lines of its own."""
    return (
        f"<review>\n<unique_id>\nB{number}:title_&_more:a_reader\n</unique_id>\n<unique_id>\n{number}\n</unique_id>\n"
        f"<asin>\nB{number}\n</asin>\n<product_type>\nbooks\n</product_type>\n<helpful>\n1 of 2\n</helpful>\n"
        f"<rating>\n{stars}\n</rating>\n<title>\ntitle & more\n</title>\n<date>\n</date>\n"
        f"<review_text>\n{text}\n\n</review_text>\n</review>\n"
    ).encode("latin-1")


CONTENT = {
    "kitchen_&_housewares/positive.review": review(4, "4.0", "Good pan & lid"),
    "kitchen_&_housewares/negative.review": review(5, "2.0", "Rusty"),
    "books/positive.review": review(1, "5.0", "First\nand second line <b>") + review(1, "5.0", "The same id"),
    "books/negative.review": review(2, "1.0", "Café at £3"),  # not UTF-8
    "books/unlabeled.review": review(3, "3.0", "Neither") + review(6, "4.0", "Fine"),
    "books/all.review": review(1, "5.0", "Not to be read twice"),
    "stopwords": b"the\nand\n",
}


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "release"
    for name, content in CONTENT.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize(
    "form", ["sorted_data", "sorted_data_acl", "unprocessed.tar.gz", "domain_sentiment_data.tar.gz"]
)
def test_reads_the_release(form, release, folder_of, tmp_path):
    target = folder_of("amazon-reviews") / form
    if form.endswith("gz"):
        with tarfile.open(target, "w:gz") as archive:
            archive.add(release, "sorted_data_acl")
    else:
        release.rename(target)
    dataset = datasets.load_text("amazon-reviews")
    assert dataset.texts == (
        *("First\nand second line <b>", "The same id", "Café at £3", "Fine"),
        *("Good pan & lid", "Rusty"),
    )
    np.testing.assert_array_equal(dataset.labels, [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(dataset.domains, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.groups, [0, 0, 1, 2, 3, 4])
    assert dataset.labels.dtype == dataset.domains.dtype == dataset.groups.dtype == np.int32
    assert dataset.domain_names == ("books", "kitchen_&_housewares")
    assert (dataset.card.rows, dataset.card.splits) == (6, {"books": 4, "kitchen_&_housewares": 2})


@pytest.mark.parametrize("tag", ["unique_id", "rating", "review_text"])
def test_a_review_of_another_form(release, folder_of, tag):
    path = release / "books" / "negative.review"
    path.write_bytes(path.read_bytes() + path.read_bytes().replace(tag.encode(), b"other"))
    release.rename(folder_of("amazon-reviews") / "sorted_data")
    message = "sorted_data: books/negative.review, review 2: needs unique_id, rating and review_text"
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load_text("amazon-reviews")


def test_a_torn_archive(release, folder_of):
    target = folder_of("amazon-reviews") / "unprocessed.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        archive.add(release, "sorted_data")
    target.write_bytes(target.read_bytes()[:200])
    with pytest.raises(datasets.DatasetError, match="unprocessed.tar.gz: not a whole archive"):
        datasets.load_text("amazon-reviews")


def test_a_folder_without_reviews(folder_of):
    (folder_of("amazon-reviews") / "sorted_data" / "books").mkdir(parents=True)
    with pytest.raises(datasets.DatasetError, match="has no reviews; it needs one folder per domain"):
        datasets.load_text("amazon-reviews")


def archive_of(folder, *members):
    """An archive of members (name, type, target of a link or content)."""
    path = folder / "unprocessed.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                archive.addfile(member)
    return path


GOOD = ("books/positive.review", tarfile.REGTYPE, review(1, "5.0", "Fine"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["nothing", "negative.review", "books/negative.review", "/etc/passwd"])
def test_links_in_an_archive_are_not_followed(folder_of, kind, target):
    archive_of(folder_of("amazon-reviews"), GOOD, ("books/negative.review", kind, target))
    assert datasets.load_text("amazon-reviews").texts == ("Fine",)


def test_an_archive_that_holds_too_much(folder_of):
    path = archive_of(folder_of("amazon-reviews"), GOOD, ("books/other", tarfile.REGTYPE, bytes(20_000_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(datasets.DatasetError, match="holds more than 50 times its size"):
        datasets.load_text("amazon-reviews")


def test_an_archive_of_another_kind(folder_of):
    (folder_of("amazon-reviews") / "unprocessed.tar.gz").write_bytes(b"\xfd7zXZ\0" + bytes(100))
    with pytest.raises(datasets.DatasetError, match="not a whole archive"):
        datasets.load_text("amazon-reviews")


@pytest.mark.parametrize("tag", ["<review>", "<review><unique_id>", "<review>" + "<rating>" * 50])
def test_reviews_without_an_end_take_no_time(folder_of, tag):
    folder = folder_of("amazon-reviews") / "sorted_data" / "books"
    folder.mkdir(parents=True)
    (folder / "positive.review").write_bytes(tag.encode() * (2_000_000 // len(tag)))
    start = time.perf_counter()
    with pytest.raises(datasets.DatasetError, match="has no reviews"):
        datasets.load_text("amazon-reviews")
    (folder / "positive.review").write_bytes(b"<review>" + b"<rating>" * 200_000 + b"</review>")
    with pytest.raises(datasets.DatasetError, match="review 1: needs unique_id"):
        datasets.load_text("amazon-reviews")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("stars", ["nan", "inf", "-1", "0", "6", "five"])
def test_stars_are_from_one_to_five(folder_of, stars):
    archive_of(folder_of("amazon-reviews"), ("books/positive.review", tarfile.REGTYPE, review(1, stars, "Fine")))
    with pytest.raises(datasets.DatasetError, match="review 1: needs .* and 1 to 5 stars"):
        datasets.load_text("amazon-reviews")


def test_a_pipe_is_no_file(folder_of):
    os.mkfifo(folder_of("amazon-reviews") / "unprocessed.tar.gz")
    with pytest.raises(datasets.DatasetError, match="neither in"):
        datasets.load_text("amazon-reviews")
