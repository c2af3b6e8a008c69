"""The glyphs as they come with the package: shapes, splits, look-alikes, licenses, and how hard they are."""

import csv
import pathlib

import numpy as np
import pytest

from bilevel.datasets import glyphs

FOLDER = pathlib.Path(glyphs.__file__).parent
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def dataset():
    return glyphs.load("glyphs")


@pytest.fixture(scope="module")
def stored():
    with np.load(FOLDER / "glyphs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def typefaces():
    with open(FOLDER / "glyphs_fonts.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parts(dataset):
    return dataset.train, dataset.validation, dataset.test


def test_shapes_and_values(dataset):
    for images in parts(dataset):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (20, 20, 20, 1)
        assert set(np.unique(images)) == {0, 255}


def test_sizes(dataset):
    train, validation, test = (len(images) for images in parts(dataset))
    assert train + validation + test >= 500
    assert (validation >= 60, test >= 100) == (True, True)
    assert (FOLDER / "glyphs.npz").stat().st_size < 500_000


def test_the_card(dataset):
    assert dataset.card.name == "glyphs"
    assert dataset.card.splits == dict(zip(SPLITS, map(len, parts(dataset)), strict=True))
    assert dataset.card.classes == sum(dataset.card.splits.values())
    assert dataset.card.rows == 20 * dataset.card.classes


def test_a_class_is_a_character_of_a_script_of_its_split(dataset, stored):
    characters = [character for split in SPLITS for character in stored[f"{split}_characters"]]
    assert len(set(characters)) == len(characters) == dataset.card.classes
    scripts = [set(stored[f"{split}_scripts"]) for split in SPLITS]
    assert [len(of_split) for of_split in scripts] == [7, 2, 3]
    assert len(set.union(*scripts)) == 12


def test_every_image_is_of_another_typeface(stored, typefaces):
    for split in SPLITS:
        numbers = stored[f"{split}_typefaces"]
        assert numbers.shape == stored[split].shape[:2]
        assert all(len(set(row)) == 20 for row in numbers)
        for row, script in zip(numbers, stored[f"{split}_scripts"], strict=True):
            assert all(script in typefaces[number]["scripts"].split() for number in row)


def test_typefaces_are_free_and_named_once(typefaces):
    assert len({typeface["typeface"] for typeface in typefaces}) == len(typefaces) >= 20
    for typeface in typefaces:
        assert typeface["license"] in ("OFL-1.1", "Apache-2.0")
        assert typeface["copyright"] and typeface["package"] and typeface["scripts"]
        assert "://" not in str(typeface) and "www." not in str(typeface)


def test_centered_and_of_one_size(dataset):
    images = np.concatenate(parts(dataset)).reshape(-1, 20, 20) > 0
    before = np.stack([images.any(axis).argmax(1) for axis in (1, 2)])
    after = np.stack([images.any(axis)[:, ::-1].argmax(1) for axis in (1, 2)])
    longer = (20 - before - after).max(0)
    assert longer.max() == 18 and longer.min() >= 15 and (longer >= 17).mean() > 0.98  # hairlines may end early
    assert (np.abs(before - after).max(0) <= 2).mean() > 0.99


def test_no_image_twice_in_a_class(dataset):
    for images in parts(dataset):
        for of_class in images.reshape(len(images), 20, -1) // 255:
            apart = (of_class[:, None] != of_class[None]).sum(-1)
            assert apart[~np.eye(20, dtype=bool)].min() > 6


def test_no_two_classes_are_alike(dataset):
    """Each image's best match in the other class, on average, in cosines of blurred images; the lower of both ways."""
    units = np.concatenate([blur(images[..., 0]) for images in parts(dataset)])
    means = units.mean(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    close = np.argwhere(np.triu(means @ means.T, 1) > 0.85)  # whose means differ more is far from the bound
    assert len(close) > 1000
    alike = []
    for one, other in close:
        cosines = units[one] @ units[other].T
        alike.append(min(cosines.max(0).mean(), cosines.max(1).mean()))
    assert 0.9 < max(alike) < 0.94


def blur(images):
    """(classes, 20, 20, 20) smoothed along both sides, as unit vectors (classes, 20, 400)."""
    images = (images > 0).astype(np.float32)
    for axis in (2, 3):
        images = (np.roll(images, 1, axis) + 2 * images + np.roll(images, -1, axis)) / 4
    flat = images.reshape(len(images), 20, -1)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True)


@pytest.mark.parametrize(("shots", "lowest", "highest"), [(1, 0.75, 0.88), (5, 0.9, 0.97)])
def test_five_ways_are_neither_trivial_nor_hopeless(dataset, shots, lowest, highest):
    """Nearest centroid and nearest neighbor in pixels, on test classes; chance is 0.2."""
    rng = np.random.default_rng(0)
    pixels = (dataset.test > 0).astype(np.float32).reshape(-1, 20, 400)
    scores = []
    for _ in range(300):
        classes = rng.choice(len(pixels), 5, replace=False)
        images = pixels[classes][:, rng.permutation(20)]
        known, queries = images[:, :shots], images[:, shots:].reshape(-1, 400)
        labels = np.repeat(np.arange(5), 20 - shots)
        centroid = ((queries[:, None] - known.mean(1)) ** 2).sum(-1)
        neighbor = ((queries[:, None, None] - known) ** 2).sum(-1).min(-1)
        scores.append([(distance.argmin(1) == labels).mean() for distance in (centroid, neighbor)])
    for mean in np.mean(scores, axis=0):
        assert lowest < mean < highest
