"""The rated sentences, on small files in their format; the real ones in slow tests."""

import os
import pathlib

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import sentences

FILES = {
    "tweets_GroundTruth.txt": "1\t2.7\tSo lucky &amp; happy\r\n2\t-0.5\tmeh: a \ttab\r\n3\t0.49\tneutral\r\n",
    "amazonReviewSnippets_GroundTruth.txt": "1_1\t-0.9\tno picture .\r\n1_2\t0.5\tgood value.\r\n"
    "1_3\t-0.1\tneutral\r\n2_1\t-3\tjunk picture",
    "movieReviewSnippets_GroundTruth.txt": "1\t2.26666666667\tGood café film\r\n2\t-1.5\tjunk film\r\n",
}
ROWS = {"tweets": 2, "amazon": 3, "films": 2}


@pytest.fixture
def folder(folder_of, publish):
    folder = folder_of("sentences")
    for name, text in FILES.items():
        (folder / name).write_bytes(text.encode())
    publish(sentences, "sentences", rows=7, splits=ROWS)
    publish(sentences, "tweets", rows=2, splits={"tweets": 2})
    publish(sentences, "sentences-tfidf", rows=7, splits={"train": 6, "test": 1})
    return folder


def test_reads_the_published_files(folder):
    dataset = datasets.load_text("sentences")
    texts = ("So lucky &amp; happy", "meh: a \ttab", "no picture .", "good value.", "junk picture")
    assert dataset.texts == (*texts, "Good café film", "junk film")
    np.testing.assert_array_equal(dataset.labels, [1, 0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(dataset.domains, [0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(dataset.groups, [0, 1, 2, 2, 3, 4, 5])  # two sentences of one review
    assert dataset.labels.dtype == dataset.domains.dtype == dataset.groups.dtype == np.int32
    assert (dataset.domain_names, dataset.classes) == (("tweets", "amazon", "films"), 2)
    assert dataset.card == datasets.card("sentences")


def test_tweets_alone(folder):
    for name in list(FILES)[1:]:
        (folder / name).unlink()
    dataset = datasets.load_text("tweets")
    assert dataset.texts == ("So lucky &amp; happy", "meh: a \ttab")
    assert dataset.domain_names == ("tweets",)
    assert dataset.card.name == "tweets"


@pytest.mark.parametrize(
    "line", ["1\t2.0", "1\tmuch\ttext", "only text", "1\tnan\ttext", "1\tinf\ttext", "1\t-4.5\ttext"]
)
def test_a_line_of_another_form(folder, line):
    path = folder / "tweets_GroundTruth.txt"
    path.write_text(FILES[path.name] + line)
    with pytest.raises(datasets.DatasetError, match=r"tweets_GroundTruth.txt, line 4: .*is not an id, a rating"):
        datasets.load_text("tweets")


def test_another_encoding_is_named_with_the_file(folder):
    path = folder / "tweets_GroundTruth.txt"
    path.write_bytes(path.read_bytes() + b"4\t1.0\tcaf\xe9")
    with pytest.raises(datasets.DatasetError, match="tweets_GroundTruth.txt: not UTF-8 at byte"):
        datasets.load_text("tweets")


def test_a_torn_file(folder):
    path = folder / "movieReviewSnippets_GroundTruth.txt"
    path.write_text(FILES[path.name].splitlines()[0])
    with pytest.raises(datasets.DatasetError, match="1 in the part 'films', where the published one has 2"):
        datasets.load_text("sentences")


def test_tf_idf_of_the_training_rows(folder):
    dataset = datasets.load_sparse("sentences-tfidf")
    # the fifth group, the first film, is for testing; the others keep their order
    np.testing.assert_array_equal(dataset.labels, [1, 0, 2, 3, 2, 4, 5])
    assert (dataset.train_rows, dataset.classes, dataset.labels.dtype) == (6, 6, np.int32)
    # "junk" and "picture" are the words that two training rows hold; "film" and "good" are so with the test row only
    assert dataset.features.format == "csr" and dataset.features.dtype == np.float32
    half = np.sqrt(0.5)
    expected = [[0, 0], [0, 0], [0, 1], [0, 0], [half, half], [1, 0], [0, 0]]
    np.testing.assert_allclose(dataset.features.toarray(), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the real data")
def test_the_real_sentences():
    if not (pathlib.Path(os.environ["BILEVEL_DATA"]) / "sentences").exists():
        pytest.skip("no sentences")
    texts = datasets.load_text("sentences")
    np.testing.assert_array_equal(np.bincount(texts.domains), [3432, 2985, 10072])
    sparse = datasets.load_sparse("sentences-tfidf")
    assert sparse.features.shape[0] == 16489 and sparse.features.nnz < 0.01 * np.prod(sparse.features.shape)
    np.testing.assert_array_equal(np.bincount(sparse.labels // 2), [3432, 2985, 10072])

    from sklearn.naive_bayes import MultinomialNB

    train = slice(sparse.train_rows)
    model = MultinomialNB(alpha=0.3).fit(sparse.features[train], sparse.labels[train])
    score = model.score(sparse.features[sparse.train_rows :], sparse.labels[sparse.train_rows :])
    assert 0.65 < score < 0.85
