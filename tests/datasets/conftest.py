"""What the tests of data sets share."""

import dataclasses

import pytest


@pytest.fixture
def publish(monkeypatch):
    """Pretends that a set was published with parts of these sizes."""

    def pretend(module, name, **changes):
        card = dataclasses.replace(module.CARDS[name], **changes)
        monkeypatch.setitem(module.CARDS, name, card)
        return card

    return pretend
