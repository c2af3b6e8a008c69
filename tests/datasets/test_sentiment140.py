"""Sentiment140 on two small files in its format."""

import gzip
import os

import numpy as np
import pytest

from bilevel import datasets
from bilevel.datasets import sentiment140

TRAIN, TEST = "training.1600000.processed.noemoticon.csv", "testdata.manual.2009.06.14.csv"
CONTENT = {
    TRAIN: '"0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","ann","@b - Awww, that ""hurts"" "\n'
    '"4","2193602129","Tue Jun 16 08:40:50 PDT 2009","NO_QUERY","bob","caf\u00e9 \u00a33"\n'
    '"4","2193602130","Tue Jun 16 08:40:50 PDT 2009","NO_QUERY","ann","yes"\n',
    TEST: '"4","3","Mon May 11 03:17:40 UTC 2009","kindle2","tpr","I loooooove it"\n'
    '"2","5","Mon May 11 03:17:40 UTC 2009","kindle2","bob","it is there"\n'
    '"0","7","Mon May 11 03:17:40 UTC 2009","kindle2","bob","no"\n',
}


@pytest.fixture
def folder(folder_of, publish):
    folder = folder_of("sentiment140")
    for name, text in CONTENT.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    publish(sentiment140, "sentiment140", rows=5, splits={"train": 3, "test": 2})
    return folder


def test_reads_the_published_files(folder):
    dataset = datasets.load_text("sentiment140")
    assert dataset.texts == ('@b - Awww, that "hurts" ', "café £3", "yes", "I loooooove it", "no")
    np.testing.assert_array_equal(dataset.labels, [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(dataset.groups, [0, 1, 0, 2, 1])
    np.testing.assert_array_equal(dataset.domains, np.zeros(5))
    assert dataset.labels.dtype == dataset.domains.dtype == dataset.groups.dtype == np.int32
    assert (dataset.domain_names, dataset.classes) == (("tweets",), 2)
    assert dataset.card == datasets.card("sentiment140")


@pytest.mark.parametrize("line", ['"0","1","d","q","u"', '"3","1","d","q","u","t"', '"label","1","d","q","u","t"'])
def test_a_line_of_another_form(folder, line):
    (folder / TRAIN).write_text(f"{line}\n")
    with pytest.raises(datasets.DatasetError, match=r"noemoticon.csv, line 1: .*is not target \(0, 2 or 4\), id"):
        datasets.load_text("sentiment140")


@pytest.mark.parametrize("text", ["x" * 140_000, "a\0b", 'open"'])
def test_a_cell_that_the_reader_of_csv_refuses(folder, text):
    (folder / TRAIN).write_text(CONTENT[TRAIN] + f'"0","1","d","q","u","{text}"\n')
    with pytest.raises(datasets.DatasetError, match="noemoticon.csv, line 4|in the part 'train'"):
        datasets.load_text("sentiment140")


def test_a_torn_file(folder):
    (folder / TRAIN).write_text(CONTENT[TRAIN].splitlines()[0])
    with pytest.raises(datasets.DatasetError, match="1 in the part 'train', where the published one has 3"):
        datasets.load_text("sentiment140")


# A part of it

TABS, COLUMNS = "sentiment140_50000_each.tsv.gz", "sentiment140_manual_test_498.csv.gz"


@pytest.fixture
def part(folder_of, publish):
    folder = folder_of("tweets")
    write(folder / TABS, "0\t@b - Awww,\ta tab \n4\tcafé\u2028no end\n4\t@b - Awww,\ta tab \n")
    write(folder / COLUMNS, '4,"I love it, ""all"" of it"\n2,it is there\n0,no\n')
    publish(sentiment140, "sentiment140-part", rows=5, splits={"train": 3, "test": 2})
    return folder


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()))


def test_reads_a_part(part):
    dataset = datasets.load_text("sentiment140-part")
    awww = "@b - Awww,\ta tab "
    assert dataset.texts == (awww, "café\u2028no end", awww, 'I love it, "all" of it', "no")
    np.testing.assert_array_equal(dataset.labels, [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(dataset.groups, [0, 1, 0, 2, 3])  # equal texts are on one side of any split
    assert dataset.card == datasets.card("sentiment140-part")


def test_the_part_does_not_stand_in_for_the_whole(part):
    with pytest.raises(datasets.DatasetError, match=r"sentiment140: neither in .*training.1600000"):
        datasets.load_text("sentiment140")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (TABS, "0\ta\n2\tb\n", r"each.tsv.gz, line 2: '2\\tb' is not a target \(0 or 4\), a tab"),
        (TABS, "0\ta\n4 b\n", r"each.tsv.gz, line 2: .* is not a target"),
        (TABS, "0\ta\n", "1 in the part 'train', where the published one has 3"),
        (COLUMNS, "4,a,b\n", r"498.csv.gz, line 1: '4,a,b' is not a target \(0, 2 or 4\) and a text"),
    ],
)
def test_a_part_of_another_form(part, name, text, message):
    write(part / name, text)
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load_text("sentiment140-part")


def test_a_damaged_part(part, monkeypatch):
    monkeypatch.setattr(sentiment140, "_MOST_BYTES", 10)
    with pytest.raises(datasets.DatasetError, match=r"damaged \(more than 10 bytes\)"):
        datasets.load_text("sentiment140-part")
    (part / TABS).write_bytes((part / TABS).read_bytes()[:-9])
    with pytest.raises(datasets.DatasetError, match=r"each.tsv.gz: damaged"):
        datasets.load_text("sentiment140-part")


@pytest.mark.slow
@pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="needs the files in $BILEVEL_DATA")
def test_the_published_part():
    if not datasets.find("sentiment140-part"):
        pytest.skip("BILEVEL_DATA does not have it")
    dataset = datasets.load_text("sentiment140-part")
    np.testing.assert_array_equal(np.bincount(dataset.labels[:100_000]), [50_000, 50_000])
    np.testing.assert_array_equal(np.bincount(dataset.labels[100_000:]), [177, 182])
