"""The idx format: what is no such file; what is read is in test_images."""

import gzip
import hashlib

import pytest

from bilevel.datasets import DatasetError, idx


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\0\0\7\1\0\0\0\1x", "not an idx file"),
        (b"\0\0\10\3\0\0", "not an idx file"),
        (b"\0\0\10\1\0\0\0\5x", "not an idx file"),
        (bytes(70_000_000), "not a whole gzip file .more than 64,000,000 bytes"),
    ],
    ids=["empty", "type", "axes", "length", "large"],
)
def test_what_is_no_idx_file(tmp_path, content, message):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DatasetError, match=f"x.gz: {message}"):
        idx.read(path, hashlib.md5(content).hexdigest(), of_content=True)
