"""The first pass over a table."""

import numpy as np
import pandas as pd

from bilevel.clean.survey import survey


def test_the_sample_is_drawn_from_the_whole_table(monkeypatch):
    monkeypatch.setattr("bilevel.clean.survey.SAMPLE_ROWS", 200)
    monkeypatch.setattr("bilevel.clean.survey._LEAST_ROWS", 200)
    chunks = [
        pd.DataFrame({"x": [str(j) for j in range(i, i + 100)], "l": ["a", "b"] * 50}, dtype=object)
        for i in range(0, 2000, 100)
    ]
    for i, chunk in enumerate(chunks):
        chunk.index = range(100 * i, 100 * i + 100)
    found = survey(chunks, 2, "l", "table", "label", seed=0)
    assert (found.rows, len(found.labels.codes), found.labels.classes) == (2000, 2000, ["a", "b"])
    assert len(found.sample) == 200
    drawn = found.sample.index.to_numpy()
    assert (np.diff(drawn) > 0).all()
    assert found.sample["x"].astype(int).tolist() == drawn.tolist()
    assert 840 < drawn.mean() < 1160  # ± 4 standard errors
    assert 42 < (drawn % 100).mean() < 57
    again = survey(chunks, 2, "l", "table", "label", seed=0)
    assert again.sample.index.tolist() == drawn.tolist()
    assert len(survey(chunks[:2], 2, "l", "table", "label", seed=0).sample) == 200
    monkeypatch.setattr("bilevel.clean.survey.SAMPLE_ROWS", 5000)
    assert len(survey(chunks, 2, "l", "table", "label", seed=0).sample) == 2000
