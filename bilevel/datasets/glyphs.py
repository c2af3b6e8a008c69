"""Characters of twelve scripts in twenty typefaces each; the package contains them."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from bilevel.datasets.base import Card, FewshotDataset

_FILE = Path(__file__).parent / "glyphs.npz"
_SPLITS = ("train", "validation", "test")


def load(name: str) -> FewshotDataset:
    """`"glyphs"`: black-and-white images of 20×20 pixels, 255 for ink and 0 for paper; needs no network.

    A class is a character; its images are that character in 20 typefaces. The splits have no script in common:

    - train: Latin, Greek, Cyrillic, Hiragana, Katakana, Han and Hangul;
    - validation: Thai and Hebrew;
    - test: Devanagari, Arabic and Telugu.

    Characters that look alike, within a script or across scripts and splits, are one class. `glyphs_fonts.csv` in this
    folder lists the typefaces and their licenses. `scripts/make_glyphs.py` in the repository draws the images and
    states the rules.
    """
    with np.load(_FILE) as stored:
        parts = {split: _unpack(stored[split], int(stored["size"])) for split in _SPLITS}
    classes = {split: len(images) for split, images in parts.items()}
    per_class = parts["train"].shape[1]
    card = Card(
        name,
        rows=sum(classes.values()) * per_class,
        classes=sum(classes.values()),
        splits=classes,
        license="drawn with typefaces under the SIL OFL 1.1 or the Apache license 2.0",
        source="this package: characters of 12 scripts in free typefaces, listed in glyphs_fonts.csv",
    )
    return FewshotDataset(**parts, card=card)


def _unpack(packed: np.ndarray, size: int) -> UInt8[np.ndarray, "classes per_class size size 1"]:
    """The images from rows that store eight pixels per byte."""
    pixels = np.unpackbits(packed, axis=-1, count=size * size)
    return (255 * pixels).reshape(*packed.shape[:2], size, size, 1)
