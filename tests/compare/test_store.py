"""Finished runs on disk: they are found by what made them, and only whole."""

import math

import pytest

from bilevel.compare.records import Run
from bilevel.compare.store import Store

ABOUT = {"task": "quadratic", "seeds": [0]}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.keep(ABOUT, [Run("soba", 0, "successful", rows=[{"step": 0, "loss": 0.5, "AUROC": math.nan}])])
    return store


def test_what_is_kept_is_found(store):
    (run,) = store.find(ABOUT)
    assert run.rows[0]["loss"] == 0.5 and math.isnan(run.rows[0]["AUROC"])
    assert store.find(ABOUT | {"seeds": [1]}) is None


@pytest.mark.parametrize(
    "damage", [(b"0.5", b"0.7"), (b'"step": 0', b'"step": 1'), (b"sha256", b"sha255"), (b"}", b"")]
)
def test_damaged_runs_run_again(store, tmp_path, damage):
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes().replace(*damage))
    assert store.find(ABOUT) is None


@pytest.mark.parametrize("name", ["bilevel", "jax", "jaxlib", "python"])
def test_other_versions_run_again(store, monkeypatch, name):
    from bilevel.run._identity import versions

    other = versions() | {name: "99.0"}
    monkeypatch.setattr("bilevel.compare.store.versions", lambda: other)
    assert store.find(ABOUT) is None


def test_the_file_of_a_description_stays_the_same(tmp_path, monkeypatch):
    """Runs of weeks are found by it (`bilevel.papers.runs`)."""
    monkeypatch.setattr(
        "bilevel.compare.store.versions", lambda: {"bilevel": "1", "jax": "2"} | {"jaxlib": "3", "python": "4"}
    )
    store = Store(tmp_path)
    store.keep(ABOUT, [])
    assert [path.name for path in tmp_path.iterdir()] == ["a58b5b7f542b7084.json"]
    assert store.underway(ABOUT) == tmp_path / "a58b5b7f542b7084"


def test_a_bucket_is_no_directory():
    with pytest.raises(ValueError, match="checkpoint: got 's3://bucket/runs'; pass a directory on this machine"):
        Store("s3://bucket/runs", "checkpoint")
