"""From texts to numbers: a vocabulary, rows of tokens, word vectors from a file or from the texts."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int32

from bilevel import _checks as checks

PADDING, UNKNOWN = 0, 1  # the tokens for no word, and for a word that is not in the vocabulary
_RESERVED = {"<padding>": PADDING, "<unknown>": UNKNOWN}
_WORD = re.compile(r"\w+(?:'\w+)*|[!?]+|[:;=]-?(?:[)(|]|[dp]\b)")


def split(text: str) -> list[str]:
    """The words of a text, in lower case.

    A word is a run of letters, digits and underscores, with apostrophes inside it; a run of ! or ?; or a simple
    emoticon such as :-) or =D, which ends in ( ) | D or P. All other characters separate words.

    Example:

        >>> from bilevel.datasets import words
        >>> words.split("Don't panic!! (It's fine :-)")
        ["don't", 'panic', '!!', "it's", 'fine', ':-)']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """The most frequent words of some texts, each with its token: at most `size` tokens in all.

    Token 0 is padding and token 1 is any word not in the vocabulary. The other words are in order of decreasing
    frequency; words of equal frequency are in alphabetical order.

    **Raises** `ValueError` or `TypeError` for a size below 3.

    Example:

        >>> from bilevel.datasets import words
        >>> words.vocabulary(["a rose is a rose", "a nose"], 4)
        {'<padding>': 0, '<unknown>': 1, 'a': 2, 'rose': 3}
    """
    checks.count("size", size, least=3)
    counts = Counter(word for text in texts for word in split(text))
    common = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(_RESERVED)]
    return _RESERVED | {word: token for token, word in enumerate(common, len(_RESERVED))}


def encode(texts: Sequence[str], vocabulary: Mapping[str, int], length: int) -> Int32[np.ndarray, "n length"]:
    """Each text as a row of tokens: its first `length` words, padded at the end.

    **Raises** `ValueError` or `TypeError` for a length below 1.

    Example:

        >>> from bilevel.datasets import words
        >>> words.encode(["a nose is a rose", "rose"], {"<padding>": 0, "<unknown>": 1, "a": 2, "rose": 3}, 4)
        array([[2, 1, 1, 2],
               [3, 0, 0, 0]], dtype=int32)
    """
    checks.count("length", length)
    rows = np.full((len(texts), length), PADDING, np.int32)
    for row, text in zip(rows, texts, strict=True):
        tokens = [vocabulary.get(word, UNKNOWN) for word in split(text)[:length]]
        row[: len(tokens)] = tokens
    return rows


_WINDOW = 5  # words to each side that count as near
_SMOOTHING = 0.75  # a frequent word near another tells less than its frequency says


def learn_vectors(
    texts: Iterable[str], vocabulary: Mapping[str, int], dimension: int
) -> Float32[np.ndarray, "vocabulary dimension"]:
    """Vectors of a vocabulary's words, from the words that stand near them in some texts.

    With the positive part of the pointwise mutual information of two words at most 5 apart,

        P_ab = max(0, log( n_ab Σ_c n_c^0.75 / (n_a n_b^0.75) )),

    the vectors are the rows of U √S, where U S Vᵀ is the truncated singular value decomposition of P; they are scaled
    to mean square 1. Padding has the vector 0, and the unknown word the mean of all. Labels play no part.

    **Raises** `ValueError` or `TypeError` for a dimension below one, or above the number of words.

    Example:

        >>> from bilevel.datasets import words
        >>> texts = ["a fine day", "a sad day", "a fine evening", "a sad evening"]
        >>> known = words.vocabulary(texts, 10)
        >>> vectors = words.learn_vectors(texts, known, 3)
        >>> vectors.shape
        (7, 3)

    Reference: Levy, Goldberg & Dagan, "Improving Distributional Similarity with Lessons Learned from Word Embeddings",
    TACL 2015.
    """
    import scipy.sparse
    from sklearn.decomposition import TruncatedSVD

    size = max(vocabulary.values()) + 1
    checks.count("dimension", dimension)
    if dimension > size - len(_RESERVED):
        known = size - len(_RESERVED)
        raise ValueError(f"dimension: got {dimension} for {known} words; pass at most that, or a larger vocabulary")
    tokens = [PADDING]
    for text in texts:
        tokens += [vocabulary.get(word, UNKNOWN) for word in split(text)] + [PADDING] * _WINDOW
    sequence, counts = np.array(tokens, np.int32), scipy.sparse.csr_matrix((size, size))
    for apart in range(1, _WINDOW + 1):
        one, other = sequence[:-apart], sequence[apart:]
        words = (one >= len(_RESERVED)) & (other >= len(_RESERVED))
        counts = counts + scipy.sparse.csr_matrix((np.ones(words.sum()), (one[words], other[words])), (size, size))
    found = (counts + counts.T).tocoo()
    if not found.nnz:
        raise ValueError("texts: no two words of the vocabulary stand near each other; pass longer texts")
    each = np.bincount(found.row, found.data, size)
    smoothed = each**_SMOOTHING
    information = np.log(found.data * smoothed.sum() / (each[found.row] * smoothed[found.col]))
    positive = scipy.sparse.csr_matrix((np.maximum(information, 0), (found.row, found.col)), (size, size))
    decomposition = TruncatedSVD(dimension, random_state=0).fit(positive)
    scale = np.sqrt(np.maximum(decomposition.singular_values_, np.finfo(np.float64).tiny))
    vectors = decomposition.transform(positive) / scale
    vectors /= np.sqrt(np.mean(vectors[len(_RESERVED) :] ** 2))
    vectors[UNKNOWN] = vectors[len(_RESERVED) :].mean(axis=0)
    vectors[PADDING] = 0
    return vectors.astype(np.float32)


def read_vectors(
    path: str | os.PathLike[str], vocabulary: Mapping[str, int]
) -> Float32[np.ndarray, "vocabulary dimension"]:
    """The vectors of a vocabulary's words, from a file in GloVe's text format: each line has a word and its numbers.

    Padding has the vector 0. Words that are not in the file, and the unknown word, have the mean of the vectors found.
    Lines of other words are skipped; their numbers are not read.

    **Raises** `ValueError`, which names the line, for a number that cannot be read and for a line of another length;
    also for a file with no word of the vocabulary, or not in UTF-8. `OSError` for a file that cannot be opened.

    Example:

        >>> import pathlib, tempfile
        >>> from bilevel.datasets import words
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "vectors.txt"
        >>> _ = path.write_text("a 0.5 1\\nrose -1 2\\n")
        >>> words.read_vectors(path, words.vocabulary(["a rose", "a nose"], 10)).tolist()
        [[0.0, 0.0], [-0.25, 1.5], [0.5, 1.0], [-0.25, 1.5], [-1.0, 2.0]]
    """
    found: dict[int, np.ndarray] = {}
    width = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(_lines(file, path), 1):
            word, *numbers = line.rstrip("\r\n").split(" ")
            width = len(numbers) if width is None else width
            if len(numbers) > width and not _is_number(numbers[0]):
                continue  # a few words in GloVe's largest file contain spaces; no word of a vocabulary does
            if len(numbers) != width or width == 0:
                others = f", but line 1 has {width}" if number > 1 else "; each line must be a word and its numbers"
                raise ValueError(f"{path}, line {number}: has {len(numbers)} numbers after the word{others}")
            token = vocabulary.get(word, UNKNOWN)
            if token not in _RESERVED.values():
                found[token] = _vector(numbers, f"{path}, line {number}")
    if not found or width is None:
        raise ValueError(f"{path}: contains no word of the vocabulary; pass word vectors of the same language")
    vectors = np.empty((max(vocabulary.values()) + 1, width), np.float32)
    vectors[:] = np.mean(list(found.values()), axis=0)
    vectors[PADDING] = 0
    vectors[list(found)] = list(found.values())
    return vectors


def _lines(file: Iterable[str], path: str | os.PathLike[str]) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vector(numbers: list[str], where: str) -> np.ndarray:
    try:
        vector = np.array(numbers, np.float32)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; each line must be a word and its numbers, with single spaces") from None
    if not np.isfinite(vector).all():
        raise ValueError(f"{where}: contains a number that is not finite")
    return vector
