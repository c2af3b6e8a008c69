"""Files: strict JSON, tables of rows with different columns, unwritable places, the environment."""

import csv
import json
import math

import numpy as np
import pytest

from bilevel._output import files


def test_environment_of_a_checkout_that_is_not_installed(monkeypatch):
    version = files.metadata.version

    def without(name):
        if name == "bilevel":
            raise files.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(files.metadata, "version", without)
    environment = files.environment()
    assert environment["bilevel"] is None
    assert environment["jax"] == version("jax")


def test_json_is_strict(tmp_path):
    content = {1: [np.float32(0.5), math.nan, -math.inf], "when": tmp_path, "none": None, "yes": True, "n": np.int64(3)}
    files.write_json(tmp_path / "a.json", content)
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read == {"1": [0.5, None, None], "when": str(tmp_path), "none": None, "yes": True, "n": 3}


def test_a_table_has_the_columns_of_all_rows(tmp_path):
    files.write_csv(tmp_path / "a.csv", [{"a": 1}, {"b": "x,y"}])
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", ""], ["", "x,y"]]


def test_a_directory_that_cannot_be_made_names_its_argument(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^checkpoint: cannot write to .*below \(Not a directory\); pass a directory"):
        files.make_directory(tmp_path / "file" / "below", "checkpoint")
