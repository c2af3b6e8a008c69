"""MNIST and Fashion-MNIST, on small files in the published format; the real sets in slow tests."""

import dataclasses
import gzip
import hashlib
import os
import pathlib
import socket
import struct
import urllib.error

import numpy as np
import pytest
import sklearn.datasets

from bilevel import datasets
from bilevel.datasets import images

TRAIN, TEST = 6, 4


def idx(array):
    """The idx format of an array of bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    shapes = ((TRAIN, 28, 28), (TRAIN,), (TEST, 28, 28), (TEST,))
    return [rng.integers(0, 256 if len(shape) > 1 else 10, shape, dtype=np.uint8) for shape in shapes]


@pytest.fixture
def pixels(parts):
    return np.concatenate([parts[0], parts[2]]).reshape(TRAIN + TEST, 784)


@pytest.fixture
def labels(parts):
    return np.concatenate([parts[1], parts[3]])


@pytest.fixture
def world(empty_world, parts, pixels, labels, publish, monkeypatch):
    """Small sets under the published names, and no way to download."""
    publish(images, "mnist", splits={"train": TRAIN, "test": TEST})
    monkeypatch.setitem(images.SUMS, "mnist", tuple(md5(idx(part)) for part in parts))
    files = images.FILES["mnist"]
    download = dataclasses.replace(files.download, md5=md5(pixels.tobytes() + labels.tobytes()))
    monkeypatch.setitem(images.FILES, "mnist", dataclasses.replace(files, download=download))
    offer(monkeypatch, AssertionError("nothing should be downloaded here"))


@pytest.fixture
def cache(world, tmp_path):
    """The cached file."""
    return tmp_path / "cache" / "bilevel" / "mnist" / "rows.u8"


@pytest.fixture
def folder(world, parts, tmp_path, monkeypatch):
    """BILEVEL_DATA/mnist with its four files."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file, part in zip(images.IDX_FILES, parts, strict=True):
        (folder / file).write_bytes(gzip.compress(idx(part)))
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "data"))
    return folder


def offer(monkeypatch, result):
    """What `fetch_openml` gives: arrays, or an error."""

    def fetch(name, *, version, data_home, return_X_y, as_frame, parser):
        assert (name, version, return_X_y, as_frame) == ("mnist_784", 1, True, False)
        assert os.path.isdir(data_home)
        assert socket.getdefaulttimeout() is None  # a library leaves the other connections of a process alone
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)


def as_openml(pixels, labels):
    """Floating pixels and labels as text."""
    return pixels.astype(np.float64), labels.astype(str).astype(object)


def check(dataset, pixels, labels):
    assert (dataset.card.name, dataset.classes, dataset.train_rows) == ("mnist", 10, TRAIN)
    assert (dataset.features.dtype, dataset.labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(dataset.features, (pixels / 255).astype(np.float32))
    np.testing.assert_array_equal(dataset.labels, labels)


def test_reads_the_published_files(folder, pixels, labels):
    check(datasets.load("mnist"), pixels, labels)


def test_the_folder_goes_before_the_cache(folder, cache, pixels, labels):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"not even looked at")
    check(datasets.load("mnist"), pixels, labels)


@pytest.mark.parametrize("number", range(4))
def test_a_torn_file(folder, number):
    path = folder / images.IDX_FILES[number]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(datasets.DatasetError, match=f"{images.IDX_FILES[number]}: not a whole gzip file"):
        datasets.load("mnist")


@pytest.mark.parametrize("number", range(4))
def test_a_changed_byte(folder, parts, number):
    content = bytearray(idx(parts[number]))
    content[-1] ^= 1
    (folder / images.IDX_FILES[number]).write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(datasets.DatasetError, match=rf"{images.IDX_FILES[number]}.*MD5 is {md5(content)}"):
        datasets.load("mnist")


def test_a_missing_file(folder):
    (folder / images.IDX_FILES[1]).unlink()
    with pytest.raises(
        datasets.DatasetError,
        match=f"has no {images.IDX_FILES[1]}; put all of these files there: {images.IDX_FILES[0]}",
    ):
        datasets.load("mnist")


def test_a_download_is_announced_checked_and_kept(cache, pixels, labels, monkeypatch, told, capsys):
    offer(monkeypatch, as_openml(pixels, labels))
    check(datasets.load("mnist"), pixels, labels)
    announced = f"Downloading file 'rows.u8' from 'OpenML, about 15 MB' to '{cache.parent}'.\n"
    assert told.getvalue() == announced
    assert datasets.find("mnist") == cache.parent

    offer(monkeypatch, AssertionError("it is in the cache"))
    check(datasets.load("mnist"), pixels, labels)
    assert os.listdir(cache.parent) == ["rows.u8"]
    assert told.getvalue() == announced
    assert capsys.readouterr() == ("", "")


def test_another_set_is_refused_and_not_kept(cache, pixels, labels, monkeypatch):
    offer(monkeypatch, as_openml(pixels[::-1], labels))
    with pytest.raises(datasets.DatasetError, match="^mnist: .*could not be downloaded.*does not match the known hash"):
        datasets.load("mnist")
    assert os.listdir(cache.parent) == []


def test_a_download_that_breaks_off_leaves_nothing(cache, pixels, monkeypatch):
    offer(monkeypatch, (pixels, np.array(["no number"])))  # the pixels are written by then
    with pytest.raises(datasets.DatasetError, match="could not be downloaded"):
        datasets.load("mnist")
    assert os.listdir(cache.parent) == []


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    offer(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        datasets.load("mnist")
    assert os.listdir(cache.parent) == []


def test_a_cache_that_cannot_be_written(cache):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(datasets.DatasetError, match=f"could not be downloaded .*{cache.parent}"):
        datasets.load("mnist")


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), EOFError("torn"), ValueError("no such set")])
@pytest.mark.parametrize("root", [None, "elsewhere"])
def test_without_a_network(cache, monkeypatch, error, root):
    offer(monkeypatch, error)
    if root:
        monkeypatch.setenv("BILEVEL_DATA", root)
    with pytest.raises(datasets.DatasetError) as caught:
        datasets.load("mnist")
    message = str(caught.value)
    for part in (
        "BILEVEL_DATA",
        "'mnist'",
        *images.IDX_FILES,
        str(cache.parent),
        str(error),
        *([root] if root else []),
    ):
        assert part in message
    assert os.listdir(cache.parent) == []


@pytest.mark.parametrize("damage", [lambda rows: rows[:-9], lambda rows: b"", lambda rows: rows[::-1]])
def test_a_damaged_cache_is_downloaded_again(cache, pixels, labels, monkeypatch, told, damage):
    content = pixels.tobytes() + labels.tobytes()
    cache.parent.mkdir(parents=True)
    cache.write_bytes(damage(content))
    offer(monkeypatch, as_openml(pixels, labels))
    check(datasets.load("mnist"), pixels, labels)
    assert told.getvalue().startswith("Updating file 'rows.u8' from 'OpenML")
    assert cache.read_bytes() == content


def test_a_damaged_cache_stays_where_there_is_no_network(cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"damaged")
    offer(monkeypatch, urllib.error.URLError("no route"))
    with pytest.raises(datasets.DatasetError, match="no route"):
        datasets.load("mnist")
    assert cache.read_bytes() == b"damaged"
    assert os.listdir(cache.parent) == ["rows.u8"]


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the real data")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_sets(name):
    folder = pathlib.Path(os.environ["BILEVEL_DATA"]) / name
    if not folder.exists():
        pytest.skip(f"no {folder}")
    dataset = datasets.load(name)
    assert dataset.features.shape == (70_000, 784)
    assert (dataset.features.min(), dataset.features.max()) == (0.0, 1.0)
    assert dataset.train_rows == 60_000
    assert np.bincount(dataset.labels[60_000:]).sum() == 10_000
    np.testing.assert_array_equal(np.unique(dataset.labels), range(10))

    # the sum by which a download is checked is that of the same rows
    rows = np.rint(dataset.features * 255).astype(np.uint8), dataset.labels.astype(np.uint8)
    assert md5(rows[0].tobytes() + rows[1].tobytes()) == images.FILES[name].download.md5
