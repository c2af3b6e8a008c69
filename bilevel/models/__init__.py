"""The small networks of the experiments: Equinox modules whose leaves are all floating arrays."""

from bilevel.models.convnet import ConvNet
from bilevel.models.textrnn import TextRNN

__all__ = ["ConvNet", "TextRNN"]
