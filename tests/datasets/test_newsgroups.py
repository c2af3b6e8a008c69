"""20 Newsgroups, from a small file as scikit-learn keeps it."""

import codecs
import os
import pathlib
import pickle
import urllib.error
import zlib

import numpy as np
import pytest
import sklearn.datasets
from sklearn.utils import Bunch

from bilevel import datasets
from bilevel.datasets import newsgroups

TEXTS = {"train": ["apple pear", "pear pear plum", "apple"], "test": ["pear fig", "plum"]}
LABELS = {"apple pear": 0, "pear pear plum": 1, "apple": 2, "pear fig": 3, "plum": 4}


@pytest.fixture
def small(publish):
    return publish(newsgroups, "newsgroups", splits={"train": 3, "test": 2})


@pytest.fixture
def content():
    """What `sklearn.datasets.fetch_20newsgroups` keeps: a pickle of two bunches, compressed by zlib."""
    parts = {}
    for part, texts in TEXTS.items():
        names = np.array([f"{part}/{i}" for i in range(len(texts))])
        target = np.array([LABELS[text] for text in texts])
        parts[part] = Bunch(data=list(texts), target=target, filenames=names, target_names=list("abcde"))
    return codecs.encode(pickle.dumps(parts), "zlib_codec")


@pytest.fixture
def file(small, content, folder_of):
    path = folder_of("newsgroups") / "20news-bydate_py3.pkz"
    path.write_bytes(content)
    return path


def offer(monkeypatch, content, error=None):
    """A download that leaves this content, or as much of it before an error."""

    def fetch(*, data_home):
        (pathlib.Path(data_home) / "20news-bydate_py3.pkz").write_bytes(content)
        if error:
            raise error

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", fetch)


def test_reads_what_scikit_learn_keeps(file, small, capsys):
    for _ in range(2):
        dataset = datasets.load_sparse("newsgroups")
        assert (dataset.train_rows, dataset.classes, dataset.card) == (3, 20, small)
        assert dataset.features.format == "csr" and dataset.features.dtype == np.float32
        assert dataset.features.shape == (5, 3)  # "fig" is not in the training rows
        assert dataset.labels.dtype == np.int32
        rows = dict(zip(dataset.labels.tolist(), dataset.features.toarray(), strict=True))
        half, fifth = 0.5**0.5, 0.2**0.5
        expected = {0: [half, half, 0], 1: [0, 2 * fifth, fifth], 2: [1, 0, 0], 3: [0, 1, 0], 4: [0, 0, 1]}
        for label, row in expected.items():
            np.testing.assert_allclose(rows[label], row, rtol=1e-6)
        assert set(dataset.labels[:3].tolist()) == {0, 1, 2}
    assert capsys.readouterr().out == ""


def test_the_rows_are_those_of_scikit_learn(file):
    dataset = datasets.load_sparse("newsgroups")
    features, labels = sklearn.datasets.fetch_20newsgroups_vectorized(
        subset="all", data_home=str(file.parent), download_if_missing=False, return_X_y=True
    )
    np.testing.assert_array_equal(dataset.features.toarray(), features.toarray().astype(np.float32))
    np.testing.assert_array_equal(dataset.labels, labels)


def parts(**changes):
    part = {"data": ["a b", "c d"], "target": np.array([0, 1])} | changes
    return {"train": part, "test": part}


@pytest.mark.parametrize(
    "content",
    [
        b"no zlib",
        zlib.compress(pickle.dumps(parts()))[:-9],
        zlib.compress(b"\0" * 200_000_000),
        zlib.compress(pickle.dumps([1])),
        zlib.compress(pickle.dumps({"train": 1})),
        zlib.compress(pickle.dumps(parts(data=["a b", 3]))),
        zlib.compress(pickle.dumps(parts(target=[0, 1]))),
        zlib.compress(pickle.dumps(parts(target=np.array([[0], [1]])))),
    ],
    ids=lambda content: f"{len(content)}",
)
def test_a_damaged_file(file, content):
    file.write_bytes(content)
    with pytest.raises(datasets.DatasetError, match="20news-bydate_py3.pkz: (damaged .*delete it|not a whole pickle)"):
        datasets.load_sparse("newsgroups")


class Harm:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["20news-bydate_py3.pkz", "20newsgroup_vectorized_py3.pkl"])
def test_what_a_file_names_is_not_run(file, name, tmp_path):
    content = pickle.dumps(Harm(tmp_path / "trace"))
    (file.parent / name).write_bytes(zlib.compress(content) if name == file.name else content)
    if name == file.name:
        with pytest.raises(datasets.DatasetError, match="refused; it names more than NumPy arrays"):
            datasets.load_sparse("newsgroups")
    else:
        datasets.load_sparse("newsgroups")
    assert not (tmp_path / "trace").exists()
    pickle.loads(content)
    assert (tmp_path / "trace").exists()


def test_a_download_is_announced_and_kept(small, content, empty_world, tmp_path, monkeypatch, told, capsys):
    offer(monkeypatch, content)
    dataset = datasets.load_sparse("newsgroups")
    assert dataset.features.dtype == np.float32 and dataset.features.format == "csr"
    assert set(dataset.labels.tolist()) == set(range(5))
    cache = tmp_path / "cache" / "bilevel" / "newsgroups"
    said = f"Downloading file '20news-bydate_py3.pkz' from 'scikit-learn, about 14 MB' to '{cache}'.\n"
    assert (told.getvalue(), capsys.readouterr().out) == (said, "")

    offer(monkeypatch, b"", AssertionError("it is in the cache"))
    datasets.load_sparse("newsgroups")


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), EOFError("torn"), ValueError("no such set")])
def test_without_a_network(small, content, empty_world, tmp_path, monkeypatch, error):
    offer(monkeypatch, content[:50], error)
    with pytest.raises(datasets.DatasetError) as caught:
        datasets.load_sparse("newsgroups")
    for part in ("BILEVEL_DATA", "'newsgroups'", "20news-bydate_py3.pkz", "could not be downloaded", str(error)):
        assert part in str(caught.value)
    assert os.listdir(tmp_path / "cache" / "bilevel" / "newsgroups") == []


def test_another_number_of_rows(file, publish):
    publish(newsgroups, "newsgroups", splits={"train": 3, "test": 3})
    with pytest.raises(datasets.DatasetError, match="2 in the part 'test', where the published one has 3"):
        datasets.load_sparse("newsgroups")
