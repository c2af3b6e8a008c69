"""scikit-learn estimators: clean labels, tune thousands of penalties."""

from bilevel.estimators._cleaner import LabelCleaner, NoTrustedRowsWarning
from bilevel.estimators._penalized import PenalizedLogistic, PenalizedRidge

__all__ = ["LabelCleaner", "NoTrustedRowsWarning", "PenalizedLogistic", "PenalizedRidge"]
