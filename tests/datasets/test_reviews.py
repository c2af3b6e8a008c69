"""The Amazon reviews, on small folders and archives in their format."""

import tarfile

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
