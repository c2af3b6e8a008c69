"""The columns that speak for a proposed label."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from bilevel.clean.reasons import reasons
from bilevel.columns.encoding import Encoder
from bilevel.columns.kinds import Column


@pytest.fixture(scope="module", params=[2, 3])
def made(request):
    """A table whose labels are told by a number, a category, and a word, each for two of the classes."""
    rng, k = np.random.default_rng(0), request.param
    truth = rng.integers(k, size=400)
    words = np.where(truth == 1, "please refund", "hello there")
    table = pd.DataFrame(
        {
            "noise": rng.normal(size=400),
            "size": rng.normal(size=400) + 4 * (truth == 0),
            "way": np.where(truth == 1, "mail", "web"),
            "text": [f"{a} my order {rng.integers(9)}" for a in words],
        }
    )
    kinds = ("numeric", "numeric", "categorical", "text")
    columns = [Column(name, kind, "") for name, kind in zip(table, kinds, strict=True)]
    encoder = Encoder(columns, table)
    return table, encoder, encoder.features([table], 400), truth


@pytest.mark.parametrize("sparse", [False, True])
def test_columns_that_tell_the_classes_apart_are_named(made, sparse):
    _, encoder, features, truth = made
    features = scipy.sparse.csr_matrix(features) if sparse else np.asarray(features)
    given, weights = truth.copy(), np.ones(400)
    wrong = {"0 as 1": np.flatnonzero(truth == 0)[0], "1 as 0": np.flatnonzero(truth == 1)[0]}
    given[wrong["0 as 1"]], given[wrong["1 as 0"]] = 1, 0
    weights[list(wrong.values())] = 0.01
    found = reasons(features, encoder, weights, given, truth, range(400), 0)
    assert set(found) == set(wrong.values())
    for name, row in wrong.items():
        told = {reason.column: reason for reason in found[row]}
        assert {"size", "way"} <= set(told) and "noise" not in told
        amounts = [reason.amount for reason in found[row]]
        assert amounts == sorted(amounts, reverse=True) and min(amounts) > 0
        if name == "1 as 0":
            assert {"please", "refund"} & set(told["text"].words)
        elif "text" in told:
            assert {"hello", "there"} & set(told["text"].words)


def test_no_reason_is_given_against_the_columns(made):
    """Where the columns speak for the given label, and for a class that the model has not seen."""
    _, encoder, features, truth = made
    weights, proposed = np.ones(400), truth.copy()
    row = np.flatnonzero(truth == 1)[0]
    proposed[row] = 0
    assert reasons(features, encoder, weights, truth, proposed, [row], 0) == {}
    proposed[row] = 7
    assert reasons(features, encoder, weights, truth, proposed, [row], 0) == {}
    unlabeled = np.where(np.arange(400) == row, -1, truth)
    assert reasons(features, encoder, weights, unlabeled, proposed, [row], 0) == {}


def test_words_belong_to_their_columns(made):
    _, encoder, _, _ = made
    named = [word for word, owner in zip(encoder.words, encoder.owners, strict=True) if owner == 3]
    assert "refund" in named and all(named) and len(encoder.words) == encoder.width
    assert not any(word for word, owner in zip(encoder.words, encoder.owners, strict=True) if owner != 3)
