"""Fixtures that the tests of data sets share."""

import dataclasses
import io

import pooch
import pytest


@pytest.fixture
def publish(monkeypatch):
    """Pretends that a set was published with parts of these sizes."""

    def pretend(module, name, **changes):
        card = dataclasses.replace(module.CARDS[name], **changes)
        monkeypatch.setitem(module.CARDS, name, card)
        return card

    return pretend


@pytest.fixture
def told(monkeypatch):
    """What the user is told of downloads, as a text buffer."""
    (handler,) = pooch.get_logger().handlers
    buffer = io.StringIO()
    monkeypatch.setattr(handler, "stream", buffer)
    return buffer
