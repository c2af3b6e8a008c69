"""scikit-learn estimators: clean labels, tune thousands of penalties."""

from bilevel.estimators.cleaner import LabelCleaner, NoTrustedRowsWarning
from bilevel.estimators.penalized import PenalizedLogistic, PenalizedRidge

__all__ = ["LabelCleaner", "NoTrustedRowsWarning", "PenalizedLogistic", "PenalizedRidge"]
