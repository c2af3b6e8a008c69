"""The made-up sentences: always the same, learnable, with a gap between domains."""

import hashlib

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from bilevel import datasets


@pytest.fixture(scope="module")
def made_up():
    return datasets.load_text("made-up")


def test_shapes_and_card(made_up):
    n = len(made_up.texts)
    assert n == made_up.card.rows == 4800
    assert made_up.labels.shape == made_up.domains.shape == made_up.groups.shape == (n,)
    assert made_up.labels.dtype == made_up.domains.dtype == made_up.groups.dtype == np.int32
    assert len(np.unique(made_up.groups)) == n
    assert tuple(made_up.card.splits) == made_up.domain_names and len(made_up.domain_names) == 8
    np.testing.assert_array_equal(np.bincount(made_up.domains), list(made_up.card.splits.values()))
    assert 0.49 < made_up.labels.mean() < 0.51
    assert len(set(made_up.texts)) > 0.99 * n


def test_always_the_same(made_up):
    content = "\n".join(made_up.texts) + str(made_up.labels.tolist())
    assert hashlib.md5(content.encode()).hexdigest() == "4903033fd4e7d0862c4224b79934667e"


def test_words_can_be_learned_and_domains_differ(made_up):
    words = CountVectorizer().fit_transform(made_up.texts).tocsr()
    inside, across = [], []
    for domain in range(8):
        rows, others = np.flatnonzero(made_up.domains == domain), np.flatnonzero(made_up.domains != domain)
        model = LogisticRegression().fit(words[rows[:400]], made_up.labels[rows[:400]])
        inside.append(model.score(words[rows[400:]], made_up.labels[rows[400:]]))
        across.append(model.score(words[others], made_up.labels[others]))
    assert 0.86 < np.mean(inside) < 0.94
    assert 0.7 < np.mean(across) < np.mean(inside) - 0.05
