"""Words, tokens and word vectors."""

import numpy as np
import pytest

from bilevel.datasets import words

KNOWN = words.vocabulary(["the the the cat sat", "the cat"], 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The CAT sat, (on) the-mat.", ["the", "cat", "sat", "on", "the", "mat"]),
        ("don't ’quoted’ rock'n'roll it’s", ["don't", "quoted", "rock'n'roll", "it's"]),
        ("wow!!! what?!", ["wow", "!!!", "what", "?!"]),
        (":) :-( =D ;-) :", [":)", ":-(", "=d", ";-)"]),
        ("@user #tag http://x.y été 2nd", ["user", "tag", "http", "x", "y", "été", "2nd"]),
        (" \t\n.,", []),
    ],
)
def test_split(text, expected):
    assert words.split(text) == expected


def test_a_vocabulary_is_by_frequency_then_by_the_alphabet():
    assert list(words.vocabulary(["b a c", "c d"], 10)) == ["<padding>", "<unknown>", "c", "a", "b", "d"]
    cut = words.vocabulary(["b a c", "c d"], 4)
    assert cut == {"<padding>": 0, "<unknown>": 1, "c": 2, "a": 3}


def test_encode_cuts_pads_and_marks_the_unknown():
    rows = words.encode(["the dog sat", "", "cat the cat the cat"], KNOWN, 4)
    assert rows.dtype == np.int32
    the, cat, sat = (KNOWN[word] for word in ("the", "cat", "sat"))
    assert rows.tolist() == [[the, 1, sat, 0], [0, 0, 0, 0], [cat, the, cat, the]]


def test_a_text_cannot_name_the_reserved_tokens():
    assert words.encode(["<padding> <unknown>"], KNOWN, 3).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("function", [lambda: words.vocabulary([], 2), lambda: words.encode([], KNOWN, 0)])
def test_sizes_are_checked(function):
    with pytest.raises(ValueError, match="(size: got 2|length: got 0)"):
        function()


def write(tmp_path, text):
    (tmp_path / "vectors.txt").write_text(text, encoding="utf-8")
    return tmp_path / "vectors.txt"


def test_vectors(tmp_path):
    path = write(tmp_path, "the 1 2\ndog x y\nat name@domain.com 5 5\n<unknown> 9 9\nsat -3 0.5\n")
    vectors = words.read_vectors(path, KNOWN)
    assert vectors.dtype == np.float32
    assert vectors[KNOWN["the"]].tolist() == [1, 2]
    assert vectors[KNOWN["sat"]].tolist() == [-3, 0.5]
    assert vectors[KNOWN["cat"]].tolist() == vectors[1].tolist() == [-1, 1.25]  # the mean of those that are there
    assert vectors[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nthe 1\n", "line 2: has 1 numbers after the word, but line 1 has 2"),
        ("a 1 2\nthe 1 2 3\n", "line 2: has 3 numbers after the word, but line 1 has 2"),
        ("a 1 2\n\nthe 1 2\n", "line 2: has 0 numbers"),
        ("the\n", "line 1: has 0 numbers after the word; each line must be"),
        ("a 1 2\nthe 1 two\n", "line 2: could not convert string to float: 'two'"),
        ("a 1 2\nthe 1 nan\n", "line 2: contains a number that is not finite"),
        ("a 1 2\nb 3 4\n", "contains no word of the vocabulary"),
        ("", "contains no word of the vocabulary"),
    ],
)
def test_bad_vectors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        words.read_vectors(write(tmp_path, text), KNOWN)


def test_vectors_in_another_encoding(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"a 0.5 1\ncaf\xe9 1 2\n")
    with pytest.raises(ValueError, match="vectors.txt: not UTF-8"):
        words.read_vectors(path, words.vocabulary(["a rose"], 10))


# Vectors from the texts

TEXTS = ["the cat sat on the mat", "a dog sat near the mat", "the dog", "cat"] * 3


def by_hand(texts, known, dimension):
    """In dense float64: P, then its best approximation of this rank."""
    size = max(known.values()) + 1
    counts = np.zeros((size, size))
    for text in texts:
        tokens = [known.get(word, 1) for word in words.split(text)]
        for i, one in enumerate(tokens):
            for j, other in enumerate(tokens):
                if i != j and abs(i - j) <= 5 and one > 1 and other > 1:
                    counts[one, other] += 1
    each = counts.sum(1)
    expected = np.outer(each, each**0.75) / (each**0.75).sum()
    P = np.log(np.where(counts > 0, counts / np.where(expected > 0, expected, 1), 1)).clip(0)
    U, S, _ = np.linalg.svd(P)
    return (U * S**0.5)[:, :dimension]


def test_vectors_from_texts():
    known = words.vocabulary(TEXTS, 9)
    vectors, expected = words.learn_vectors(TEXTS, known, 3), by_hand(TEXTS, known, 3)
    expected /= np.sqrt(np.mean(expected[2:] ** 2))
    np.testing.assert_allclose(vectors[2:] @ vectors[2:].T, expected[2:] @ expected[2:].T, atol=1e-5)
    np.testing.assert_allclose(vectors[1], vectors[2:].mean(0), atol=1e-6)
    assert not vectors[0].any() and vectors.dtype == np.float32
    np.testing.assert_array_equal(words.learn_vectors(TEXTS, known, 3), vectors)


@pytest.mark.parametrize(
    ("texts", "dimension", "message"),
    [
        (TEXTS, 8, "dimension: got 8 for 7 words"),
        (TEXTS, 0, "dimension: got 0"),
        (["the", "cat"], 2, "texts: no two words of the vocabulary stand near each other"),
    ],
)
def test_no_vectors_from_texts(texts, dimension, message):
    with pytest.raises(ValueError, match=message):
        words.learn_vectors(texts, words.vocabulary(TEXTS, 9), dimension)


def test_a_word_that_stands_alone_has_finite_vectors():
    known = words.vocabulary([*TEXTS, "alone"], 50)
    assert np.isfinite(words.learn_vectors([*TEXTS, "alone"], known, len(known) - 2)).all()
