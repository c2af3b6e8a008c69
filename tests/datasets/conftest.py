"""A world without data: an empty cache and an empty BILEVEL_DATA."""

import platformdirs
import pytest


@pytest.fixture
def empty_world(tmp_path, monkeypatch):
    """An empty cache, and no folder."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda app: str(tmp_path / "cache" / app))
    monkeypatch.delenv("BILEVEL_DATA", raising=False)


@pytest.fixture
def folder_of(empty_world, tmp_path, monkeypatch):
    """Name ↦ the (new) folder `$BILEVEL_DATA/<name>`."""
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "data"))

    def make(name):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        return folder

    return make


@pytest.fixture
def publish(monkeypatch):
    """Pretends that a set was published with parts of these sizes."""

    def pretend(module, name, **changes):
        import dataclasses

        card = dataclasses.replace(module.CARDS[name], **changes)
        monkeypatch.setitem(module.CARDS, name, card)
        return card

    return pretend
