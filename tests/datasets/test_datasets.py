"""The list of sets: their names, kinds and cards, and where their files are looked for."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from bilevel import datasets

MODULES = {
    **dict.fromkeys(("mnist", "fashion-mnist"), "images"),
    **dict.fromkeys(("tweets", "sentences-tfidf"), "sentences"),
    **dict.fromkeys(("fc100", "mini-imagenet"), "fewshot"),
    **dict.fromkeys(("a9a", "w8a", "ijcnn1", "covtype"), "libsvm"),
    "amazon-reviews": "reviews",
    "sentiment140-part": "sentiment140",
    **dict.fromkeys(("cifar-10", "cifar-10n"), "cifar10"),
    **dict.fromkeys(("mnist-errors", "news-errors", "cifar-10-errors"), "label_errors"),
    "crowd-sentiment": "crowd",
}
# Sets that are not downloaded, and some of the files that the message must name.
FILES_ONLY = {
    "sentences": ("tweets_GroundTruth.txt", "amazonReviewSnippets_GroundTruth.txt"),
    "tweets": ("tweets_GroundTruth.txt",),
    "sentences-tfidf": ("movieReviewSnippets_GroundTruth.txt",),
    "sentiment140": ("training.1600000.processed.noemoticon.csv", "testdata.manual.2009.06.14.csv"),
    "sentiment140-part": ("sentiment140_50000_each.tsv.gz", "sentiment140_manual_test_498.csv.gz"),
    "amazon-reviews": ("sorted_data", "unprocessed.tar.gz", "domain_sentiment_data.tar.gz"),
    "fc100": ("FC100_train.pickle", "FC100_val.pickle", "FC100_test.pickle"),
    "mini-imagenet": ("mini-imagenet-cache-train.pkl", "mini-imagenet-cache-val.pkl"),
    "a9a": ("a9a.bz2", "a9a.t.bz2"),
    "w8a": ("w8a.bz2",),
    "ijcnn1": ("ijcnn1.bz2", "ijcnn1.t.bz2"),
    "covtype": ("covtype.scale01.bz2",),
    "cifar-10": ("data_batch_1", "test_batch"),
    "cifar-10n": ("CIFAR-10_human.pt",),
    "crowd-sentiment": ("sentiment_polarity_mturk.npz",),
    "mnist-errors": ("mnist_mturk.json",),
    "news-errors": ("20news_mturk.json",),
    "cifar-10-errors": ("cifar10_mturk.json",),
}
SHARED = {"tweets": "sentences", "sentences-tfidf": "sentences", **dict.fromkeys(("a9a", "w8a"), "libsvm")}
SHARED |= dict.fromkeys(("ijcnn1", "covtype"), "libsvm") | {"sentiment140-part": "tweets"}
SHARED |= dict.fromkeys(("mnist-errors", "news-errors", "cifar-10-errors"), "label-errors")
LOADERS = {
    "images": datasets.load,
    "text": datasets.load_text,
    "sparse": datasets.load_sparse,
    "few-shot": datasets.load_fewshot,
    "doubtful": datasets.load_doubtful,
}


def test_every_set_says_whose_it_is(empty_world):
    for name in datasets.KINDS:
        card = datasets.card(name)
        assert card.name == name
        assert card.source and card.license and card.classes > 1
        counted = card.classes if name in datasets.FEWSHOT_NAMES else card.rows
        assert sum(card.splits.values()) == counted
    assert datasets.load("digits").card == datasets.card("digits")


def test_every_set_is_listed_once():
    names = [*datasets.NAMES, *datasets.TEXT_NAMES, *datasets.SPARSE_NAMES, *datasets.FEWSHOT_NAMES]
    names += datasets.DOUBTFUL_NAMES
    assert names == list(datasets.KINDS)
    assert len(names) == len(set(names)) == 25
    assert set(datasets.BUILT_IN) < set(names)


@pytest.mark.parametrize("name", [name for name in datasets.KINDS if name not in datasets.BUILT_IN])
def test_where_a_set_is_looked_for(name, empty_world, tmp_path, monkeypatch):
    files = importlib.import_module(f"bilevel.datasets.{MODULES.get(name, name)}").FILES[name]
    assert datasets.find(name) is None
    put = files.alternatives[0]
    files.cache.mkdir(parents=True)
    for file in put:
        (files.cache / file).touch()
    assert datasets.find(name) == files.cache
    folder = tmp_path / "data" / files.folder
    folder.mkdir(parents=True)
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "data"))
    assert datasets.find(name) == files.cache
    for file in put:
        (folder / file).touch()
    assert datasets.find(name) == folder
    (folder / put[-1]).unlink()
    assert datasets.find(name) == (None if len(put) > 1 else files.cache)


@pytest.mark.parametrize("name", ["qmnist", *FILES_ONLY])
def test_what_to_put_where(name, empty_world, tmp_path):
    with pytest.raises(datasets.DatasetError) as caught:
        datasets.read(name)
    message = str(caught.value)
    folder = SHARED.get(name, name)
    cache = str(tmp_path / "cache" / "bilevel" / folder)
    for part in (f"$BILEVEL_DATA/{folder}", cache, "does not download", *FILES_ONLY.get(name, ())):
        assert part in message


def test_a_loader_that_is_another_kinds():
    for name, kind in datasets.KINDS.items():
        for other, loader in LOADERS.items():
            if other != kind:
                with pytest.raises(ValueError, match=f"'{name}' is of another kind.*{LOADERS[kind].__name__}$"):
                    loader(name)
    for loader in (*LOADERS.values(), datasets.read, datasets.card, datasets.find):
        with pytest.raises(ValueError, match="dataset: 'fish' is unknown"):
            loader("fish")


def test_an_unknown_name():
    with pytest.raises(ValueError, match="dataset: 'fashion' is unknown; did you mean fashion-mnist"):
        datasets.load("fashion")


def test_importing_loads_no_scikit_learn():
    code = "import sys, bilevel.datasets, bilevel.tasks; print({'sklearn', 'pandas', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_no_address_in_the_code():
    for path in pathlib.Path(datasets.__file__).parent.glob("*.py"):
        assert not re.search(r"://|www\.|\.(org|com|net)\b", path.read_text()), path
