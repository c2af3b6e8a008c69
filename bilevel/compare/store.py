"""Finished runs on disk, found again by everything that determined them."""

import hashlib
import json
import math
import os
import pathlib
import shutil
from dataclasses import asdict
from typing import Any

from bilevel._output.files import make_directory, write_json
from bilevel.compare.records import Run


class Store:
    """Runs on disk, one file per description: runs with other settings are in other files."""

    def __init__(self, folder: pathlib.Path, argument: str = "out"):
        self.folder = make_directory(folder, argument)

    def _path(self, about: dict[str, Any]) -> pathlib.Path:
        text = json.dumps(about, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def find(self, about: dict[str, Any]) -> list[Run] | None:
        """The runs, or None if their file is missing or incomplete."""
        try:
            content = json.loads(self._path(about).read_text(encoding="utf-8"))
            return [Run(**{**run, "rows": [_numbers(row) for row in run["rows"]]}) for run in content["runs"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, about: dict[str, Any], runs: list[Run]) -> None:
        path = self._path(about)
        part = path.with_suffix(".part")
        write_json(part, {"about": about, "runs": [asdict(run) for run in runs]})
        os.replace(part, path)  # so that no one reads an incomplete file
        shutil.rmtree(self.underway(about), ignore_errors=True)

    def underway(self, about: dict[str, Any]) -> pathlib.Path:
        """The folder for checkpoints of the runs until they are done."""
        return self._path(about).with_suffix("")


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Restore NaN, which JSON does not have, for numbers that were not finite."""
    return {name: math.nan if value is None else value for name, value in row.items()}
