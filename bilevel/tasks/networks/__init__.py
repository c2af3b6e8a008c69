"""The small networks of the experiments: Equinox modules whose leaves are all floating arrays."""

from bilevel.tasks.networks.convnet import ConvNet
from bilevel.tasks.networks.textrnn import TextRNN

__all__ = ["ConvNet", "TextRNN"]
