"""scikit-learn estimators that clean labels and tune thousands of penalties."""

from bilevel import _extras as extras

extras.require("sklearn", extra="estimators")

from bilevel.estimators._cleaner import LabelCleaner, NoTrustedRowsWarning, RareClassWarning, WeakModelWarning
from bilevel.estimators._crowd import CrowdLabels, crowd_labels
from bilevel.estimators._penalized import PenalizedLogistic, PenalizedRidge

__all__ = [
    "CrowdLabels",
    "LabelCleaner",
    "NoTrustedRowsWarning",
    "PenalizedLogistic",
    "PenalizedRidge",
    "RareClassWarning",
    "WeakModelWarning",
    "crowd_labels",
]
