"""CIFAR-10 and CIFAR-10N, on small files in their formats."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import cifar10

ROWS = 4
KEYS = ("clean_label", "aggre_label", "random_label1", "random_label2", "random_label3", "worse_label")


def batch(number, **changes):
    rng = np.random.default_rng(number)
    stored = {
        "batch_label": "a batch",
        "labels": rng.integers(0, 10, ROWS).tolist(),
        "data": rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8),
        "filenames": ["image.png"] * ROWS,
    }
    return stored | changes


@pytest.fixture
def images(folder_of, monkeypatch):
    """Writes batches by their names: 1 to 5, and 0 for the test batch."""
    monkeypatch.setattr(cifar10, "_BATCH_ROWS", ROWS)
    folder = folder_of("cifar-10")

    def write(*numbers, **changes):
        for number in numbers:
            name = f"data_batch_{number}" if number else "test_batch"
            stored = batch(number, **changes)
            (folder / name).write_bytes(pickle.dumps({key.encode(): value for key, value in stored.items()}, 2))

    return write


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4, 5, 0), (1, 0)])
def test_reads_the_published_pickles(numbers, images):
    images(*numbers)
    dataset = datasets.load("cifar-10")
    parts = [batch(number) for number in numbers]
    np.testing.assert_array_equal(
        dataset.features, (np.concatenate([part["data"] for part in parts]) / 255).astype(np.float32)
    )
    assert dataset.labels.tolist() == [label for part in parts for label in part["labels"]]
    assert (dataset.features.dtype, dataset.labels.dtype, dataset.classes) == (np.float32, np.int32, 10)
    train = ROWS * (len(numbers) - 1)
    assert dataset.train_rows == train
    assert (dataset.card.rows, dict(dataset.card.splits)) == (train + ROWS, {"train": train, "test": ROWS})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": np.zeros((ROWS, 3071), np.uint8)}, r"images of shape \(4, 3071\)"),
        ({"data": np.zeros((ROWS, 3072))}, "images that are no bytes"),
        ({"labels": [0] * (ROWS - 1)}, "and 3 labels"),
        ({"labels": [10] * ROWS}, "labels that are not 0 to 9"),
        ({"labels": None}, "not as published"),
    ],
)
def test_other_content(changes, error, images):
    images(1, 0, **changes)
    with pytest.raises(datasets.DatasetError, match=f"data_batch_1: not as published.*{error}|{error}"):
        datasets.load("cifar-10")


def people(clean, **changes):
    return {key: (clean + i) % 10 for i, key in enumerate(KEYS)} | changes


def torch_file(path, stored):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(stored, 2))
        archive.writestr("archive/version", "3\n")


@pytest.fixture
def clean(images, publish):
    images(1, 0)
    publish(cifar10, "cifar-10n", splits={"doubtful": 5 * ROWS, "right": ROWS})
    return np.resize(np.array(batch(1)["labels"]), 5 * ROWS)


@pytest.mark.parametrize("file", ["CIFAR-10_human.pt", "CIFAR-10N.npz"])
def test_the_labels_of_people(file, clean, folder_of):
    path = folder_of("cifar-10n") / file
    if path.suffix == ".pt":
        torch_file(path, people(clean))
    else:
        np.savez(path, **people(clean))
    data = datasets.load_doubtful("cifar-10n")
    assert list(data.given) == ["aggregate", "random 1", "random 2", "random 3", "worst"]
    for i, labels in enumerate(data.given.values(), 1):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, (clean[:ROWS] + i) % 10)
    assert data.labels.tolist() == batch(1)["labels"] + batch(0)["labels"]
    assert data.checked.all() and len(data.checked) == ROWS
    assert (data.card.rows, dict(data.card.splits)) == (2 * ROWS, {"doubtful": ROWS, "right": ROWS})


def test_labels_of_other_images(clean, folder_of):
    torch_file(folder_of("cifar-10n") / "CIFAR-10_human.pt", people((clean + 1) % 10))
    with pytest.raises(datasets.DatasetError, match="clean_label` are not those of CIFAR-10"):
        datasets.load_doubtful("cifar-10n")


@pytest.mark.parametrize("change", [{"aggre_label": np.zeros(3, int)}, {"aggre_label": np.full(5 * ROWS, 10)}])
def test_labels_that_are_not_as_published(change, clean, folder_of):
    torch_file(folder_of("cifar-10n") / "CIFAR-10_human.pt", people(clean, **change))
    with pytest.raises(datasets.DatasetError, match="CIFAR-10_human.pt: not as published.*aggre_label"):
        datasets.load_doubtful("cifar-10n")


@pytest.mark.parametrize("file", ["CIFAR-10_human.pt", "CIFAR-10N.npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_file(file, content, clean, folder_of):
    (folder_of("cifar-10n") / file).write_bytes(content)
    with pytest.raises(datasets.DatasetError, match=f"{file}: not as published"):
        datasets.load_doubtful("cifar-10n")


def test_no_code_of_the_file_is_run(clean, folder_of, tmp_path):
    class Harm:
        def __reduce__(self):
            return (io.open, (str(tmp_path / "harm"), "w"))

    torch_file(folder_of("cifar-10n") / "CIFAR-10_human.pt", people(clean, aggre_label=Harm()))
    with pytest.raises(datasets.DatasetError, match="refused"):
        datasets.load_doubtful("cifar-10n")
    assert not (tmp_path / "harm").exists()
