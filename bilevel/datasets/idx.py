"""Files in the idx format of the handwritten digits, compressed by gzip, with their MD5 sums."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from bilevel.datasets.base import DatasetError

_TYPES = {8: ">u1", 12: ">i4"}


def read(path: Path, *, file_md5: str = "", content_md5: str = "") -> np.ndarray:
    """Two zeros, the type (bytes or 32-bit integers), the number of axes, their lengths, the data; all big-endian.

    The sum is that of the compressed file or that of what it holds, whichever of the two is published.

    **Raises** `DatasetError` for a torn file and for a wrong sum.
    """
    compressed = path.read_bytes()
    try:
        content = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    if file_md5 and md5(compressed) != file_md5:
        raise DatasetError(f"{path}: its MD5 is {md5(compressed)}, the published one is {file_md5}; fetch it again")
    if content_md5 and md5(content) != content_md5:
        raise DatasetError(
            f"{path}: its content's MD5 is {md5(content)}, the published one is {content_md5}; fetch it again"
        )
    kind, axes = content[2:4]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, _TYPES[kind], offset=4 + 4 * axes).reshape(shape)


def md5(content: bytes | memoryview) -> str:
    """The MD5 sum of some bytes."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
