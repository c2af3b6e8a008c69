"""The pickles' reader: what it refuses; what it reads is in test_fewshot."""

import pickle

import pytest

from bilevel import datasets
from bilevel.datasets import pickles


def test_a_dotted_name_is_refused(tmp_path):
    path = tmp_path / "dotted.pickle"
    path.write_bytes(b"\x80\x04\x8c\x08builtins\x8c\x0elist.__class__\x93.")
    assert pickle.loads(path.read_bytes()) is type
    with pytest.raises(datasets.DatasetError, match="refused"):
        pickles.read(path)
