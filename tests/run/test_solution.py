"""How a run ended, by name."""

import equinox as eqx
import pytest

import bilevel as bl
from bilevel.run._solution import NAMES, name_of


def test_every_result_has_its_name_and_its_advice():
    results = {name: getattr(bl.RESULTS, name) for name in NAMES}
    assert set(NAMES) == set(bl.RESULTS._name_to_item) - set(eqx.Enumeration._name_to_item)
    assert {name_of(value) for value in results.values()} == set(NAMES)
    assert all(bl.RESULTS[value] for value in results.values())


def test_a_history_is_a_table():
    history = bl.History([{"step": 0, "loss": 2.0}, {"step": 10, "loss": 1.0}])
    assert (len(history), history.columns) == (2, ["step", "loss"])
    with pytest.raises(KeyError):
        history["none"]
