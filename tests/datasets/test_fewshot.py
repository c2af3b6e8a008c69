"""FC100 and miniImageNet, on small pickles in their format."""

import os
import pickle
import struct

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import fewshot

CLASSES = {"train": 3, "val": 1, "test": 2}
PER_CLASS = 4
FILE = {"fc100": "FC100_{}.pickle", "mini-imagenet": "mini-imagenet-cache-{}.pkl"}


def parts(name):
    """Of each part: images by class, and the stored form with its rows shuffled."""
    rng, side = np.random.default_rng(0), {"fc100": 32, "mini-imagenet": 84}[name]
    for part, classes in CLASSES.items():
        images = rng.integers(0, 256, (classes, PER_CLASS, side, side, 3), dtype=np.uint8)
        n = classes * PER_CLASS
        order = rng.permutation(n)
        rows = images.reshape(n, side, side, 3)[order]
        place = np.argsort(order).reshape(classes, PER_CLASS)  # where each image of a class went
        if name == "fc100":
            stored = {"data": rows, "labels": (order // PER_CLASS * 7 + 10).tolist()}
        else:
            stored = {"image_data": rows, "class_dict": {f"n{i}": place[i].tolist() for i in reversed(range(classes))}}
        yield part, images, stored


@pytest.fixture
def sizes(publish):
    for name in FILE:
        splits = dict(zip(("train", "validation", "test"), CLASSES.values(), strict=True))
        publish(fewshot, name, rows=6 * PER_CLASS, classes=6, splits=splits)


def write(folder, name, form):
    for part, _, stored in parts(name):
        (folder / FILE[name].format(part)).write_bytes(form(stored))


def by_class(images):
    """Each class's images in a fixed order, as the order inside a class does not matter."""
    flat = images.reshape(*images.shape[:2], -1)
    return np.stack([rows[np.lexsort(rows.T[:8])] for rows in flat])


def check(name):
    dataset = datasets.load_fewshot(name)
    assert dataset.card == datasets.card(name)
    for (_, images, _), loaded in zip(parts(name), (dataset.train, dataset.validation, dataset.test), strict=True):
        assert (loaded.dtype, loaded.shape) == (np.uint8, images.shape)
        np.testing.assert_array_equal(by_class(loaded), by_class(images))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", FILE)
def test_reads_the_usual_pickles(name, protocol, folder_of, sizes):
    write(folder_of(name), name, lambda stored: pickle.dumps(stored, protocol))
    check(name)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def python_2(stored):
    import io

    file = io.BytesIO()
    Python2Pickler(file, 2).dump({key.encode(): value for key, value in stored.items()})
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def bytes_keys(stored):
    return pickle.dumps({key.encode(): value for key, value in stored.items()})


@pytest.mark.parametrize("form", [python_2, bytes_keys])
@pytest.mark.parametrize("name", FILE)
def test_keys_of_bytes_and_pickles_of_python_2(name, form, folder_of, sizes):
    write(folder_of(name), name, form)
    check(name)


def test_labels_may_be_an_array(folder_of, sizes):
    write(folder_of("fc100"), "fc100", lambda stored: pickle.dumps(stored | {"labels": np.array(stored["labels"])}))
    check("fc100")


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "harm",
    [
        lambda trace: Calls(os.mkdir, trace),
        lambda trace: Calls(eval, f"__import__('os').mkdir({trace!r})"),
        lambda trace: Calls(getattr, [], "append"),
        lambda trace: Calls(np.save, trace, np.zeros(2)),
        lambda trace: Calls(open, trace, "w"),
    ],
    ids=["os", "eval", "getattr", "numpy", "open"],
)
def test_a_malicious_pickle_is_refused(harm, protocol, folder_of, sizes, tmp_path):
    folder, trace = folder_of("fc100"), tmp_path / "trace"
    write(folder, "fc100", lambda stored: pickle.dumps(stored | {"more": harm(str(trace))}, protocol))
    with pytest.raises(datasets.DatasetError, match=r"FC100_train.pickle: refused; .*more than NumPy arrays"):
        datasets.load_fewshot("fc100")
    assert not list(tmp_path.glob("trace*"))
    with open(folder / "FC100_train.pickle", "rb") as file:  # it would have done harm
        if protocol == 2 and harm(str(trace)).call[0] is os.mkdir:
            pickle.load(file)
            assert trace.exists()


@pytest.mark.parametrize("name", FILE)
def test_a_torn_pickle(name, folder_of, sizes):
    folder = folder_of(name)
    write(folder, name, lambda stored: pickle.dumps(stored)[:-5000])
    with pytest.raises(datasets.DatasetError, match=FILE[name].format("train")):
        datasets.load_fewshot(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: {"images": stored["data"]}, "not as published .*'data'"),
        (lambda stored: [1, 2], "not as published"),
        (lambda stored: stored | {"data": stored["data"][:, :16]}, "not as published .*shape"),
        (lambda stored: stored | {"data": stored["data"] / 255}, "not as published .*float64"),
        (lambda stored: {key: value[:-1] for key, value in stored.items()}, "not all classes have 4 images"),
    ],
)
def test_another_form(change, message, folder_of, sizes):
    write(folder_of("fc100"), "fc100", lambda stored: pickle.dumps(change(stored)))
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load_fewshot("fc100")


def test_rows_of_nowhere(folder_of, sizes):
    def form(stored):
        stored["class_dict"]["n0"][0] = 999
        return pickle.dumps(stored)

    write(folder_of("mini-imagenet"), "mini-imagenet", form)
    with pytest.raises(datasets.DatasetError, match="not as published .*out of bounds"):
        datasets.load_fewshot("mini-imagenet")


def test_parts_of_other_sizes(folder_of, sizes, publish):
    write(folder_of("fc100"), "fc100", pickle.dumps)
    publish(fewshot, "fc100", splits={"train": 3, "validation": 2, "test": 1})
    with pytest.raises(datasets.DatasetError, match="fc100: 1 in the part 'validation', where the published one has 2"):
        datasets.load_fewshot("fc100")
