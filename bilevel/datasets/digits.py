"""The handwritten digits that scikit-learn contains."""

import numpy as np

from bilevel.datasets.base import Card, Dataset

CARDS = {
    "digits": Card(
        "digits",
        rows=1_797,
        classes=10,
        splits={"all": 1_797},
        license="CC BY 4.0",
        source="Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI: its test part",
    )
}


def load(name: str) -> Dataset:
    """`"digits"`: 1,797 images of 8×8 pixels with 17 gray levels; needs no network."""
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    return Dataset(
        features=np.asarray(features, np.float32) / 16,
        labels=np.asarray(labels, np.int32),
        classes=10,
        train_rows=len(labels),
        card=CARDS[name],
    )
