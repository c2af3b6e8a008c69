"""`bilevel data`, as a user meets it."""

import re

import pytest
from typer.testing import CliRunner

from bilevel import datasets
from bilevel.cli import app


@pytest.fixture
def call():
    runner = CliRunner(env={"COLUMNS": "100"})
    return lambda *arguments: runner.invoke(app, ["data", *arguments])


def test_lists_all_sets_and_reads_none(call, folder_of, monkeypatch):
    monkeypatch.setattr("bilevel.datasets.read", lambda name: pytest.fail("nothing should be read"))
    (folder_of("sentences") / "tweets_GroundTruth.txt").write_text("not looked into")
    result = call()
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 100
    for name, kind in datasets.KINDS.items():
        present = "built in" if name in datasets.BUILT_IN else "yes" if name == "tweets" else "no"
        assert re.search(rf"^ *{name} +{kind} +[\d,–]+ +\d+ +{present} ", result.output, re.MULTILINE), name


def test_shows_a_card(call, folder_of):
    result = call("made-up")
    assert result.exit_code == 0, result.output
    for part in ("text", "4,800", "books: 600 rows", "built in", datasets.card("made-up").license):
        assert part in result.output


def test_says_what_is_missing(call, folder_of):
    result = call("fc100")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: fc100: neither in ") and "FC100_train.pickle" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_name(call):
    result = call("sentance")
    assert result.exit_code == 2
    assert "did you mean sentences" in result.stderr
