"""Files in the idx format of the handwritten digits, compressed by gzip."""

import gzip
import hashlib
import io
import zlib
from pathlib import Path

import numpy as np

from bilevel.datasets.base import DatasetError

_MOST_BYTES = 64_000_000  # the largest published content has 47 million
_TYPES = {8: ">u1", 12: ">i4"}


def read(path: Path, md5: str, *, of_content: bool = False) -> np.ndarray:
    """The array in a file whose MD5 sum is published: the sum of the compressed file, or of its content.

    The content is two zeros, the type (bytes or 32-bit integers), the number of axes, their lengths, and the data. All
    numbers are big-endian.

    **Raises** `DatasetError` for a damaged file and for a wrong sum.
    """
    compressed = path.read_bytes()
    try:
        with gzip.open(io.BytesIO(compressed)) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes of content")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"{path}: not a whole gzip file ({error}); get the published file again") from error
    found = hashlib.md5(content if of_content else compressed, usedforsecurity=False).hexdigest()
    if found != md5:
        whose = "its content's MD5" if of_content else "its MD5"
        raise DatasetError(f"{path}: {whose} is {found}, the published one is {md5}; get the published file again")
    try:
        kind, axes = content[2:4]
        shape = np.frombuffer(content, ">u4", count=axes, offset=4)
        return np.frombuffer(content, _TYPES[kind], offset=4 + 4 * axes).reshape(shape)
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{path}: not an idx file ({error}); get the published file again") from error
